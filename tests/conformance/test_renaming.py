"""rename in all its forms, before and after a remount."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from tests.conftest import Mount
from tests.lib import kernel, tree
from tests.lib.engines import Mounted
from tests.lib.errors import fails
from tests.lib.kernel import RENAME_EXCHANGE, RENAME_NOREPLACE, RENAME_WHITEOUT
from tests.lib.layers import Dir, File, Layer, Symlink, Whiteout


def rename(fs: Mounted, old: str, new: str, flags: int = 0) -> None:
    kernel.renameat2(fs.path(old), fs.path(new), flags)


def settled(fs: Mounted) -> tree.Snapshot:
    """The tree, after making sure that a remount shows the same one."""
    before = fs.tree()
    fs.remount()
    tree.assert_same(before, fs.tree(), names="before-remount after-remount")
    assert tree.listing_faults(fs.mnt) == []
    return before


def names(snapshot: tree.Snapshot) -> list[str]:
    return [os.fsdecode(path) for path in snapshot if path]


def test_lower_file(mount: Mount) -> None:
    fs = mount({"a": File("x", mode=0o604, mtime=5), "c": ""})
    before = fs.tree()[b"a"]
    rename(fs, "a", "b")
    assert names(settled(fs)) == ["b", "c"]
    assert fs.tree()[b"b"] == before
    assert fs.engine == "plain" or fs.is_whiteout("a")


def test_pure_upper_file_leaves_no_whiteout(mount: Mount) -> None:
    fs = mount({"c": ""})
    fs.write("a", b"x")
    rename(fs, "a", "b")
    assert names(settled(fs)) == ["b", "c"]
    fs.assert_not_copied_up("a")


def test_over_a_lower_file(mount: Mount) -> None:
    fs = mount({"a": "A", "b": "B"})
    rename(fs, "a", "b")
    assert names(settled(fs)) == ["b"]
    assert fs.read("b") == b"A"


def test_new_file_over_a_lower_file_and_away_again(mount: Mount) -> None:
    """dpkg-divert's pattern: the lower file must not come back."""
    fs = mount({"f": "lower"})
    fs.write("n", b"new")
    rename(fs, "n", "f")
    rename(fs, "f", "g")
    assert names(settled(fs)) == ["g"]
    assert fs.read("g") == b"new"


def test_back_and_forth(mount: Mount) -> None:
    fs = mount({"a": "A"})
    rename(fs, "a", "b")
    rename(fs, "b", "a")
    assert names(settled(fs)) == ["a"]
    assert fs.read("a") == b"A"


def test_symlink(mount: Mount) -> None:
    fs = mount({"l": Symlink("to", uid=4)})
    rename(fs, "l", "m")
    assert settled(fs)[b"m"]["target"] == b"to"
    assert fs.stat("m").st_uid == 4


def test_into_another_directory(mount: Mount) -> None:
    fs = mount({"d/f": "x", "e/g": ""}, {"d/h": ""})
    rename(fs, "d/f", "e/f")
    assert names(settled(fs)) == ["d", "d/h", "e", "e/f", "e/g"]


def test_same_name_does_nothing(mount: Mount) -> None:
    fs = mount({"a": "A"})
    rename(fs, "a", "a")
    assert fs.read("a") == b"A"


def test_two_links_of_one_file_do_nothing(mount: Mount) -> None:
    fs = mount({"x": ""})
    fs.write("a", b"A")
    os.link(fs.path("a"), fs.path("b"))
    rename(fs, "a", "b")
    assert names(settled(fs)) == ["a", "b", "x"]


MERGED: list[Layer] = [{"d/a": "1", "d/s/x": "1", "d": Dir(mode=0o750)}, {"d/b": "2", "d/s/y": "2", "other": "o"}]


def test_lower_directory(mount: Mount) -> None:
    fs = mount({"d/f": "x", "d/e/g": "y", "k": ""})
    rename(fs, "d", "n")
    assert names(settled(fs)) == ["k", "n", "n/e", "n/e/g", "n/f"]
    assert fs.read("n/e/g") == b"y"
    fs.assert_not_copied_up("n/f")


