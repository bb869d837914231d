"""Listing: complete, without doubles, steady while the directory changes."""

from __future__ import annotations

import os

import pytest

from tests.conftest import Mount
from tests.lib import kernel, tree
from tests.lib.layers import Dir, Special, Symlink, Whiteout


@pytest.mark.engines("unionfs", "fusepy")
def test_dots_come_first(mount: Mount) -> None:
    """Disk file systems hash them anywhere; programs of old skip the first two entries."""
    fs = mount({"a": "", "d/e/x": ""}, {"d/y": ""})
    for name in ("", "d", "d/e"):
        assert [entry.name for entry in kernel.all_dirents(fs.path(name))][:2] == [b".", b".."]


def test_numbers_and_types_agree_with_stat(mount: Mount) -> None:
    fs = mount(
        {"f": "", "l": Symlink("f"), "p": Special(0o010000), "d/x": "", "s": Special(0o140000)},
        {"c": Special(0o020000, os.makedev(1, 3)), "d/y": "", "d/e/f": ""},
        upper={"u": ""},
    )
    assert tree.listing_faults(fs.mnt) == []
    for name in ("f", "d/x", "d/e/f"):
        os.chmod(fs.path(name), 0o600)
    os.mkdir(fs.path("new"))
    os.rename(fs.path("d"), fs.path("new/d"))
    assert tree.listing_faults(fs.mnt) == []
    fs.remount()
    assert tree.listing_faults(fs.mnt) == []


def test_numbers_of_a_merged_directory_that_was_not_copied_up(mount: Mount) -> None:
    """Upper's directory was there before the first mount, so it has no origin."""
    fs = mount({"d/x": ""}, upper={"d/z": ""})
    assert tree.listing_faults(fs.mnt) == []


def test_numbers_of_copies_that_nobody_has_asked_for(mount: Mount) -> None:
    """So many that the kernel asks for names alone: then the listing itself has to know."""
    fs = mount({f"d/file{i:04}": "" for i in range(1500)})
    for i in range(0, 1500, 3):
        os.chmod(fs.path(f"d/file{i:04}"), 0o600)
    fs.remount()
    listed = {entry.name: entry.ino for entry in kernel.all_dirents(fs.path("d")) if entry.name[:1] != b"."}
    assert listed == {name: fs.stat(b"d/" + name).st_ino for name in listed}
    assert len(listed) == 1500


def test_dot_dot_numbers(mount: Mount) -> None:
    fs = mount({"a/b/c": ""})
    by_name = {entry.name: entry for entry in kernel.all_dirents(fs.path("a/b"))}
    assert by_name[b"."].ino == fs.stat("a/b").st_ino
    assert os.stat(fs.path("a/b/..")).st_ino == fs.stat("a").st_ino


def test_twenty_thousand_entries(mount: Mount) -> None:
    names = {f"entry-with-a-name-{i:05}" for i in range(15_000)}
    fs = mount({"d": Dir()}, {"d": Dir()}, mounted=False)
    half = sorted(names)[::2]
    places = [fs.path()] * 2 if fs.engine == "plain" else fs.lowers
    for place, some in zip(places, (sorted(names), half), strict=True):
        for name in some:
            os.close(os.open(f"{place}/d/{name}", os.O_CREAT | os.O_WRONLY))
    if fs.engine != "plain":
        fs.remember_lowers()
        fs.mount()
    for i in range(5000):
        fs.write(f"d/new-{i}", b"")
    for name in sorted(names)[:100]:
        os.unlink(fs.path("d/" + name))
    expected = set(sorted(names)[100:]) | {f"new-{i}" for i in range(5000)}
    listed = os.listdir(fs.path("d"))
    assert len(listed) == len(expected)
    assert set(listed) == expected


def test_seeking_back_and_on(mount: Mount) -> None:
    """telldir and seekdir: every offset leads to the entry that followed it."""
    fs = mount({f"a{i}": "" for i in range(40)}, {f"b{i}": "" for i in range(40)})
    fd = os.open(fs.mnt, os.O_RDONLY | os.O_DIRECTORY)
    try:
        entries = []
        while more := kernel.getdents(fd, 512):
            entries += more
        for at in (0, 3, 17, 50, len(entries) - 2):
            os.lseek(fd, entries[at].next, os.SEEK_SET)
            assert kernel.getdents(fd)[0].name == entries[at + 1].name
        os.lseek(fd, 0, os.SEEK_SET)
        assert [e.name for e in kernel.getdents(fd)] == [e.name for e in entries]
        os.lseek(fd, entries[-1].next, os.SEEK_SET)
        assert kernel.getdents(fd) == []
    finally:
        os.close(fd)


