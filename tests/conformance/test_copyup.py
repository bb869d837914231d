"""What copies a file up, what does not, and what the copy keeps."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable

import pytest

from tests.conftest import Mount
from tests.lib import kernel, tree
from tests.lib.engines import Mounted
from tests.lib.errors import fails
from tests.lib.layers import Dir, Entry, File, Layer, Special, Symlink

OLD = 1_000_000_000_000_000_001
ONE: Layer = {
    "d/e/f": File("content", mode=0o640, uid=10, gid=20, mtime=OLD, xattrs={"user.x": b"1", "trusted.t": b"2"}),
    "d/e": Dir(mode=0o2775, uid=30, gid=40, mtime=OLD + 5, xattrs={"user.d": b"dir"}),
    "d": Dir(mode=0o711, mtime=OLD + 7),
}


def _open_and_close(flags: int) -> Callable[[Mounted], None]:
    return lambda fs: os.close(os.open(fs.path("d/e/f"), flags))


READS: dict[str, Callable[[Mounted], object]] = {
    "stat": lambda fs: fs.stat("d/e/f"),
    "read": lambda fs: fs.read("d/e/f"),
    "open read-only": _open_and_close(os.O_RDONLY),
    "open O_PATH": _open_and_close(os.O_PATH),
    "list": lambda fs: fs.ls("d/e"),
    "listxattr": lambda fs: os.listxattr(fs.path("d/e/f")),
    "getxattr": lambda fs: os.getxattr(fs.path("d/e/f"), "user.x"),
    "access for writing": lambda fs: os.access(fs.path("d/e/f"), os.W_OK),
    "statvfs": lambda fs: os.statvfs(fs.path("d/e/f")),
}
WRITES: dict[str, Callable[[Mounted], object]] = {
    "open for writing": _open_and_close(os.O_WRONLY),
    "open for both": _open_and_close(os.O_RDWR),
    "open appending": _open_and_close(os.O_WRONLY | os.O_APPEND),
    "open truncating": _open_and_close(os.O_WRONLY | os.O_TRUNC),
    "truncate": lambda fs: os.truncate(fs.path("d/e/f"), 3),
    "chmod": lambda fs: os.chmod(fs.path("d/e/f"), 0o600),
    "chown": lambda fs: os.chown(fs.path("d/e/f"), 1, 2),
    "utime": lambda fs: os.utime(fs.path("d/e/f"), ns=(5, 6)),
    "setxattr": lambda fs: os.setxattr(fs.path("d/e/f"), "user.new", b"v"),
    "removexattr": lambda fs: os.removexattr(fs.path("d/e/f"), "user.x"),
    "link": lambda fs: os.link(fs.path("d/e/f"), fs.path("d/link")),
    "rename": lambda fs: os.rename(fs.path("d/e/f"), fs.path("d/e/g")),
}


@pytest.mark.parametrize("what", READS)
def test_reading_copies_nothing(mount: Mount, what: str) -> None:
    fs = mount(ONE)
    READS[what](fs)
    fs.assert_not_copied_up("d")


@pytest.mark.parametrize("what", WRITES)
def test_writing_copies_up(mount: Mount, what: str) -> None:
    fs = mount(ONE)
    WRITES[what](fs)
    fs.assert_copied_up("d/e", "d/link" if what == "link" else "d/e/g" if what == "rename" else "d/e/f")


def test_all_that_a_copy_keeps(mount: Mount) -> None:
    fs = mount(ONE)
    before = fs.tree()
    os.close(os.open(fs.path("d/e/f"), os.O_WRONLY))
    fs.assert_copied_up("d/e/f")
    tree.assert_same(before, fs.tree())
    fs.remount()
    tree.assert_same(before, fs.tree())


def test_parents_keep_owner_mode_xattrs_and_times(mount: Mount) -> None:
    fs = mount(ONE)
    before = fs.tree()
    os.chmod(fs.path("d/e/f"), 0o600)
    tree.assert_same(before, fs.tree(), ignore={"mode"})
    if fs.engine != "plain":
        st = os.lstat(fs.upper + "/d/e")
        assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o2775, 30, 40)
        assert st.st_mtime_ns == OLD + 5


def test_ctime_moves_with_a_change(mount: Mount) -> None:
    fs = mount({"f": "x"})
    before = fs.stat("f").st_ctime_ns
    os.chmod(fs.path("f"), 0o600)
    assert fs.stat("f").st_ctime_ns > before


def test_write_in_the_middle(mount: Mount) -> None:
    fs = mount({"f": b"0123456789" * 1000})
    with open(fs.path("f"), "r+b") as file:
        file.seek(4321)
        file.write(b"HERE")
    content = fs.read("f")
    assert content[4321:4325] == b"HERE"
    assert content.replace(b"HERE", b"1234") == b"0123456789" * 1000


def test_truncating_open_of_a_lower_file(mount: Mount) -> None:
    fs = mount({"f": File("long content", mode=0o604, uid=7)})
    fs.write("f", b"new")
    assert fs.read("f") == b"new"
    assert stat.S_IMODE(fs.stat("f").st_mode) == 0o604
    assert fs.stat("f").st_uid == 7


def test_truncate_longer(mount: Mount) -> None:
    fs = mount({"f": "abc"})
    os.truncate(fs.path("f"), 10_000)
    assert fs.read("f") == b"abc" + b"\0" * 9_997


def test_append_to_a_lower_file(mount: Mount) -> None:
    fs = mount({"f": "one "})
    fs.append("f", b"two")
    assert fs.read("f") == b"one two"


def test_files_that_nobody_may_write_are_copied_by_their_owner(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o444)})
    os.utime(fs.path("f"), ns=(1, 2))
    assert fs.stat("f").st_mtime_ns == 2
    assert stat.S_IMODE(fs.stat("f").st_mode) == 0o444
    assert fs.read("f") == b"x"


def test_mode_000(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0)})
    fs.append("f", b"y")
    assert fs.read("f") == b"xy"
    assert stat.S_IMODE(fs.stat("f").st_mode) == 0


def test_setuid_survives_a_copy_that_only_changes_times(mount: Mount) -> None:
    fs = mount({"f": File("x", mode=0o6755, uid=5, gid=6)})
    os.utime(fs.path("f"), ns=(1, 2))
    assert stat.S_IMODE(fs.stat("f").st_mode) == 0o6755


def test_capabilities_survive_a_copy(mount: Mount) -> None:
    caps = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    fs = mount({"f": File("x", mode=0o755, xattrs={"security.capability": caps})})
    os.utime(fs.path("f"), ns=(1, 2))
    assert os.getxattr(fs.path("f"), "security.capability") == caps


def test_symlink_is_copied_with_owner_and_times(mount: Mount) -> None:
    fs = mount({"l": Symlink("a/target", uid=10, gid=20, mtime=OLD)})
    os.lchown(fs.path("l"), 11, -1)
    assert os.readlink(fs.path("l")) == "a/target"
    assert (fs.stat("l").st_uid, fs.stat("l").st_gid) == (11, 20)
    assert fs.stat("l").st_mtime_ns == OLD
    fs.assert_copied_up("l")


def test_symlink_times(mount: Mount) -> None:
    fs = mount({"l": Symlink("a")})
    os.utime(fs.path("l"), ns=(7, 8), follow_symlinks=False)
    assert fs.stat("l").st_mtime_ns == 8


@pytest.mark.parametrize("kind", ["fifo", "char", "block", "socket"])
def test_special_files_are_copied(mount: Mount, kind: str) -> None:
    kinds = {"fifo": stat.S_IFIFO, "char": stat.S_IFCHR, "block": stat.S_IFBLK, "socket": stat.S_IFSOCK}
    rdev = os.makedev(7, 9) if kind in ("char", "block") else 0
    fs = mount({"d/s": Special(kinds[kind], rdev, mode=0o640, uid=4, gid=5, mtime=OLD)})
    before = fs.tree()
    os.chmod(fs.path("d/s"), 0o600)
    tree.assert_same(before, fs.tree(), ignore={"mode"})
    fs.assert_copied_up("d/s")


def test_holes_are_kept(mount: Mount) -> None:
    content: Entry = File(b"start", size=64 << 20)
    fs = mount({"sparse": content})
    fs.write("sparse", b"X", 0)
    st = fs.stat("sparse")
    assert st.st_size == 64 << 20
    if fs.engine != "plain":
        assert os.stat(fs.upper + "/sparse").st_blocks * 512 < 4 << 20, "the hole was filled"
    assert fs.read("sparse")[:5] == b"Xtart"


def test_data_between_holes(mount: Mount, base: object) -> None:
    fs = mount({"f": File(b"a" * 4096, size=4 << 20)}, mounted=False)
    if fs.engine != "plain":
        with open(fs.lowers[0] + "/f", "r+b") as file:
            file.seek(1 << 20)
            file.write(b"b" * 10000)
        fs.remember_lowers()
        fs.mount()
    else:
        with open(fs.path("f"), "r+b") as file:
            file.seek(1 << 20)
            file.write(b"b" * 10000)
    before = fs.read("f")
    os.chmod(fs.path("f"), 0o600)
    os.close(os.open(fs.path("f"), os.O_WRONLY))
    assert fs.read("f") == before


def test_changing_a_directory_copies_it_but_no_child(mount: Mount) -> None:
    fs = mount(ONE)
    os.chmod(fs.path("d/e"), 0o700)
    fs.assert_copied_up("d/e")
    fs.assert_not_copied_up("d/e/f")
    assert fs.ls("d/e") == ["f"]


def test_creating_in_a_lower_directory_copies_the_way_there(mount: Mount) -> None:
    fs = mount({"a/b/c": Dir(mode=0o750, uid=9)})
    fs.write("a/b/c/new", b"x")
    fs.assert_copied_up("a/b/c/new")
    assert stat.S_IMODE(fs.stat("a/b/c").st_mode) == 0o750
    assert fs.stat("a/b/c").st_uid == 9


def test_a_failed_change_copies_nothing(mount: Mount) -> None:
    fs = mount({"d/f": "x", "d/g": "y"})
    with fails(errno.EEXIST):
        os.mkdir(fs.path("d/f"))
    with fails(errno.EEXIST):
        os.open(fs.path("d/f"), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    with fails(errno.ENODATA):
        os.removexattr(fs.path("d/g"), "user.none")
    fs.assert_not_copied_up("d/f")


@pytest.mark.engines("plain", "overlay", "unionfs")
def test_inode_flags(mount: Mount) -> None:
    """chattr: the flag is set on the copy, not on the lower file."""
    fs = mount({"f": "x"})
    kernel.setflags(fs.path("f"), kernel.getflags(fs.path("f")) | kernel.FS_NODUMP)
    assert kernel.getflags(fs.path("f")) & kernel.FS_NODUMP
    fs.assert_copied_up("f")
    assert fs.read("f") == b"x"


def test_fallocate_on_a_lower_file(mount: Mount) -> None:
    fs = mount({"f": "abc"})
    fd = os.open(fs.path("f"), os.O_RDWR)
    try:
        kernel.fallocate(fd, 0, 0, 10_000)
    finally:
        os.close(fd)
    assert fs.stat("f").st_size == 10_000
    fs.assert_copied_up("f")


def test_a_big_file(mount: Mount) -> None:
    fs = mount({"big": os.urandom(1 << 20) * 24})
    before = fs.tree()[b"big"]["content"]
    os.close(os.open(fs.path("big"), os.O_RDWR))
    assert fs.tree()[b"big"]["content"] == before
    fs.assert_copied_up("big")


def test_write_through_a_symlink(mount: Mount) -> None:
    fs = mount({"l": Symlink("d/f"), "d/f": "x"})
    fs.write("l", b"through")
    assert fs.read("d/f") == b"through"
    assert os.readlink(fs.path("l")) == "d/f"


def test_locks_do_not_copy(mount: Mount) -> None:
    fs = mount({"f": "x"})
    with open(fs.path("f"), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fs.assert_not_copied_up("f")
