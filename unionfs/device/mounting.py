"""Making and ending a FUSE mount: by mount(2) where we may, through the helper fusermount3 where not."""

from __future__ import annotations

import os
from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENOTCONN, ENOTDIR, EPERM
from stat import S_IFMT

from unionfs import libc
from unionfs.device.errors import MountError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DEVICE = "/dev/fuse"
TYPE = b"fuse.unionfs"


def mount(
    mountpoint: bytes,
    *,
    source: bytes = b"unionfs",
    flags: int = 0,
    allow_other: bool = False,
    labels: Iterable[bytes] = (),
    private: bool = False,
) -> int:
    """Mounts at `mountpoint` (absolute, free of symlinks) and returns the descriptor to serve it through.

    Permissions are always checked by the kernel (`default_permissions`). `flags` are MS_* of mount(2),
    `labels` further options for the kernel (SELinux contexts, quoted). `allow_other`: users other than the
    mounter may enter. From here on every access to the mount point waits for the descriptor's reader.
    Raises MountError; then nothing is mounted.
    """
    try:
        mode = os.stat(mountpoint).st_mode
    except OSError as error:
        raise MountError(f"mount point {shown(mountpoint)}: {_stat_reason(error)}") from None
    options = [b"default_permissions", *labels]
    if allow_other:
        options.append(b"allow_other")
    if os.geteuid() == 0:
        fd = _open_device()
        try:
            _mount_directly(fd, mountpoint, source, flags, mode, options)
        except PermissionError:  # root of a container without CAP_SYS_ADMIN
            os.close(fd)
            fd = _mount_by_helper(mountpoint, source, flags, options)
        except OSError as error:
            os.close(fd)
            raise MountError(_mount_reason(mountpoint, error)) from None
    else:
        fd = _mount_by_helper(mountpoint, source, flags, options)
    if private:
        _make_private(mountpoint)
    return fd


def _stat_reason(error: OSError) -> str:
    if error.errno == ENOTCONN:
        return "a mount whose daemon died is there; unmount it first"
    return {ENOENT: "no such directory", EACCES: "you may not enter it"}.get(
        error.errno or 0, error.strerror or "cannot be used"
    )


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"{DEVICE} {_device_reason(error)}") from None


def _device_reason(error: OSError) -> str:
    if error.errno in (ENOENT, ENODEV):
        return "is missing; load the module with modprobe fuse, or give the container --device /dev/fuse"
    if error.errno in (EACCES, EPERM):
        return "may not be opened by you; as root chmod 666 it, or give the container --device /dev/fuse"
    return f"cannot be opened: {error.strerror}"


def _mount_directly(fd: int, mountpoint: bytes, source: bytes, flags: int, mode: int, options: list[bytes]) -> None:
    first = b"fd=%d,rootmode=%o,user_id=%d,group_id=%d" % (fd, S_IFMT(mode), os.geteuid(), os.getegid())
    libc.mount(source, mountpoint, TYPE, flags, b",".join([first, *options]))


def _mount_reason(mountpoint: bytes, error: OSError) -> str:
    if error.errno == ENODEV:
        return "the kernel knows no FUSE; load the module with modprobe fuse"
    if error.errno == EINVAL:
        return f"the kernel refused the options of the mount at {shown(mountpoint)} (see dmesg)"
    if error.errno == EBUSY:
        return f"{shown(mountpoint)} is busy: the same thing is mounted there already"
    if error.errno in (ENOENT, ENOTDIR):
        return f"mount point {shown(mountpoint)}: {(error.strerror or '').lower()}"
    return f"mounting at {shown(mountpoint)} failed: {error.strerror}"


def _mount_by_helper(mountpoint: bytes, source: bytes, flags: int, options: list[bytes]) -> int:
    from unionfs.device import fusermount

    return fusermount.mount(mountpoint, source, flags, options)


def _make_private(mountpoint: bytes) -> None:
    try:
        libc.mount(None, mountpoint, None, libc.MS_PRIVATE, None)
    except OSError as error:
        unmount(mountpoint, lazy=True)
        raise MountError(f"{shown(mountpoint)} cannot be made a private mount: {error.strerror}") from None


def unmount(mountpoint: bytes, *, lazy: bool = False) -> None:
    """Unmounts `mountpoint` (absolute). `lazy`: detach at once, although it is in use.

    Raises OSError: EBUSY (in use), EINVAL (not a mount point), EPERM. Never call it from the thread that
    serves the mount: the kernel may wait for a last answer.
    """
    try:
        libc.umount2(mountpoint, libc.UMOUNT_NOFOLLOW | (libc.MNT_DETACH if lazy else 0))
    except PermissionError:
        from unionfs.device import fusermount

        fusermount.unmount(mountpoint, lazy)