def test_rewinding_shows_what_is_new(mount: Mount) -> None:
    fs = mount({"d/a": "", "d/b": ""}, {"d/c": ""})
    fd = os.open(fs.path("d"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert len(kernel.getdents(fd)) == 5
        fs.write("d/new", b"")
        os.unlink(fs.path("d/c"))
        os.lseek(fd, 0, os.SEEK_SET)
        names = {entry.name for entry in kernel.getdents(fd)}
        assert names == {b".", b"..", b"a", b"b", b"new"}
    finally:
        os.close(fd)


@pytest.mark.parametrize("where", ["pure upper", "merged"])
def test_removing_while_reading(mount: Mount, where: str) -> None:
    """rm -r's pattern: every entry that was there from the start and stays is seen exactly once."""
    names = {f"f{i:03}" for i in range(300)}
    fs = mount({"d/" + name: "" for name in names} if where == "merged" else {"x": ""})
    if where != "merged":
        os.mkdir(fs.path("d"))
        for name in names:
            fs.write("d/" + name, b"")
    fd = os.open(fs.path("d"), os.O_RDONLY | os.O_DIRECTORY)
    seen: list[str] = []
    try:
        while more := kernel.getdents(fd, 1024):
            for entry in more:
                name = os.fsdecode(entry.name)
                if name in (".", ".."):
                    continue
                seen.append(name)
                os.unlink(fs.path("d/" + name))
    finally:
        os.close(fd)
    assert sorted(seen) == sorted(names)
    os.rmdir(fs.path("d"))
    assert not fs.exists("d")


def test_creating_while_reading(mount: Mount) -> None:
    names = {f"f{i:03}" for i in range(200)}
    fs = mount({"d/" + name: "" for name in names}, {"d/other": ""})
    fd = os.open(fs.path("d"), os.O_RDONLY | os.O_DIRECTORY)
    seen: list[str] = []
    try:
        number = 0
        while more := kernel.getdents(fd, 512):
            seen += [os.fsdecode(entry.name) for entry in more]
            fs.write(f"d/new{number}", b"")
            number += 1
            assert number < 500, "the listing never ends while files are made"
    finally:
        os.close(fd)
    assert len(set(seen)) == len(seen)
    assert names | {"other"} <= set(seen)


def test_two_readers_do_not_disturb_each_other(mount: Mount) -> None:
    fs = mount({f"f{i:03}": "" for i in range(100)})
    one = os.open(fs.mnt, os.O_RDONLY | os.O_DIRECTORY)
    two = os.open(fs.mnt, os.O_RDONLY | os.O_DIRECTORY)
    try:
        first = kernel.getdents(one, 512)
        assert [e.name for e in kernel.getdents(two, 512)] == [e.name for e in first]
        rest = []
        while more := kernel.getdents(one, 512):
            rest += more
        assert len(first) + len(rest) == 102
    finally:
        os.close(one)
        os.close(two)


def test_listing_after_every_kind_of_change(mount: Mount) -> None:
    """The kernel's cache of the directory must not outlive a change."""
    fs = mount({"a": "", "b": "", "dir/x": ""}, {"c": "", "w": Whiteout()})
    assert fs.ls() == ["a", "b", "c", "dir"]
    fs.write("new", b"")
    assert fs.ls() == ["a", "b", "c", "dir", "new"]
    os.unlink(fs.path("a"))
    assert fs.ls() == ["b", "c", "dir", "new"]
    os.rename(fs.path("b"), fs.path("dir/b"))
    assert (fs.ls(), fs.ls("dir")) == (["c", "dir", "new"], ["b", "x"])
    os.mkdir(fs.path("made"))
    os.symlink("x", fs.path("link"))
    os.link(fs.path("c"), fs.path("hard"))
    os.mkfifo(fs.path("fifo"))
    assert fs.ls() == ["c", "dir", "fifo", "hard", "link", "made", "new"]
    os.rmdir(fs.path("made"))
    assert "made" not in fs.ls()
    os.rename(fs.path("dir"), fs.path("moved"))
    assert fs.ls("moved") == ["b", "x"]


def test_dirents_of_a_copied_up_file_keep_their_number(mount: Mount) -> None:
    fs = mount({"d/f": "", "d/g": ""})
    before = {entry.name: entry.ino for entry in kernel.all_dirents(fs.path("d"))}
    fs.append("d/f", b"x")
    after = {entry.name: entry.ino for entry in kernel.all_dirents(fs.path("d"))}
    assert after == before
