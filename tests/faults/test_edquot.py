"""A quota on the upper is used up: the error is EDQUOT, nothing is left behind, the old content stays readable."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.lib import kernel
from tests.lib.engines import Mounted, close_all, wait_until
from tests.lib.errors import fails
from tests.lib.layers import File, Layer

pytestmark = [
    pytest.mark.engines("overlay", "unionfs", "fusepy"),
    pytest.mark.skipif(not shutil.which("mkfs.btrfs"), reason="btrfs, whose quotas need no server: no mkfs.btrfs"),
]
MIB = 1 << 20
LIMIT = 8 * MIB
BIG = os.urandom(LIMIT + MIB)


@pytest.fixture
def limited(engine: str) -> Iterator[Callable[[Layer], Mounted]]:
    """Stacks with upper and work in a subvolume with a limit, in a btrfs image; reflinks would not be refused."""
    base = tempfile.mkdtemp(prefix="unionfs-edquot-", dir="/var/tmp")
    image, place = f"{base}/image", f"{base}/b"
    os.mkdir(place)
    stacks: list[Mounted] = []
    with open(image, "wb") as file:
        file.truncate(256 * MIB)

    def make(layer: Layer) -> Mounted:
        fs = Mounted(engine, f"{base}/s", [layer], mounted=False)
        _limit(place, f"{place}/limited")
        fs.upper, fs.work = f"{place}/limited/u", f"{place}/limited/w"
        for path in (fs.upper, fs.work):
            os.mkdir(path)
        fs.mount()
        stacks.append(fs)
        return fs

    try:
        _run("mkfs.btrfs", "-q", image)
        _run("mount", "-o", "loop", image, place)
        yield make
        close_all(stacks)
    finally:
        if os.path.ismount(place):
            kernel.umount(place)
        shutil.rmtree(base)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode and command[0] == "mount":
        pytest.skip(f"no btrfs or no loop device here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def _limit(filesystem: str, subvolume: str) -> None:
    _run("btrfs", "subvolume", "create", subvolume)
    _run("btrfs", "quota", "enable", filesystem)
    _run("btrfs", "qgroup", "limit", str(LIMIT), subvolume)


@pytest.mark.parametrize("how", ["open", "truncate", "chmod", "rename"])
def test_copy_up_beyond_the_quota(limited: Callable[[Layer], Mounted], how: str) -> None:
    fs = limited({"big": File(BIG), "small": "little"})
    attempts: dict[str, Callable[[], object]] = {
        "open": lambda: os.open(fs.path("big"), os.O_RDWR),
        "truncate": lambda: os.truncate(fs.path("big"), len(BIG) - 1),
        "chmod": lambda: os.chmod(fs.path("big"), 0o600),
        "rename": lambda: os.rename(fs.path("big"), fs.path("moved")),
    }
    with fails(errno.EDQUOT):
        attempts[how]()
    assert fs.read("big") == BIG
    assert fs.ls() == ["big", "small"]
    fs.assert_not_copied_up("big")
    assert os.listdir(f"{fs.work}/work") == []
    fs.append("small", b"!")
    assert fs.read("small") == b"little!"


def test_writing_beyond_the_quota(limited: Callable[[Layer], Mounted]) -> None:
    fs = limited({"f": "x"})
    fd = os.open(fs.path("new"), os.O_CREAT | os.O_WRONLY)
    try:
        with fails(errno.EDQUOT):
            for _ in range(32):
                os.write(fd, BIG[:MIB])
                os.fsync(fd)
        written = os.fstat(fd).st_size
    finally:
        os.close(fd)
    assert fs.stat("new").st_size == written
    assert fs.read("new") == (BIG[:MIB] * 32)[:written]
    os.unlink(fs.path("new"))
    wait_until(lambda: _appends(fs, b"y"), "room, which there is when the kernel has forgotten the file")
    assert fs.read("f") == b"xy"


def _appends(fs: Mounted, content: bytes) -> bool:
    try:
        fs.append("f", content)
    except OSError as error:
        if error.errno != errno.EDQUOT:
            raise
        return False
    return True
