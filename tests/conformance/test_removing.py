"""unlink and rmdir: what is seen after, and which marks are left in upper."""

from __future__ import annotations

import errno
import os

import pytest

from tests.conftest import Mount
from tests.lib.errors import fails
from tests.lib.layers import XATTR, Dir, File, Symlink, Whiteout


def test_unlink_of_a_lower_file_leaves_a_whiteout(mount: Mount) -> None:
    fs = mount({"d/f": "x", "d/g": "y"})
    os.unlink(fs.path("d/f"))
    assert fs.ls("d") == ["g"]
    assert fs.engine == "plain" or fs.is_whiteout("d/f")
    with fails(errno.ENOENT):
        os.unlink(fs.path("d/f"))
    fs.remount()
    assert fs.ls("d") == ["g"]


def test_unlink_of_a_pure_upper_file_leaves_nothing(mount: Mount) -> None:
    fs = mount({"d/g": "y"})
    fs.write("d/f", b"x")
    os.unlink(fs.path("d/f"))
    fs.assert_not_copied_up("d/f")
    assert fs.ls("d") == ["g"]


def test_unlink_of_a_copied_up_file_leaves_a_whiteout(mount: Mount) -> None:
    fs = mount({"f": "x"})
    fs.append("f", b"y")
    os.unlink(fs.path("f"))
    assert not fs.exists("f")
    assert fs.engine == "plain" or fs.is_whiteout("f")
    fs.remount()
    assert fs.ls() == []


def test_unlink_of_a_file_whose_lower_is_whited_out(mount: Mount) -> None:
    """No whiteout where the middle layer already hides the name."""
    fs = mount({"f": Whiteout()}, {"f": "x"}, upper={"f": "again"})
    os.unlink(fs.path("f"))
    assert not fs.exists("f")
    fs.assert_not_copied_up("f")


@pytest.mark.engines("overlay", "unionfs", "fusepy")
def test_removing_a_big_lower_file_copies_nothing(mount: Mount) -> None:
    fs = mount({"big": File(b"x" * (30 << 20))})
    free = os.statvfs(fs.upper)
    os.unlink(fs.path("big"))
    assert fs.is_whiteout("big")
    used = (free.f_bfree - os.statvfs(fs.upper).f_bfree) * free.f_bsize
    assert used < 20 << 20
    assert os.stat(fs.upper + "/big").st_blocks == 0


def test_create_again_after_unlink(mount: Mount) -> None:
    fs = mount({"f": File("old", mode=0o600, xattrs={"user.old": b"1"})})
    os.unlink(fs.path("f"))
    fs.write("f", b"new")
    assert fs.read("f") == b"new"
    assert os.listxattr(fs.path("f")) == []
    os.unlink(fs.path("f"))
    assert not fs.exists("f")
    fs.remount()
    assert not fs.exists("f")


def test_unlink_a_directory(mount: Mount) -> None:
    fs = mount({"d/f": "x"})
    with fails(errno.EISDIR):
        os.unlink(fs.path("d"))
    assert fs.ls("d") == ["f"]


def test_rmdir_a_file(mount: Mount) -> None:
    fs = mount({"f": "x", "l": Symlink(".")})
    with fails(errno.ENOTDIR):
        os.rmdir(fs.path("f"))
    with fails(errno.ENOTDIR):
        os.rmdir(fs.path("l"))


def test_rmdir_not_empty(mount: Mount) -> None:
    fs = mount({"d/f": "x"}, upper={"d/g": "y"})
    with fails(errno.ENOTEMPTY):
        os.rmdir(fs.path("d"))
    os.unlink(fs.path("d/g"))
    with fails(errno.ENOTEMPTY):
        os.rmdir(fs.path("d"))
    assert fs.ls("d") == ["f"]


def test_rmdir_of_an_emptied_lower_directory(mount: Mount) -> None:
    """The whiteouts inside upper's directory do not count."""
    fs = mount({"d/a": "", "d/b": ""}, {"d/c": ""})
    for name in "abc":
        os.unlink(fs.path(f"d/{name}"))
    os.rmdir(fs.path("d"))
    assert not fs.exists("d")
    assert fs.engine == "plain" or fs.is_whiteout("d")
    fs.remount()
    assert fs.ls() == []


