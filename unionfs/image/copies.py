"""Copying single objects between layers, with everything that makes them what they are."""

from __future__ import annotations

import os
import stat

from unionfs.layer import verbs

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_attributes(source: int, source_name: bytes, target: int, target_name: bytes) -> None:
    """Owner, mode and xattrs (but not overlay's marks), of one object to another; times are left to the
    caller."""
    st = verbs.stat(source, source_name)
    verbs.chown(target, target_name, st.st_uid, st.st_gid)
    verbs.chmod(target, target_name, stat.S_IMODE(st.st_mode))
    for key in verbs.listxattr(source, source_name):
        if b".overlay." not in key or not key.startswith((b"trusted.overlay.", b"user.overlay.")):
            verbs.setxattr(target, target_name, key, verbs.getxattr(source, source_name, key))


def copy_file(source_dir: int, target_dir: int, name: bytes) -> None:
    """A regular file with its attributes, to a new file of the same name."""
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source_dir)
    try:
        target = os.open(name, _NEW_FILE, 0o600, dir_fd=target_dir)
        try:
            st = os.stat(source)
            done = 0
            while count := os.sendfile(target, source, done, 1 << 30):
                done += count
            copy_attributes(source, b"", target, b"")
            os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))
        finally:
            os.close(target)
    finally:
        os.close(source)
