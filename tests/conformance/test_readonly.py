"""Without upper, or with ro, every change is EROFS and reading works as ever."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable

import pytest

from tests.conftest import Mount
from tests.lib import kernel, tree
from tests.lib.engines import Mounted
from tests.lib.errors import fails
from tests.lib.layers import Dir, File, Layer, Symlink, Whiteout

pytestmark = pytest.mark.engines("overlay", "unionfs", "fusepy")

LAYERS: list[Layer] = [
    {"f": File("top", xattrs={"user.a": b"1"}), "d/x": "", "gone": Whiteout(), "l": Symlink("f")},
    {"d/y": "", "gone": "", "e": Dir()},
]
CHANGES: dict[str, Callable[[Mounted], object]] = {
    "open for writing": lambda fs: os.open(fs.path("f"), os.O_WRONLY),
    "create": lambda fs: os.open(fs.path("new"), os.O_CREAT | os.O_WRONLY),
    "truncating open": lambda fs: os.open(fs.path("f"), os.O_RDONLY | os.O_TRUNC),
    "truncate": lambda fs: os.truncate(fs.path("f"), 0),
    "unlink": lambda fs: os.unlink(fs.path("f")),
    "mkdir": lambda fs: os.mkdir(fs.path("new")),
    "rmdir": lambda fs: os.rmdir(fs.path("e")),
    "symlink": lambda fs: os.symlink("x", fs.path("new")),
    "mknod": lambda fs: os.mkfifo(fs.path("new")),
    "link": lambda fs: os.link(fs.path("f"), fs.path("new")),
    "rename": lambda fs: os.rename(fs.path("f"), fs.path("new")),
    "chmod": lambda fs: os.chmod(fs.path("f"), 0o600),
    "chown": lambda fs: os.chown(fs.path("f"), 1, 1),
    "utime": lambda fs: os.utime(fs.path("f")),
    "setxattr": lambda fs: os.setxattr(fs.path("f"), "user.b", b""),
    "removexattr": lambda fs: os.removexattr(fs.path("f"), "user.a"),
}


def refuse_all(fs: Mounted) -> None:
    before = fs.tree()
    wrong = []
    for what, change in CHANGES.items():
        try:
            change(fs)
            wrong.append(f"{what} succeeded")
        except OSError as e:
            if e.errno != errno.EROFS:
                wrong.append(f"{what}: {e}")
    assert wrong == []
    tree.assert_same(before, fs.tree())


def test_without_upper(mount: Mount) -> None:
    refuse_all(mount(*LAYERS, readonly=True))


def test_with_ro(mount: Mount, engine: str) -> None:
    fs = mount(*LAYERS, upper={"u": "upper"}, mounted=False)
    if engine == "overlay":
        options = fs._options("overlay", fs.upper, fs.work)
        here = os.getcwd()
        os.chdir(fs.base)
        kernel.mount("overlay", fs.mnt, "overlay", options, kernel.MS_RDONLY)
        os.chdir(here)
    else:
        fs.options.append("ro")
        fs.mount()
    assert fs.read("u") == b"upper"
    refuse_all(fs)


def test_statvfs_says_so(mount: Mount) -> None:
    fs = mount(*LAYERS, readonly=True)
    assert os.statvfs(fs.mnt).f_flag & os.ST_RDONLY
    assert not os.access(fs.path("f"), os.W_OK)


def test_reading(mount: Mount) -> None:
    fs = mount(*LAYERS, readonly=True)
    assert fs.ls() == ["d", "e", "f", "l"]
    assert fs.ls("d") == ["x", "y"]
    assert fs.read("l") == b"top"
    assert os.getxattr(fs.path("f"), "user.a") == b"1"
    with open(fs.path("f"), "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert view[:] == b"top"
    assert tree.listing_faults(fs.mnt) == []


def test_one_layer_alone(mount: Mount, engine: str) -> None:
    if engine == "overlay":
        pytest.skip("the kernel wants two layers")
    fs = mount({"f": "x", "d/y": ""}, readonly=True)
    assert fs.read("f") == b"x"
    with fails(errno.EROFS):
        os.unlink(fs.path("f"))


def test_opening_and_reading_many_times(mount: Mount) -> None:
    fs = mount(*LAYERS, readonly=True)
    for _ in range(50):
        assert fs.read("f") == b"top"
    fds = [os.open(fs.path("f"), os.O_RDONLY) for _ in range(20)]
    for fd in fds:
        assert os.pread(fd, 3, 0) == b"top"
        os.close(fd)