def test_merged_directory(mount: Mount) -> None:
    fs = mount(*MERGED, upper={"d/u": "0"})
    rename(fs, "d", "n")
    assert names(settled(fs)) == ["n", "n/a", "n/b", "n/s", "n/s/x", "n/s/y", "n/u", "other"]


def test_merged_directory_into_a_directory(mount: Mount) -> None:
    fs = mount(*MERGED)
    os.mkdir(fs.path("new"))
    rename(fs, "d", "new/d")
    assert names(settled(fs))[:3] == ["new", "new/d", "new/d/a"]
    assert fs.read("new/d/s/y") == b"2"


def test_redirected_directory_is_used_and_renamed_again(mount: Mount) -> None:
    fs = mount(*MERGED)
    rename(fs, "d", "n")
    fs.append("n/a", b"+")
    os.unlink(fs.path("n/b"))
    fs.write("n/s/new", b"z")
    rename(fs, "n/s", "n/t")
    rename(fs, "n", "m")
    seen = settled(fs)
    assert names(seen) == ["m", "m/a", "m/t", "m/t/new", "m/t/x", "m/t/y", "other"]
    assert seen[b"m/a"]["content"] == b"1+"


def test_redirected_directory_back_home(mount: Mount) -> None:
    fs = mount(*MERGED)
    before = names(fs.tree())
    rename(fs, "d", "n")
    rename(fs, "n", "d")
    assert names(settled(fs)) == before


def test_child_of_a_renamed_directory_moves_out(mount: Mount) -> None:
    fs = mount(*MERGED)
    rename(fs, "d", "n")
    rename(fs, "n/s", "s")
    assert [name for name in names(settled(fs)) if name[0] == "s"] == ["s", "s/x", "s/y"]
    assert fs.ls("n") == ["a", "b"]


def test_new_directory_in_the_place_of_a_renamed_one(mount: Mount) -> None:
    fs = mount(*MERGED)
    rename(fs, "d", "n")
    os.mkdir(fs.path("d"))
    fs.write("d/fresh", b"1")
    seen = names(settled(fs))
    assert [name for name in seen if name.startswith("d")] == ["d", "d/fresh"]
    assert "n/s/y" in seen


def test_two_directories_change_places(mount: Mount) -> None:
    fs = mount({"a/1": "", "b/2": ""}, {"a/3": "", "b/4": ""})
    rename(fs, "a", "t")
    rename(fs, "b", "a")
    rename(fs, "t", "b")
    settled(fs)
    assert (fs.ls("a"), fs.ls("b")) == (["2", "4"], ["1", "3"])


def test_directory_over_an_empty_directory(mount: Mount) -> None:
    fs = mount({"a/x": "", "b": Dir()})
    rename(fs, "a", "b")
    assert names(settled(fs)) == ["b", "b/x"]


def test_directory_over_an_emptied_merged_directory(mount: Mount) -> None:
    """The whiteouts in it must not show what is below when it is gone."""
    fs = mount({"a/x": "", "b/1": ""}, {"b/2": "", "a/y": ""})
    os.unlink(fs.path("b/1"))
    os.unlink(fs.path("b/2"))
    rename(fs, "a", "b")
    assert names(settled(fs)) == ["b", "b/x", "b/y"]


def test_new_directory_over_an_emptied_merged_directory(mount: Mount) -> None:
    fs = mount({"b/1": ""}, {"b/2": ""})
    for name in "12":
        os.unlink(fs.path("b/" + name))
    os.mkdir(fs.path("a"))
    fs.write("a/x", b"")
    rename(fs, "a", "b")
    assert names(settled(fs)) == ["b", "b/x"]


