"""Sessions on real mounts, over a fake core: beginning and end, and what only the kernel can show."""

from __future__ import annotations

import mmap
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from errno import ENOTCONN, EROFS
from pathlib import Path

import pytest

from tests.lib.asuser import as_user
from tests.lib.engines import wait_until
from tests.server.fake import FakeFile, FakeNode, FakeUnion
from tests.server.served import Served
from unionfs.device.readahead import READAHEAD
from unionfs.server import Options, Session

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")


@pytest.fixture
def source(base: Path) -> Path:
    (base / "source").mkdir()
    (base / "target").mkdir()
    (base / "source" / "file").write_bytes(b"content")
    (base / "source" / "low").write_bytes(b"content")
    return base / "source"


@pytest.fixture
def served(source: Path) -> Iterator[Served]:
    with Served(source, source.parent / "target", allow_other=True) as served:
        yield served


# --- beginning and end ----------------------------------------------------------------------------------------


def test_the_mount_table_shows_type_and_source(source: Path) -> None:
    with Served(source, source.parent / "target", source=b"a source") as served, open("/proc/mounts") as mounts:
        line = next(line for line in mounts if str(served.target) in line)
    assert line.startswith(f"a\\040source {served.target} fuse.unionfs rw,")
    assert "default_permissions" in line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(source: Path, number: signal.Signals) -> None:
    with Served(source, source.parent / "target") as served:
        os.kill(served.pid, number)
        assert served.ended() == 0
        assert not served.mounted


def test_an_unmount_from_outside_ends_it(served: Served) -> None:
    os.sync()
    assert os.spawnlp(os.P_WAIT, "umount", "umount", str(served.target)) == 0
    assert served.ended() == 0


def test_a_busy_mount_is_detached_and_served_until_it_is_free(served: Served) -> None:
    with (served.target / "low").open("rb", buffering=0) as file:
        os.kill(served.pid, signal.SIGTERM)
        wait_until(lambda: not served.mounted, "the mount to be detached")
        assert file.read() == b"content"
    assert served.ended() == 0


def test_a_second_signal_ends_it_at_once(source: Path, served: Served) -> None:
    os.truncate(source / "low", 1 << 20)  # more than comes with the open
    fd = os.open(served.target / "low", os.O_RDONLY)
    os.kill(served.pid, signal.SIGTERM)
    wait_until(lambda: not served.mounted, "the mount to be detached")
    os.kill(served.pid, signal.SIGTERM)
    assert served.ended() == 0
    with pytest.raises(OSError, match="not connected") as caught:
        os.read(fd, 1)
    assert caught.value.errno == ENOTCONN
    with pytest.raises(OSError, match="not connected"):
        os.close(fd)


def test_nobody_is_waiting_for_ready(source: Path) -> None:
    """As when the command that started the daemon was killed: the mount is given up."""

    def broken(_session: Session) -> None:
        raise BrokenPipeError

    served = Served(source, source.parent / "target", ready=broken)
    assert not served.started
    assert served.ended() == 0
    assert not served.mounted


def test_sigusr1_tells_the_counters(served: Served) -> None:
    (served.target / "file").stat()
    os.kill(served.pid, signal.SIGUSR1)
    wait_until(lambda: "LOOKUP=1" in served.log, "the counters")
    assert (served.target / "file").exists()


def test_many_writes_ask_for_capabilities_once(served: Served) -> None:
    """As long as FUSE_HANDLE_KILLPRIV_V2 is agreed on; without it the kernel asks before each."""
    with (served.target / "file").open("r+b", buffering=0) as file:
        for _ in range(100):
            file.write(b"x")
    os.kill(served.pid, signal.SIGUSR1)
    wait_until(lambda: "GETXATTR=" in served.log, "the counters")
    assert "GETXATTR=1 " in served.log


