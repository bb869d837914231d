"""What must hold before a daemon starts: the mount point and /dev/fuse. The layers are `Union`'s to check."""

from __future__ import annotations

import os
from errno import EACCES, ENOENT, ENOTCONN, ENOTDIR, EPERM

from unionfs.cli.errors import CommandError, shown

DEVICE = "/dev/fuse"


def mountpoint(path: bytes) -> bytes:
    """The absolute path, free of symlinks, of a directory that can be mounted on. Raises CommandError."""
    real = os.path.realpath(path)
    _has_entries(real, path)
    return real


def empty(real: bytes) -> None:
    """Raises CommandError where a mount would hide entries.

    To be asked last: that a layer lies in the mount point is the better thing to say where both hold.
    """
    if _has_entries(real, real):
        raise CommandError(f"mount point {shown(real)} is not empty; empty it, or hide that with -o nonempty")


def _has_entries(real: bytes, path: bytes) -> bool:
    try:
        with os.scandir(real) as entries:
            return next(entries, None) is not None
    except OSError as error:
        raise CommandError(f"mount point {shown(path)}: {_reason(error, path)}") from None


def _reason(error: OSError, path: bytes) -> str:
    if error.errno == ENOENT:
        return "no such directory; make it first"
    if error.errno == ENOTDIR:
        return "not a directory"
    if error.errno == ENOTCONN:
        return f"a mount whose daemon died is there; unionfs umount {shown(path)} first"
    if error.errno == EACCES:
        return "you may not read it"
    return str(error.strerror)


def device(path: str = DEVICE) -> None:
    """Raises CommandError unless this process may open /dev/fuse."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno == ENOENT:
            hint = "is missing; load the module with modprobe fuse, or give the container --device /dev/fuse"
        elif error.errno in (EACCES, EPERM):
            hint = "may not be opened by you; as root chmod 666 it, or give the container --device /dev/fuse"
        else:
            hint = f"cannot be opened ({error.strerror}); is the fuse module loaded?"
        raise CommandError(f"{path} {hint}") from None