def test_new_directory_to_a_whiteout_is_opaque(mount: Mount) -> None:
    fs = mount({"b": Dir(), "b/1": ""})
    os.unlink(fs.path("b/1"))
    os.rmdir(fs.path("b"))
    os.mkdir(fs.path("a"))
    fs.write("a/x", b"")
    rename(fs, "a", "b")
    assert names(settled(fs)) == ["b", "b/x"]


def test_directory_over_a_non_empty_one(mount: Mount) -> None:
    fs = mount({"a/x": "", "b/1": ""})
    with fails(errno.ENOTEMPTY, errno.EEXIST):
        rename(fs, "a", "b")
    assert names(settled(fs)) == ["a", "a/x", "b", "b/1"]


def test_directory_over_a_file_and_the_reverse(mount: Mount) -> None:
    fs = mount({"d/x": "", "f": ""})
    with fails(errno.ENOTDIR):
        rename(fs, "d", "f")
    with fails(errno.EISDIR):
        rename(fs, "f", "d")
    assert names(settled(fs)) == ["d", "d/x", "f"]


def test_into_itself(mount: Mount) -> None:
    fs = mount({"d/e/x": ""})
    with fails(errno.EINVAL):
        rename(fs, "d", "d/e/d")
    with fails(errno.ENOTEMPTY):
        rename(fs, "d/e/x", "d")


def test_missing(mount: Mount) -> None:
    fs = mount({"d/x": "", "gone": Whiteout()}, {"gone": ""})
    with fails(errno.ENOENT):
        rename(fs, "gone", "d/y")
    with fails(errno.ENOENT):
        rename(fs, "d/x", "nodir/y")


@pytest.mark.engines("plain", "overlay", "unionfs")
class TestFlags:
    """libfuse 2, under front end B, has no way to pass the flags of renameat2."""

    def test_noreplace(self, mount: Mount) -> None:
        fs = mount({"a": "A", "b": "B", "w": Whiteout()}, {"w": "W"})
        with fails(errno.EEXIST):
            rename(fs, "a", "b", RENAME_NOREPLACE)
        rename(fs, "a", "w", RENAME_NOREPLACE)
        assert names(settled(fs)) == ["b", "w"]
        assert fs.read("w") == b"A"

    def test_exchange_lower_files(self, mount: Mount) -> None:
        fs = mount({"a": "A", "d/b": "B"})
        rename(fs, "a", "d/b", RENAME_EXCHANGE)
        seen = settled(fs)
        assert (seen[b"a"]["content"], seen[b"d/b"]["content"]) == (b"B", b"A")

    def test_exchange_a_file_and_a_directory(self, mount: Mount) -> None:
        fs = mount({"f": "F", "d/x": "1"}, {"d/y": "2"})
        rename(fs, "f", "d", RENAME_EXCHANGE)
        assert names(settled(fs)) == ["d", "f", "f/x", "f/y"]
        assert fs.read("d") == b"F"

    def test_exchange_merged_directories(self, mount: Mount) -> None:
        fs = mount({"a/1": "", "b/2": ""}, {"a/3": "", "b/4": ""})
        rename(fs, "a", "b", RENAME_EXCHANGE)
        settled(fs)
        assert (fs.ls("a"), fs.ls("b")) == (["2", "4"], ["1", "3"])

    def test_exchange_new_and_lower_directory(self, mount: Mount) -> None:
        fs = mount({"a/1": ""})
        os.mkdir(fs.path("n"))
        fs.write("n/new", b"")
        rename(fs, "a", "n", RENAME_EXCHANGE)
        settled(fs)
        assert (fs.ls("a"), fs.ls("n")) == (["new"], ["1"])

    def test_exchange_with_nothing(self, mount: Mount) -> None:
        fs = mount({"a": "A"})
        with fails(errno.ENOENT):
            rename(fs, "a", "b", RENAME_EXCHANGE)

    def test_exchange_and_noreplace_exclude_each_other(self, mount: Mount) -> None:
        fs = mount({"a": "A", "b": "B"})
        with fails(errno.EINVAL):
            rename(fs, "a", "b", RENAME_EXCHANGE | RENAME_NOREPLACE)

    def test_rename_whiteout(self, mount: Mount) -> None:
        fs = mount({"a": "A"}, stray_whiteouts=True)
        rename(fs, "a", "b", RENAME_WHITEOUT)
        assert fs.read("b") == b"A"
        if fs.engine == "plain":
            assert stat.S_ISCHR(fs.stat("a").st_mode)
        else:
            assert names(settled(fs)) == ["b"]


