"""Descriptors and mappings that are held across a copy-up."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import stat
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.lib.asuser import in_child
from tests.lib.errors import fails
from tests.lib.layers import File, Special


def test_held_reader_sees_what_another_writes(mount: Mount) -> None:
    """The write lands in upper, the old descriptor reads it, the lower stays (which every test checks)."""
    fs = mount({"f": "old content"})
    reader = os.open(fs.path("f"), os.O_RDONLY)
    try:
        assert os.pread(reader, 20, 0) == b"old content"
        writer = os.open(fs.path("f"), os.O_WRONLY)
        os.pwrite(writer, b"NEW", 0)
        assert os.pread(reader, 20, 0) == b"NEW content"
        os.close(writer)
        assert os.pread(reader, 20, 0) == b"NEW content"
        assert fs.read("f") == b"NEW content"
        assert os.fstat(reader).st_size == 11
    finally:
        os.close(reader)
    fs.assert_copied_up("f")
    if fs.engine != "plain":
        assert Path(fs.upper, "f").read_bytes() == b"NEW content"


def test_held_reader_reopened_for_writing(mount: Mount) -> None:
    fs = mount({"f": "old content"})
    reader = os.open(fs.path("f"), os.O_RDONLY)
    try:
        writer = os.open(f"/proc/self/fd/{reader}", os.O_RDWR)
        os.pwrite(writer, b"NEW", 0)
        os.close(writer)
        assert os.pread(reader, 20, 0) == b"NEW content"
    finally:
        os.close(reader)
    assert fs.read("f") == b"NEW content"
    fs.assert_copied_up("f")


def test_held_reader_sees_growth_and_truncation(mount: Mount) -> None:
    """tail -f."""
    fs = mount({"log": "line 1\n"})
    with open(fs.path("log"), "rb", buffering=0) as tail:
        assert tail.read(100) == b"line 1\n"
        fs.append("log", b"line 2\n")
        assert tail.read(100) == b"line 2\n"
        assert tail.read(100) == b""
        os.truncate(fs.path("log"), 0)
        assert os.fstat(tail.fileno()).st_size == 0
        tail.seek(0)
        assert tail.read(100) == b""


def test_many_held_readers_and_writers(mount: Mount) -> None:
    fs = mount({"f": b"0" * 100})
    held = [os.open(fs.path("f"), os.O_RDONLY) for _ in range(10)]
    writers = [os.open(fs.path("f"), os.O_RDWR) for _ in range(10)]
    try:
        for i, fd in enumerate(writers):
            os.pwrite(fd, b"%d" % i, i)
        for fd in held + writers:
            assert os.pread(fd, 12, 0) == b"012345678900"
    finally:
        for fd in held + writers:
            os.close(fd)


def test_held_reader_keeps_its_position(mount: Mount) -> None:
    fs = mount({"f": "0123456789"})
    fd = os.open(fs.path("f"), os.O_RDONLY)
    try:
        os.lseek(fd, 4, os.SEEK_SET)
        os.chmod(fs.path("f"), 0o600)
        assert os.read(fd, 3) == b"456"
        fs.append("f", b"end")
        assert os.read(fd, 20) == b"789end"
    finally:
        os.close(fd)


def test_reading_through_a_writing_descriptor(mount: Mount) -> None:
    fs = mount({"f": "abc"})
    fd = os.open(fs.path("f"), os.O_WRONLY)
    try:
        with fails(errno.EBADF):
            os.read(fd, 1)
    finally:
        os.close(fd)


def test_same_inode_before_and_after(mount: Mount) -> None:
    fs = mount({"f": "abc"})
    fd = os.open(fs.path("f"), os.O_RDONLY)
    try:
        before = os.fstat(fd)
        fs.append("f", b"d")
        after = os.fstat(fd)
        assert (after.st_ino, after.st_dev) == (before.st_ino, before.st_dev)
        assert fs.stat("f").st_ino == before.st_ino
    finally:
        os.close(fd)


def test_shared_mapping_writes_the_file(mount: Mount) -> None:
    fs = mount({"f": b"." * 10000})
    fd = os.open(fs.path("f"), os.O_RDWR)
    with mmap.mmap(fd, 0) as view:
        view[5000:5005] = b"HELLO"
        view.flush()
        assert os.pread(fd, 5, 5000) == b"HELLO"
        os.pwrite(fd, b"back", 100)
        assert view[100:104] == b"back"
        view[0:1] = b"X"
    os.close(fd)
    assert fs.read("f")[:1] == b"X"
    fs.remount()
    content = fs.read("f")
    assert (content[:1], content[5000:5005], content[100:104]) == (b"X", b"HELLO", b"back")


def test_shared_mapping_of_a_new_file(mount: Mount) -> None:
    fs = mount({})
    fd = os.open(fs.path("new"), os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(fd, 1 << 20)
    with mmap.mmap(fd, 0) as view:
        for at in range(0, 1 << 20, 4096):
            view[at] = at >> 12 & 255
    os.close(fd)
    fs.remount()
    content = fs.read("new")
    assert [content[at] for at in range(0, 1 << 20, 4096)] == [i & 255 for i in range(256)]


def test_private_mapping_changes_nothing(mount: Mount) -> None:
    fs = mount({"f": b"." * 5000})
    fd = os.open(fs.path("f"), os.O_RDONLY)
    with mmap.mmap(fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as view:
        view[0:3] = b"abc"
        assert view[0:4] == b"abc."
    os.close(fd)
    assert fs.read("f") == b"." * 5000
    fs.assert_not_copied_up("f")


def test_read_mapping_of_a_lower_file(mount: Mount) -> None:
    fs = mount({"f": bytes(range(256)) * 64})
    with open(fs.path("f"), "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[:] == bytes(range(256)) * 64
    fs.assert_not_copied_up("f")


def test_mapping_outlives_its_descriptor_and_its_name(mount: Mount) -> None:
    fs = mount({"f": b"x" * 8192})
    fd = os.open(fs.path("f"), os.O_RDWR)
    with mmap.mmap(fd, 0) as view:
        os.close(fd)
        os.unlink(fs.path("f"))
        view[0:1] = b"y"
        view.flush()
        assert view[0:2] == b"yx"


def test_a_program_runs_and_is_busy(mount: Mount) -> None:
    """A lower program can be run; on upper a running one cannot be written (ETXTBSY)."""
    fs = mount({"sleep": File(Path("/bin/sleep").read_bytes(), mode=0o755)})
    pid = os.posix_spawn(fs.path("sleep"), ["sleep", "60"], {})
    try:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        fs.assert_not_copied_up("sleep")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_flock_excludes_another_process(mount: Mount) -> None:
    fs = mount({"f": "x"})
    with open(fs.path("f"), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def other() -> None:
            with open(fs.path("f"), "rb") as mine:
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)

        with fails(errno.EWOULDBLOCK):
            in_child(other)


def test_posix_lock_ranges(mount: Mount) -> None:
    fs = mount({"f": "0123456789"})
    with open(fs.path("f"), "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 5, 0)

        def lock(start: int) -> None:
            with open(fs.path("f"), "r+b") as mine:
                fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, start)

        in_child(lambda: lock(5))
        with fails(errno.EAGAIN, errno.EACCES):
            in_child(lambda: lock(2))


def test_a_lock_survives_the_copy_up(mount: Mount) -> None:
    fs = mount({"f": "x"})
    with open(fs.path("f"), "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fs.append("f", b"y")

        def other() -> None:
            with open(fs.path("f"), "r+b") as mine:
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)

        with fails(errno.EWOULDBLOCK):
            in_child(other)


def test_unlinked_fifo_still_answers(mount: Mount) -> None:
    fs = mount({"p": Special(stat.S_IFIFO, mode=0o640), "g": ""})
    reader = os.open(fs.path("p"), os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.unlink(fs.path("p"))
        os.fchmod(reader, 0o600)
        assert os.fstat(reader).st_mode == stat.S_IFIFO | 0o600
        assert fs.ls() == ["g"]
    finally:
        os.close(reader)


def test_an_old_descriptor_when_the_pages_are_gone(mount: Mount) -> None:
    """What was read before the copy-up may no longer be in memory; then it has to come from the copy."""
    fs = mount({"f": b"old " * 5000})
    reader = os.open(fs.path("f"), os.O_RDONLY)
    try:
        assert os.pread(reader, 4, 8192) == b"old "
        fs.write("f", b"new " * 5000, 0)
        os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(reader, 4, 8192) == b"new "
        assert os.pread(reader, 20001, 0) == b"new " * 5000
    finally:
        os.close(reader)


@pytest.mark.parametrize("how", ["map", "clear the flag"])
def test_writing_elsewhere_through_a_descriptor_for_appending(mount: Mount, how: str) -> None:
    """Also while somebody reads it since before the copy-up, so that all goes through the daemon."""
    fs = mount({"f": b"." * 5000})
    reader = os.open(fs.path("f"), os.O_RDONLY)
    fd = os.open(fs.path("f"), os.O_RDWR | os.O_APPEND)
    try:
        os.write(fd, b"end")
        if how == "map":
            with mmap.mmap(fd, 5000) as view:
                view[:5] = b"start"
                view.flush()
        else:
            fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR)
            os.pwrite(fd, b"start", 0)
        os.fsync(fd)
        os.posix_fadvise(reader, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(reader, 9000, 0) == b"start" + b"." * 4995 + b"end"
    finally:
        os.close(fd)
        os.close(reader)
    assert fs.read("f") == b"start" + b"." * 4995 + b"end"