def test_an_idle_session_uses_no_processor_time(served: Served) -> None:
    def used() -> int:
        fields = Path(f"/proc/{served.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def switches() -> int:
        return int(Path(f"/proc/{served.pid}/status").read_text().split("\nvoluntary_ctxt_switches:")[1].split()[0])

    for i in range(500):
        assert not (served.target / str(i)).exists()
    everywhere = os.sched_getaffinity(0)
    wait_until(lambda: os.sched_getaffinity(served.pid) == everywhere, "the thread to be let go")
    before = used(), switches()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        os.sched_yield()
    assert (used(), switches()) == before


# --- data ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["file", "low"])
def test_append_direct_mapped_and_unlinked(served: Served, name: str) -> None:
    path = served.target / name
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    os.write(fd, b" more")
    os.write(fd, b" and more")
    assert (served.tree / name).read_bytes() == b"content more and more"
    with mmap.mmap(fd, 0) as mapped:
        mapped[:7] = b"CONTENT"
        mapped.flush()
        os.unlink(path)
        assert not (served.tree / name).exists()
        assert os.pread(fd, 99, 0) == b"CONTENT more and more"
        mapped[0:1] = b"X"
        mapped.flush()
        assert os.pread(fd, 7, 0) == b"XONTENT"
    os.close(fd)


@pytest.mark.parametrize("name", ["file", "low", "new"])
def test_direct_io(served: Served, name: str) -> None:
    path = served.target / name
    block = mmap.mmap(-1, 8192)
    block[:] = b"d" * 8192
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CREAT)
    assert os.pwrite(fd, block, 0) == 8192
    assert (served.tree / name).read_bytes() == b"d" * 8192
    block[:] = bytes(8192)
    assert os.preadv(fd, [block], 0) == 8192
    assert block[:] == b"d" * 8192
    os.close(fd)


def test_a_reader_sees_what_a_later_writer_writes(served: Served) -> None:
    """The file was cached when it was opened for reading, and so it is for the writer, although passable."""
    with (served.target / "low").open("rb", buffering=0) as reader:
        assert reader.read() == b"content"
        with (served.target / "low").open("r+b", buffering=0) as writer:
            writer.write(b"CONTENT")
        assert os.pread(reader.fileno(), 99, 0) == b"CONTENT"
    assert (served.target / "low").read_bytes() == b"CONTENT"


def test_pages_kept_from_a_cached_open_are_not_shown_after_others_wrote(served: Served) -> None:
    file = served.target / "file"
    file.chmod(0o4755)
    with file.open("r+b", buffering=0) as cached:
        assert cached.read() == b"content"
    file.chmod(0o755)
    with file.open("r+b", buffering=0) as passing:
        passing.write(b"CHANGED")
    file.chmod(0o4755)
    with file.open("r+b", buffering=0) as cached:
        assert cached.read() == b"CHANGED"


def test_a_temporary_file(served: Served) -> None:
    fd = os.open(served.target, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"data")
    os.link(f"/proc/self/fd/{fd}", served.target / "named", src_dir_fd=fd, follow_symlinks=True)
    os.close(fd)
    assert (served.tree / "named").read_bytes() == b"data"


@pytest.mark.parametrize("passthrough", [True, False])
@pytest.mark.parametrize("how", ["write", "open first", "chmod while open"])
def test_a_users_write_strips_set_id_bits(source: Path, passthrough: bool, how: str) -> None:
    options = Options()
    options.passthrough = passthrough
    file = source / "file"
    file.chmod(0o777)
    with Served(source, source.parent / "target", options, allow_other=True) as served:
        path = served.target / "file"
        if how != "chmod while open":
            path.chmod(0o6777)

        def change() -> None:
            fd = os.open(path, os.O_RDWR)
            if how == "chmod while open":
                Path(source.parent / "opened").touch()
                wait_until(lambda: path.stat().st_mode & stat.S_ISUID != 0, "the bits to be set")
            os.write(fd, b"C")
            os.close(fd)

        source.parent.chmod(0o777)
        reader = os.open(path, os.O_RDONLY) if how == "open first" else -1  # passes through, then so does the writer
        thread = threading.Thread(target=lambda: as_user(change))
        thread.start()
        if how == "chmod while open":
            wait_until((source.parent / "opened").exists, "the user to open the file")
            path.chmod(0o6777)
        thread.join()
        if reader >= 0:
            os.close(reader)
        assert file.read_bytes() == b"Content"
        assert stat.S_IMODE(file.stat().st_mode) == 0o777
        assert stat.S_IMODE(path.stat().st_mode) == 0o777


