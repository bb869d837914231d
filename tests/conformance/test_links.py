"""Hard links, O_TMPFILE, and files that live on without a name."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conftest import Mount
from tests.lib import kernel, tree
from tests.lib.errors import fails
from tests.lib.layers import Dir, File, Layer, Link, Special, Symlink

LINKED: Layer = {"d/a": File("shared", mode=0o640, uid=3), "d/b": Link("d/a"), "e/c": Link("d/a")}


def test_lower_links_are_one_inode(mount: Mount) -> None:
    fs = mount(LINKED)
    assert {fs.stat(name).st_nlink for name in ("d/a", "d/b", "e/c")} == {3}
    assert len({fs.stat(name).st_ino for name in ("d/a", "d/b", "e/c")}) == 1


def test_a_change_through_one_name_shows_on_all(mount: Mount) -> None:
    fs = mount(LINKED)
    fs.write("d/a", b"changed")
    assert [fs.read(name) for name in ("d/b", "e/c")] == [b"changed"] * 2
    os.chmod(fs.path("e/c"), 0o600)
    assert fs.stat("d/a").st_mode & 0o777 == 0o600
    assert len({fs.stat(name).st_ino for name in ("d/a", "d/b", "e/c")}) == 1
    fs.remount()
    assert [fs.read(name) for name in ("d/a", "d/b", "e/c")] == [b"changed"] * 3
    assert len({fs.stat(name).st_ino for name in ("d/a", "d/b", "e/c")}) == 1
    assert fs.stat("d/b").st_nlink == 3


def test_links_counted_down_and_up(mount: Mount) -> None:
    fs = mount(LINKED)
    os.unlink(fs.path("d/a"))
    assert fs.stat("d/b").st_nlink == 2
    os.link(fs.path("d/b"), fs.path("new"))
    assert fs.stat("e/c").st_nlink == 3
    fs.remount()
    assert {fs.stat(name).st_nlink for name in ("d/b", "e/c", "new")} == {3}
    os.unlink(fs.path("d/b"))
    os.unlink(fs.path("e/c"))
    assert fs.stat("new").st_nlink == 1
    assert fs.read("new") == b"shared"
    fs.remount()
    assert fs.stat("new").st_nlink == 1


def test_unlink_of_a_lower_link_copies_no_data(mount: Mount) -> None:
    fs = mount(LINKED)
    os.unlink(fs.path("d/a"))
    fs.assert_not_copied_up("d/b", "e/c")
    assert fs.read("e/c") == b"shared"


def test_count_after_unlink_of_a_lower_link_lasts(mount: Mount) -> None:
    fs = mount(LINKED)
    os.unlink(fs.path("d/a"))
    fs.remount()
    assert {fs.stat(name).st_nlink for name in ("d/b", "e/c")} == {2}


def test_count_when_the_only_copied_name_goes_first(mount: Mount) -> None:
    fs = mount({"d/a": "shared", "d/b": Link("d/a"), "e/c": Link("d/a"), "e/d": Link("d/a")})
    fs.tree()
    os.chmod(fs.path("e/d"), 0o600)
    for left, name in ((3, "d/a"), (2, "d/b"), (1, "e/c")):
        os.unlink(fs.path(name))
        assert fs.stat("e/d").st_nlink == left
    fs.remount()
    assert fs.stat("e/d").st_nlink == 1


def test_link_to_a_lower_file(mount: Mount) -> None:
    fs = mount({"d/f": File("x", mode=0o600, uid=4)})
    ino = fs.stat("d/f").st_ino
    os.link(fs.path("d/f"), fs.path("g"))
    assert (fs.stat("g").st_ino, fs.stat("g").st_nlink) == (ino, 2)
    fs.append("g", b"y")
    assert fs.read("d/f") == b"xy"
    fs.remount()
    assert fs.stat("d/f").st_ino == fs.stat("g").st_ino == ino
    assert fs.read("d/f") == b"xy"


def test_link_of_a_lower_file_into_a_new_directory(mount: Mount) -> None:
    """It keeps the number of the lower one, which on disk only the directory's mark says."""
    fs = mount({"f": "x", "d/g": "y"})
    os.mkdir(fs.path("new"))
    os.link(fs.path("f"), fs.path("new/f"))
    os.link(fs.path("d/g"), fs.path("new/g"))
    before = {name: fs.stat(name).st_ino for name in ("f", "new/f", "d/g", "new/g")}
    fs.remount()
    assert tree.listing_faults(fs.mnt) == []
    assert {name: fs.stat(name).st_ino for name in before} == before


