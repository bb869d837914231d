"""Layers made to do harm: marks with any value, redirects that lead astray, links in the place of directories."""

from __future__ import annotations

import errno
import os
import stat
import struct
import threading
from pathlib import Path

import pytest

from tests.lib import bare, kernel
from tests.lib.errors import fails
from tests.lib.layers import NAMESPACE, Dir, File, Layer, Link, Special, Symlink
from unionfs.union import Config, ConfigError, Union

SECRET = b"from outside of the layers"
LOWER: Layer = {
    "target/in": "in", "f": "regular", "sl": Symlink("/etc"), "near": Symlink("target"), "out": Symlink("../outside")
}  # fmt: skip
WHERE = ("upper", "lower")


def marked_in(base: Path, where: str, marked: Layer) -> Config:
    """LOWER with `marked` over it, in the upper or in a lower."""
    return bare.prepare(base, [LOWER], marked) if where == "upper" else bare.prepare(base, [marked, LOWER])


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Beside the layers: what no lookup may reach."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_bytes(SECRET)
    (path / "in").write_bytes(SECRET)
    return path


ASTRAY = [b"", b".", b"..", b"/", b"//target", b"/target/", b"/target/..", b"/../outside", b"target/..", b"target/in",
          b"../outside", b"/./target", b"tar\0get"]  # fmt: skip
NOWHERE = [b"nowhere", b"/no/where", b"/f", b"f", b"/f/x", b"/sl", b"sl", b"near", b"/out", b"/out/secret",
           b"/sl/passwd", b"a" * 256, b"/" + b"a/" * 300 + b"b", b"/" + b"x" * 3000]  # fmt: skip


@pytest.mark.parametrize("value", ASTRAY)
@pytest.mark.parametrize("where", WHERE)
def test_a_redirect_that_could_lead_astray_is_an_error(tmp_path: Path, outside: Path, value: bytes, where: str) -> None:
    marked: Layer = {"d": Dir(xattrs={NAMESPACE + "redirect": value}), "good/x": ""}
    with bare.opened(marked_in(tmp_path, where, marked)) as union:
        with fails(errno.EINVAL):
            bare.find(union, "d")
        assert b"d" in bare.names(union), "the rest of the directory stays usable"
        assert bare.names(union, "good") == [b"x"]


@pytest.mark.parametrize("value", NOWHERE)
@pytest.mark.parametrize("where", WHERE)
def test_a_redirect_to_no_directory_merges_with_nothing(
    tmp_path: Path, outside: Path, value: bytes, where: str
) -> None:
    marked: Layer = {"d": Dir(redirect=value), "d/own": ""}
    with bare.opened(marked_in(tmp_path, where, marked)) as union:
        assert bare.names(union, "d") == [b"own"]


def test_redirects_in_a_ring_end(tmp_path: Path) -> None:
    ring: Layer = {"a": Dir(redirect="/b"), "b": Dir(redirect="/a"), "c": Dir(redirect="c"), "b/x": "", "a/y": ""}
    with bare.opened(bare.prepare(tmp_path, [ring, ring, ring], ring)) as union:
        for name in ("a", "b"):
            assert bare.names(union, name) == [b"x", b"y"]
        assert bare.names(union, "c") == []


def test_a_redirect_that_grows_in_every_layer(tmp_path: Path) -> None:
    """Each layer's redirect lengthens the path that the next one is asked for."""
    layers: list[Layer] = [{"d": Dir(redirect="/" + "/".join(["a"] * 30))}]
    layers += [{"/".join(["a"] * 30): Dir(redirect="/" + "/".join(["a"] * 30))}] * 20
    with bare.opened(bare.prepare(tmp_path, layers)) as union:
        assert bare.names(union, "d") == []


BYTES = [b"", b"\0", b"x", b"y" * 100, os.urandom(21), os.urandom(300), b"\xff" * 64]


