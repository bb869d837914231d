"""Names that the kernel drops, as it does when memory is short, and meets again: the objects stay the same."""

from __future__ import annotations

import os

import pytest

from tests.conftest import Mount
from tests.lib import kernel, tree
from tests.lib.engines import Mounted, wait_until
from tests.lib.layers import Dir, Link

pytestmark = pytest.mark.engines("overlay", "unionfs", "fusepy")


def forget(fs: Mounted) -> None:
    """The kernel gives back everything; the daemon has been told when this returns."""
    kernel.forget_names(fs.mnt)
    for i in range(40):  # FORGET waits behind a few requests
        assert not fs.exists(f"no such name {i}")


def _settled(fs: Mounted, name: str) -> bool:
    """Whether upper's copy says of itself that its bytes are its own."""
    return "trusted.overlay.metacopy" not in os.listxattr(f"{fs.upper}/{name}")


def test_everything_is_found_again(mount: Mount) -> None:
    fs = mount({"a/f": "top", "a/g": "g"}, {"a/h": "below", "b/c/d": "deep"})
    os.rename(fs.path("a"), fs.path("moved"))
    os.unlink(fs.path("moved/g"))
    os.chmod(fs.path("b/c/d"), 0o600)
    before = fs.tree()
    forget(fs)
    tree.assert_same(before, fs.tree(), names="before after")


def test_a_hard_link_whose_other_directory_was_forgotten_and_moved(mount: Mount) -> None:
    fs = mount({"a/lower": "", "b/lower": ""})
    fs.write("a/x", b"one")
    os.link(fs.path("a/x"), fs.path("b/y"))
    fd = os.open(fs.path("b/y"), os.O_RDWR)
    forget(fs)
    os.rename(fs.path("a"), fs.path("moved"))
    fs.write("a", b"something else")
    os.fchmod(fd, 0o640)
    assert os.fstat(fd).st_nlink == 2
    assert fs.stat("moved/x").st_ino == os.fstat(fd).st_ino
    os.unlink(fs.path("moved/x"))
    assert os.fstat(fd).st_nlink == 1
    os.pwrite(fd, b"two", 0)
    os.close(fd)
    assert fs.read("b/y") == b"two"
    assert fs.stat("b/y").st_mode & 0o777 == 0o640


def test_a_lower_hard_link_whose_other_directory_was_forgotten_and_moved(mount: Mount) -> None:
    fs = mount({"a/x": "one", "b/y": Link("a/x")})
    assert fs.read("a/x") == b"one"
    fd = os.open(fs.path("b/y"), os.O_RDONLY)
    forget(fs)
    os.rename(fs.path("a"), fs.path("moved"))
    fs.append("b/y", b", two")
    assert os.pread(fd, 20, 0) == b"one, two"
    os.close(fd)
    assert fs.read("moved/x") == b"one, two"
    assert fs.ls() == ["b", "moved"]


@pytest.mark.parametrize("wait", [False, True], ids=["at once", "later"])
def test_a_copy_that_was_forgotten_before_it_was_safe(mount: Mount, wait: bool) -> None:
    fs = mount({"f": "content", "d": Dir()})
    os.chmod(fs.path("f"), 0o600)
    forget(fs)
    assert fs.read("f") == b"content"
    os.rename(fs.path("f"), fs.path("d/g"))
    forget(fs)
    assert fs.read("d/g") == b"content"
    if wait:
        wait_until(lambda: _settled(fs, "d/g"), "the common sync")
    fs.append("d/g", b", more")
    assert fs.read("d/g") == b"content, more"
    fs.remount()
    assert fs.read("d/g") == b"content, more"