def test_link_of_a_symlink_and_of_a_fifo(mount: Mount) -> None:
    fs = mount({"l": Symlink("t"), "p": Special(0o010000)})
    os.link(fs.path("l"), fs.path("l2"), follow_symlinks=False)
    os.link(fs.path("p"), fs.path("p2"))
    fs.remount()
    assert os.readlink(fs.path("l2")) == "t"
    assert fs.stat("l").st_ino == fs.stat("l2").st_ino
    assert fs.stat("p").st_nlink == 2


def test_link_errors(mount: Mount) -> None:
    fs = mount({"f": "", "d": Dir(), "g": ""})
    with fails(errno.EPERM):
        os.link(fs.path("d"), fs.path("e"))
    with fails(errno.EEXIST):
        os.link(fs.path("f"), fs.path("g"))
    with fails(errno.ENOENT):
        os.link(fs.path("none"), fs.path("h"))


def test_rename_over_one_of_several_links(mount: Mount) -> None:
    fs = mount({**LINKED, "x": "other"})
    os.rename(fs.path("x"), fs.path("d/b"))
    assert fs.stat("d/a").st_nlink == 2
    assert fs.read("d/b") == b"other"
    fs.remount()
    assert fs.read("d/b") == b"other"
    assert fs.read("e/c") == b"shared"
    assert fs.stat("d/a").st_ino == fs.stat("e/c").st_ino


def test_count_after_rename_over_a_lower_link_lasts(mount: Mount) -> None:
    fs = mount({**LINKED, "x": "other"})
    os.rename(fs.path("x"), fs.path("d/b"))
    fs.remount()
    assert fs.stat("d/a").st_nlink == 2


def test_rename_of_one_of_several_links(mount: Mount) -> None:
    fs = mount(LINKED)
    os.rename(fs.path("d/a"), fs.path("e/moved"))
    fs.append("e/moved", b"!")
    assert [fs.read(name) for name in ("d/b", "e/c", "e/moved")] == [b"shared!"] * 3
    fs.remount()
    assert [fs.read(name) for name in ("d/b", "e/c", "e/moved")] == [b"shared!"] * 3
    assert tree.listing_faults(fs.mnt) == []


@pytest.mark.parametrize("how", ["unlink", "rename"])
def test_an_open_file_met_again_by_a_name_not_asked_for_so_far(mount: Mount, how: str) -> None:
    """The only name that was known goes; on disk the file then looks like one that never had several."""
    fs = mount({"other": "o"}, upper={"d/a": File("shared"), "b": Link("d/a")})
    fd = os.open(fs.path("b"), os.O_RDWR | os.O_APPEND)
    try:
        if how == "unlink":
            os.unlink(fs.path("b"))
        else:
            os.rename(fs.path("other"), fs.path("b"))
        assert fs.stat("d/a").st_size == 6
        os.write(fd, b" and longer")
        assert fs.stat("d/a").st_size == os.fstat(fd).st_size == 17
        os.truncate(fs.path("d/a"), 3)
        assert os.fstat(fd).st_size == 3
        assert os.fstat(fd).st_ino == fs.stat("d/a").st_ino
        assert os.fstat(fd).st_nlink == fs.stat("d/a").st_nlink == 1
    finally:
        os.close(fd)
    assert fs.read("d/a") == b"sha"


def test_unlinked_lower_file_stays_readable(mount: Mount) -> None:
    fs = mount({"f": "content"})
    with open(fs.path("f"), "rb") as file:
        os.unlink(fs.path("f"))
        assert file.read() == b"content"
        assert os.fstat(file.fileno()).st_nlink == 0


def test_unlinked_lower_file_is_changed_through_its_descriptor(mount: Mount) -> None:
    """fchmod and ftruncate copy a file up that has no name any more; the name never comes back."""
    fs = mount({"f": "content", "g": ""})
    fd = os.open(fs.path("f"), os.O_RDONLY)
    try:
        os.unlink(fs.path("f"))
        os.fchmod(fd, 0o600)
        os.fchown(fd, 5, 6)
        st = os.fstat(fd)
        assert (st.st_mode & 0o777, st.st_uid, st.st_gid, st.st_nlink) == (0o600, 5, 6, 0)
        assert os.read(fd, 20) == b"content"
        assert fs.ls() == ["g"]
    finally:
        os.close(fd)
    fs.remount()
    assert fs.ls() == ["g"]


def test_unlinked_lower_file_reopened_for_writing(mount: Mount) -> None:
    fs = mount({"f": "content", "g": ""})
    fd = os.open(fs.path("f"), os.O_RDONLY)
    try:
        os.unlink(fs.path("f"))
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        os.pwrite(again, b"C", 0)
        assert os.pread(again, 20, 0) == b"Content"
        os.close(again)
        assert fs.ls() == ["g"]
    finally:
        os.close(fd)
    fs.remount()
    assert fs.ls() == ["g"]


