"""kill -9 of the daemon in the middle of a copy-up: the next mount sees the old file or the new one, whole."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.lib.engines import Mounted, wait_until
from tests.lib.layers import File

pytestmark = pytest.mark.engines("unionfs", "fusepy")
SIZE = 512 << 20


@contextlib.contextmanager
def copying(fs: Mounted, name: str) -> Iterator[None]:
    """The block runs while a copy-up of `name` is under way, as seen by a file that grows without a final name."""

    def write() -> None:
        with contextlib.suppress(OSError):
            fs.append(name, b"new")

    def begun() -> bool:
        return fs.in_upper(name) or any(blocks > 0 for blocks in growing(fs))

    thread = threading.Thread(target=write)
    thread.start()
    try:
        wait_until(begun, "a copy-up to begin")
        yield
    finally:
        thread.join()


def growing(fs: Mounted) -> list[int]:
    """Blocks of the daemon's open files that lie in work or, as O_TMPFILE, nowhere."""
    assert fs.daemon is not None
    found = []
    for fd in Path(f"/proc/{fs.daemon.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(fd)
            if target.startswith(fs.work + "/") or (target.startswith(fs.base) and target.endswith(" (deleted)")):
                found.append(fd.stat().st_blocks)
    return found


def kill(fs: Mounted) -> None:
    assert fs.daemon is not None
    fs.daemon.kill()
    fs.daemon = None


def big_lower(mount: Mount) -> Mounted:
    """A file of random pages: no hole to skip, and a copy takes long enough to be hit."""
    page = os.urandom(1 << 20)
    fs = mount({"big": File(page), "f": "x"}, mounted=False)
    with open(fs.lowers[0] + "/big", "ab") as file:
        for _ in range((SIZE >> 20) - 1):
            file.write(page)
    fs.remember_lowers()
    fs.mount()
    return fs


def test_killed_during_a_copy_up(mount: Mount) -> None:
    fs = big_lower(mount)
    with copying(fs, "big"):
        kill(fs)
    fs.mount()
    size = fs.stat("big").st_size
    assert size in (SIZE, SIZE + 3)
    with open(fs.path("big"), "rb") as shown, open(fs.lowers[0] + "/big", "rb") as lower:
        for _ in range(SIZE >> 20):
            assert shown.read(1 << 20) == lower.read(1 << 20)
    left = [path.name for path in Path(fs.work, "work").rglob("*")]
    assert left == [], "the mount after the crash has to clear the workdir"
    fs.append("big", b"again")
    assert fs.stat("big").st_size in (SIZE + 5, SIZE + 8)


def test_killed_while_idle(mount: Mount) -> None:
    fs = mount({"f": "x", "d/g": ""})
    fs.append("f", b"y")
    os.unlink(fs.path("d/g"))
    os.rename(fs.path("d"), fs.path("e"))
    before = fs.tree()
    kill(fs)
    fs.mount()
    assert fs.tree() == before


def test_stat_answers_during_a_copy_up(mount: Mount) -> None:
    """Slow work must not stop everyone else."""
    fs = big_lower(mount)
    with copying(fs, "big"):
        answered_while_copying = fs.stat("f").st_size == 1 and not fs.in_upper("big")
        other = fs.read("f")
    assert other == b"x"
    assert answered_while_copying, "the copy-up was over before stat answered"
