"""Layers by OCI's rules: whiteouts, opaque directories, what a layer leaves to those below it, every attribute."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.image import programs
from tests.image.test_hostile import archive, directory, file, hardlink, member, symlink, unpack
from tests.lib import tree
from tests.lib.asuser import as_user
from unionfs.image.codec import Feed
from unionfs.image.errors import BadArchive
from unionfs.image.pack import Packer
from unionfs.image.tar_read import TarReader
from unionfs.image.tar_write import TarWriter

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted xattrs need root")
OPAQUE = "trusted.overlay.opaque" if os.geteuid() == 0 else "user.overlay.opaque"


def is_whiteout(path: Path) -> bool:
    st = path.lstat()
    return stat.S_ISCHR(st.st_mode) and st.st_rdev == 0


def is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, OPAQUE) == b"y"
    except OSError:
        return False


def test_whiteouts_become_overlays(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    unpack(archive(directory("d"), file("d/.wh.gone"), directory("o"), file("o/.wh..wh..opq"), file("o/new")), layer)
    assert is_whiteout(layer / "d/gone")
    assert is_opaque(layer / "o")
    assert not is_opaque(layer / "d")
    assert sorted(os.listdir(layer / "o")) == ["new"]


@pytest.mark.parametrize("first", [True, False], ids=["whiteout first", "whiteout last"])
def test_a_whiteout_beside_an_object_of_its_name(tmp_path: Path, first: bool) -> None:
    """It speaks of the layers below: the object stays, and a directory hides what it would have merged with."""
    layer = tmp_path / "layer"
    whiteouts = [file(".wh.f"), file(".wh.d"), file(".wh.s"), file(".wh.i"), file(".wh.h")]
    objects = [file("f"), directory("d"), file("d/x"), symlink("s", "f"), file("i/x"), hardlink("h", "f")]
    unpack(archive(*(whiteouts + objects if first else objects + whiteouts)), layer)
    assert (layer / "f").read_bytes() == b"evil"
    assert os.readlink(layer / "s") == "f"
    assert os.path.samefile(layer / "h", layer / "f")
    assert is_opaque(layer / "d")
    assert is_opaque(layer / "i")
    assert sorted(os.listdir(layer)) == ["d", "f", "h", "i", "s"]


def test_aufs_own_files_are_left_out(tmp_path: Path) -> None:
    unpacker = unpack(archive(directory(".wh..wh.plnk"), file(".wh..wh.plnk/1.2"), file(".wh..wh.aufs"), file("f")),
                      tmp_path / "layer")
    assert os.listdir(tmp_path / "layer") == ["f"]
    assert unpacker.notes.seen == {"AUFS's own files are left out": (3, b".wh..wh.plnk/")}


def test_unlisted_directories_keep_what_they_have_below(tmp_path: Path) -> None:
    lower = tmp_path / "lower"
    info, _ = directory("a/b")
    info.mode, info.mtime, info.uid = 0o1750, 1_000_000, 7 if os.geteuid() == 0 else 0
    info.pax_headers = {"SCHILY.xattr.user.note": "kept"}
    root, _ = directory("./")
    root.mode, root.mtime = 0o711, 2_000_000
    unpack(archive((root, b""), directory("a"), (info, b"")), lower)
    layer = tmp_path / "layer"
    unpack(archive(file("a/b/c/new")), layer, lowers=[lower])
    for path in ("", "a", "a/b"):
        mine, below = (layer / path).stat(), (lower / path).stat()
        assert (mine.st_mode, mine.st_uid, mine.st_mtime_ns) == (below.st_mode, below.st_uid, below.st_mtime_ns), path
    assert os.getxattr(layer / "a/b", "user.note") == b"kept"
    assert stat.S_IMODE((layer / "a/b/c").stat().st_mode) == 0o755


def test_a_hard_link_to_a_file_below_brings_it_up(tmp_path: Path) -> None:
    lower, layer = tmp_path / "lower", tmp_path / "layer"
    unpack(archive(directory("d"), file("d/f", b"content")), lower)
    os.utime(lower / "d/f", ns=(1, 123_456_789))
    unpack(archive(hardlink("e/link", "d/f")), layer, lowers=[lower])
    assert (layer / "e/link").read_bytes() == b"content"
    assert os.path.samefile(layer / "e/link", layer / "d/f")
    assert (layer / "d/f").stat().st_mtime_ns == 123_456_789
    assert (lower / "d/f").stat().st_nlink == 1


def test_directories_have_their_times_although_filled_later(tmp_path: Path) -> None:
    info, _ = directory("d")
    info.mtime = 5
    unpack(archive((info, b""), file("d/a"), file("d/e/f"), file("d/b")), tmp_path / "layer")
    assert (tmp_path / "layer/d").stat().st_mtime == 5


def test_many_directories_in_any_order(tmp_path: Path) -> None:
    """More than are kept open at once, each come back to."""
    names = [f"d{n % 300}/e{n % 7}/f{n}" for n in range(3000)]
    unpack(archive(*[file(name, name.encode()) for name in names]), tmp_path / "layer")
    for name in names[::97]:
        assert (tmp_path / "layer" / name).read_text() == name


def test_names_spelled_in_other_ways(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    unpack(archive(file("./a//b/./c"), file("a/b/d"), directory("a/b//"), hardlink("./e", ".//a/b/c")), layer)
    assert sorted(os.listdir(layer / "a/b")) == ["c", "d"]
    assert os.path.samefile(layer / "e", layer / "a/b/c")


@pytest.fixture
def rich(tmp_path: Path) -> Path:
    """A tree with one of everything that a layer can hold."""
    root = tmp_path / "rich"
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/file").write_bytes(os.urandom(3_000_000))
    (root / "dir/empty").touch()
    (root / ("n" * 255)).write_text("long")
    (root / "dir/sub" / ("p" * 200)).symlink_to("t" * 500)
    os.link(root / "dir/file", root / "dir/sub/hard")
    os.mkfifo(root / "fifo", 0o640)
    Path(os.fsdecode(os.fsencode(root) + b"/\xff\xfe name\n")).write_text("not UTF-8")
    with (root / "sparse").open("wb") as holes:
        holes.seek(5 << 20)
        holes.write(b"data")
        holes.truncate(9 << 20)
    (root / "suid").write_text("s")
    if os.geteuid() == 0:
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "loop", stat.S_IFBLK | 0o660, os.makedev(7, 0))
        os.chown(root / "suid", 12, 3_000_000_000)
        os.chown(root / "dir/sub" / ("p" * 200), 13, 14, follow_symlinks=False)
        os.setxattr(root / "dir/file", "trusted.note", b"\0\n=\xff")
        os.setxattr(root / "suid", "security.capability", bytes.fromhex("0100000202000000000000000000000000000000"))
    os.chmod(root / "suid", 0o6755)
    os.setxattr(root / "dir/sub", "user.colour", b"")
    os.chmod(root / "dir", 0o1775)
    os.utime(root / "suid", ns=(1, -1_000_000_001))
    os.utime(root / "fifo", ns=(1, 2**33 * 10**9 + 1))
    os.utime(root / "dir/sub" / ("p" * 200), ns=(3, 4), follow_symlinks=False)
    os.utime(root / "dir", ns=(5, 1_111_111_111_111_111_111))
    return root


@needs_root
def test_unpacks_as_gnu_tar_does(rich: Path, tmp_path: Path) -> None:
    command = ["tar", "--format=pax", "-S", "--xattrs", "--xattrs-include=*", "--acls", "-C", str(rich), "-c", "."]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    unpack(data, tmp_path / "layer")
    tree.assert_same(tree.snapshot(str(rich)), tree.snapshot(str(tmp_path / "layer")))
    assert (tmp_path / "layer/sparse").stat().st_blocks == (rich / "sparse").stat().st_blocks


def packed(root: Path, **options: bool) -> bytes:
    parts: list[bytes] = []
    Packer(TarWriter(lambda data: parts.append(bytes(data))), **options).pack(str(root))
    return b"".join(parts)


@needs_root
def test_packing_and_unpacking_changes_nothing(rich: Path, tmp_path: Path) -> None:
    (rich / "dir/opaque").mkdir()
    os.setxattr(rich / "dir/opaque", OPAQUE, b"y")
    os.mknod(rich / "dir/gone", stat.S_IFCHR, 0)
    os.utime(rich / "dir", ns=(5, 6))
    data = packed(rich)
    unpack(data, tmp_path / "layer")
    before, after = tree.snapshot(str(rich)), tree.snapshot(str(tmp_path / "layer"))
    before[b"dir/gone"].pop("mtime"), after[b"dir/gone"].pop("mtime")     # a whiteout's means nothing
    tree.assert_same(before, after)
    assert is_whiteout(tmp_path / "layer/dir/gone")
    assert is_opaque(tmp_path / "layer/dir/opaque")
    assert packed(tmp_path / "layer") == data


@needs_root
def test_gnu_tar_reads_what_is_packed(rich: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    command = ["tar", "--xattrs", "--xattrs-include=*", "-C", str(target), "-x"]
    said = subprocess.run(command, input=packed(rich), check=True, capture_output=True)
    assert [line for line in said.stderr.splitlines() if b"time stamp" not in line] == []
    tree.assert_same(tree.snapshot(str(rich)), tree.snapshot(str(target)))


def test_an_ordinary_user_keeps_owners_in_an_xattr(rich: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else and to have owners to keep")
    command = ["tar", "--format=pax", "-S", "--xattrs", "--xattrs-include=*", "-C", str(rich), "-c", "."]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    place = Path(f"/var/tmp/unionfs-test-{os.getpid()}")
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    try:
        notes = as_user(lambda: unpack(data, place / "layer").notes.seen)
        facts = os.getxattr(place / "layer/suid", "user.containers.override_stat")
        assert facts == b"12:3000000000:6755:file"
        assert os.getxattr(place / "layer/null", "user.containers.override_stat") == b"0:0:0644:char-1-3"
        assert os.getxattr(place / "layer/dir", "user.containers.override_stat") == b"0:0:1775:dir"
        assert stat.S_IMODE((place / "layer/suid").stat().st_mode) == 0o755     # no setuid of this user's own
        assert sorted(notes) == ["xattr trusted.note cannot be kept (Operation not permitted)"]
        again = as_user(lambda: packed(place / "layer", rootless=True))
        unpack(again, tmp_path / "layer")
    finally:
        programs.run("rm", "-rf", place)
    # symlinks cannot have such an xattr, and trusted ones are for root alone
    for snapshot in (one := tree.snapshot(str(rich)), two := tree.snapshot(str(tmp_path / "layer"))):
        for facts_of in snapshot.values():
            if facts_of["type"] == "symlink":
                facts_of.pop("owner")
            facts_of["xattrs"].pop("trusted.note", None)  # type: ignore[attr-defined]
    tree.assert_same(one, two)


@needs_root
def test_devices_are_left_out_where_they_are_not_permitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.mknod

    def mknod(path: bytes, mode: int = 0o600, device: int = 0, *, dir_fd: int | None = None) -> None:
        if device:
            raise PermissionError(1, "Operation not permitted")
        real(path, mode, device, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mknod", mknod)
    info, data = member("null", b"3")
    info.devmajor, info.devminor = 1, 3
    unpacker = unpack(archive((info, data), file("f")), tmp_path / "layer")
    assert os.listdir(tmp_path / "layer") == ["f"]
    assert list(unpacker.notes.seen.values()) == [(1, b"null")]


def test_whiteouts_where_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mknod(*_args: object, **_more: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mknod", mknod)
    unpack(archive(directory("d"), file("d/.wh.gone")), tmp_path / "layer")
    namespace = OPAQUE.removesuffix("opaque")
    assert os.getxattr(tmp_path / "layer/d/gone", namespace + "whiteout") == b"y"
    assert os.getxattr(tmp_path / "layer/d", namespace + "opaque") == b"x"


@pytest.mark.parametrize("compress", [["gzip"], ["zstd"], ["xz"], ["bzip2"], ["gzip", "twice"], ["zstd", "twice"]],
                         ids=" ".join)
def test_compressions(compress: list[str]) -> None:
    programs.need(compress[0])
    if compress[0] == "zstd":
        pytest.importorskip("zstandard", reason="needs the extra `zstd`")
    data = os.urandom(300_000) + bytes(3_000_000)
    whole = subprocess.run([compress[0], "-c"], input=data, capture_output=True, check=True).stdout
    whole, expected = (whole * 2, data * 2) if "twice" in compress else (whole, data)
    with Feed(iter([whole[:100], whole[100:]])) as feed:
        assert b"".join(feed) == expected
    if compress[0] == "zstd":
        return      # its end can be missed; the digest tells
    with pytest.raises(BadArchive, match=r"damaged|too early"), Feed(iter([whole[: len(whole) // 3]])) as feed:
        list(feed)


def test_a_missing_zstandard_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from unionfs.image.errors import ImageError

    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImageError, match=r"pip install 'unionfs\[zstd\]'"), \
            Feed(iter([b"\x28\xb5\x2f\xfd" + bytes(20)])) as feed:
        list(feed)


def test_memory_does_not_grow_with_the_layer(tmp_path: Path) -> None:
    import tracemalloc

    big = file("big", bytes(64 << 20))
    data = archive(big)
    tracemalloc.start()
    try:
        with Feed(data[at : at + (1 << 20)] for at in range(0, len(data), 1 << 20)) as feed:
            reader = TarReader(feed)
            for _entry in reader:
                for _piece in reader.pieces():
                    pass
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
