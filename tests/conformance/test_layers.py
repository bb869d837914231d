"""Stacks of every shape: very many layers, redirects in lowers, metadata and data in different places."""

from __future__ import annotations

import errno
import os
import shutil
import struct

import pytest

from tests.conftest import Mount
from tests.lib import tree
from tests.lib.errors import fails
from tests.lib.layers import Dir, File, Layer, Link, Symlink, Whiteout

pytestmark = pytest.mark.engines("overlay", "unionfs", "fusepy")


@pytest.mark.parametrize("count", [130, 500])
def test_very_many_layers(mount: Mount, count: int) -> None:
    stack: list[Layer] = [
        {f"only{i}": str(i), "common": str(i), f"d/{i}": "", f"gone{i}": "", f"gone{i + 1}": Whiteout()}
        for i in range(count)
    ]
    fs = mount(*stack)
    assert fs.read("common") == b"0"
    assert fs.read(f"only{count - 1}") == str(count - 1).encode()
    assert len(fs.ls("d")) == count
    assert [name for name in fs.ls() if name.startswith("gone")] == ["gone0"]
    fs.append(f"only{count - 1}", b"!")
    os.unlink(fs.path("common"))
    os.rename(fs.path("d"), fs.path("e"))
    fs.remount()
    assert fs.read(f"only{count - 1}") == str(count - 1).encode() + b"!"
    assert not fs.exists("common")
    assert len(fs.ls("e")) == count


REDIRECTED: list[Layer] = [
    {"new": Dir(redirect="/old"), "new/a": "1", "old": Whiteout()},
    {"old/b": "2", "old/sub/c": "3"},
    {"old/d": "4", "new/not-this": ""},
]


def test_absolute_redirect_in_a_lower(mount: Mount) -> None:
    fs = mount(*REDIRECTED)
    assert fs.ls("new") == ["a", "b", "d", "sub"]
    assert fs.read("new/sub/c") == b"3"
    assert not fs.exists("old")
    fs.append("new/sub/c", b"+")
    os.unlink(fs.path("new/d"))
    fs.remount()
    assert fs.ls("new") == ["a", "b", "sub"]
    assert fs.read("new/sub/c") == b"3+"


def test_sibling_redirect_in_a_lower(mount: Mount) -> None:
    fs = mount({"p/new": Dir(redirect="old"), "p/new/a": "", "p/old": Whiteout()}, {"p/old/b": "", "p/new/no": ""})
    assert fs.ls("p/new") == ["a", "b"]
    assert fs.ls("p") == ["new"]


def test_redirect_through_redirected_parents(mount: Mount) -> None:
    """A sibling's name is looked for where the parent's own redirect led."""
    fs = mount(
        {"q": Dir(redirect="/p"), "q/n": Dir(redirect="o"), "q/o": Whiteout(), "p": Whiteout()},
        {"p/o/x": "1", "q/o/wrong": ""},
    )
    assert fs.ls("q/n") == ["x"]


def test_chain_of_redirects(mount: Mount) -> None:
    fs = mount(
        {"c": Dir(redirect="/b"), "c/1": "", "b": Whiteout()},
        {"b": Dir(redirect="/a"), "b/2": "", "a": Whiteout()},
        {"a/3": ""},
    )
    assert fs.ls("c") == ["1", "2", "3"]
    assert fs.ls() == ["c"]


def test_redirect_in_upper(mount: Mount) -> None:
    fs = mount({"old/x": "", "k": ""}, upper={"new": Dir(redirect="/old"), "old": Whiteout()})
    assert (fs.ls(), fs.ls("new")) == (["k", "new"], ["x"])
    os.rename(fs.path("new"), fs.path("newer"))
    fs.remount()
    assert fs.ls("newer") == ["x"]


@pytest.mark.parametrize("redirect", ["/../escape", "/old/../../x", "//old", "a/b", "/old/"])
def test_a_redirect_that_escapes_is_never_followed(mount: Mount, redirect: str) -> None:
    fs = mount({"d": Dir(redirect=redirect), "d/a": ""}, {"old/secret": "", "a/b/secret": ""})
    try:
        seen = fs.ls("d")
    except OSError:
        return
    assert "secret" not in seen


@pytest.mark.parametrize("setting", ["off", "nofollow"])
def test_redirects_not_followed(mount: Mount, setting: str) -> None:
    fs = mount(*REDIRECTED, options=[f"redirect_dir={setting}"])
    if setting == "off":
        assert fs.exists("new/a")
        return
    try:
        assert fs.ls("new") == ["a", "not-this"]
    except OSError as e:
        assert e.errno == errno.EPERM  # noqa: PT017


@pytest.mark.parametrize("setting", ["off", "nofollow", "follow"])
def test_directory_rename_is_exdev_without_redirects(mount: Mount, setting: str) -> None:
    fs = mount({"d/x": "", "f": ""}, options=[f"redirect_dir={setting}"])
    with fails(errno.EXDEV):
        os.rename(fs.path("d"), fs.path("e"))
    os.rename(fs.path("f"), fs.path("g"))
    os.mkdir(fs.path("pure"))
    os.rename(fs.path("pure"), fs.path("pure2"))
    assert fs.ls() == ["d", "g", "pure2"]


def test_metacopy_is_read(mount: Mount) -> None:
    """Metadata in one layer, data in one below, under another name by redirect."""
    fs = mount(
        {
            "f": File(b"", size=9, mode=0o600, uid=7, xattrs={"trusted.overlay.metacopy": b""}),
            "moved": File(
                b"", size=5, xattrs={"trusted.overlay.metacopy": b"", "trusted.overlay.redirect": b"/original"}
            ),
        },
        {"f": "real data", "original": "other"},
        options=["metacopy=on"],
    )
    assert fs.read("f") == b"real data"
    assert fs.stat("f").st_uid == 7
    assert fs.read("moved") == b"other"
    fs.append("f", b"+")
    assert fs.read("f") == b"real data+"
    assert fs.stat("f").st_mode & 0o777 == 0o600
    os.unlink(fs.path("moved"))
    fs.remount()
    assert fs.read("f") == b"real data+"
    assert not fs.exists("moved")