@pytest.mark.parametrize("passthrough", [True, False])
def test_roots_write_keeps_set_id_bits(source: Path, passthrough: bool) -> None:
    options = Options()
    options.passthrough = passthrough
    (source / "file").chmod(0o6755)
    with Served(source, source.parent / "target", options) as served:
        with (served.target / "file").open("r+b", buffering=0) as file:
            file.write(b"C")
        assert stat.S_IMODE((served.target / "file").stat().st_mode) == 0o6755


@pytest.mark.parametrize("passthrough", [True, False])
def test_a_write_removes_file_capabilities(source: Path, passthrough: bool) -> None:
    options = Options()
    options.passthrough = passthrough
    value = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(source / "file", "security.capability", value)
    with Served(source, source.parent / "target", options) as served:
        with (served.target / "file").open("r+b", buffering=0) as file:
            file.write(b"C")
        assert os.listxattr(served.target / "file") == []
    assert os.listxattr(source / "file") == []


def test_a_read_only_mount(source: Path) -> None:
    with Served(source, source.parent / "target", readonly=True) as served:
        for _ in range(2):
            assert (served.target / "file").read_bytes() == b"content"
        with pytest.raises(OSError, match="Read-only") as caught:
            (served.target / "new").touch()
        assert caught.value.errno == EROFS
        with (served.target / "file").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            assert m[:] == b"content"
        os.kill(served.pid, signal.SIGUSR1)
        wait_until(lambda: "OPEN=" in served.log, "the counters")
        assert "OPEN=1 " in served.log, "the kernel has learnt to open files by itself"


# --- others keep being answered ----------------------------------------------------------------------------------


def test_a_stat_is_answered_while_something_slow_runs(source: Path) -> None:
    def prepare(union: FakeUnion) -> None:
        union.slow_names.add(b"low")
        plain = union.open

        def slow_open(node: FakeNode, flags: int) -> FakeFile:
            if node.name == b"low" and flags & os.O_ACCMODE:
                union.lock.release()
                wait_until((source / "go").exists, "the test to say go")
                union.lock.acquire()
            return plain(node, flags)

        union.open = slow_open  # type: ignore[method-assign]

    with Served(source, source.parent / "target", prepare=prepare) as served:
        done = threading.Event()

        def write() -> None:
            with (served.target / "low").open("r+b", buffering=0) as file:
                file.write(b"CONTENT")
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        for i in range(100):
            assert not (served.target / f"missing{i}").exists()
            assert (served.target / "file").read_bytes() == b"content"
        assert not done.is_set()
        (source / "go").touch()
        thread.join()
        assert (source / "low").read_bytes() == b"CONTENT"


def test_parallel_clients(served: Served) -> None:
    """Many processes that create, write, read, rename and remove files of their own, all at once."""

    def work(number: int) -> None:
        for i in range(60):
            path = served.target / f"w{number}-{i}"
            path.write_bytes(b"%d" % i * 100)
            moved = path.rename(served.target / f"m{number}-{i}")
            assert moved.read_bytes() == b"%d" % i * 100
            assert not path.exists()
            moved.unlink()

    pids = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work(number)
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 4
    assert sorted(os.listdir(served.target)) == ["file", "low"]
    assert served.log == ""


def test_the_kernel_reads_far_ahead(served: Served) -> None:
    device = served.target.stat().st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    if not path.exists() or not os.access(path, os.W_OK):
        pytest.skip("no writable /sys/class/bdi")
    assert int(path.read_text()) == READAHEAD