def origin(kind: int, handle: bytes, length: int | None = None) -> bytes:
    size = 21 + len(handle) if length is None else length
    return struct.pack("<BBBBB16s", 0, 0xFB, size, 0, kind, bytes(16)) + handle


VALUES = {
    "origin": [*BYTES, origin(1, bytes(8)), origin(1, b"\xff" * 8), origin(0x81, b"\xff" * 12), origin(1, b"", 5)],
    "nlink": [*BYTES, b"U+999999999999999999999", b"L-5", b"U+", b"U-9999999", b"U" + b"9" * 3000, b"U+999999999",
              b"X+1", b"U+\xb2", b"L+4294967295"],
    "impure": BYTES, "opaque": BYTES, "uuid": BYTES, "protattr": BYTES, "upper": BYTES, "no such mark": BYTES,
    "whiteout": BYTES, "overlay.opaque": BYTES,
}  # fmt: skip


@pytest.mark.parametrize("mark", VALUES)
def test_marks_with_any_value_hide_nothing_and_break_nothing(tmp_path: Path, mark: str) -> None:
    """All kinds of object, in a lower and in upper, stay visible, with numbers that fit, and can be worked with."""
    layer: dict[str, object] = {}
    for at, value in enumerate(VALUES[mark]):
        xattrs = {NAMESPACE + mark: value}
        if mark != "whiteout":
            layer[f"dir{at}"] = Dir(xattrs=xattrs)
        layer[f"dir{at}/in"] = ""
        layer[f"file{at}"] = File("x", xattrs=xattrs)
        layer[f"one{at}"] = File("y", xattrs=xattrs)
        layer[f"two{at}"] = Link(f"one{at}")
        layer[f"link{at}"] = Symlink("x", xattrs=xattrs)
    upper = {f"u{name}": Link(f"u{entry.to.decode()}") if isinstance(entry, Link) else entry
             for name, entry in layer.items()}  # fmt: skip
    config = bare.prepare(tmp_path, [layer, layer], {"": Dir(xattrs={NAMESPACE + "impure": b"y"}), **upper})
    tops = {os.fsencode(name.split("/")[0]) for name in [*layer, *upper] if name}
    with bare.opened(config) as union:
        assert set(bare.names(union)) == tops
        for name in sorted(tops):
            node = bare.find(union, name)
            assert node is not None
            assert 0 < node.ino < 1 << 64
            assert 0 < union.nlink(node, union.stat(node)) < 1 << 32
            assert set(union.listxattr(node)) <= {b"trusted.overlay.opaque"}, "the escaped one alone is a user's"
            if not stat.S_ISLNK(node.kind):
                union.chmod(node, 0o755)
            union.rename(union.root, name, union.root, name + b"~")
        assert set(bare.names(union)) == {name + b"~" for name in tops}
    with bare.opened(config) as union:
        assert set(bare.names(union)) == {name + b"~" for name in tops}


@pytest.mark.parametrize("value", [b"", b"\0" * 40, os.urandom(300)])
@pytest.mark.parametrize("redirect", [None, *ASTRAY[1:], *NOWHERE])
def test_a_metacopy_without_its_data_reads_as_an_error(
    tmp_path: Path, outside: Path, value: bytes, redirect: bytes | None
) -> None:
    xattrs = {NAMESPACE + "metacopy": value}
    if redirect is not None:
        xattrs[NAMESPACE + "redirect"] = redirect
    lower: Layer = {name: entry for name, entry in LOWER.items() if name != "f"}
    config = bare.prepare(tmp_path, [lower], {"m": File("zero", xattrs=xattrs)})
    with bare.opened(config) as union, fails(errno.EIO, errno.EINVAL):
        bare.read(union, "m")