def test_metacopy_is_written_when_asked_for(mount: Mount) -> None:
    fs = mount({"f": b"x" * 100_000, "g": b"y" * 100_000}, options=["metacopy=on"])
    os.chmod(fs.path("f"), 0o600)
    assert os.listxattr(fs.path("f")) == []
    assert "trusted.overlay.metacopy" in os.listxattr(fs.upper + "/f")
    assert os.stat(fs.upper + "/f").st_blocks * 512 <= 8192, "the data was copied"
    assert fs.read("f") == b"x" * 100_000
    os.rename(fs.path("f"), fs.path("h"))
    fs.remount()
    assert fs.read("h") == b"x" * 100_000
    fs.append("h", b"z")
    assert fs.read("h") == b"x" * 100_000 + b"z"
    fs.remount()
    assert fs.read("h") == b"x" * 100_000 + b"z"
    assert "trusted.overlay.metacopy" not in os.listxattr(fs.upper + "/h")


def test_data_only_layers(mount: Mount) -> None:
    meta = {"trusted.overlay.metacopy": b"", "trusted.overlay.redirect": b"/blobs/one"}
    fs = mount(
        {"app/file": File(b"", size=8, mode=0o640, uid=3, xattrs=meta), "plain": "p"},
        data=[{"blobs/one": "the data", "hidden": ""}, {"blobs/two": ""}],
        options=["metacopy=on", "redirect_dir=on"],
    )
    assert fs.ls() == ["app", "plain"]
    assert fs.read("app/file") == b"the data"
    assert fs.stat("app/file").st_uid == 3
    assert not fs.exists("hidden")
    assert not fs.exists("blobs")
    fs.append("app/file", b"!")
    assert fs.read("app/file") == b"the data!"


def test_type_conflicts_between_layers(mount: Mount) -> None:
    fs = mount(
        {"a": Dir(), "a/top": "", "b": "file", "c": Symlink("a")},
        {"a": "file", "b/x": "", "c/y": ""},
        {"a/deep": "", "b": Symlink("x"), "c": "f"},
    )
    assert (fs.ls("a"), fs.read("b"), os.readlink(fs.path("c"))) == (["top"], b"file", "a")
    os.unlink(fs.path("b"))
    os.mkdir(fs.path("b"))
    assert fs.ls("b") == []
    fs.remount()
    assert fs.ls("b") == []
    os.unlink(fs.path("a/top"))
    os.rmdir(fs.path("a"))
    fs.remount()
    assert fs.ls() == ["b", "c"]


def test_hard_links_within_a_lower_over_several_directories(mount: Mount) -> None:
    fs = mount({"a/1": "x", "b/2": Link("a/1")}, {"a/1": "hidden", "c/3": Link("a/1")})
    assert fs.stat("a/1").st_ino == fs.stat("b/2").st_ino
    assert fs.stat("c/3").st_ino != fs.stat("a/1").st_ino
    assert fs.read("c/3") == b"hidden"


def test_layers_with_odd_names(mount: Mount, engine: str) -> None:
    fs = mount({"f": "x"}, {"g": "y"}, mounted=False)
    for i, name in enumerate(["a:b", "c,d\\e é"]):
        os.rename(fs.lowers[i], f"{fs.base}/{name}")
        fs.lowers[i] = f"{fs.base}/{name}"
    fs.remember_lowers()
    fs.mount()
    assert fs.ls() == ["f", "g"]


def test_symlinked_layers(mount: Mount) -> None:
    fs = mount({"f": "x"}, {"g": "y"}, mounted=False)
    os.rename(fs.lowers[0], fs.base + "/real")
    os.symlink("real", fs.lowers[0])
    real = tree.snapshot(fs.base + "/real", exact=True)
    fs.remember_lowers()
    fs.mount()
    assert fs.ls() == ["f", "g"]
    fs.append("f", b"y")
    assert fs.read("f") == b"xy"
    tree.assert_same(real, tree.snapshot(fs.base + "/real", exact=True))
    fs.unmount()
    # For the check at the end, which wants plain directories.
    os.unlink(fs.lowers[0])
    os.rename(fs.base + "/real", fs.lowers[0])
    fs.remember_lowers()


def test_origin_that_lies(mount: Mount) -> None:
    """A forged handle must not lead anywhere; at most the inode number is another."""
    handle = struct.pack("<BBBBB16sII", 0, 0xFB, 29, 0, 1, b"\0" * 16, 2, 0)
    fs = mount({"g": ""}, upper={"f": File("x", xattrs={"trusted.overlay.origin": handle})})
    assert fs.read("f") == b"x"
    os.unlink(fs.path("f"))
    assert fs.ls() == ["g"]


@pytest.mark.engines("overlay", "unionfs", "fusepy")
def test_an_upper_that_was_mounted_volatile(mount: Mount) -> None:
    """It may lack what was written last, so it is not mounted again until somebody says that this does not matter."""
    fs = mount({"f": "x"}, options=["volatile"])
    fs.append("f", b"y")
    fs.unmount()
    fs.options = []
    with pytest.raises((OSError, AssertionError), match=r"Invalid argument|incompat/volatile exists"):
        fs.mount()
    shutil.rmtree(f"{fs.work}/work/incompat")
    fs.mount()
    assert fs.read("f") == b"xy"
