"""`unionfs install-helper`: links that let mount(8), fstab and container tools find the command."""

from __future__ import annotations

import os
import sys

from unionfs.cli.args import parse
from unionfs.cli.errors import CommandError, UsageError, shown

USAGE = """usage: unionfs install-helper [--prefix DIR] [--uninstall]

Links the programs into DIR (/sbin), where mount(8) and umount(8) look for them:
  mount.fuse.unionfs, mount.unionfs    for mount -t fuse.unionfs and mount -t unionfs
  umount.fuse.unionfs, umount.unionfs  so that umount returns when the layers are free
  unionfs                              for mount.fuse3 and as mount_program of Podman and Buildah
A file of another program stays, with a warning: Debian's package unionfs-fuse has a mount.unionfs.
"""

# name of the link → the console script that it leads to, and what can be done without it. The first is the one
# that nothing replaces: mount(8) tries it also for what fstab and /proc/mounts call fuse.unionfs.
_NO_WAIT = "umount will not wait for the daemon, as unionfs umount does"
LINKS = {
    b"mount.fuse.unionfs": (b"mount.unionfs", ""),
    b"mount.unionfs": (b"mount.unionfs", "use mount -t fuse.unionfs, as mount -t unionfs runs that one"),
    b"umount.fuse.unionfs": (b"umount.unionfs", _NO_WAIT),
    b"umount.unionfs": (b"umount.unionfs", _NO_WAIT),
    b"unionfs": (b"unionfs", "as a mount_program name this one by its whole path"),
}

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
    change = _remove if "uninstall" in values else _install
    for name, (script, otherwise) in LINKS.items():
        link = os.path.join(prefix, name)
        try:
            change(link, os.path.join(scripts, script))
        except _ForeignError as error:
            if not otherwise:
                raise CommandError(f"{error}; remove it first") from None
            print(f"unionfs: {error} and stays; {otherwise}", file=sys.stderr)
        except OSError as error:
            raise CommandError(f"{shown(link)}: {error.strerror}") from None
    return 0


class _ForeignError(Exception):
    """There is a file of this name, and it is not ours to replace."""


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
    if os.path.lexists(link):
        if not _is_ours(link):
            raise _ForeignError(f"{shown(link)} belongs to another program")
        os.unlink(link)
    os.symlink(target, link)
    print(f"{shown(link)} -> {shown(target)}")


def _remove(link: bytes, target: bytes) -> None:
    if os.path.islink(link) and os.readlink(link) == target:
        os.unlink(link)
        print(f"removed {shown(link)}")


def _is_ours(link: bytes) -> bool:
    """A link that leads nowhere, or to a script of another environment (a venv that was moved, say)."""
    if not os.path.islink(link):
        return False
    scripts = [script for script, _ in LINKS.values()]
    return not os.path.exists(link) or os.path.basename(os.readlink(link)) in scripts
