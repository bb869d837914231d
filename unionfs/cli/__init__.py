"""The `unionfs` command. Each subcommand is one module, imported when it is asked for.

To add a subcommand: a module here with `run(argv: list[bytes]) -> int` (the arguments after its name; the
exit code) and one row in COMMANDS. It reports failure by raising CommandError.
"""

from __future__ import annotations

import os
import sys

from unionfs import __version__
from unionfs.cli.errors import CommandError, UsageError, shown

# name → (module, one line for the overview)
COMMANDS = {
    "mount": ("unionfs.cli.mount", "mount a stack of layers"),
    "umount": ("unionfs.cli.umount", "unmount it and wait until its daemon has ended"),
    "image": ("unionfs.cli.image", "container images: unpack, pack, inspect"),
    "run": ("unionfs.cli.run", "run a command in an image, in a throwaway writable layer"),
    "tour": ("unionfs.cli.tour", "what layers are: experiments that make themselves"),
    "bench": ("unionfs.cli.bench", "how fast the engines of this machine are"),
    "install-helper": ("unionfs.cli.install_helper", "make `mount -t unionfs` work"),
}


def main(argv: list[str] | None = None) -> int:
    """`unionfs COMMAND …`; also `unionfs SOURCE MNT -o …` and `unionfs -o … MNT`, as mount.fuse3 and Podman
    call it.
    """
    arguments = sys.argv[1:] if argv is None else argv
    first = arguments[0] if arguments else "--help"
    if first in ("--help", "-h", "help"):
        print(_overview(), end="")
        return 0
    if first in ("--version", "-V"):
        print(f"unionfs {__version__}")
        return 0
    if first in COMMANDS:
        return _run(COMMANDS[first][0], "run", arguments[1:])
    if not any(word.startswith("-") for word in arguments):  # a mount has options: this is a mistyped command
        return _failed(_unknown(first))
    return _run("unionfs.cli.mount", "run_as_program", arguments)


def mount_helper(argv: list[str] | None = None) -> int:
    """`mount.unionfs`, as mount(8) calls it: SOURCE MNT [-sfnv] [-o OPTS] [-t TYPE]; also -o OPTS MNT."""
    code = _run("unionfs.cli.mount", "run_as_helper", sys.argv[1:] if argv is None else argv)
    return _AS_MOUNT_8.get(code, code)


def umount_helper(argv: list[str] | None = None) -> int:
    """`umount.unionfs`, as umount(8) calls it: MNT [-flnrv] [-t TYPE]."""
    code = _run("unionfs.cli.umount", "run_as_helper", sys.argv[1:] if argv is None else argv)
    return _AS_MOUNT_8.get(code, code)


# our exit codes → those of mount(8), which returns its helper's as its own: failed, misspelled, interrupted
_AS_MOUNT_8 = {1: 32, 2: 1, 130: 8}


def _run(module: str, function: str, arguments: list[str]) -> int:
    from importlib import import_module

    try:
        return int(getattr(import_module(module), function)([os.fsencode(word) for word in arguments]))
    except CommandError as error:
        return _failed(error)
    except KeyboardInterrupt:
        return 130


def _failed(error: CommandError) -> int:
    print(f"unionfs: {error}", file=sys.stderr)
    return error.exit_code


def _unknown(name: str) -> UsageError:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean '{near[0]}'?" if near else "see unionfs --help"
    return UsageError(f"unknown command '{shown(os.fsencode(name))}'; {hint}")


def _overview() -> str:
    rows = "".join(f"  {name:<16}{line}\n" for name, (_, line) in COMMANDS.items())
    return f"usage: unionfs COMMAND …\n\n{rows}\nunionfs COMMAND --help tells more; unionfs --version\n"
