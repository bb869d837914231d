"""Which names are seen, from which layer, and which are not."""

from __future__ import annotations

import os
import stat

import pytest

from tests.conftest import Mount
from tests.lib import tree
from tests.lib.layers import AUFS, DEVICE, XATTR, Dir, Entry, File, Layer, Special, Symlink, Whiteout


def test_upper_file_hides_lower_file(mount: Mount) -> None:
    fs = mount({"f": "lower"}, upper={"f": "upper"})
    assert fs.read("f") == b"upper"


def test_leftmost_lower_wins(mount: Mount) -> None:
    fs = mount({"f": "one"}, {"f": "two", "g": "two"}, {"f": "three", "g": "three", "h": "three"})
    assert [fs.read(name) for name in "fgh"] == [b"one", b"two", b"three"]


def test_directories_merge(mount: Mount) -> None:
    fs = mount({"d/a": "1", "d/e/x": "1"}, {"d/b": "2", "d/e/y": "2"}, upper={"d/c": "0"})
    assert fs.ls("d") == ["a", "b", "c", "e"]
    assert fs.ls("d/e") == ["x", "y"]


def test_a_file_stops_the_merging(mount: Mount) -> None:
    fs = mount({"d/a": "top"}, {"d": "a file"}, {"d/b": "deep"})
    assert fs.ls("d") == ["a"]
    assert not fs.exists("d/b")


def test_a_symlink_stops_the_merging(mount: Mount) -> None:
    fs = mount({"d/a": "top"}, {"d": Symlink("e"), "e/c": "2"}, {"d/b": "deep"})
    assert fs.ls("d") == ["a"]


def test_a_file_hides_a_directory(mount: Mount) -> None:
    fs = mount({"d": "file"}, {"d/a": "x"})
    assert fs.read("d") == b"file"


def test_a_symlink_to_a_directory_does_not_merge(mount: Mount) -> None:
    fs = mount({"d": Symlink("e")}, {"d/a": "hidden", "e/b": "seen"})
    assert os.readlink(fs.path("d")) == "e"
    assert fs.ls("d") == ["b"]


@pytest.mark.parametrize("form", [DEVICE, XATTR])
def test_whiteout_hides_a_file(mount: Mount, form: str) -> None:
    fs = mount({"d/f": Whiteout(form)}, {"d/f": "x", "d/g": "y"})
    assert fs.ls("d") == ["g"]
    assert not fs.exists("d/f")


@pytest.mark.parametrize("form", [DEVICE, XATTR])
def test_whiteout_hides_a_directory_in_all_layers_below(mount: Mount, form: str) -> None:
    fs = mount({"d/e": Whiteout(form)}, {"d/e/x": "1"}, {"d/e/y": "2", "d/z": ""})
    assert fs.ls("d") == ["z"]


def test_whiteout_between_layers(mount: Mount) -> None:
    fs = mount({"d/a": "new"}, {"d": Whiteout()}, {"d/a": "old", "d/b": "old"})
    assert fs.ls("d") == ["a"]


def test_whiteout_of_nothing_is_not_seen(mount: Mount) -> None:
    fs = mount({"f": Whiteout()}, {"g": ""})
    assert fs.ls() == ["g"]


def test_a_whiteout_in_the_lowest_layer_is_not_seen(mount: Mount) -> None:
    fs = mount({"g": ""}, {"f": Whiteout(), "d/f": Whiteout()})
    assert fs.ls() == ["d", "g"]
    assert fs.ls("d") == []
    assert not fs.exists("d/f")


def test_opaque_directory_hides_what_is_below(mount: Mount) -> None:
    fs = mount({"d": Dir(opaque=True), "d/a": ""}, {"d/b": ""}, {"d/c": ""})
    assert fs.ls("d") == ["a"]
    assert not fs.exists("d/b")


def test_opaque_in_the_middle(mount: Mount) -> None:
    fs = mount({"d/a": ""}, {"d": Dir(opaque=True), "d/b": ""}, {"d/c": ""})
    assert fs.ls("d") == ["a", "b"]


def test_opaque_upper(mount: Mount) -> None:
    fs = mount({"d/b": "", "d/e/x": ""}, upper={"d": Dir(opaque=True), "d/e/y": ""})
    assert fs.ls("d") == ["e"]
    assert fs.ls("d/e") == ["y"]


def test_attributes_of_a_merged_directory_are_the_topmost(mount: Mount) -> None:
    fs = mount(
        {"d": Dir(mode=0o750, uid=5, gid=6, xattrs={"user.where": b"top"})},
        {"d": Dir(mode=0o700, uid=7, gid=8, xattrs={"user.where": b"low", "user.low": b"1"})},
    )
    st = fs.stat("d")
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o750, 5, 6)
    assert os.getxattr(fs.path("d"), "user.where") == b"top"
    assert os.listxattr(fs.path("d")) == ["user.where"]


def test_attributes_of_the_root_are_the_topmost(mount: Mount) -> None:
    fs = mount({"": Dir(mode=0o700)}, upper={"": Dir(mode=0o711, uid=3)})
    assert stat.S_IMODE(fs.stat().st_mode) == 0o711
    assert fs.stat().st_uid == 3


