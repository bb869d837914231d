"""The system calls that Python's `os` does not offer; the only module that uses ctypes.

Every function raises OSError with the errno of the call. File descriptors are plain ints, names and paths bytes.
Calls through ctypes cost 0.7–1.5 µs each, so nothing here is on the path of a cached lookup.
"""

from __future__ import annotations

import ctypes
import os
from errno import EINTR, ENOSYS
from struct import Struct

_libc = ctypes.CDLL(None, use_errno=True)
_int, _uint, _long, _ulong = ctypes.c_int, ctypes.c_uint, ctypes.c_long, ctypes.c_ulong
_path, _pointer, _i64 = ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000

RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4

RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08

UTIME_NOW, UTIME_OMIT = 0x3FFFFFFF, 0x3FFFFFFE

# linux/securebits.h, linux/prctl.h
PR_SET_SECUREBITS, PR_GET_SECUREBITS = 28, 27
SECBIT_NO_SETUID_FIXUP = 1 << 2

# <asm/unistd.h>; the numbers above 424 are the same on every architecture
_SYS_openat2 = 437
_SYS_fchmodat2 = 452


def _fail(path: bytes | None = None) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), path)


def _function(name: str, *types: object) -> ctypes._NamedFuncPointer:
    function = getattr(_libc, name)
    function.argtypes = types
    return function  # type: ignore[no-any-return]


# --- names ---------------------------------------------------------------------------------------------------------

_renameat2 = _function("renameat2", _int, _path, _int, _path, _uint)


def renameat2(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2(2). EINVAL where the file system does not know a flag."""
    if _renameat2(old_fd, old, new_fd, new, flags):
        raise _fail(old)


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_syscall = _libc.syscall
_syscall.restype = _long


def openat2(dir_fd: int, path: bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2). ENOSYS before Linux 5.6, and where a sandbox filters it: EPERM."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    while True:
        fd = _syscall(_long(_SYS_openat2), _int(dir_fd), _path(path), ctypes.byref(how), ctypes.c_size_t(24))
        if fd >= 0:
            return int(fd)
        if ctypes.get_errno() != EINTR:
            raise _fail(path)


_HANDLE_HEAD = Struct("Ii")  # struct file_handle: bytes, type, then the handle
_HANDLE_MAX = 128
_Handle = ctypes.c_char * (_HANDLE_HEAD.size + _HANDLE_MAX)
_name_to_handle_at = _function("name_to_handle_at", _int, _path, _pointer, _pointer, _int)


def name_to_handle_at(dir_fd: int, name: bytes, flags: int = 0) -> tuple[int, bytes]:
    """The (type, bytes) of the object's file handle; EOPNOTSUPP where the file system has none.

    An empty name with AT_EMPTY_PATH means the descriptor itself.
    """
    buffer, mount = _Handle(), _int()
    _HANDLE_HEAD.pack_into(buffer, 0, _HANDLE_MAX, 0)
    if _name_to_handle_at(dir_fd, name, buffer, ctypes.byref(mount), flags):
        raise _fail(name)
    size, kind = _HANDLE_HEAD.unpack_from(buffer)
    return kind, buffer.raw[_HANDLE_HEAD.size : _HANDLE_HEAD.size + size]


# --- attributes ----------------------------------------------------------------------------------------------------

def fchmodat2(dir_fd: int, name: bytes, mode: int, flags: int) -> None:
    """fchmodat2(2). EOPNOTSUPP for a symlink that is not to be followed; ENOSYS before Linux 6.6."""
    if _syscall(_long(_SYS_fchmodat2), _int(dir_fd), _path(name), _uint(mode), _uint(flags)):
        raise _fail(name)


class _Timespec(ctypes.Structure):
    _fields_ = [("sec", _long), ("nsec", _long)]


_utimensat = _function("utimensat", _int, _path, _pointer, _int)
_futimens = _function("futimens", _int, _pointer)


def utimensat(dir_fd: int, path: bytes, times: tuple[int, int, int, int], flags: int) -> None:
    """utimensat(2) with (atime s, atime ns, mtime s, mtime ns); UTIME_NOW and UTIME_OMIT stand in the ns fields."""
    if _utimensat(dir_fd, path, _timespecs(times), flags):
        raise _fail(path)


def futimens(fd: int, times: tuple[int, int, int, int]) -> None:
    """futimens(3): utimensat of what is open (not O_PATH) at a descriptor."""
    if _futimens(fd, _timespecs(times)):
        raise _fail()


def _timespecs(times: tuple[int, int, int, int]) -> ctypes.Array[_Timespec]:
    return (_Timespec * 2)(_Timespec(times[0], times[1]), _Timespec(times[2], times[3]))


class _Statx(ctypes.Structure):
    _fields_ = [("mask", ctypes.c_uint32), ("head", ctypes.c_uint8 * 76), ("btime_sec", _i64),
                ("btime_nsec", ctypes.c_uint32), ("tail", ctypes.c_uint8 * 164)]


_STATX_BTIME = 0x800
_statx = _function("statx", _int, _path, _int, _uint, _pointer)


def birth_time(dir_fd: int, name: bytes, flags: int) -> tuple[int, int] | None:
    """(seconds, nanoseconds) of the object's creation, or None where the file system does not record it."""
    buffer = _Statx()
    if _statx(dir_fd, name, flags, _STATX_BTIME, ctypes.byref(buffer)):
        raise _fail(name)
    return (buffer.btime_sec, buffer.btime_nsec) if buffer.mask & _STATX_BTIME else None


# --- data ----------------------------------------------------------------------------------------------------------

_fallocate = _function("fallocate", _int, _int, _i64, _i64)
_syncfs = _function("syncfs", _int)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2) with its FALLOC_FL_ modes."""
    while _fallocate(fd, mode, offset, length):
        if ctypes.get_errno() != EINTR:
            raise _fail()


def syncfs(fd: int) -> None:
    """Write everything of the descriptor's file system to disk."""
    if _syncfs(fd):
        raise _fail()


