"""Our lines in libmount's table /run/mount/utab, without which umount(8) would not find its helper.

Root's `umount /mnt` asks statfs for the type, which says no more than "fuse", and so misses umount.fuse.unionfs. Only
where libmount's own table has a line for the mount point does it look into the kernel's, where the type is whole. A
line that stays behind, after a SIGKILL say, costs umount(8) that look and nothing else.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.cli.mounts import Mount

HELPER = "/sbin/umount.fuse.unionfs"
TABLE = "/run/mount/utab"


def add(mount: Mount) -> None:
    """Make umount(8) find the helper, where there is one. Never fails: then umount works without it."""
    if os.geteuid() == 0 and os.access(HELPER, os.X_OK):
        _change(lambda lines: [*lines, _line(mount)])


def remove(mount: Mount) -> None:
    """The mount is gone, so its line shall go, unless umount(8) has taken it already."""
    if os.geteuid() == 0 and os.path.exists(TABLE):
        _change(lambda lines: [line for line in lines if line != _line(mount)])


def _line(mount: Mount) -> bytes:
    return b"SRC=%s TARGET=%s ROOT=/\n" % (mount.source, mount.path)


def _change(edit: Callable[[list[bytes]], list[bytes]]) -> None:
    """Replaces the table as libmount does: under its lock, by a new file."""
    import fcntl

    new = f"{TABLE}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(TABLE), 0o755, exist_ok=True)
        lock = os.open(TABLE + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before = _lines()
            after = edit(before)
            if after != before:
                with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
                    os.fchmod(file.fileno(), 0o644)
                    file.writelines(after)
                os.rename(new, TABLE)
        finally:
            os.close(lock)
    except OSError:  # /run is read-only or full: nothing that a mount should fail for
        return


def _lines() -> list[bytes]:
    try:
        with open(TABLE, "rb") as file:
            return file.readlines()
    except FileNotFoundError:
        return []
