"""Reading and writing in every way the system offers."""

from __future__ import annotations

import errno
import mmap
import os

import pytest

from tests.conftest import Mount
from tests.lib import kernel
from tests.lib.errors import fails
from tests.lib.layers import Dir, File


def test_append_mode_writes_at_the_end(mount: Mount) -> None:
    fs = mount({"f": "abc"})
    one = os.open(fs.path("f"), os.O_WRONLY | os.O_APPEND)
    two = os.open(fs.path("f"), os.O_WRONLY | os.O_APPEND)
    try:
        for i in range(10):
            os.write(one if i % 2 else two, b"%d" % i)
        os.lseek(one, 0, os.SEEK_SET)
        os.write(one, b"end")
    finally:
        os.close(one)
        os.close(two)
    assert fs.read("f") == b"abc0123456789end"


def test_positional_writes_leave_holes(mount: Mount) -> None:
    fs = mount({})
    fd = os.open(fs.path("f"), os.O_RDWR | os.O_CREAT)
    try:
        os.pwrite(fd, b"far", 1 << 20)
        assert os.fstat(fd).st_size == (1 << 20) + 3
        assert os.fstat(fd).st_blocks * 512 < 1 << 20
        assert os.pread(fd, 4, 1000) == b"\0" * 4
    finally:
        os.close(fd)


def test_vectors(mount: Mount) -> None:
    fs = mount({"f": "0123456789"})
    fd = os.open(fs.path("f"), os.O_RDWR)
    try:
        assert os.pwritev(fd, [b"ab", b"cd"], 2) == 4
        parts = [bytearray(3), bytearray(4)]
        assert os.preadv(fd, parts, 0) == 7
        assert b"".join(parts) == b"01abcd6"
    finally:
        os.close(fd)


def test_read_at_and_past_the_end(mount: Mount) -> None:
    fs = mount({"f": "abc", "empty": ""})
    fd = os.open(fs.path("f"), os.O_RDONLY)
    try:
        assert os.pread(fd, 100, 2) == b"c"
        assert os.pread(fd, 100, 3) == b""
        assert os.pread(fd, 100, 1 << 40) == b""
    finally:
        os.close(fd)
    assert fs.read("empty") == b""


def test_offsets_beyond_4_gib(mount: Mount) -> None:
    fs = mount({})
    fd = os.open(fs.path("f"), os.O_RDWR | os.O_CREAT)
    try:
        os.ftruncate(fd, 5 << 30)
        os.pwrite(fd, b"deep", (5 << 30) - 2)
        assert os.pread(fd, 10, (5 << 30) - 4) == b"\0\0deep"
        assert os.fstat(fd).st_size == (5 << 30) + 2
    finally:
        os.close(fd)


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_fallocate_modes(mount: Mount, where: str) -> None:
    fs = mount({"f": b"x" * 65536})
    if where == "upper":
        fs.write("f", b"x", 0)
    fd = os.open(fs.path("f"), os.O_RDWR)
    try:
        kernel.fallocate(fd, kernel.FALLOC_KEEP_SIZE, 65536, 65536)
        assert os.fstat(fd).st_size == 65536
        kernel.fallocate(fd, kernel.FALLOC_KEEP_SIZE | kernel.FALLOC_PUNCH_HOLE, 4096, 8192)
        assert os.pread(fd, 4, 4094) == b"xx\0\0"
        kernel.fallocate(fd, kernel.FALLOC_ZERO, 16384, 4096)
        assert os.pread(fd, 4096, 16384) == b"\0" * 4096
        kernel.fallocate(fd, 0, 0, 100_000)
        assert os.fstat(fd).st_size == 100_000
    finally:
        os.close(fd)
    fs.remount()
    assert fs.stat("f").st_size == 100_000