@pytest.mark.engines("overlay", "unionfs", "fusepy")
def test_kernel_overlay_takes_no_upper_on_the_mount(mount: Mount) -> None:
    """It tries whether RENAME_WHITEOUT leaves a device that it can see, and says that the mount is no upper."""
    fs = mount({"up/x": "", "work/x": "", "low/f": ""}, stray_whiteouts=True)
    with fails(errno.EINVAL):
        kernel.mount(
            "overlay", fs.path("low"), "overlay",
            f"lowerdir={fs.lowers[0]}/low,upperdir={fs.path('up')},workdir={fs.path('work')}",
        )  # fmt: skip
    assert fs.ls("up") == ["x"]
    assert fs.ls("work") == (["x"] if fs.engine == "overlay" else ["work", "x"])


def test_renamed_directory_keeps_open_files_and_cwd(mount: Mount) -> None:
    fs = mount({"d/f": "x", "d/e/g": "y"}, {"d/e/h": "z"})
    fd = os.open(fs.path("d/e"), os.O_RDONLY | os.O_DIRECTORY)
    file = os.open(fs.path("d/f"), os.O_RDONLY)
    try:
        rename(fs, "d", "n")
        assert sorted(os.listdir(fd)) == ["g", "h"]
        assert os.read(file, 10) == b"x"
        new = os.open("made", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.write(new, b"inside")
        os.close(new)
        assert fs.read("n/e/made") == b"inside"
        assert os.stat("..", dir_fd=fd).st_ino == fs.stat("n").st_ino
    finally:
        os.close(file)
        os.close(fd)
    assert "n/e/made" in names(settled(fs))


def test_sticky_source_of_redirect_is_not_reused(mount: Mount) -> None:
    """A new directory made under the old name of a parent must not pull in the lower one's children."""
    fs = mount({"p/d/x": "1"})
    rename(fs, "p", "q")
    os.mkdir(fs.path("p"))
    os.mkdir(fs.path("p/d"))
    settled(fs)
    assert fs.ls("p/d") == []
    assert fs.ls("q/d") == ["x"]


def test_rename_inside_a_renamed_parent(mount: Mount) -> None:
    """The redirect must lead by the lower's names, not by today's."""
    fs = mount({"p/d/x": "1", "p/e/y": "2"})
    rename(fs, "p", "q")
    rename(fs, "q/d", "q/n")
    rename(fs, "q/n", "top")
    seen = names(settled(fs))
    assert seen == ["q", "q/e", "q/e/y", "top", "top/x"]


def test_names_with_odd_bytes(mount: Mount) -> None:
    fs = mount({b"d\xff\n\\:,/x": "1"})
    rename(fs, os.fsdecode(b"d\xff\n\\:,"), os.fsdecode(b"n\xfe "))
    assert fs.ls(b"n\xfe ") == ["x"]
    settled(fs)


def test_nlink_of_directories(mount: Mount) -> None:
    fs = mount({"d/a": Dir(), "d/b": Dir()})
    assert fs.stat("d").st_nlink in (1, 4)


@pytest.mark.engines("unionfs")
def test_rename_whiteout_of_what_no_lower_has(mount: Mount) -> None:
    """An overlay whose upper lies in the mount asks for it: the whiteout has to be on the disk."""
    fs = mount({"low": ""}, stray_whiteouts=True)
    fs.write("new", b"x")
    kernel.renameat2(fs.path("new"), fs.path("moved"), kernel.RENAME_WHITEOUT)
    assert fs.is_whiteout("new")
    assert fs.ls() == ["low", "moved"]
