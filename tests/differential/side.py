"""One of the two mounts that are compared: every operation by name, with a result that can be compared.

A result holds nothing that may differ between two equal file systems: no inode number, no present time, no path of
the machine. An error is its errno's name.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable, Iterator

from tests.lib import acl, kernel, tree
from tests.lib.asuser import as_user
from tests.lib.engines import Mounted
from tests.lib.errors import outcome

# Layers are built with times before this; whatever is newer was set by the present.
THE_PRESENT = 1_600_000_000 * 10**9
ACLS = ["u:7 user:4001:6 g:5 m:7 o:0", "u:6 g:4 o:4", "u:6 user:4002:0 group:4100:6 m:6 o:4"]


class Side:
    def __init__(self, fs: Mounted) -> None:
        self.fs = fs
        self.held: list[int] = []

    def do(self, name: str, *args: object) -> object:
        function: Callable[..., object] = getattr(self, name)
        return outcome(lambda: function(*args))

    def close_all(self) -> None:
        for fd in self.held:
            os.close(fd)
        self.held = []

    def remount(self) -> None:
        self.close_all()
        self.fs.remount()

    def tree(self) -> tree.Snapshot:
        """The whole tree, present times as "now"."""
        seen = self.fs.tree()
        for facts in seen.values():
            mtime = facts["mtime"]
            assert isinstance(mtime, int)
            if mtime > THE_PRESENT:
                facts["mtime"] = "now"
        return seen

    def forgetful(self) -> set[int]:
        """Inode numbers of lower files with several names of which some were removed, and nothing copied up.

        Our mounts know their link count until the next mount only (docs/compat.md).
        """
        on_disk = {st.st_ino: st.st_nlink for lower in self.fs.lowers for st in _files(lower)}
        shown: dict[int, int] = {}
        copied: set[int] = set()
        for path in self.fs.tree():
            st = os.lstat(self.fs.path(path))
            shown[st.st_ino] = st.st_nlink
            if self.fs.in_upper(path):
                copied.add(st.st_ino)
        several = {ino for ino, links in on_disk.items() if links > 1}
        return {ino for ino in shown.keys() & several - copied if shown[ino] != on_disk[ino]}

    # -- names --------------------------------------------------------------------------------------------------

    def create(self, path: str, flags: int, mode: int, content: bytes) -> None:
        fd = os.open(self.fs.path(path), os.O_WRONLY | os.O_CREAT | flags, mode)
        try:
            os.write(fd, content)
        finally:
            os.close(fd)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self.fs.path(path), mode)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self.fs.path(path))

    def mknod(self, path: str, kind: int) -> None:
        os.mknod(self.fs.path(path), kind | 0o640, os.makedev(1, 3) if kind == stat.S_IFCHR else 0)

    def link(self, old: str, new: str) -> None:
        os.link(self.fs.path(old), self.fs.path(new), follow_symlinks=False)

    def unlink(self, path: str) -> None:
        os.unlink(self.fs.path(path))

    def rmdir(self, path: str) -> None:
        os.rmdir(self.fs.path(path))

    def rename(self, old: str, new: str, flags: int) -> None:
        kernel.renameat2(self.fs.path(old), self.fs.path(new), flags)

    # -- attributes -----------------------------------------------------------------------------------------------

    def stat(self, path: str) -> object:
        return _shown(os.lstat(self.fs.path(path)))

    def nlink(self, path: str) -> object:
        st = os.lstat(self.fs.path(path))
        return None if stat.S_ISDIR(st.st_mode) else st.st_nlink

    def chmod(self, path: str, mode: int) -> object:
        if os.path.islink(self.fs.path(path)):
            return None
        os.chmod(self.fs.path(path), mode)
        return self.stat(path)

    def chown(self, path: str, uid: int, gid: int) -> object:
        os.lchown(self.fs.path(path), uid, gid)
        return self.stat(path)

    def utime(self, path: str, when: int) -> object:
        os.utime(self.fs.path(path), ns=(when + 1, when), follow_symlinks=False)
        st = os.lstat(self.fs.path(path))
        return st.st_atime_ns, st.st_mtime_ns

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> object:
        os.setxattr(self.fs.path(path), name, value, flags, follow_symlinks=False)
        return self.xattrs(path)

    def removexattr(self, path: str, name: str) -> object:
        os.removexattr(self.fs.path(path), name, follow_symlinks=False)
        return self.xattrs(path)

    def set_acl(self, path: str, kind: str, text: str) -> object:
        os.setxattr(self.fs.path(path), kind, acl.encode(text), follow_symlinks=False)
        return self.stat(path), self.xattrs(path)

    def xattrs(self, path: str) -> object:
        full = self.fs.path(path)
        names = sorted(os.listxattr(full, follow_symlinks=False))
        return [(name, os.getxattr(full, name, follow_symlinks=False)) for name in names]

    # -- data -------------------------------------------------------------------------------------------------------

    def read(self, path: str) -> object:
        fd = os.open(self.fs.path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            return os.read(fd, 100) if stat.S_ISREG(os.fstat(fd).st_mode) else "special"
        finally:
            os.close(fd)

    def write_at(self, path: str, offset: int, content: bytes) -> None:
        fd = os.open(self.fs.path(path), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.pwrite(fd, content, offset)
        finally:
            os.close(fd)

    def mmap_write(self, path: str, offset: int) -> None:
        fd = os.open(self.fs.path(path), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            size = os.fstat(fd).st_size
            if size and stat.S_ISREG(os.fstat(fd).st_mode):
                with mmap.mmap(fd, size) as view:
                    view[offset % size] = 0x4D
        finally:
            os.close(fd)

    def truncate(self, path: str, size: int) -> None:
        if stat.S_ISFIFO(os.stat(self.fs.path(path)).st_mode):
            return
        os.truncate(self.fs.path(path), size)

    def fallocate(self, path: str, mode: int, offset: int, length: int) -> None:
        fd = os.open(self.fs.path(path), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            kernel.fallocate(fd, mode, offset, length)
        finally:
            os.close(fd)

    def copy_range(self, source: str, target: str) -> object:
        one = os.open(self.fs.path(source), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            two = os.open(self.fs.path(target), os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                return os.copy_file_range(one, two, 50, 1, 2)
            finally:
                os.close(two)
        finally:
            os.close(one)

    def user_writes(self, path: str, groups: tuple[int, ...]) -> object:
        def attempt() -> object:
            fd = os.open(self.fs.path(path), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                return os.pwrite(fd, b"user", 0) if stat.S_ISREG(os.fstat(fd).st_mode) else "special"
            finally:
                os.close(fd)

        return as_user(attempt, groups=groups), self.stat(path)

    # -- listing ----------------------------------------------------------------------------------------------------

    def listdir(self, path: str) -> object:
        return sorted((entry.name, entry.type) for entry in kernel.all_dirents(self.fs.path(path)))

    def list_and_remove(self, path: str) -> object:
        """Reads a directory in small pieces and removes every file as it comes."""
        fd = os.open(self.fs.path(path), os.O_RDONLY | os.O_DIRECTORY)
        seen: list[bytes] = []
        try:
            while more := kernel.getdents(fd, 64):
                for entry in more:
                    seen.append(entry.name)
                    if entry.type not in (4, 0):
                        os.unlink(entry.name, dir_fd=fd)  # the path may lead through a symlink that goes, too
        finally:
            os.close(fd)
        return sorted(seen)

    # -- held descriptors ---------------------------------------------------------------------------------------

    def hold(self, path: str, flags: int) -> None:
        self.held.append(os.open(self.fs.path(path), flags | os.O_NONBLOCK | os.O_NOFOLLOW))

    def hold_tmpfile(self, path: str) -> None:
        self.held.append(os.open(self.fs.path(path), os.O_TMPFILE | os.O_RDWR, 0o640))

    def held_stat(self, which: int) -> object:
        return _shown(os.fstat(self.held[which]))

    def held_read(self, which: int) -> object:
        return os.pread(self.held[which], 50, 0)

    def held_write(self, which: int, offset: int, content: bytes) -> object:
        return os.pwrite(self.held[which], content, offset), self.held_stat(which)

    def held_truncate(self, which: int, size: int) -> object:
        os.ftruncate(self.held[which], size)
        return self.held_stat(which)

    def held_chmod(self, which: int, mode: int) -> object:
        os.fchmod(self.held[which], mode)
        return self.held_stat(which)

    def held_reopen_write(self, which: int, content: bytes) -> object:
        if not stat.S_ISREG(os.fstat(self.held[which]).st_mode):
            return None
        fd = os.open(f"/proc/self/fd/{self.held[which]}", os.O_RDWR)
        try:
            return os.pwrite(fd, content, 1), os.pread(fd, 20, 0)
        finally:
            os.close(fd)

    def held_link(self, which: int, path: str) -> None:
        kernel.link_fd(self.held[which], self.fs.path(path))

    def held_close(self, which: int) -> None:
        os.close(self.held.pop(which))


def _files(root: str) -> Iterator[os.stat_result]:
    for parent, _dirs, names in os.walk(os.fsencode(root)):
        for name in names:
            yield os.lstat(parent + b"/" + name)


def _shown(st: os.stat_result) -> tuple[object, ...]:
    """Type, mode, owner; size and device number where they mean the same everywhere. The link count is asked for by
    itself: the kernel knows nothing certain of it once a lower file is unlinked, and ours forget, see `forgetful`.
    """
    kind = stat.S_IFMT(st.st_mode)
    is_dir = kind == stat.S_IFDIR
    rdev = st.st_rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    size = 0 if is_dir else st.st_size
    return oct(st.st_mode), st.st_uid, st.st_gid, rdev, size


# What the kernel's overlayfs is known to do worse: (operation, its answer). Ours may then succeed.
KERNEL_FAILS = {
    ("held_chmod", errno.errorcode[errno.EEXIST]),
    ("held_truncate", errno.errorcode[errno.EEXIST]),
    ("held_reopen_write", errno.errorcode[errno.EEXIST]),
}

# libfuse knows an open file by its path, and of a file in a directory that was removed as well nothing is left of it.
LIBFUSE_FAILS = {("held_reopen_write", errno.errorcode[errno.ESTALE])}
