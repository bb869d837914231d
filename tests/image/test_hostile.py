"""Archives made to reach outside, or to exhaust: each ends with an error that names the entry, and touches nothing."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from pathlib import Path

import pytest

from tests.lib import tree
from unionfs.image.codec import Feed
from unionfs.image.errors import BadArchive, HostileEntry, LimitExceeded
from unionfs.image.tar_read import TarReader
from unionfs.image.trees import remove_tree
from unionfs.image.unpack import Limits, Unpacker

Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> Member:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    info.size = len(data)
    info.mode = 0o755
    return info, data


def file(name: str, data: bytes = b"evil") -> tuple[tarfile.TarInfo, bytes]:
    return member(name, data=data)


def directory(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.DIRTYPE)


def symlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.SYMTYPE, target)


def hardlink(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, tarfile.LNKTYPE, target)


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def unpack(data: bytes, root: Path, limits: Limits | None = None, lowers: list[Path] | None = None) -> Unpacker:
    root.mkdir(exist_ok=True)
    unpacker = Unpacker(os.fsencode(root), [os.fsencode(path) for path in lowers or []],
                        rootless=os.geteuid() != 0, limits=limits or Limits())
    with Feed(iter([data])) as feed:
        unpacker.run(TarReader(feed))
    return unpacker


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the layer, with a file that must stay as it is."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "victim").write_text("precious")
    return place


HOSTILE = {
    "parent": ([file("../outside/victim")], "../outside/victim"),
    "parent in the middle": ([file("a/../../outside/victim")], "a/../../outside/victim"),
    "parent that stays inside": ([directory("a"), file("a/../b")], "a/../b"),
    "ends in parent": ([directory("a/..")], "a/.."),
    "absolute": ([file("/etc/hostile")], "/etc/hostile"),
    "absolute, doubled": ([file("//etc/hostile")], "//etc/hostile"),
    "absolute whiteout": ([file("/.wh.etc")], "/.wh.etc"),
    "through a symlink": ([symlink("a", "../outside"), file("a/victim")], "a/victim"),
    "through an absolute symlink": ([symlink("a", "/tmp"), file("a/hostile")], "a/hostile"),
    "through a symlink further up": ([symlink("a", ".."), file("a/outside/victim")], "a/outside/victim"),
    "directory swapped for a symlink": (
        [directory("a"), file("a/x"), symlink("a", "../outside"), file("a/victim")], "a"),
    "symlink swapped for a directory": ([symlink("a", "../outside"), directory("a"), file("a/victim")], "a"),
    "file over a symlink": ([symlink("a", "../outside/victim"), file("a")], "a"),
    "file twice": ([file("a"), file("a")], "a"),
    "file over a directory": ([directory("a"), file("a")], "a"),
    "link outside": ([hardlink("a", "../outside/victim")], "a"),
    "link outside, absolute": ([hardlink("a", "/etc/passwd")], "a"),
    "link through a symlink": ([symlink("s", "../outside"), hardlink("a", "s/victim")], "a"),
    "link to nothing": ([hardlink("a", "b")], "a"),
    "link to itself": ([hardlink("a", "a")], "a"),
    "link to a directory": ([directory("d"), hardlink("a", "d")], "a"),
    "link to the root": ([hardlink("a", "./")], "a"),
    "link twice": ([file("f"), hardlink("a", "f"), hardlink("a", "f")], "a"),
    "whiteout of the parent": ([file(".wh...")], ".wh..."),
    "whiteout of the directory": ([file(".wh..")], ".wh.."),
    "whiteout of nothing": ([file("d/.wh.")], "d/.wh."),
    "whiteout through a symlink": ([symlink("a", "../outside"), file("a/.wh.victim")], "a/.wh.victim"),
    "opaque through a symlink": ([symlink("a", "../outside"), file("a/.wh..wh..opq")], "a/.wh..wh..opq"),
    "inside a whiteout": ([file(".wh.a/b")], ".wh.a/b"),
    "no name": ([file("")], ""),
    "root as a file": ([file(".")], "."),
    "root as a symlink": ([symlink("./", "../outside")], "./"),
    "long name": ([file("n" * 256)], "n" * 256),
    "unknown type": ([member("a", b"W")], "a"),
    "symlink to nothing": ([symlink("a", "")], "a"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(case: str, tmp_path: Path, outside: Path) -> None:
    members, guilty = HOSTILE[case]
    before = tree.snapshot(str(outside), exact=True)
    beside = sorted(os.listdir(tmp_path))
    with pytest.raises(HostileEntry) as caught:
        unpack(archive(*members), tmp_path / "layer")
    assert caught.value.name.rstrip(b"/") == guilty.encode().rstrip(b"/")
    assert str(caught.value).startswith("entry '")
    assert guilty[:80] in str(caught.value)
    assert tree.snapshot(str(outside), exact=True) == before
    assert sorted(os.listdir(tmp_path)) == sorted([*beside, "layer"])
    assert not Path("/etc/hostile").exists()
    assert not Path("/tmp/hostile").exists()


@pytest.mark.parametrize(("field", "value"), [("uid", -1), ("gid", 0xFFFFFFFF), ("uid", 1 << 40), ("mtime", 1 << 70)])
def test_numbers_that_no_system_has(field: str, value: int, tmp_path: Path) -> None:
    """-1 would leave the owner as it is."""
    info, _ = member("a")
    setattr(info, field, value)
    with pytest.raises(HostileEntry, match="entry 'a': "):
        unpack(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024), tmp_path / "layer")


_NAMES = ("a", "a/b", "a/b/c", "d", "d/e", "..", "../x", "/abs", "a/../../x", "./a", ".", "", "a/.wh.b",
          ".wh..wh..opq", ".wh.a", "l", "l/x", "h", "\xe9" * 40, "x" * 300,
          ".wh..wh.aufs", ".wh.", ".wh...", "a//b", "l/../y")  # fmt: skip
_RECORDS = ("SCHILY.xattr.user.x", "SCHILY.xattr.trusted.overlay.opaque", "SCHILY.xattr.system.posix_acl_access",
            "path", "SCHILY.xattr.security.capability", "linkpath", "uid", "size", "mtime", "atime", "GNU.sparse.map",
            "GNU.sparse.size", "SCHILY.xattr.", "SCHILY.xattr.user." + "k" * 300,
            "SCHILY.xattr.user.containers.override_stat")  # fmt: skip
_VALUES = ("", "y", "0", "12", "-1", "9" * 20, "1.5", "a=b", "0:0:0777:dir", "x\0y")


def scrambled(dice: random.Random) -> bytes:
    """An archive of nonsense, some of its headers damaged, with sums that fit all the same."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=dice.choice([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])) as tar:
        for _ in range(dice.randrange(1, 12)):
            kind = dice.choice([b"0", b"0", b"1", b"2", b"3", b"4", b"5", b"5", b"6", b"9"])
            info, data = member(dice.choice(_NAMES), kind, dice.choice(_NAMES), b"x" * dice.choice([0, 1, 512, 9999]))
            info.uid, info.mode = dice.choice([0, 0, 1000, -1, 1 << 33]), dice.choice([0, 0o777, 0o7777])
            info.mtime, info.devmajor = dice.choice([0, -1, 1 << 33, 1 << 60]), dice.choice([0, 1, 4096])
            if dice.random() < 0.4:
                info.pax_headers = {dice.choice(_RECORDS): dice.choice(_VALUES)}
            tar.addfile(info, io.BytesIO(data))
    raw = bytearray(out.getvalue())
    for _ in range(dice.randrange(3)):
        start = dice.randrange(len(raw) // 512) * 512
        raw[start + dice.randrange(512)] ^= 1 << dice.randrange(8)
        header = raw[start : start + 512]
        header[148:156] = b" " * 8
        raw[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(raw)


@pytest.mark.parametrize("seed", range(8))
def test_nonsense_ends_with_an_error_or_a_layer(seed: int, tmp_path: Path, outside: Path) -> None:
    """Never with a traceback, and never outside."""
    dice = random.Random(seed)
    before = tree.snapshot(str(outside), exact=True)
    for number in range(100):
        root = tmp_path / f"layer{number}"
        try:
            unpack(scrambled(dice), root, Limits(size=1 << 24))
        except (BadArchive, OSError):
            pass
        remove_tree(str(root))
        assert os.listdir(tmp_path) == ["outside"]
    assert tree.snapshot(str(outside), exact=True) == before


def test_names_that_control_a_terminal_are_escaped(tmp_path: Path) -> None:
    with pytest.raises(HostileEntry) as caught:
        unpack(archive(file("../\x1b[2J\n")), tmp_path / "layer")
    assert str(caught.value).isprintable()


def test_symlinks_that_point_outside_are_kept_but_not_followed(tmp_path: Path, outside: Path) -> None:
    unpack(archive(symlink("a", "/etc/passwd"), symlink("b", "../../../.."), symlink("c", "a")), tmp_path / "layer")
    assert os.readlink(tmp_path / "layer/b") == "../../../.."


def test_the_limits(tmp_path: Path) -> None:
    with pytest.raises(LimitExceeded):
        unpack(archive(*[file(f"f{n}", b"x" * 600) for n in range(10)]), tmp_path / "a", Limits(size=5000))
    with pytest.raises(LimitExceeded):
        unpack(archive(*[file(f"f{n}") for n in range(10)]), tmp_path / "b", Limits(entries=9))
    with pytest.raises(LimitExceeded):
        unpack(archive(file("d/" * 20 + "f")), tmp_path / "c", Limits(depth=19))
    unpack(archive(file("d/" * 20 + "f")), tmp_path / "d", Limits(depth=20))


def test_a_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    got: list[int] = []
    with Feed(iter([bomb]), limit=1 << 20) as feed, pytest.raises(LimitExceeded):
        got.extend(len(chunk) for chunk in feed)
    assert sum(got) <= 1 << 20


def test_deep_trees_need_no_recursion(tmp_path: Path) -> None:
    try:
        unpack(archive(file("d/" * 1000 + "f")), tmp_path / "layer")
    finally:
        remove_tree(str(tmp_path / "layer"))        # which no recursive program could
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("cut", [10, 100, 511, 512, 700])
def test_data_after_a_cut_gzip_stream(cut: int) -> None:
    data = gzip.compress(os.urandom(2000))
    with pytest.raises(BadArchive), Feed(iter([data[:cut]])) as feed:
        list(feed)


def test_overlay_marks_in_an_archive_are_not_marks_of_the_layer(tmp_path: Path) -> None:
    info, data = directory("d")
    info.pax_headers = {"SCHILY.xattr.trusted.overlay.redirect": "/etc", "SCHILY.xattr.trusted.overlay.opaque": "y",
                        "SCHILY.xattr.user.overlay.opaque": "y"}
    unpack(archive((info, data)), tmp_path / "layer")
    names = os.listxattr(tmp_path / "layer/d")
    assert "trusted.overlay.redirect" not in names
    assert "trusted.overlay.opaque" not in names
    if os.geteuid() == 0:
        assert "trusted.overlay.overlay.redirect" in names      # as overlay keeps what users set
