"""A full upper: the error is ENOSPC, nothing is left behind, the old content stays readable."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lib import kernel
from tests.lib.engines import Mounted, close_all, wait_until
from tests.lib.errors import fails
from tests.lib.layers import Dir, File, Layer

pytestmark = pytest.mark.engines("overlay", "unionfs", "fusepy")
MIB = 1 << 20
BIG = b"0123456789abcdef" * (6 * MIB // 16)
LAYERS: Layer = {"big": BIG, "small": "little", "d/e/big": BIG, "d": Dir(mode=0o700)}


@pytest.fixture
def small(engine: str) -> Iterator[Callable[..., Mounted]]:
    """Stacks on a tmpfs of 16 MiB, of which the lowers take 12."""
    base = tempfile.mkdtemp(prefix="unionfs-enospc-", dir="/var/tmp")
    kernel.mount("unionfs-test", base, "tmpfs", "size=16m")
    stacks: list[Mounted] = []

    def make(layer: Layer = LAYERS) -> Mounted:
        stacks.append(Mounted(engine, f"{base}/s", [layer]))
        return stacks[-1]

    try:
        yield make
        close_all(stacks)
    finally:
        kernel.umount(base)
        shutil.rmtree(base)


def upper_files(fs: Mounted) -> list[str]:
    return sorted(os.path.relpath(path, fs.base) for top in ("u", "w") for path in Path(fs.base, top).rglob("*"))


@pytest.mark.parametrize("name", ["big", "d/e/big"])
@pytest.mark.parametrize("how", ["open", "truncate longer", "append"])
def test_copy_up_that_does_not_fit(small: Callable[..., Mounted], name: str, how: str) -> None:
    fs = small()
    if how == "truncate longer":
        with fails(errno.ENOSPC):
            os.truncate(fs.path(name), len(BIG) + 1)
    elif how == "append":
        with fails(errno.ENOSPC):
            fs.append(name, b"more")
    else:
        with fails(errno.ENOSPC):
            os.open(fs.path(name), os.O_RDWR)
    fs.assert_not_copied_up(name)
    assert fs.read(name) == BIG
    assert [path for path in upper_files(fs) if path.startswith("w/work/")] == []
    free = os.statvfs(fs.base)
    assert free.f_bavail * free.f_bsize > 2 * MIB, "the failed copy still takes space"


def test_a_failure_is_not_for_ever(small: Callable[..., Mounted]) -> None:
    fs = small({"big": File(BIG), "ballast": "", "f": "x"})
    ballast = f"{fs.base}/filler"
    with open(ballast, "wb") as file:
        file.write(b"x" * (6 * MIB))
    with fails(errno.ENOSPC):
        fs.append("big", b"!")
    os.unlink(ballast)
    fs.append("big", b"!")
    assert fs.read("big") == BIG + b"!"


def test_writing_until_full(small: Callable[..., Mounted]) -> None:
    fs = small({"f": "x"})
    fd = os.open(fs.path("new"), os.O_CREAT | os.O_WRONLY)
    written = 0
    try:
        with fails(errno.ENOSPC):
            while written < 64 * MIB:
                written += os.write(fd, b"y" * 65536)
            os.fsync(fd)
    finally:
        os.close(fd)
    assert fs.stat("new").st_size == written
    os.unlink(fs.path("new"))
    # FUSE tells the daemon of the last close a moment after it.
    wait_until(lambda: os.statvfs(fs.base).f_bavail * 4096 > 8 * MIB, "the space of the removed file")
    fs.append("f", b"y")
    assert fs.read("f") == b"xy"


def test_removing_in_a_full_file_system(small: Callable[..., Mounted]) -> None:
    """What upper holds can always be removed again."""
    fs = small({"f": "x"})
    for i in range(64):
        try:
            fs.write(f"n{i}", b"z" * MIB)
        except OSError as e:
            assert e.errno == errno.ENOSPC  # noqa: PT017
            break
    for name in fs.ls():
        if name.startswith("n"):
            os.unlink(fs.path(name))
    assert fs.ls() == ["f"]
