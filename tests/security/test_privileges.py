"""What a caller may do is what he may do anywhere, and what a write takes away it takes away on every way in."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.lib import kernel
from tests.lib.asuser import ALICE, BOB, STAFF, as_user
from tests.lib.engines import Mounted
from tests.lib.errors import fails
from tests.lib.layers import Dir, File

CAPS = bytes.fromhex("0100000200040000000000000000000000000000")
CONTENT = b"x" * 8192


def _mapped(fd: int) -> None:
    with mmap.mmap(fd, 4096) as area:
        area[0] = 65
        area.flush()


def _direct(fd: int) -> None:
    with mmap.mmap(-1, 4096) as page:
        os.pwritev(fd, [page], 0)


def _spliced(fd: int) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    os.splice(reader, fd, 3, offset_dst=0)
    os.close(reader)
    os.close(writer)


WAYS: dict[str, tuple[int, Callable[[int], object]]] = {
    "write": (0, lambda fd: os.write(fd, b"y")),
    "beyond the end": (0, lambda fd: os.pwrite(fd, b"y", 9000)),
    "direct": (os.O_DIRECT, _direct),
    "splice": (0, _spliced),
    "ftruncate": (0, lambda fd: os.ftruncate(fd, 10)),
    "fallocate": (0, lambda fd: kernel.fallocate(fd, 0, 0, 20000)),
    "punch": (0, lambda fd: kernel.fallocate(fd, kernel.FALLOC_KEEP_SIZE | kernel.FALLOC_PUNCH_HOLE, 0, 4096)),
    "O_TRUNC": (os.O_TRUNC, os.fstat),
}
PLACES = ("lower", "upper")


def change(fs: Mounted, name: str, way: str) -> None:
    flags, write = WAYS[way]
    fd = os.open(fs.path(name), os.O_RDWR | flags)
    try:
        write(fd)
    finally:
        os.close(fd)


def prepared(mount: Mount, file: File, where: str) -> Mounted:
    """A file of somebody else's, writable for all, still in the lower or copied up already."""
    fs = mount({"f": file, "src": CONTENT})
    if where == "upper":
        os.utime(fs.path("f"))
    return fs


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", PLACES)
def test_set_id_bits_go_with_a_users_change(mount: Mount, way: str, where: str) -> None:
    fs = prepared(mount, File(CONTENT, mode=0o6777, uid=BOB, gid=STAFF), where)
    as_user(lambda: change(fs, "f", way))
    assert stat.S_IMODE(fs.stat("f").st_mode) == 0o777


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", PLACES)
def test_set_id_bits_stay_with_roots_change(mount: Mount, way: str, where: str) -> None:
    fs = prepared(mount, File(CONTENT, mode=0o6777, uid=BOB, gid=STAFF), where)
    change(fs, "f", way)
    assert stat.S_IMODE(fs.stat("f").st_mode) == 0o6777


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("who", ["root", "user"])
@pytest.mark.parametrize("where", PLACES)
def test_capabilities_go_with_any_change(mount: Mount, way: str, who: str, where: str) -> None:
    fs = prepared(mount, File(CONTENT, mode=0o777, xattrs={"security.capability": CAPS}), where)
    if who == "root":
        change(fs, "f", way)
    else:
        as_user(lambda: change(fs, "f", way))
    assert os.listxattr(fs.path("f")) == []


def test_a_set_id_file_changed_while_open_for_writing(mount: Mount) -> None:
    """The bits come after the open, when the kernel may write by itself already."""
    fs = mount({"f": File(CONTENT, mode=0o777, uid=BOB)})
    fd = os.open(fs.path("f"), os.O_WRONLY)
    os.chmod(fs.path("f"), 0o4777)
    as_user(lambda: os.write(fd, b"y"))
    os.close(fd)
    assert stat.S_IMODE(fs.stat("f").st_mode) == 0o777


@pytest.mark.parametrize("where", PLACES)
def test_direct_io_of_a_set_id_file(mount: Mount, where: str) -> None:
    fs = prepared(mount, File(CONTENT, mode=0o4755), where)
    fd = os.open(fs.path("f"), os.O_RDWR | os.O_DIRECT)
    with mmap.mmap(-1, 4096) as page:
        assert os.preadv(fd, [page], 4096) == 4096
        assert page[:] == CONTENT[:4096]
        page[:] = b"D" * 4096
        assert os.pwritev(fd, [page], 0) == 4096
    os.close(fd)
    assert fs.read("f") == b"D" * 4096 + CONTENT[4096:]


