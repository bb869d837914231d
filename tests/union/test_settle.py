"""Copies that wait for a common sync: what a daemon that dies before it leaves is right, for us and the kernel."""

from __future__ import annotations

import os
import shutil
import stat
from errno import EIO
from pathlib import Path

import pytest

from tests.lib import kernel, tree
from tests.lib.layers import Dir, File, Layer
from tests.union.core import Core
from unionfs.layer import verbs
from unionfs.union import settle

META = "trusted.overlay.metacopy"
LOWER: Layer = {
    "f": File("content", mode=0o644, mtime=10**18), "d/g": "deeper", "d/h": File(b"h" * 300_000), "e": Dir()
}  # fmt: skip


def is_marked(core: Core, path: str) -> bool:
    return META in os.listxattr(f"{core.upper}/{path}")


def deferring(tmp_path: Path, lower: Layer = LOWER) -> Core:
    core = Core(tmp_path, [lower])
    core.union.defer_sync = True
    return core


def by_the_kernel(core: Core) -> tree.Snapshot:
    """The stack as the kernel's overlay shows it with metacopy=on; the core must be closed. On a copy of the upper."""
    place = core.base / "kernel"
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place / "m")
    os.makedirs(place / "w")
    os.system(f"cp -a {core.upper} {place}/u")
    options = f"lowerdir={':'.join(core.lowers)},upperdir={place}/u,workdir={place}/w,metacopy=on,redirect_dir=on"
    kernel.mount("overlay", str(place / "m"), "overlay", options)
    try:
        return tree.snapshot(str(place / "m"))
    finally:
        kernel.umount(str(place / "m"))


def test_a_copy_waits_and_then_is_safe(tmp_path: Path) -> None:
    with deferring(tmp_path) as core:
        core.union.chmod(core.node("f"), 0o600)
        assert is_marked(core, "f")
        assert core.read("f") == b"content"
        core.union.settle()
        assert not is_marked(core, "f")
        assert core.union.unsettled == {}


WHERE = {"chmod": ["d/g"], "rename": ["e/moved"], "rename its directory": ["e/d/g"], "link": ["d/g", "e/l"]}


@pytest.mark.parametrize("change", WHERE)
def test_a_crash_before_the_sync(tmp_path: Path, change: str) -> None:
    """The bytes of the copy may be lost; the mark leads to the lower's."""
    with deferring(tmp_path) as core:
        core.union.chmod(core.node("d/g"), 0o600)
        where = WHERE[change]
        if change == "rename":
            core.union.rename(*core.at("d/g"), *core.at("e/moved"))
        elif change == "rename its directory":
            core.union.rename(*core.at("d"), *core.at("e/d"))
        elif change == "link":
            core.union.link(core.node("d/g"), *core.at("e/l"))
        for path in where[:1]:
            assert is_marked(core, path)
            os.truncate(f"{core.upper}/{path}", 0)  # what a crash may do to data that was not synced
            os.truncate(f"{core.upper}/{path}", 6)
        core.crash()
        for path in where:
            assert core.read(path) == b"deeper"
            assert core.union.stat(core.node(path)).st_mode & 0o777 == 0o600
        core.close()
        seen = by_the_kernel(core)
        assert [seen[path.encode()]["content"] for path in where] == [b"deeper"] * len(where)
        core.union = core.open()
        core.union.lock.acquire()
        core.write(where[0], b"NEW")
        assert [core.read(path) for path in where] == [b"NEWper"] * len(where)
        core.reopen()
        assert [core.read(path) for path in where] == [b"NEWper"] * len(where)


def test_what_is_written_is_no_longer_the_lowers(tmp_path: Path) -> None:
    with deferring(tmp_path) as core:
        core.union.chmod(core.node("f"), 0o600)
        core.write("f", b"CON")
        assert not is_marked(core, "f")
        core.crash()
        assert core.read("f") == b"CONtent"


