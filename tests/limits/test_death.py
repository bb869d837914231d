"""The daemon dies at any moment, stands still, has few descriptors: nobody hangs for good, upper stays well formed."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.lib import kernel
from tests.lib.engines import ROOT, Mounted, wait_until
from tests.lib.errors import fails
from tests.lib.layers import File

pytestmark = pytest.mark.engines("unionfs", "fusepy")


def daemon_of(fs: Mounted) -> int:
    assert fs.daemon is not None
    return fs.daemon.process.pid


@contextlib.contextmanager
def busy(fs: Mounted) -> Iterator[list[int]]:
    """Names made, moved and removed, files copied up, until the mount is dead. Yields how many rounds there were."""
    rounds, done = [0], threading.Event()

    def work() -> None:
        with contextlib.suppress(OSError):
            while not done.is_set():
                at = rounds[0] % 20
                fs.append(f"d{at}/f", b"a")
                os.rename(fs.path(f"d{at}"), fs.path(f"e{at}"))
                os.mkdir(fs.path("new"))
                fs.write("new/x", b"x")
                os.rename(fs.path(f"e{at}"), fs.path(f"d{at}"))
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(fs.path(f"d{at}/g"))
                os.unlink(fs.path("new/x"))
                os.rmdir(fs.path("new"))
                rounds[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield rounds
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("moment", [3, 10, 25])
def test_killed_under_load(mount: Mount, moment: int) -> None:
    fs = mount({f"d{i}/{name}": File("x" * 1000) for i in range(20) for name in ("f", "g")})
    with busy(fs) as rounds:
        wait_until(lambda: rounds[0] >= moment, "work to be under way")
        os.kill(daemon_of(fs), signal.SIGKILL)
        assert fs.daemon is not None
        fs.daemon.process.wait()
    with fails(errno.ENOTCONN):
        os.stat(fs.path("d1/never asked for"))
    kernel.umount(fs.mnt)
    fs.daemon = None
    fs.mount()
    names = {name.replace("e", "d") for name in fs.ls() if name != "new"}
    assert names == {f"d{i}" for i in range(20)}
    for name in fs.ls():
        if name != "new":
            assert fs.read(f"{name}/f").startswith(b"x" * 1000)


def stands_still(pid: int) -> bool:
    """Whether all threads of a process have been stopped."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)



def test_a_client_of_a_daemon_that_stands_still(mount: Mount) -> None:
    """It can be interrupted, and all goes on when the daemon does."""
    fs = mount({"f": "content"})
    os.kill(daemon_of(fs), signal.SIGSTOP)
    wait_until(lambda: stands_still(daemon_of(fs)), "the daemon to stand still")
    with subprocess.Popen(["cat", fs.path("f")], stdout=subprocess.DEVNULL) as client:
        try:
            waits_in = Path(f"/proc/{client.pid}/wchan")
            # for its answer, or in fuse_get_req where the mount was not yet done with INIT
            wait_until(lambda: "fuse" in waits_in.read_text() or "request_wait" in waits_in.read_text(), "it to wait")
            client.send_signal(signal.SIGINT)
            assert client.wait(10) == -signal.SIGINT
        finally:
            os.kill(daemon_of(fs), signal.SIGCONT)
            client.kill()
    assert fs.read("f") == b"content"


@pytest.mark.engines("unionfs")
def test_few_descriptors(mount: Mount) -> None:
    """256 of them are enough for many more directories, and for as many open files as there is room for."""
    layer = {f"d{i}/{name}": name for i in range(120) for name in ("f", "g")}
    fs = mount(layer, {f"d{i}/h": "h" for i in range(120)}, mounted=False)
    # The daemon raises its soft limit to the hard one, which a test must not lower for itself: a shell in between.
    lowers = ":".join(fs.lowers)
    options = f"lowerdir={lowers},upperdir={fs.upper},workdir={fs.work}"
    command = f'ulimit -n 256; exec {sys.executable} -m unionfs mount -o "$1" "$2"'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-c", command, "sh", options, fs.mnt], env=environment, check=True, timeout=60)
    for _ in range(2):
        for i in range(120):
            assert fs.ls(f"d{i}") == ["f", "g", "h"]
            assert fs.read(f"d{i}/h") == b"h"
            fs.append(f"d{i}/f", b"+")
    held = []
    with fails(errno.EMFILE):
        for i in range(400):
            held.append(os.open(fs.path(f"held{i}"), os.O_CREAT | os.O_RDWR))
            os.unlink(fs.path(f"held{i}"))
    for fd in held:
        os.close(fd)
    assert len(held) > 60
    wait_until(lambda: readable(fs, "d0/g"), "descriptors to be closed")
    assert fs.read("d0/f") == b"f++"


def readable(fs: Mounted, name: str) -> bool:
    try:
        return fs.read(name) == b"g"
    except OSError:
        return False
