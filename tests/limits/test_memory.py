"""What the daemon takes for files goes back when the kernel has forgotten them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.lib import kernel
from tests.lib.engines import Mounted, wait_until
from tests.lib.layers import Dir

MIB = 1 << 20


def resident(fs: Mounted) -> int:
    """Bytes of memory of the daemon's own (files mapped, such as its libraries, do not count)."""
    assert fs.daemon is not None
    lines = Path(f"/proc/{fs.daemon.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) * 1024


def descriptors(fs: Mounted) -> int:
    assert fs.daemon is not None
    return len(os.listdir(f"/proc/{fs.daemon.process.pid}/fd"))


def fill(fs: Mounted, files: int) -> None:
    for d in range(files // 500):
        os.makedirs(fs.path(f"top/{d}"))
        for i in range(500):
            os.close(os.open(fs.path(f"top/{d}/{i}"), os.O_CREAT | os.O_WRONLY))


def empty(fs: Mounted) -> None:
    for d in os.listdir(fs.path("top")):
        for name in os.listdir(fs.path(f"top/{d}")):
            os.unlink(fs.path(f"top/{d}/{name}"))
        os.rmdir(fs.path(f"top/{d}"))
    os.rmdir(fs.path("top"))


@pytest.mark.timeout(300)
@pytest.mark.engines("unionfs")
@pytest.mark.parametrize("files", [60_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_memory_falls_when_files_go(mount: Mount, files: int) -> None:
    fs = mount({})
    fill(fs, 1000)
    empty(fs)
    before, fds = resident(fs), descriptors(fs)
    fill(fs, files)
    peak = resident(fs)
    assert peak - before < files * 1200, "more than 1.2 KB for a file"
    empty(fs)
    wait_until(lambda: resident(fs) - before < (peak - before) / 2, "memory to go back when the files are gone")
    wait_until(lambda: descriptors(fs) <= fds + 2, "descriptors to be closed")


@pytest.mark.engines("fusepy")
def test_files_that_are_gone_take_no_memory(mount: Mount) -> None:
    """It never says that the kernel has forgotten a file; what is gone is let go all the same."""
    fs = mount({})
    fill(fs, 1000)
    empty(fs)
    before, fds = resident(fs), descriptors(fs)
    for _ in range(4):
        fill(fs, 2500)
        empty(fs)
    assert resident(fs) - before < 2 * MIB, "files that are gone take memory"
    assert descriptors(fs) <= fds + 64


@pytest.mark.engines("unionfs", "fusepy")
def test_descriptors_are_bounded(mount: Mount) -> None:
    """More directories known than descriptors may be held."""
    fs = mount({f"d{i}/f": "" for i in range(1500)})
    for name in os.listdir(fs.mnt):
        os.listdir(fs.path(name))
    assert fs.daemon is not None
    limit = int(Path(f"/proc/{fs.daemon.process.pid}/limits").read_text().split("Max open files")[1].split()[0])
    assert descriptors(fs) < min(4096, max(16, limit // 4)) + 64


@pytest.mark.engines("unionfs", "fusepy")
@pytest.mark.parametrize("names", [10_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_a_large_directory_listed_while_it_changes(mount: Mount, names: int) -> None:
    """Names that are there throughout are given once each; those that come and go at most once each."""
    fs = mount({"big": Dir()}, {"big": Dir()}, mounted=False)
    for at in range(names):
        os.close(os.open(f"{fs.lowers[at % 2]}/big/keep-{at:06}", os.O_CREAT | os.O_WRONLY))
    fs.remember_lowers()
    fs.mount()
    done = threading.Event()
    changes = [0]

    def change() -> None:
        while not done.is_set():
            for at in range(200):
                os.close(os.open(fs.path(f"big/come-{at}"), os.O_CREAT | os.O_WRONLY))
            for at in range(200):
                os.unlink(fs.path(f"big/come-{at}"))
                changes[0] += 1

    changer = threading.Thread(target=change)
    changer.start()
    try:
        wait_until(lambda: changes[0] > 0, "the first change")
        for _ in range(3):
            began = changes[0]
            found = [entry.name for entry in kernel.all_dirents(fs.path("big"))]
            kept = sorted(name for name in found if name.startswith(b"keep-"))
            assert kept == [b"keep-%06d" % at for at in range(names)]
            assert len(found) == len(set(found)), "a name was given twice"
            wait_until(lambda began=began: changes[0] > began, "changes to go on")  # type: ignore[misc]
    finally:
        done.set()
        changer.join()
