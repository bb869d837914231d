"""Any system call with any arguments on a mount: errors, never an unexpected exception in the daemon, never a hang."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import stat
from collections.abc import Callable

import pytest

from tests.conftest import Mount
from tests.lib import kernel
from tests.lib.engines import Mounted
from tests.lib.layers import WHITEOUT, Dir, File, Special, Symlink

pytestmark = pytest.mark.engines("overlay", "unionfs", "fusepy")

NAMES = [
    b"f", b"g", b"d", b"d/f", b"d/g", b"s", b"loop", b"p", b"e", b"e/x", b"white", b"new", b"new/x", b".", b"",
    b"d/../f", b"x" * 255, b"x" * 256, b"y/" * 2000, b"\xff\n\\,:", b"%s%n", b".fuse_hidden0000000000000001",
]  # fmt: skip
XATTRS = [
    "user.a", "user.", "user." + "n" * 250, "user." + "n" * 251, "trusted.overlay.opaque", "trusted.overlay.redirect",
    "trusted.overlay.overlay.x", "trusted.overlay.", "system.posix_acl_access", "system.posix_acl_default",
    "security.capability", "nonsense",
]  # fmt: skip
VALUES = [b"", b"y", b"\0" * 20, b"/../..", b"v" * 4000, b"\2\0\0\0" + b"\1\0\7\0\xff\xff\xff\xff" * 3]
# Sizes and offsets; none that makes a file system allocate for long.
NUMBERS = [0, 1, 4095, 4096, 65537, 1 << 20, (1 << 31) - 1, 1 << 32, 1 << 43, (1 << 63) - 1, -1, -4096]
FLAGS = [
    os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 3, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECT, os.O_PATH,
    os.O_DIRECTORY, os.O_TMPFILE, os.O_NOATIME, os.O_SYNC, os.O_NOFOLLOW, os.O_ASYNC,
]  # fmt: skip
MODES = [0, 0o644, 0o7777, 0o4755, stat.S_IFIFO | 0o600, stat.S_IFCHR | 0o600, stat.S_IFSOCK | 0o777, stat.S_IFDIR]
IOCTLS = [0, 1, 0x80086601, 0x40086602, 0x801C581F, 0x401C5820, 0x5413, 0xC0189436, 0xFFFFFFFF]
ROUNDS = 3000


class Caller:
    """One who calls at random, holding a few descriptors."""

    def __init__(self, fs: Mounted, seed: int) -> None:
        self.fs, self.rnd = fs, random.Random(seed)
        self.held: list[int] = []
        self.top = os.fsencode(fs.mnt)

    def path(self) -> bytes:
        return self.top + b"/" + self.rnd.choice(NAMES)

    def number(self) -> int:
        return self.rnd.choice(NUMBERS)

    def fd(self) -> int:
        return self.rnd.choice(self.held) if self.held else self.open()

    def open(self) -> int:
        flags = 0
        for flag in self.rnd.sample(FLAGS, self.rnd.randrange(1, 4)):
            flags |= flag
        self.held.append(os.open(self.path(), flags | os.O_NONBLOCK, self.rnd.choice(MODES) & 0o7777))
        if len(self.held) > 12:
            os.close(self.held.pop(self.rnd.randrange(12)))
        return self.held[-1]

    def calls(self) -> list[Callable[[], object]]:
        pick, number, path, fd = self.rnd.choice, self.number, self.path, self.fd
        return [
            self.open,
            self.open,
            lambda: os.pread(fd(), 5000, number()),
            lambda: os.pwrite(fd(), pick(VALUES), number()),
            lambda: os.ftruncate(fd(), number()),
            lambda: os.truncate(path(), number()),
            lambda: kernel.fallocate(fd(), pick([0, 1, 2, 3, 8, 16, 32, 64, 255]), number(), pick([0, 1, 5000, -1])),
            lambda: os.lseek(fd(), number(), self.rnd.randrange(6)),
            lambda: os.copy_file_range(fd(), fd(), pick([1, 70000]), abs(number()), abs(number())),
            lambda: fcntl.ioctl(fd(), pick(IOCTLS), bytearray(64)),
            lambda: os.setxattr(path(), pick(XATTRS), pick(VALUES), self.rnd.randrange(4), follow_symlinks=False),
            lambda: os.getxattr(path(), pick(XATTRS), follow_symlinks=False),
            lambda: os.removexattr(path(), pick(XATTRS), follow_symlinks=False),
            lambda: os.listxattr(path(), follow_symlinks=False),
            lambda: os.mkdir(path(), pick(MODES) & 0o7777),
            lambda: os.rmdir(path()),
            lambda: os.unlink(path()),
            lambda: os.symlink(pick(NAMES), path()),
            lambda: os.link(path(), path(), follow_symlinks=False),
            lambda: kernel.renameat2(path(), path(), self.rnd.randrange(9)),
            lambda: os.mknod(path(), pick(MODES), pick([0, 0x103, 0xFFFFFFFF])),
            lambda: os.chmod(path(), pick(MODES) & 0o7777),
            lambda: os.lchown(path(), pick([-1, 0, 4001, (1 << 32) - 2]), pick([-1, 0, 4001])),
            lambda: os.utime(path(), ns=(number(), number()), follow_symlinks=False),
            lambda: os.listdir(path()),
            lambda: kernel.getdents(fd(), pick([24, 100, 5000])),
            lambda: os.readlink(path()),
            lambda: os.statvfs(path()),
            lambda: os.fsync(fd()),
            lambda: os.access(path(), self.rnd.randrange(8)),
        ]

    def close(self) -> None:
        for fd in self.held:
            os.close(fd)


@pytest.mark.parametrize("seed", range(2))
def test_any_call_with_any_arguments(mount: Mount, seed: int) -> None:
    fs = mount(
        {"f": "x" * 5000, "d": Dir(mode=0o1777), "d/f": File("y", mode=0o4755), "white": WHITEOUT, "s": Symlink("f")},
        {"f": "below", "d/g": "z", "white": "w", "loop": Symlink("loop"), "p": Special(stat.S_IFIFO), "e/x": "1"},
        stray_whiteouts=True,
    )
    caller = Caller(fs, seed)
    calls = caller.calls()
    unexpected: set[int | None] = set()
    try:
        for _ in range(ROUNDS):
            with contextlib.suppress(ValueError, OverflowError, BlockingIOError):
                try:
                    caller.rnd.choice(calls)()
                except OSError as e:
                    unexpected |= {e.errno} & {errno.EIO, errno.ENOSYS, errno.ENOTCONN}
    finally:
        caller.close()
    assert not unexpected
    fs.write("still here", b"yes")
    assert fs.read("still here") == b"yes"
