"""Layers on several file systems, whose inode numbers and sizes mean nothing to each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lib import kernel
from tests.lib.engines import Mounted, close_all
from tests.lib.layers import Dir, File, Layer, build

pytestmark = pytest.mark.engines("overlay", "unionfs", "fusepy")
Spread = Callable[..., Mounted]


@pytest.fixture
def spread(engine: str, base: Path) -> Iterator[Spread]:
    """Stacks whose lowers are on a tmpfs each, where the same numbers come again; the upper is on a disk."""
    stacks: list[Mounted] = []

    def make(*lowers: Layer) -> Mounted:
        fs = Mounted(engine, base / "s", [{} for _ in lowers], mounted=False)
        stacks.append(fs)
        for path, layer in zip(fs.lowers, lowers, strict=True):
            kernel.mount("unionfs-test", path, "tmpfs", "size=8m")
            build(path, layer)
        fs.remember_lowers()
        fs.mount()
        return fs

    try:
        yield make
        close_all(stacks)
    finally:
        for fs in stacks:
            for path in fs.lowers:
                if os.path.ismount(path):
                    kernel.umount(path)


FILES: list[Layer] = [{f"{letter}{i}": letter for i in range(8)} for letter in "abc"]


def identities(fs: Mounted) -> dict[str, tuple[int, int]]:
    return {name: (st.st_dev, st.st_ino) for name in fs.ls() for st in [fs.stat(name)]}


def test_no_two_files_are_the_same(spread: Spread) -> None:
    fs = spread(*FILES)
    on_disk = [os.stat(f"{lower}/{name}").st_ino for lower in fs.lowers for name in os.listdir(lower)]
    assert len(set(on_disk)) < len(on_disk), "the numbers in the layers do not come again: this tests nothing"
    fs.write("new", b"")
    seen = identities(fs)
    assert len(set(seen.values())) == len(seen) == 25


@pytest.mark.engines("unionfs", "fusepy")
def test_numbers_stay(spread: Spread) -> None:
    """One device, as if all were one file system, and the number of each outlives copy-up and remount."""
    fs = spread(*FILES)
    before = identities(fs)
    assert {device for device, _ in before.values()} == {os.stat(fs.mnt).st_dev}
    for name in ("a1", "b1", "b2", "c1", "c2", "c3"):
        fs.append(name, b"+")
    assert identities(fs) == before
    fs.remount()
    after = identities(fs)
    assert {name: ino for name, (_, ino) in after.items()} == {name: ino for name, (_, ino) in before.items()}


def test_a_copy_from_another_file_system(spread: Spread) -> None:
    """No reflink, no rename: everything has to go through."""
    whole = File(os.urandom(300_000), mode=0o4750, uid=7, gid=8, mtime=10**18 + 1, xattrs={"trusted.t": b"1"})
    fs = spread({"d": Dir(mode=0o2770, gid=9, mtime=10**18), "d/f": whole, "d/holes": File("x", size=5 << 20)})
    before = os.stat(fs.path("d/f"))
    os.chmod(fs.path("d/f"), 0o4750)
    os.utime(fs.path("d/holes"))
    fs.remount()
    after = os.stat(fs.path("d/f"))
    for what in ("st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns"):
        assert getattr(after, what) == getattr(before, what), what
    assert os.getxattr(fs.path("d/f"), "trusted.t") == b"1"
    assert fs.read("d/f") == whole.content
    assert fs.stat("d/holes").st_blocks * 512 <= 1 << 20  # the kernel copies in pieces of that size
    assert fs.stat("d").st_mode & 0o7777 == 0o2770


def test_statfs_is_that_of_upper(spread: Spread) -> None:
    fs = spread({"f": "x"}, {"g": "y"})
    shown, real = os.statvfs(fs.path("f")), os.statvfs(fs.upper)
    assert (shown.f_blocks, shown.f_files) == (real.f_blocks, real.f_files)
    assert shown.f_blocks != os.statvfs(fs.lowers[0]).f_blocks