def test_fallocate_refusals(mount: Mount) -> None:
    fs = mount({"f": "x"})
    fd = os.open(fs.path("f"), os.O_RDONLY)
    try:
        with fails(errno.EBADF):
            kernel.fallocate(fd, 0, 0, 10)
    finally:
        os.close(fd)
    fd = os.open(fs.path("f"), os.O_WRONLY)
    try:
        with fails(errno.EOPNOTSUPP):
            kernel.fallocate(fd, kernel.FALLOC_PUNCH_HOLE, 0, 10)
        with fails(errno.EINVAL):
            kernel.fallocate(fd, 0, -1, 10)
    finally:
        os.close(fd)


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_seek_hole_and_data(mount: Mount, where: str) -> None:
    fs = mount({"f": File(b"d" * 4096, size=1 << 20)})
    if where == "upper":
        os.chmod(fs.path("f"), 0o600)
        fs.write("f", b"D", 0)
    fd = os.open(fs.path("f"), os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        hole = os.lseek(fd, 0, os.SEEK_HOLE)
        assert 4096 <= hole <= 1 << 20
        assert os.lseek(fd, 1 << 19, os.SEEK_HOLE) >= 1 << 19
        with fails(errno.ENXIO):
            os.lseek(fd, 1 << 20, os.SEEK_DATA)
        assert os.lseek(fd, 0, os.SEEK_END) == 1 << 20
        with fails(errno.EINVAL):
            os.lseek(fd, -1, os.SEEK_SET)
    finally:
        os.close(fd)


@pytest.mark.engines("plain", "overlay", "unionfs")
def test_seek_data_finds_the_exact_hole(mount: Mount) -> None:
    fs = mount({"f": File(b"d" * 4096, size=1 << 20)})
    fd = os.open(fs.path("f"), os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 4096
        with fails(errno.ENXIO):
            os.lseek(fd, 8192, os.SEEK_DATA)
    finally:
        os.close(fd)


@pytest.mark.parametrize("target", ["new", "lower"])
def test_copy_file_range(mount: Mount, target: str) -> None:
    content = os.urandom(300_000)
    fs = mount({"src": content, "lower": b"." * 400_000})
    source = os.open(fs.path("src"), os.O_RDONLY)
    sink = os.open(fs.path(target), os.O_RDWR | os.O_CREAT)
    try:
        done = 0
        while done < 200_000:
            done += os.copy_file_range(source, sink, 200_000 - done, 1000 + done, 50 + done)
        assert os.pread(sink, 200_000, 50) == content[1000:201_000]
    finally:
        os.close(source)
        os.close(sink)
    fs.assert_not_copied_up("src")


def test_copy_file_range_within_a_file(mount: Mount) -> None:
    fs = mount({"f": b"abcdefgh" + b"." * 5000})
    fd = os.open(fs.path("f"), os.O_RDWR)
    try:
        assert os.copy_file_range(fd, fd, 8, 0, 4000) == 8
        assert os.pread(fd, 8, 4000) == b"abcdefgh"
    finally:
        os.close(fd)


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_direct_io(mount: Mount, where: str) -> None:
    fs = mount({"f": b"0123456789abcdef" * 512})
    if where == "upper":
        os.chmod(fs.path("f"), 0o600)
    fd = os.open(fs.path("f"), os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    try:
        assert os.preadv(fd, [page], 4096) == 4096
        assert page[:16] == b"0123456789abcdef"
        page[:] = b"D" * 4096
        assert os.pwritev(fd, [page], 0) == 4096
    finally:
        page.close()
        os.close(fd)
    assert fs.read("f") == b"D" * 4096 + b"0123456789abcdef" * 256


def test_synced_writing(mount: Mount) -> None:
    fs = mount({"f": "x"})
    fd = os.open(fs.path("f"), os.O_WRONLY | os.O_SYNC | os.O_APPEND)
    try:
        os.write(fd, b"y")
        os.fdatasync(fd)
        os.fsync(fd)
    finally:
        os.close(fd)
    directory = os.open(fs.mnt, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    assert fs.read("f") == b"xy"


def test_sync_of_a_lower_file_changes_nothing(mount: Mount) -> None:
    fs = mount({"f": "x", "d": Dir()})
    for name in ("f", "d"):
        fd = os.open(fs.path(name), os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
    fs.assert_not_copied_up("f", "d")


def test_sendfile(mount: Mount) -> None:
    content = os.urandom(100_000)
    fs = mount({"f": content})
    with open(fs.path("f"), "rb") as source, open(fs.path("g"), "wb") as sink:
        done = 0
        while done < len(content):
            done += os.sendfile(sink.fileno(), source.fileno(), done, len(content))
    assert fs.read("g") == content


def test_splice_to_a_pipe(mount: Mount) -> None:
    fs = mount({"f": b"s" * 5000})
    reader, writer = os.pipe()
    with open(fs.path("f"), "rb") as source:
        assert os.splice(source.fileno(), writer, 5000) == 5000
    assert os.read(reader, 6000) == b"s" * 5000
    os.close(reader)
    os.close(writer)


def test_open_flags(mount: Mount) -> None:
    fs = mount({"f": "x", "d": Dir()})
    with fails(errno.EEXIST):
        os.open(fs.path("f"), os.O_CREAT | os.O_EXCL)
    with fails(errno.ENOTDIR):
        os.open(fs.path("f"), os.O_DIRECTORY)
    with fails(errno.EISDIR):
        os.open(fs.path("d"), os.O_WRONLY)
    with fails(errno.ENOENT):
        os.open(fs.path("none"), os.O_RDONLY)
    os.symlink("f", fs.path("l"))
    with fails(errno.ELOOP):
        os.open(fs.path("l"), os.O_RDONLY | os.O_NOFOLLOW)
    os.symlink("loop", fs.path("loop"))
    with fails(errno.ELOOP):
        os.stat(fs.path("loop"))


def test_noatime_and_truncating_read_only(mount: Mount) -> None:
    fs = mount({"f": "x"})
    os.close(os.open(fs.path("f"), os.O_RDONLY | os.O_NOATIME))
    fs.assert_not_copied_up("f")


def test_truncate_errors(mount: Mount) -> None:
    fs = mount({"d": Dir(), "f": "x"})
    with fails(errno.EISDIR):
        os.truncate(fs.path("d"), 0)
    with fails(errno.EINVAL):
        os.truncate(fs.path("f"), -1)


def test_file_as_directory(mount: Mount) -> None:
    fs = mount({"f": "x"})
    for call in (os.stat, os.listdir, os.mkdir):
        with fails(errno.ENOTDIR):
            call(fs.path("f/x"))


def test_big_writes_and_reads(mount: Mount) -> None:
    content = os.urandom(1 << 20) * 8
    fs = mount({})
    with open(fs.path("big"), "wb", buffering=0) as file:
        assert file.write(content) == len(content)
    assert fs.read("big") == content
    fs.remount()
    assert fs.read("big") == content


def test_truncated_by_one_written_by_another(mount: Mount) -> None:
    fs = mount({"f": b"x" * 10000})
    one = os.open(fs.path("f"), os.O_RDWR)
    two = os.open(fs.path("f"), os.O_RDWR)
    try:
        os.ftruncate(one, 100)
        assert os.pread(two, 10, 95) == b"x" * 5
        os.pwrite(two, b"y", 200)
        assert os.pread(one, 10, 195) == b"\0" * 5 + b"y"
    finally:
        os.close(one)
        os.close(two)


def test_mtime_moves_when_written(mount: Mount) -> None:
    fs = mount({"f": File("x", mtime=1000)})
    fs.append("f", b"y")
    assert fs.stat("f").st_mtime > 1_000_000_000
    assert fs.stat("f").st_size == 2


def test_writing_moves_mtime_seen_through_another_name(mount: Mount) -> None:
    fs = mount({"f": File("x", mtime=1000)})
    fd = os.open(fs.path("f"), os.O_WRONLY)
    try:
        first = os.fstat(fd).st_mtime_ns
        os.pwrite(fd, b"longer", 0)
        st = fs.stat("f")
        assert st.st_mtime_ns > first
        assert st.st_size == 6
    finally:
        os.close(fd)
