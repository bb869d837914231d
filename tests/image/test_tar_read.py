"""The tar reader against archives that GNU tar and Python's tarfile write, and against damaged ones."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unionfs.image.errors import BadArchive, LimitExceeded
from unionfs.image.tar_entry import Entry, number, parse_pax
from unionfs.image.tar_read import MAX_META, TarReader


def read(data: bytes, chunk: int = 1 << 20) -> list[tuple[Entry, bytes]]:
    """Every entry with its stored data, from chunks of that size."""
    reader = TarReader(data[at : at + chunk] for at in range(0, len(data), chunk))
    return [(entry, b"".join(bytes(piece) for piece in reader.pieces())) for entry in reader]


def written(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Names and contents that need every extension."""
    root = tmp_path / "tree"
    deep = root / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    (deep / ("f" * 200)).write_bytes(b"deep" * 1000)
    (root / "ümlaut").write_text("u")
    (root / "link").symlink_to("x" * 150)
    (root / "plain").write_bytes(bytes(range(256)) * 5)
    (root / "empty").touch()
    os.link(root / "plain", root / "zhard")
    os.mkfifo(root / "fifo")
    with (root / "sparse").open("wb") as file:
        for offset in range(0, 40 << 16, 1 << 16):
            file.seek(offset)
            file.write(b"%d" % offset)
        file.truncate(100 << 16)
    os.utime(root / "plain", ns=(5, 1_234_567_890_123_456_789))
    os.utime(root / "empty", ns=(5, -1_500_000_000))
    os.setxattr(root / "empty", "user.binary", b"\x00\n=\xff")
    return root


SPARSE = ["--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"]
FORMATS = [["--format=gnu"], ["--format=pax"], *[["--format=pax", "-S", version] for version in SPARSE],
           ["--format=gnu", "-S"], ["--format=pax", "--xattrs", "--xattrs-include=*"]]


@pytest.mark.parametrize("options", FORMATS, ids=" ".join)
@pytest.mark.parametrize("chunk", [1 << 20, 700])
def test_reads_what_gnu_tar_writes(tree: Path, options: list[str], chunk: int) -> None:
    data = subprocess.run(["tar", *options, "-C", tree, "-c", "."], check=True, capture_output=True).stdout
    entries = {entry.name.rstrip(b"/"): (entry, content) for entry, content in read(data, chunk)}
    found = subprocess.run(["find", tree, "-printf", "./%P\\0"], check=True, capture_output=True).stdout
    assert set(entries) == {name.rstrip(b"/") for name in found.split(b"\0") if name}
    for name, (entry, content) in entries.items():
        compare(os.fsencode(tree) + name[1:], entry, content, exact="--format=pax" in options)
    if "--xattrs" in options:
        assert entries[b"./empty"][0].xattrs == {b"user.binary": b"\x00\n=\xff"}