def test_unlinked_written_file(mount: Mount) -> None:
    fs = mount({"f": "content"})
    fd = os.open(fs.path("f"), os.O_RDWR)
    try:
        os.unlink(fs.path("f"))
        os.pwrite(fd, b"X" * 5000, 3)
        os.ftruncate(fd, 4000)
        assert os.pread(fd, 10, 0) == b"con" + b"X" * 7
        assert os.fstat(fd).st_size == 4000
        fs.write("f", b"new one")
        assert os.pread(fd, 3, 0) == b"con"
    finally:
        os.close(fd)
    assert fs.read("f") == b"new one"


def test_replaced_by_rename_while_open(mount: Mount) -> None:
    fs = mount({"a": "A", "b": "B"})
    fd = os.open(fs.path("b"), os.O_RDONLY)
    try:
        os.rename(fs.path("a"), fs.path("b"))
        assert os.read(fd, 5) == b"B"
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)
    assert fs.read("b") == b"A"
    assert fs.stat("b").st_mode & 0o777 == 0o644


def test_created_and_unlinked_at_once(mount: Mount) -> None:
    fs = mount({"x": ""})
    with open(fs.path("t"), "w+b") as file:
        os.unlink(fs.path("t"))
        file.write(b"scratch")
        file.flush()
        assert os.pread(file.fileno(), 20, 0) == b"scratch"
    assert fs.ls() == ["x"]


@pytest.mark.engines("plain", "overlay", "unionfs")
class TestTmpfile:
    """libfuse 2, under front end B, has no O_TMPFILE."""

    def test_in_a_lower_directory(self, mount: Mount) -> None:
        fs = mount({"d/f": ""})
        fd = os.open(fs.path("d"), os.O_TMPFILE | os.O_RDWR, 0o640)
        try:
            os.write(fd, b"nameless")
            assert os.pread(fd, 20, 0) == b"nameless"
            assert os.fstat(fd).st_nlink == 0
            assert os.fstat(fd).st_mode & 0o777 == 0o640
            assert fs.ls("d") == ["f"]
        finally:
            os.close(fd)
        assert fs.ls("d") == ["f"]

    def test_gets_a_name(self, mount: Mount) -> None:
        fs = mount({"d/f": ""})
        fd = os.open(fs.path("d"), os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.write(fd, b"now named")
            kernel.link_fd(fd, fs.path("d/named"))
            assert os.fstat(fd).st_nlink == 1
            os.write(fd, b" and more")
            assert fs.read("d/named") == b"now named and more"
            assert fs.stat("d/named").st_ino == os.fstat(fd).st_ino
        finally:
            os.close(fd)
        fs.remount()
        assert fs.read("d/named") == b"now named and more"

    def test_gets_the_name_of_a_removed_lower_file(self, mount: Mount) -> None:
        fs = mount({"f": "old"})
        os.unlink(fs.path("f"))
        fd = os.open(fs.mnt, os.O_TMPFILE | os.O_RDWR, 0o600)
        try:
            os.write(fd, b"new")
            kernel.link_fd(fd, fs.path("f"))
        finally:
            os.close(fd)
        fs.remount()
        assert fs.read("f") == b"new"

    def test_excl_can_never_be_linked(self, mount: Mount) -> None:
        fs = mount({"f": ""})
        fd = os.open(fs.mnt, os.O_TMPFILE | os.O_RDWR | os.O_EXCL, 0o600)
        try:
            with fails(errno.ENOENT):
                kernel.link_fd(fd, fs.path("g"))
        finally:
            os.close(fd)

    def test_not_in_a_file_or_in_nothing(self, mount: Mount) -> None:
        fs = mount({"f": ""})
        with fails(errno.ENOTDIR):
            os.open(fs.path("f"), os.O_TMPFILE | os.O_RDWR, 0o600)
        with fails(errno.EINVAL):
            os.open(fs.mnt, os.O_TMPFILE | os.O_RDONLY, 0o600)


def test_many_links(mount: Mount) -> None:
    fs = mount({"f": "x"})
    for i in range(50):
        os.link(fs.path("f"), fs.path(f"n{i}"))
    assert fs.stat("f").st_nlink == 51
    for i in range(0, 50, 2):
        os.unlink(fs.path(f"n{i}"))
    fs.remount()
    assert fs.stat("f").st_nlink == 26
    assert fs.stat("n49").st_ino == fs.stat("f").st_ino