def test_fsync_settles(tmp_path: Path) -> None:
    with deferring(tmp_path) as core:
        core.union.chmod(core.node("f"), 0o600)
        core.union.chmod(core.node("d/g"), 0o600)
        core.union.fsync(core.node("f"), False)
        assert (is_marked(core, "f"), is_marked(core, "d/g")) == (False, True)
        core.union.syncfs()
        assert not is_marked(core, "d/g")


def test_unmount_settles(tmp_path: Path) -> None:
    with deferring(tmp_path) as core:
        core.union.chmod(core.node("f"), 0o600)
        core.reopen()
        assert not is_marked(core, "f")


def test_many_share_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(verbs, "sync", lambda _fd: calls.append("fsync"))
    monkeypatch.setattr(verbs, "syncfs", lambda _fd: calls.append("syncfs"))
    with deferring(tmp_path, {f"f{i}": "x" for i in range(settle.MANY + 2)}) as core:
        for i in range(settle.MANY):
            core.union.chmod(core.node(f"f{i}"), 0o600)
        assert calls == []
        core.union.chmod(core.node(f"f{settle.MANY}"), 0o600)
        assert calls == ["fsync"], "there is no end of descriptors: the next one is synced by itself"
        core.union.settle()
        assert calls == ["fsync", "syncfs"]


@pytest.mark.parametrize("many", [False, True])
def test_a_sync_that_fails(tmp_path: Path, many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The marks stay, so what the lower has still counts; a write copies it again."""
    def broken(_fd: int) -> None:
        raise OSError(EIO, os.strerror(EIO))

    with deferring(tmp_path, {f"f{i}": "x" for i in range(20)}) as core:
        paths = [f"f{i}" for i in range(20 if many else 1)]
        for path in paths:
            core.union.chmod(core.node(path), 0o600)
        with monkeypatch.context() as patched:
            patched.setattr(verbs, "sync", broken)
            patched.setattr(verbs, "syncfs", broken)
            with pytest.raises(OSError, match="Input/output"):
                core.union.settle()
        assert all(is_marked(core, path) for path in paths)
        assert core.union.settling == {}
        core.write("f0", b"new")
        assert not is_marked(core, "f0")
        core.crash()
        assert core.read("f0") == b"new"
        assert core.read(paths[-1]) == (b"x" if many else b"new")


def test_a_copy_is_the_same_object_when_it_is_met_again(tmp_path: Path) -> None:
    with deferring(tmp_path) as core:
        node = core.node("f")
        core.union.chmod(node, 0o600)
        core.union.forget(node)
        assert core.node("f") is node
        core.union.settle()
        core.union.forget(node)
        assert core.node("f") is not node


def test_a_forgotten_copy_goes_once_it_is_safe(tmp_path: Path) -> None:
    with deferring(tmp_path) as core:
        node = core.node("d/g")
        directory = node.parent
        core.union.chmod(node, 0o600)
        core.union.forget(node)
        core.union.forget(directory)
        core.union.settle()
        assert core.union.lingering == set()
        assert core.union.root.children == {}
        assert core.dir("d") is not directory


def test_metacopy_is_kept_where_it_was_asked_for(tmp_path: Path) -> None:
    with Core(tmp_path, [LOWER], metacopy=True) as core:
        core.union.chmod(core.node("d/h"), 0o600)
        core.union.rename(*core.at("d/h"), *core.at("e/h"))
        assert is_marked(core, "e/h")
        assert os.stat(f"{core.upper}/e/h").st_blocks < 100, "the data stays below"
        core.reopen()
        assert core.read("e/h") == b"h" * 300_000
        core.close()
        assert by_the_kernel(core)[b"e/h"]["size"] == 300_000
        core.union = core.open()
        core.union.lock.acquire()
        core.write("e/h", b"H")
        assert not is_marked(core, "e/h")
        core.reopen()
        assert core.read("e/h") == b"H" + b"h" * 299_999
        assert stat.S_IMODE(core.union.stat(core.node("e/h")).st_mode) == 0o600
