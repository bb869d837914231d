"""Layouts of the FUSE protocol's structures, one precompiled `struct.Struct` each, under the kernel's names.

Host byte order, no alignment ("="): the kernel pads every structure by hand. Padding and fields that
unionfs never looks at because the kernel declares them unused are `x`, so that a tuple holds only values.
Field order is the header's; a test compares every size with the compiler's.
"""

from __future__ import annotations

from struct import Struct

#                            len error/opcode unique …
fuse_in_header = Struct("=IIQQIIIHxx")  # len opcode unique nodeid uid gid pid total_extlen
fuse_out_header = Struct("=IiQ")  # len error unique

# ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags
# (times are unsigned in the header and signed in the kernel: before 1970 they are negative)
fuse_attr = Struct("=QQQqqqIIIIIIIIII")
fuse_entry_out = Struct("=QQQQII")  # nodeid generation entry_valid attr_valid …_nsec …_nsec, then fuse_attr
fuse_attr_out = Struct("=QI4x")  # attr_valid attr_valid_nsec, then fuse_attr
fuse_open_out = Struct("=QIi")  # fh open_flags backing_id
fuse_write_out = Struct("=I4x")  # size
fuse_getxattr_out = Struct("=I4x")  # size
fuse_lseek_out = Struct("=Q")  # offset
fuse_copy_file_range_out = Struct("=Q")  # bytes_copied
fuse_statfs_out = Struct("=QQQQQIII28x")  # blocks bfree bavail files ffree bsize namelen frsize
fuse_ioctl_out = Struct("=iIII")  # result flags in_iovs out_iovs
# major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages
# map_alignment flags2 max_stack_depth request_timeout
fuse_init_out = Struct("=IIIIHHIIHHIIH22x")

fuse_dirent = Struct("=QQII")  # ino off namelen type, then the name, padded to 8
fuse_direntplus = Struct("=QQQQII" + "QQQqqqIIIIIIIIII" + "QQII")  # entry_out, attr, dirent

# mask blksize attributes nlink uid gid mode ino size blocks attributes_mask atime btime ctime mtime
# rdev_major rdev_minor dev_major dev_minor
fuse_statx = Struct("=IIQIIIHxxQQQQ" + "qI4x" * 4 + "IIII112x")
fuse_statx_out = Struct("=QII16x")  # attr_valid attr_valid_nsec flags, then fuse_statx

fuse_forget_in = Struct("=Q")  # nlookup
fuse_forget_one = Struct("=QQ")  # nodeid nlookup
fuse_batch_forget_in = Struct("=I4x")  # count
fuse_getattr_in = Struct("=I4xQ")  # getattr_flags fh
# valid fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode uid gid
fuse_setattr_in = Struct("=I4xQQQqqqIIII4xII4x")
fuse_mknod_in = Struct("=III4x")  # mode rdev umask
fuse_mkdir_in = Struct("=II")  # mode umask
fuse_rename_in = Struct("=Q")  # newdir
fuse_rename2_in = Struct("=QI4x")  # newdir flags
fuse_link_in = Struct("=Q")  # oldnodeid
fuse_open_in = Struct("=II")  # flags open_flags
fuse_create_in = Struct("=IIII")  # flags mode umask open_flags
fuse_release_in = Struct("=QIIQ")  # fh flags release_flags lock_owner
fuse_flush_in = Struct("=Q8xQ")  # fh lock_owner
fuse_read_in = Struct("=QQIIQI4x")  # fh offset size read_flags lock_owner flags
fuse_write_in = Struct("=QQIIQI4x")  # fh offset size write_flags lock_owner flags
fuse_fsync_in = Struct("=QI4x")  # fh fsync_flags
fuse_setxattr_in = Struct("=III4x")  # size flags setxattr_flags
FUSE_COMPAT_SETXATTR_IN = Struct("=II")  # size flags: without FUSE_SETXATTR_EXT
fuse_getxattr_in = Struct("=I4x")  # size
fuse_access_in = Struct("=I4x")  # mask
fuse_init_in = Struct("=IIIII44x")  # major minor max_readahead flags flags2
FUSE_COMPAT_INIT_IN = Struct("=IIII")  # before 7.36
fuse_interrupt_in = Struct("=Q")  # unique
fuse_bmap_in = Struct("=QI4x")  # block blocksize
fuse_ioctl_in = Struct("=QIIQII")  # fh flags cmd arg in_size out_size
fuse_fallocate_in = Struct("=QQQI4x")  # fh offset length mode
fuse_lseek_in = Struct("=QqI4x")  # fh offset whence
fuse_copy_file_range_in = Struct("=QQQQQQQ")  # fh_in off_in nodeid_out fh_out off_out len flags
fuse_statx_in = Struct("=I4xQII")  # getattr_flags fh sx_flags sx_mask
fuse_syncfs_in = Struct("=8x")

fuse_notify_inval_inode_out = Struct("=Qqq")  # ino off len
fuse_notify_inval_entry_out = Struct("=QII")  # parent namelen flags
fuse_notify_store_out = Struct("=QQI4x")  # nodeid offset size
fuse_notify_delete_out = Struct("=QQI4x")  # parent child namelen

fuse_backing_map = Struct("=iI8x")  # fd flags