# --- the identity that new files get --------------------------------------------------------------------------------

_setfsuid = _function("setfsuid", _uint)
_setfsgid = _function("setfsgid", _uint)
_prctl = _function("prctl", _int, _ulong, _ulong, _ulong, _ulong)
_unshare = _function("unshare", _int)


def set_fs_ids(uid: int, gid: int) -> None:
    """File system uid and gid of the calling thread. Never fails; the kernel ignores what is not permitted."""
    _setfsgid(gid)
    _setfsuid(uid)


def keep_capabilities_across_setfsuid() -> None:
    """Let this thread (and those it starts) change its file system uid and keep its capabilities. EPERM if refused."""
    bits = _prctl(PR_GET_SECUREBITS, 0, 0, 0, 0)
    if bits < 0 or _prctl(PR_SET_SECUREBITS, bits | SECBIT_NO_SETUID_FIXUP, 0, 0, 0):
        raise _fail()


def unshare(flags: int) -> None:
    """unshare(2) for the calling thread, with CLONE_NEW… flags."""
    if _unshare(flags):
        raise _fail()


# --- namespaces: a command in a root file system of its own -----------------------------------------------------------

# linux/sched.h, sys/mount.h, linux/prctl.h
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = (
    0x00020000, 0x04000000, 0x08000000, 0x10000000, 0x20000000)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
_PR_SET_PDEATHSIG, _PR_CAPBSET_DROP = 1, 24


def die_with_parent(signal: int) -> None:
    """Let the kernel send this process a signal when the thread that forked it ends. Not inherited by a fork."""
    if _prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0):
        raise _fail()


def drop_from_bounding_set(capability: int) -> None:
    """What is executed from now on cannot gain the capability. EINVAL where the kernel does not know it."""
    if _prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
        raise _fail()


def reset_securebits() -> None:
    """Set-user-ID rules as usual again, for this thread and what it executes. EPERM without CAP_SETPCAP."""
    if _prctl(PR_SET_SECUREBITS, 0, 0, 0, 0):
        raise _fail()


def pivot_root(new: bytes, old: bytes) -> None:
    """pivot_root(2); `new` has to be a mount point. ENOSYS where the C library has no such function."""
    function = getattr(_libc, "pivot_root", None)
    if function is None:
        raise OSError(ENOSYS, os.strerror(ENOSYS), new)
    if function(_path(new), _path(old)):
        raise _fail(new)


# --- the FUSE device: mounts, and the capabilities that backing files are opened with ---------------------------------

MS_PRIVATE = 1 << 18
MS_REC = 1 << 14
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
CAP_FSETID = 4
CAP_SYS_ADMIN = 21

_CAPABILITY_VERSION_3 = 0x20080522
_mount = _function("mount", _path, _path, _path, _ulong, _path)
_umount2 = _function("umount2", _path, _int)
_capget = _function("capget", _pointer, _pointer)
_capset = _function("capset", _pointer, _pointer)

# header: version, pid (0: the calling thread); sets: effective permitted inheritable, low words then high words
_CapHeader = _uint * 2
CapSets = _uint * 6
_this_thread = _CapHeader(_CAPABILITY_VERSION_3, 0)


def mount(source: bytes | None, target: bytes, kind: bytes | None, flags: int, data: bytes | None) -> None:
    """mount(2)."""
    if _mount(source, target, kind, flags, data):
        raise _fail(target)


def umount2(target: bytes, flags: int) -> None:
    """umount2(2)."""
    if _umount2(target, flags):
        raise _fail(target)


def capget() -> ctypes.Array[ctypes.c_uint]:
    """The capability sets of the calling thread, as capset() takes them."""
    sets = CapSets()
    if _capget(_this_thread, sets):
        raise _fail()
    return sets


def capset(sets: ctypes.Array[ctypes.c_uint]) -> None:
    """Sets the capabilities of the calling thread. EPERM where it lacks one that is to be permitted."""
    if _capset(_this_thread, sets):
        raise _fail()
