"""`unionfs umount`: unmount, and wait until the daemon has closed its layers."""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENOENT, EPERM

from unionfs.cli import lifeline, mounts, utab
from unionfs.cli.args import parse
from unionfs.cli.errors import CommandError, UsageError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

USAGE = """usage: unionfs umount [--lazy] [--force] MNT…

Unmounts and returns when the daemon has ended: its layers are closed and free for the next mount.

  -z, -l, --lazy   detach now, although it is busy; the daemon goes on until the last open file is closed
  --force          give up what waits for an answer of a daemon that hangs, and do not wait for it either
"""

HELPER_USAGE = """usage: umount.unionfs MNT [-flnrv] [-t TYPE]

The helper that umount(8) runs for mounts of type fuse.unionfs; unionfs umount --help tells more.
"""

_COMMON = {b"-l": ("lazy", False), b"-h": ("help", False), b"--help": ("help", False)}

_FLAGS = _COMMON | {b"-z": ("lazy", False), b"--lazy": ("lazy", False), b"--force": ("force", False)}

# What umount(8) passes to every helper: -n leaves mtab alone, -v talks, -r would try to remount read-only.
_HELPER_FLAGS = _COMMON | {
    b"-f": ("force", False), b"-n": ("ignored", False), b"-v": ("ignored", False), b"-r": ("ignored", False),
    b"-t": ("ignored", True), b"-N": ("namespace", True),
}  # fmt: skip

_MNT_FORCE = 1  # sys/mount.h


def run(argv: list[bytes]) -> int:
    return _run(argv, _FLAGS, USAGE)


def run_as_helper(argv: list[bytes]) -> int:
    """For umount(8), so nothing here may run umount(8) again: the system call, or fusermount3, which does the same."""
    return _run(argv, _HELPER_FLAGS, HELPER_USAGE)


def _run(argv: list[bytes], flags: Mapping[bytes, tuple[str, bool]], usage: str) -> int:
    found, mountpoints = parse(argv, flags)
    names = {name for name, _ in found}
    if "help" in names:
        print(usage, end="")
        return 0
    if "namespace" in names:
        raise UsageError("-N is not supported; nsenter --mount enters a mount namespace")
    if not mountpoints:
        raise UsageError("umount needs a mount point: unionfs umount MNT")
    for mountpoint in mountpoints:
        unmount(mountpoint, lazy="lazy" in names, force="force" in names)
    return 0


def unmount(mountpoint: bytes, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount the stack that is mounted there, and wait for its daemon unless `lazy` or `force`.

    Raises CommandError.
    """
    real, mount = mounts.locate(mountpoint)
    if mount is None:
        raise CommandError(f"{shown(mountpoint)} is not a mount point")
    if mount.fstype != mounts.TYPE:
        raise CommandError(f"{shown(mountpoint)} is a mount of type {shown(mount.fstype)}, not ours; use umount")
    daemons = [] if lazy or force else lifeline.grasp(mount)
    try:
        _release(real, lazy, force)
    except OSError as error:
        raise CommandError(f"{shown(mountpoint)}: {_reason(error)}") from None
    utab.remove(mount)
    if not all(map(lifeline.wait, daemons)):
        raise CommandError(f"{shown(mountpoint)} is unmounted, but its daemon has not ended yet")


def _release(real: bytes, lazy: bool, force: bool) -> None:
    from unionfs import libc
    from unionfs.device import unmount as release

    if force:
        libc.umount2(real, _MNT_FORCE | libc.UMOUNT_NOFOLLOW | (libc.MNT_DETACH if lazy else 0))
    else:
        release(real, lazy=lazy)


def _reason(error: OSError) -> str:
    if error.errno == EBUSY:
        return "busy: a process has a file open or its directory there (see fuser -vm); --lazy detaches it"
    if error.errno in (EINVAL, ENOENT):
        return "not a mount point"
    if error.errno == EPERM:
        return "you may not unmount it"
    return str(error.strerror)