def test_every_type_shows_as_it_is(mount: Mount) -> None:
    fs = mount(
        {
            "file": File("x", mode=0o4711, uid=1, gid=2, mtime=1_234_567_890_123_456_789),
            "link": Symlink("no/where", uid=3, gid=4, mtime=987_654_321),
            "fifo": Special(stat.S_IFIFO, mode=0o622),
            "char": Special(stat.S_IFCHR, os.makedev(1, 3), mode=0o666),
            "block": Special(stat.S_IFBLK, os.makedev(7, 200), mode=0o660, gid=6),
            "sock": Special(stat.S_IFSOCK, mode=0o755),
            "dir": Dir(mode=0o1777, mtime=5_000_000_001),
        }
    )
    seen = fs.tree()
    assert seen[b"file"]["mode"] == "0o4711"
    assert seen[b"file"]["mtime"] == 1_234_567_890_123_456_789
    assert (seen[b"link"]["target"], seen[b"link"]["owner"]) == (b"no/where", (3, 4))
    assert seen[b"link"]["mtime"] == 987_654_321
    assert (seen[b"char"]["rdev"], seen[b"block"]["rdev"]) == ((1, 3), (7, 200))
    assert [seen[name]["type"] for name in (b"fifo", b"sock", b"dir")] == ["fifo", "socket", "dir"]
    assert (seen[b"dir"]["mode"], seen[b"dir"]["mtime"]) == ("0o1777", 5_000_000_001)


RICH: list[Layer] = [
    {"a/b/c": "top", "only-top": "1", "gone": Whiteout(), "op": Dir(opaque=True), "op/new": "", "type": Dir()},
    {"a/b/d": "mid", "gone": "x", "op/old": "", "type": "a file", "a/x": Whiteout(), "link": Symlink("a/b")},
    {"a/b/c": "low", "a/x/y": "z", "op/older": "", "type/z": "", "link/q": "", "deep/er/and/deeper": "end"},
]


@pytest.mark.engines("overlay", "unionfs", "fusepy")
def test_the_whole_tree_is_what_merging_by_hand_gives(mount: Mount, engine: str) -> None:
    from tests.lib.layers import merge

    fs = mount(*RICH, upper={"a/b/up": "u", "deep/er": Whiteout()})
    merge(fs.base + "/by-hand", [{"a/b/up": "u", "deep/er": Whiteout()}, *RICH])
    by_hand = tree.snapshot(fs.base + "/by-hand")
    tree.assert_same(by_hand, fs.tree(), ignore={"mtime"}, names="merged-by-hand mounted")
    assert tree.listing_faults(fs.mnt) == []


def test_a_lookup_does_not_need_the_listing(mount: Mount) -> None:
    fs = mount({"a/b/c": "1"}, {"a/b/d": "2"})
    assert fs.read("a/b/d") == b"2"
    assert not fs.exists("a/b/e")
    assert fs.ls("a/b") == ["c", "d"]


@pytest.mark.engines("unionfs", "fusepy")
class TestAufsForm:
    """`.wh.` files as extracted image layers have them; the kernel would show them as files."""

    def test_whiteout(self, mount: Mount) -> None:
        fs = mount({"d/f": Whiteout(AUFS), "d/k": ""}, {"d/f": "x", "d/g": "y"})
        assert fs.ls("d") == ["g", "k"]
        assert not fs.exists("d/f")
        assert not fs.exists("d/.wh.f")

    def test_opaque(self, mount: Mount) -> None:
        fs = mount({"d": Dir(opaque=AUFS), "d/a": ""}, {"d/b": ""})
        assert fs.ls("d") == ["a"]
        assert not fs.exists("d/.wh..wh..opq")

    def test_in_the_middle_of_a_stack(self, mount: Mount) -> None:
        fs = mount({"d/a": ""}, {"d/b": Whiteout(AUFS)}, {"d/b": "", "d/c": ""})
        assert fs.ls("d") == ["a", "c"]

    def test_whiteout_of_a_directory(self, mount: Mount) -> None:
        fs = mount({"e": Whiteout(AUFS)}, {"e/x/y": ""})
        assert fs.ls() == []


def test_lower_special_files_work(mount: Mount) -> None:
    null: dict[str, Entry] = {"null": Special(stat.S_IFCHR, os.makedev(1, 3), mode=0o666)}
    fs = mount(null)
    with open(fs.path("null"), "r+b", buffering=0) as device:
        assert device.write(b"into nothing") == 12
        assert device.read(10) == b""
    fs.assert_not_copied_up("null")


@pytest.mark.engines("unionfs", "fusepy")
def test_a_whiteout_in_xattr_form_has_to_be_announced(mount: Mount) -> None:
    """In a directory that does not say that it holds such it is a file like any other (the kernel only lists it)."""
    fs = mount({"d/f": File(b"", xattrs={"trusted.overlay.whiteout": b"y"})}, {"d/f": "below", "d/g": ""})
    assert fs.ls("d") == ["f", "g"]
    assert fs.read("d/f") == b""
