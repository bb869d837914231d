"""`unionfs install-helper`: links that let mount(8), fstab and container tools find the command."""

from __future__ import annotations

import os
import sys

from unionfs.cli.args import parse
from unionfs.cli.errors import CommandError, UsageError, shown

USAGE = """usage: unionfs install-helper [--prefix DIR] [--uninstall]

Links the programs into DIR (/sbin), where mount(8) looks for them:
  mount.unionfs, mount.fuse.unionfs   for mount -t unionfs and mount -t fuse.unionfs
  unionfs                             for mount.fuse3 and as mount_program of Podman and Buildah
"""

# name of the link → the console script that it leads to
LINKS = {b"mount.unionfs": b"mount.unionfs", b"mount.fuse.unionfs": b"mount.unionfs", b"unionfs": b"unionfs"}

_FLAGS = {
    b"--prefix": ("prefix", True), b"--uninstall": ("uninstall", False),
    b"-h": ("help", False), b"--help": ("help", False),
}  # fmt: skip


def run(argv: list[bytes]) -> int:
    flags, rest = parse(argv, _FLAGS)
    values = dict(flags)
    if "help" in values:
        print(USAGE, end="")
        return 0
    if rest:
        raise UsageError(f"install-helper takes no '{shown(rest[0])}'; the directory goes after --prefix")
    prefix = values.get("prefix", b"/sbin")
    scripts = scripts_directory()
    for name, script in LINKS.items():
        link, target = os.path.join(prefix, name), os.path.join(scripts, script)
        try:
            _remove(link, target) if "uninstall" in values else _install(link, target)
        except OSError as error:
            raise CommandError(f"{shown(link)}: {error.strerror}") from None
    return 0


def scripts_directory() -> bytes:
    """Where the console scripts of this installation are. Raises CommandError where there are none."""
    beside = [os.path.dirname(os.path.abspath(sys.argv[0])), os.path.dirname(sys.executable)]
    for directory in map(os.fsencode, map(os.path.realpath, beside)):
        if os.access(os.path.join(directory, b"mount.unionfs"), os.X_OK):
            return directory
    raise CommandError("the program mount.unionfs is not beside this one; install with pip install . first")


def _install(link: bytes, target: bytes) -> None:
    if os.path.abspath(link) == target:
        return
    if os.path.islink(link):
        if os.readlink(link) != target and os.path.exists(link) and not _is_ours(link):
            raise CommandError(f"{shown(link)} leads elsewhere; remove it first")
        os.unlink(link)
    elif os.path.lexists(link):
        raise CommandError(f"{shown(link)} exists and is no link of ours; remove it first")
    os.symlink(target, link)
    print(f"{shown(link)} -> {shown(target)}")


def _remove(link: bytes, target: bytes) -> None:
    if os.path.islink(link) and os.readlink(link) == target:
        os.unlink(link)
        print(f"removed {shown(link)}")


def _is_ours(link: bytes) -> bool:
    """A link to a script of another environment (a venv that was moved, say) may be replaced."""
    return os.path.basename(os.readlink(link)) in LINKS.values()
