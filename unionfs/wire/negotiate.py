"""INIT: what the kernel offers and what unionfs wants become what both speak. A pure function."""

from __future__ import annotations

from unionfs.wire import kernel as k
from unionfs.wire.decode import WireError
from unionfs.wire.structs import fuse_init_out, fuse_out_header

OLDEST_MINOR = 31  # Linux 5.4; below it what we rely on (explicit invalidation, cached symlinks) is missing

# Wanted in every mount. Not wanted, with the reason:
#   WRITEBACK_CACHE      excludes passthrough, which is faster than any cache of ours
#   POSIX_LOCKS, FLOCK_LOCKS   the kernel locks by itself, correctly, for all processes of this machine
#   EXPORT_SUPPORT       node ids do not outlive a mount, so file handles cannot
#   AUTO_INVAL_DATA      pages would be thrown away when a time changes; we say ourselves when they must be
#   READDIRPLUS_AUTO     who reads all of a directory before he asks for attributes, as find and rm do, would have to
#                        look up what is beyond the first reply; how far it goes is for the server to say
#   CREATE_SUPP_GROUP    the VFS has done with groups and the set-group-id bit before we are asked
WANTED = (
    k.FUSE_ASYNC_READ
    | k.FUSE_ATOMIC_O_TRUNC
    | k.FUSE_BIG_WRITES
    | k.FUSE_DONT_MASK
    | k.FUSE_HAS_IOCTL_DIR
    | k.FUSE_DO_READDIRPLUS
    | k.FUSE_ASYNC_DIO
    | k.FUSE_PARALLEL_DIROPS
    | k.FUSE_POSIX_ACL
    | k.FUSE_MAX_PAGES
    | k.FUSE_CACHE_SYMLINKS
    | k.FUSE_NO_OPENDIR_SUPPORT
    | k.FUSE_EXPLICIT_INVAL_DATA
    | k.FUSE_HANDLE_KILLPRIV_V2
    | k.FUSE_SETXATTR_EXT
    | k.FUSE_INIT_EXT
    | k.FUSE_NO_EXPORT_SUPPORT
    | k.FUSE_HAS_RESEND
)

# 256 pages are the most that every kernel takes in one message (Linux 6.13 has a sysctl for more).
MAX_PAGES = 256
MAX_WRITE = MAX_PAGES * 4096

# Requests in the background (readahead, asynchronous direct I/O, releases) that the kernel has under way at
# once, and the number from which it calls the device congested. The kernel's default of 12 stalls readahead.
MAX_BACKGROUND = 64
CONGESTION = 48


class Agreement:
    """What both sides speak from now on."""

    __slots__ = ("flags", "max_readahead", "max_write", "minor", "stack_depth")

    def __init__(self, minor: int, flags: int, max_readahead: int, max_write: int, stack_depth: int) -> None:
        self.minor = minor
        self.flags = flags
        self.max_readahead = max_readahead
        self.max_write = max_write
        self.stack_depth = stack_depth

    def has(self, flag: int) -> bool:
        """Whether a FUSE_… flag of INIT is in force."""
        return self.flags & flag != 0


def negotiate(
    major: int, minor: int, max_readahead: int, offered: int, wanted: int, max_write: int = MAX_WRITE
) -> Agreement | None:
    """The agreement, or None: the kernel speaks a newer major version and is to be asked to try again.

    Raises WireError where the kernel is too old. `offered` and `wanted` are FUSE_… flags of INIT; `max_write`
    is in bytes, taken in whole pages, at least one and at most MAX_WRITE.
    """
    if major > k.FUSE_KERNEL_VERSION:
        return None
    if major < k.FUSE_KERNEL_VERSION or minor < OLDEST_MINOR:
        raise WireError(f"the kernel speaks FUSE {major}.{minor}; unionfs needs 7.{OLDEST_MINOR} (Linux 5.4)")
    flags = offered & wanted
    if not flags & k.FUSE_INIT_EXT:
        flags &= 0xFFFFFFFF
    most = MAX_WRITE if flags & k.FUSE_MAX_PAGES else 32 * 4096
    max_write = max(4096, min(max_write, most) & ~4095)
    depth = 1 if flags & k.FUSE_PASSTHROUGH else 0
    return Agreement(min(minor, k.FUSE_KERNEL_MINOR_VERSION), flags, max_readahead, max_write, depth)


def init_reply(agreement: Agreement | None) -> bytearray:
    """The reply to INIT; `unique` is still to be put in. None asks the kernel for our major version."""
    if agreement is None:
        body = fuse_init_out.pack(k.FUSE_KERNEL_VERSION, k.FUSE_KERNEL_MINOR_VERSION, *(0,) * 11)
    else:
        body = fuse_init_out.pack(
            k.FUSE_KERNEL_VERSION,
            agreement.minor,
            agreement.max_readahead,
            agreement.flags & 0xFFFFFFFF,
            MAX_BACKGROUND,
            CONGESTION,
            agreement.max_write,
            1,  # time_gran: times are exact to 1 ns
            agreement.max_write // 4096,
            0,  # map_alignment: only for DAX
            agreement.flags >> 32,
            agreement.stack_depth,
            0,  # request_timeout: none; a copy-up may take as long as it takes
        )
    return bytearray(fuse_out_header.pack(fuse_out_header.size + len(body), 0, 0) + body)