def test_rmdir_of_an_empty_lower_directory(mount: Mount) -> None:
    fs = mount({"d": Dir(), "e": Dir()})
    os.rmdir(fs.path("d"))
    assert fs.ls() == ["e"]
    fs.remount()
    assert fs.ls() == ["e"]


def test_rmdir_of_a_directory_that_holds_only_whiteouts(mount: Mount) -> None:
    fs = mount({"d/f": Whiteout()}, {"d/f": ""})
    os.rmdir(fs.path("d"))
    assert fs.ls() == []


def test_rmdir_of_a_pure_upper_directory(mount: Mount) -> None:
    fs = mount({"f": ""})
    os.mkdir(fs.path("d"))
    os.rmdir(fs.path("d"))
    fs.assert_not_copied_up("d")


def test_mkdir_over_a_whiteout_is_opaque(mount: Mount) -> None:
    fs = mount({"d/old": ""}, {"d/older": ""})
    for name in fs.ls("d"):
        os.unlink(fs.path(f"d/{name}"))
    os.rmdir(fs.path("d"))
    os.mkdir(fs.path("d"))
    assert fs.ls("d") == []
    fs.remount()
    assert fs.ls("d") == []
    if fs.engine != "plain":
        assert os.getxattr(fs.upper + "/d", "trusted.overlay.opaque") == b"y"
    os.rmdir(fs.path("d"))
    fs.remount()
    assert fs.ls() == []


def test_mkdir_where_a_lower_file_was(mount: Mount) -> None:
    fs = mount({"x": "file"})
    os.unlink(fs.path("x"))
    os.mkdir(fs.path("x"))
    fs.write("x/f", b"1")
    fs.remount()
    assert fs.ls("x") == ["f"]


def test_file_where_a_lower_directory_was(mount: Mount) -> None:
    fs = mount({"x": Dir()})
    os.rmdir(fs.path("x"))
    fs.write("x", b"now a file")
    fs.remount()
    assert fs.read("x") == b"now a file"
    os.unlink(fs.path("x"))
    fs.remount()
    assert not fs.exists("x")


def test_symlink_and_node_over_a_whiteout(mount: Mount) -> None:
    fs = mount({"a": "", "b": "", "c": ""})
    for name in "abc":
        os.unlink(fs.path(name))
    os.symlink("target", fs.path("a"))
    os.mkfifo(fs.path("b"))
    fs.write("other", b"o")
    os.link(fs.path("other"), fs.path("c"))
    fs.remount()
    assert os.readlink(fs.path("a")) == "target"
    assert fs.read("c") == b"o"
    assert fs.stat("c").st_nlink == 2
    for name in "abc":
        os.unlink(fs.path(name))
    fs.remount()
    assert fs.ls() == ["other"]


def test_removing_a_whole_merged_tree(mount: Mount) -> None:
    import shutil

    fs = mount({"t/a/b/c": "", "t/x": ""}, {"t/a/b/d": "", "t/y/z": ""}, upper={"t/a/u": ""})
    shutil.rmtree(fs.path("t"))
    assert fs.ls() == []
    fs.remount()
    assert fs.ls() == []
    assert fs.engine == "plain" or fs.is_whiteout("t")


def test_in_a_removed_directory(mount: Mount) -> None:
    fs = mount({"d/f": ""})
    fd = os.open(fs.path("d"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.unlink("f", dir_fd=fd)
        os.rmdir(fs.path("d"))
        with fails(errno.ENOENT):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        assert os.listdir(fd) == []
    finally:
        os.close(fd)


def test_trailing_names(mount: Mount) -> None:
    fs = mount({"d": Dir(), "f": ""})
    with fails(errno.EINVAL):
        os.rmdir(fs.path("d/."))
    with fails(errno.ENOTEMPTY):
        os.rmdir(fs.path("d/.."))
    with fails(errno.ENOTDIR):
        os.stat(fs.path("f/"))


def test_a_directory_of_whiteouts_in_xattr_form_is_empty(mount: Mount) -> None:
    fs = mount({"d/f": Whiteout(XATTR), "d/g": Whiteout()}, {"d/f": "below", "d/g": "below"})
    assert fs.ls("d") == []
    os.rmdir(fs.path("d"))
    assert fs.ls() == []
    fs.remount()
    assert fs.ls() == []
