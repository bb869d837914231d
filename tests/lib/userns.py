"""Root of a user namespace that is nobody outside: what an ordinary user can be."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

from tests.lib import kernel
from tests.lib.asuser import in_child
from tests.lib.engines import ROOT

T = TypeVar("T")

OUTSIDE = 100_000  # who root is outside; the ids up to COUNT follow
COUNT = 65_536
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18


def in_user_namespace(function: Callable[[], T]) -> T:
    """Calls `function` in a forked child that is root of a user and a mount namespace of its own.

    /dev/fuse is for everybody there. Only for a test that is root.
    """

    def change() -> T:
        with tempfile.TemporaryDirectory() as place:
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount("none", "/", "", "", _MS_REC | _MS_PRIVATE)
            _open_device(place)
        for path in (ROOT, Path(sys.executable), Path(sys.executable).resolve(), Path(os.__file__)):
            _open_way(path)
        _enter()
        return function()

    return in_child(change)


def _open_device(place: str) -> None:
    """A /dev/fuse that others may open, for this mount namespace and those made from it."""
    kernel.mount("unionfs-test", place, "tmpfs", "")
    node = f"{place}/fuse"
    os.mknod(node, os.stat("/dev/fuse").st_mode, os.stat("/dev/fuse").st_rdev)
    os.chmod(node, 0o666)
    kernel.mount(node, "/dev/fuse", "", "", _MS_BIND)
    kernel.umount(place, kernel.MNT_DETACH)


def _open_way(path: Path) -> None:
    """What the daemon is made of may lie in a closed home: the way to it, and nothing else there, is opened."""
    for closed, inside in pairwise([*reversed(path.parents), path]):
        if closed.stat().st_mode & 0o1 == 0:
            held = os.open(inside, os.O_PATH)
            kernel.mount("unionfs-test", closed, "tmpfs", "mode=0755")
            inside.mkdir()
            kernel.mount(f"/proc/self/fd/{held}", inside, "", "", _MS_BIND | _MS_REC)
            os.close(held)


def _enter() -> None:
    """The maps of ids must be written from outside, so a child stays there for that."""
    reader, writer = os.pipe()
    me = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(writer)
        os.read(reader, 1)
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{me}/{name}").write_text(f"0 {OUTSIDE} {COUNT}\n")
        os._exit(0)
    kernel.unshare(kernel.CLONE_NEWUSER | kernel.CLONE_NEWNS)
    os.close(writer)
    assert os.waitpid(helper, 0)[1] == 0, "the maps of ids cannot be written"
    os.close(reader)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