def compare(path: bytes, entry: Entry, content: bytes, exact: bool) -> None:
    st_ = os.lstat(path)
    if entry.kind == b"1":
        assert os.path.basename(entry.linkname) in (b"plain", b"zhard")
        return
    assert entry.mode == st_.st_mode & 0o7777
    assert (entry.uid, entry.gid) == (st_.st_uid, st_.st_gid)
    assert entry.mtime == (st_.st_mtime_ns if exact else st_.st_mtime_ns // 10**9 * 10**9)
    if entry.kind == b"2":
        assert entry.linkname == os.readlink(path)
    if entry.kind == b"0":
        assert entry.size == st_.st_size
        assert expand(entry, content) == Path(os.fsdecode(path)).read_bytes()


def expand(entry: Entry, content: bytes) -> bytes:
    if entry.segments is None:
        return content
    whole = bytearray(entry.size)
    for offset, length in entry.segments:
        whole[offset : offset + length] = content[:length]
        content = content[length:]
    return bytes(whole)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_tarfile_writes(form: int) -> None:
    info = tarfile.TarInfo("a" * 60 + "/" + "b" * 90)
    info.uid = info.gid = 0o7777777 if form == tarfile.USTAR_FORMAT else 3_000_000_000
    info.mtime = 1_700_000_000
    [(entry, content)] = read(written((info, b"data"), form=form))
    assert (entry.name, entry.uid, entry.gid) == (info.name.encode(), info.uid, info.gid)
    assert (entry.mtime, content) == (1_700_000_000_000_000_000, b"data")


def test_global_headers_hold_for_all_that_follow() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", pax_headers={"uid": "77", "comment": "x"}) as tar:
        tar.addfile(tarfile.TarInfo("a"))
        tar.addfile(tarfile.TarInfo("b"))
    assert [(entry.name, entry.uid) for entry, _ in read(out.getvalue())] == [(b"a", 77), (b"b", 77)]


def test_libarchives_xattrs() -> None:
    info = tarfile.TarInfo("f")
    info.pax_headers = {"LIBARCHIVE.xattr.user.a%20b": "AAEC"}
    [(entry, _)] = read(written((info, b"")))
    assert entry.xattrs == {b"user.a b": b"\x00\x01\x02"}


@pytest.mark.parametrize(("field", "value"), [
    (b"0000644\0", 0o644), (b"   644 \0", 0o644), (b"\0" * 8, 0), (b"        ", 0),
    (b"\x80" + bytes(10) + b"\x05", 5), (b"\xff" * 12, -1), (b"\x80" + b"\0" * 3 + b"\1" + bytes(7), 1 << 56),
])  # fmt: skip
def test_numbers(field: bytes, value: int) -> None:
    assert number(field) == value


@pytest.mark.parametrize("field", [b"12345x7\0", b"9999999\0", b"-000001\0", b"0x00001\0"])
def test_bad_numbers(field: bytes) -> None:
    with pytest.raises(BadArchive):
        number(field)


@pytest.mark.parametrize("data", [
    b"x", b"5 a\n", b"99 path=x\n", b"0 a=b\n", b"6 a=bcd", b"-6 a=b\n", b"11 path=abcd", b"4 =\n x", b"6  a=b\n",
])  # fmt: skip
def test_bad_extended_headers(data: bytes) -> None:
    with pytest.raises(BadArchive):
        parse_pax(data)


def test_an_archive_cut_anywhere_is_an_error_or_ends_between_entries(tree: Path) -> None:
    data = subprocess.run(["tar", "--format=pax", "-S", "-C", tree, "-c", "."], check=True, capture_output=True).stdout
    whole = len(read(data))
    end = len(data.rstrip(b"\0"))
    for cut in range(0, end, 97):
        try:
            count = len(read(data[:cut]))
        except BadArchive:
            continue
        assert count < whole or cut >= end - 511


def test_a_flipped_bit_in_a_header_is_noticed() -> None:
    data = bytearray(written((tarfile.TarInfo("name"), b"x"), form=tarfile.USTAR_FORMAT))
    for at in range(345):
        data[at] ^= 1
        with pytest.raises(BadArchive):
            read(bytes(data))
        data[at] ^= 1
    assert len(read(bytes(data))) == 1


def test_an_endless_name_is_refused() -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type = tarfile.GNUTYPE_LONGNAME
    with pytest.raises(LimitExceeded):
        read(written((info, b"a" * (MAX_META + 1)), form=tarfile.GNU_FORMAT))


@pytest.mark.parametrize("records", [
    {"GNU.sparse.map": "0,5,3,5", "GNU.sparse.size": "20"},         # overlap
    {"GNU.sparse.map": "0,5,10,4", "GNU.sparse.size": "20"},        # less than is stored
    {"GNU.sparse.map": "0,5,10,5", "GNU.sparse.size": "12"},        # beyond the end
    {"GNU.sparse.map": "0,5,10,5"},                                 # no size
    {"GNU.sparse.map": "0,x", "GNU.sparse.size": "20"},
    {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "20"},    # no map in the data
])  # fmt: skip
def test_unsound_sparse_files_are_refused(records: dict[str, str]) -> None:
    info = tarfile.TarInfo("f")
    info.pax_headers = records
    with pytest.raises(BadArchive):
        read(written((info, b"0123456789")))


_SAMPLE = written(
    (tarfile.TarInfo("n" * 120), b"data" * 200), (tarfile.TarInfo("dir/x"), b"y"), form=tarfile.PAX_FORMAT
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(_SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_archives_raise_nothing_but_bad_archive(changes: list[tuple[int, int]]) -> None:
    data = bytearray(_SAMPLE)
    for at, value in changes:
        data[at] = value
    for header in range(0, len(data) - 511, 512):       # let the damage get past the checksum
        block = data[header : header + 512]
        if block[257:262] == b"ustar":
            total = sum(block[:148]) + 256 + sum(block[156:])
            data[header + 148 : header + 156] = b"%06o\0 " % total
    try:
        read(bytes(data), 1000)
    except BadArchive:
        pass
