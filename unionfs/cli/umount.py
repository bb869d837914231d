"""`unionfs umount`: unmount, and wait until the daemon has closed its layers."""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, ENOENT, EPERM

from unionfs.cli import lifeline
from unionfs.cli.args import parse
from unionfs.cli.errors import CommandError, UsageError, shown

USAGE = """usage: unionfs umount [--lazy] MNT…

Unmounts and returns when the daemon has ended: its layers are closed and free for the next mount.

  -z, -l, --lazy   detach now, although it is busy; the daemon goes on until the last open file is closed
"""

_FLAGS = {
    b"-z": ("lazy", False), b"-l": ("lazy", False), b"--lazy": ("lazy", False),
    b"-h": ("help", False), b"--help": ("help", False),
}  # fmt: skip


def run(argv: list[bytes]) -> int:
    flags, mountpoints = parse(argv, _FLAGS)
    names = {name for name, _ in flags}
    if "help" in names:
        print(USAGE, end="")
        return 0
    if not mountpoints:
        raise UsageError("umount needs a mount point: unionfs umount MNT")
    for mountpoint in mountpoints:
        unmount(mountpoint, lazy="lazy" in names)
    return 0


def unmount(mountpoint: bytes, *, lazy: bool) -> None:
    """Unmount what is mounted there. Raises CommandError."""
    from unionfs.device import unmount as release

    real = os.path.realpath(mountpoint)
    name = lifeline.mount_name(real)
    if name is None:
        raise CommandError(f"{shown(mountpoint)} is not a mount point")
    daemons = [] if lazy else lifeline.grasp(name)
    try:
        release(real, lazy=lazy)
    except OSError as error:
        raise CommandError(f"{shown(mountpoint)}: {_reason(error)}") from None
    if not all(map(lifeline.wait, daemons)):
        raise CommandError(f"{shown(mountpoint)} is unmounted, but its daemon has not ended yet")


def _reason(error: OSError) -> str:
    if error.errno == EBUSY:
        return "busy: a process has a file open or its directory there (see fuser -vm); --lazy detaches it"
    if error.errno in (EINVAL, ENOENT):
        return "not a mount point"
    if error.errno == EPERM:
        return "you may not unmount it"
    return str(error.strerror)