PROTECTED = Path("/proc/sys/fs/protected_hardlinks").read_text() == "1\n"


@pytest.mark.skipif(not PROTECTED, reason="the kernel was told otherwise")
def test_hard_links_to_what_one_may_not_write(mount: Mount) -> None:
    """fs.protected_hardlinks: only to regular files that the caller owns, or may read and write and are not set-id."""
    fs = mount({
        "w": Dir(mode=0o777), "secret": File("s", mode=0o600), "set": File("s", mode=0o4777, uid=BOB),
        "open": File("o", mode=0o666, uid=BOB), "own": File("m", mode=0o400, uid=ALICE),
    })  # fmt: skip

    def link(name: str) -> None:
        os.link(fs.path(name), fs.path(f"w/{name}"))

    for name in ("secret", "set"):
        with fails(errno.EPERM):
            as_user(partial(link, name))
        fs.assert_not_copied_up(name)
    for name in ("open", "own"):
        as_user(partial(link, name))
        assert fs.stat(name).st_nlink == 2


def test_reopening_by_way_of_proc(mount: Mount) -> None:
    """/proc/self/fd leads to the inode, and its mode counts."""
    fs = mount({"secret": File("s", mode=0o600), "shown": File("s", mode=0o644)})

    def reopen(name: str, first: int, second: int) -> int:
        fd = os.open(fs.path(name), first)
        return os.open(f"/proc/self/fd/{fd}", second)

    for name, first, second in (("secret", os.O_PATH, os.O_RDONLY), ("shown", os.O_RDONLY, os.O_RDWR)):
        with fails(errno.EACCES):
            as_user(partial(reopen, name, first, second))
        fs.assert_not_copied_up(name)
    assert as_user(lambda: os.read(reopen("shown", os.O_PATH, os.O_RDONLY), 9)) == b"s"


def test_trusted_and_security_xattrs_are_for_root(mount: Mount) -> None:
    xattrs = {"trusted.t": b"1", "user.u": b"2", "trusted.overlay.overlay.o": b"3"}
    fs = mount({"f": File("x", mode=0o666, uid=ALICE, xattrs=xattrs)})
    path = fs.path("f")
    assert as_user(lambda: os.listxattr(path)) == ["user.u"]
    with fails(errno.ENODATA):
        as_user(lambda: os.getxattr(path, "trusted.t"))
    for name in ("trusted.n", "trusted.overlay.opaque", "security.capability", "security.foo"):
        with fails(errno.EPERM):
            as_user(partial(os.setxattr, path, name, CAPS))
    fs.assert_not_copied_up("f")


@pytest.mark.engines("overlay", "unionfs", "fusepy")
@pytest.mark.parametrize("depth", range(3))
@pytest.mark.parametrize("mark", ["opaque", "redirect", "origin", "metacopy", "whiteout", "anything"])
def test_overlays_own_names_are_never_a_callers(mount: Mount, depth: int, mark: str) -> None:
    """What is set comes back under its name, changes no mark of the stack, and is gone when removed."""
    fs = mount({"d": Dir(), "d/below": "x", "other/x": ""})
    name = "trusted.overlay." + "overlay." * depth + mark
    os.setxattr(fs.path("d"), name, b"/other")
    assert os.listxattr(fs.path("d")) == [name]
    assert os.getxattr(fs.path("d"), name) == b"/other"
    fs.remount()
    assert fs.ls("d") == ["below"]
    assert os.listxattr(fs.path("d")) == [name]
    with fails(errno.EEXIST):
        os.setxattr(fs.path("d"), name, b"", os.XATTR_CREATE)
    os.removexattr(fs.path("d"), name)
    with fails(errno.ENODATA):
        os.removexattr(fs.path("d"), name)
    assert os.listxattr(fs.path("d")) == []


@pytest.mark.engines("overlay", "unionfs", "fusepy")
def test_a_name_without_room_for_its_escape(mount: Mount) -> None:
    fs = mount({"f": "x"})
    with fails(errno.EOPNOTSUPP):
        os.setxattr(fs.path("f"), "trusted.overlay." + "n" * 239, b"")
    with fails(errno.EOPNOTSUPP):
        os.getxattr(fs.path("f"), "trusted.overlay." + "n" * 239)