def test_garbage_in_the_index(tmp_path: Path) -> None:
    """Names that say nothing, and a directory under the very name that a lower hard link would have."""
    config = bare.prepare(tmp_path, [{"a": "linked", "b": Link("a"), "c": "alone"}])
    with bare.opened(config) as union:
        found = bare.find(union, "a")
        assert found is not None
        mark = union.origin_mark(union.layers[1].fd, b"a", 1)
        assert mark is not None
    index = tmp_path / "w/index"
    for name in ("garbage", "00", "\n", "0" * 250, "ff" * 20):
        (index / name).write_text("x")
    (index / mark.hex()).mkdir()
    with bare.opened(config) as union:
        for name in ("a", "b"):
            with fails(errno.EIO):
                bare.find(union, name)
        assert bare.read(union, "c") == b"alone"
        assert bare.names(union) == [b"a", b"b", b"c"]


def test_names_that_look_like_whiteouts_are_never_shown_from_a_lower(tmp_path: Path) -> None:
    lower: Layer = {
        "a/.wh.gone": "", "a/.wh.": "", "a/.wh..wh.aufs": "", "a/.wh..wh.plnk/x": "", "a/kept": "", "a/.wh.sub/x": "",
        "o/.wh..wh..opq": "", "o/own": "", "p/.wh..wh..opq/x": "", "p/own": "",
    }  # fmt: skip
    below: Layer = {"a/gone": "", "a/sub/x": "", "a/other": "", "o/below": "", "p/below": ""}
    with bare.opened(bare.prepare(tmp_path, [lower, below])) as union:
        assert bare.names(union, "a") == [b"kept", b"other"]
        for name in (b".wh.gone", b".wh.", b".wh..wh.aufs", b".wh..wh..opq", b"gone", b"sub"):
            assert union.lookup(bare.directory(union, "a"), name) is None
        assert bare.names(union, "o") == bare.names(union, "p") == [b"own"]


def test_whiteouts_marked_by_xattr_need_all_that_makes_them_one(tmp_path: Path) -> None:
    marked = {NAMESPACE + "whiteout": b"y"}
    lower: Layer = {
        "x": Dir(xattrs={NAMESPACE + "opaque": b"x"}),
        "x/gone": File("", xattrs=marked),
        "x/full": File("content", xattrs=marked),
        "x/plain": File(""),
        "y/file": File("", xattrs=marked),
    }
    below: Layer = {"x/gone": "", "x/full": "", "x/low": "", "y/file": "below"}
    with bare.opened(bare.prepare(tmp_path, [lower, below])) as union:
        assert bare.names(union, "x") == [b"full", b"low", b"plain"]
        assert bare.read(union, "x/full") == b"content"
        assert bare.read(union, "y/file") == b""


def test_devices_of_a_layer_are_not_opened_by_looking(tmp_path: Path) -> None:
    """A FIFO would block the daemon for good, a device would do what it does."""
    layer: Layer = {"fifo": Special(stat.S_IFIFO), "tape": Special(stat.S_IFCHR, os.makedev(9, 0))}
    with bare.opened(bare.prepare(tmp_path, [layer])) as union:
        for name in ("fifo", "tape"):
            node = bare.find(union, name)
            assert node is not None
            union.chmod(node, 0o600)
            union.rename(union.root, name.encode(), union.root, name.encode() + b"~")
            assert union.stat(node).st_rdev == (os.makedev(9, 0) if name == "tape" else 0)


def test_odd_names(tmp_path: Path) -> None:
    odd = [b"n" * 255, b"\xff" * 255, b"new\nline", b"\xff\xfe\x80", b" ", b"-rf", b"a\\b", "é".encode(), b"\x1b[2J"]
    layer: Layer = {os.fsdecode(b"d/" + name): "x" for name in odd}
    with bare.opened(bare.prepare(tmp_path, [layer, layer])) as union:
        assert bare.names(union, "d") == sorted(odd)
        directory = bare.directory(union, "d")
        for name in odd:
            assert bare.read(union, b"d/" + name) == b"x"
            union.unlink(directory, name)
        assert bare.names(union, "d") == []


