"""Backing files: the kernel reads, writes and maps them itself, without asking us.

The kernel opens the backing file anew for each open of the FUSE file, with that open's flags, but with the
credentials that registered it. So it is registered without CAP_FSETID: then the file system below strips
set-user-id and set-group-id bits from a file that is written to through the mount, as it must when the
writer is no superuser. With the daemon's own credentials it would leave them (measured on ext4, Linux 6.18).
"""

from __future__ import annotations

import os
from errno import EPERM
from fcntl import ioctl

from unionfs import libc
from unionfs.wire.kernel import FUSE_DEV_IOC_BACKING_CLOSE, FUSE_DEV_IOC_BACKING_OPEN
from unionfs.wire.structs import fuse_backing_map

_EFFECTIVE_LOW = 0  # index of the word with CAP_FSETID and CAP_SYS_ADMIN in libc.CapSets


class Backings:
    """Registers files with one FUSE connection. Not for two threads at once: callers hold `union.lock`."""

    __slots__ = ("_device", "_map", "_normal", "_reduced")

    def __init__(self, device: int) -> None:
        self._device = device
        self._map = bytearray(fuse_backing_map.size)  # ioctl must be given something writable: see open()
        self._normal = libc.capget()
        self._reduced = libc.capget()
        self._reduced[_EFFECTIVE_LOW] &= ~(1 << libc.CAP_FSETID)

    @property
    def permitted(self) -> bool:
        """Whether this process may register files at all."""
        return bool(self._normal[_EFFECTIVE_LOW] >> libc.CAP_SYS_ADMIN & 1)

    def open(self, fd: int) -> int:
        """The id of the file open at `fd`, which may be closed afterwards. The id lives until `close`.

        Raises OSError: EPERM (not allowed, or passthrough was not agreed on), ELOOP (the file system of the
        file is itself stacked), EOPNOTSUPP (it cannot read or write in the kernel), ENOMEM.
        """
        if not self.permitted:
            raise OSError(EPERM, os.strerror(EPERM))
        fuse_backing_map.pack_into(self._map, 0, fd, 0)
        libc.capset(self._reduced)
        try:
            # given bytes, fcntl.ioctl returns the copied argument instead of the id
            backing: int = ioctl(self._device, FUSE_DEV_IOC_BACKING_OPEN, self._map)
            return backing
        finally:
            libc.capset(self._normal)

    def close(self, backing: int) -> None:
        """Gives an id back. Files that are open on it go on."""
        ioctl(self._device, FUSE_DEV_IOC_BACKING_CLOSE, bytearray(backing.to_bytes(4, "little")))