def test_a_directory_replaced_by_a_symlink_while_it_is_looked_at(tmp_path: Path, outside: Path) -> None:
    """Somebody who may write to a lower swaps a directory for a symlink: lookups fail or see the directory."""
    (outside / ".wh..wh..opq").touch()
    config = bare.prepare(tmp_path, [{"top/d/in": "in"}, {"top/d/below": "below"}])
    victim, link = tmp_path / "l0/top/d", tmp_path / "l0/top/link"
    link.symlink_to(outside)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            kernel.renameat2(str(victim), str(link), kernel.RENAME_EXCHANGE)

    swapper = threading.Thread(target=swap)
    swapper.start()
    seen = set()
    try:
        for _ in range(40):
            with bare.opened(config) as union:
                for _ in range(15):
                    seen.add(_look(union))
    finally:
        done.set()
        swapper.join()
    assert SECRET not in seen
    assert b"in" in seen, "the directory itself was never met"


def _look(union: Union) -> bytes:
    """What reading top/d/in gives: content, or the name of the error; everything is forgotten afterwards."""
    top = bare.directory(union, "top")
    try:
        found = union.lookup(top, b"d")
        if found is None or not found[0].is_dir:
            return b"not a directory"
        names = bare.names(union, "top/d")
        assert set(names) <= {b"in", b"below"}, names
        return bare.read(union, "top/d/in") if b"in" in names else b"empty"
    except OSError as error:
        return errno.errorcode[error.errno or 0].encode()
    finally:
        for node in list(top.children.values()):
            if isinstance(node, type(top)):
                for child in list(node.children.values()):
                    union.forget(child)
            union.forget(node)
        union.forget(top)


def test_no_mark_is_looked_for_behind_a_symlink(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The swap at the worst moment: after the kind was found, before the opaque mark is asked for."""
    from unionfs.layer import verbs
    from unionfs.union import marks

    (outside / ".wh..wh..opq").touch()
    config = bare.prepare(tmp_path, [{"d/in": "in"}, {"d/below": "below"}])
    (tmp_path / "l0/link").symlink_to(outside)
    present = marks.present

    def swapping(fd: int, name: bytes, prefix: bytes) -> list[bytes]:
        if not (tmp_path / "l0/d").is_symlink():
            kernel.renameat2(str(tmp_path / "l0/d"), str(tmp_path / "l0/link"), kernel.RENAME_EXCHANGE)
        return present(fd, name, prefix)

    with bare.opened(config) as union:
        monkeypatch.setattr(marks, "present", swapping)
        node = bare.find(union, "d")
        assert node is not None
        assert verbs.exists(union.part_fd(node, 1), b"in")  # type: ignore[arg-type]
        assert bare.names(union, "d") == [b"below", b"in"]


def test_more_file_systems_than_a_byte_can_number(tmp_path: Path) -> None:
    """Layers may each be a mount of their own; inode numbers must still fit, and differ."""
    lowers = [tmp_path / f"m{at}" for at in range(270)]
    try:
        for at, path in enumerate(lowers):
            path.mkdir()
            kernel.mount("unionfs-test", str(path), "tmpfs", "size=64k")
            (path / f"f{at}").touch()
        union = Union(Config(lower=[os.fsencode(path) for path in lowers]))
        with union.lock:
            numbers = {found[0].ino for at in range(270) if (found := union.lookup(union.root, b"f%d" % at))}
            assert len(numbers) == 270
            assert max(numbers) < 1 << 64
        union.close()
    finally:
        for path in lowers:
            if os.path.ismount(path):
                kernel.umount(str(path))


def test_more_layers_than_there_is_room_for() -> None:
    with pytest.raises(ConfigError, match="5000 lower layers; at most 4095"):
        Union(Config(lower=[b"/proc/sys"] * 5000))
