"""An error at any one call of any verb of the layers: the operation reports it, nothing has happened, all goes on.

Each operation is first watched: which verbs does it call? Then it is repeated on a fresh stack for each of these calls,
which then fails. Afterwards the union shows the old tree, the disk says the same, nothing is left in the work
directory, and the operation succeeds when it is tried again.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EIO, ENOSPC
from pathlib import Path

import pytest

from tests.lib.layers import AUFS, DEVICE, XATTR, Dir, File, Layer, Link, Special, Symlink, Whiteout
from tests.union.core import ROOT, Core, View, differences
from unionfs.layer import verbs

# Those that an error can come from on a healthy disk that is full, and those that only a failing one refuses.
CHANGING = (
    "open_unnamed", "mknod", "mkdir", "symlink", "link", "rename", "chmod", "chown", "utimens", "set_times", "truncate",
    "setxattr", "sync", "write", "copy_range",
)  # fmt: skip
READING = (
    "stat", "readlink", "open_file", "open_reading", "open_path", "open_dir", "getxattr", "listxattr", "read",
    "unlink", "rmdir", "removexattr",
)  # fmt: skip

LOWERS: list[Layer] = [
    {
        "f": File("content", mode=0o4640, uid=7, mtime=10**18, xattrs={"user.a": b"1"}),
        "link": Symlink("target", uid=5),
        "pipe": Special(stat.S_IFIFO, mode=0o640),
        "d/a": "da", "d/sub/deep": "deep", "e/only": "", "empty/x": "",
        "h1": "shared", "h2": Link("h1"), "k/h3": Link("h1"),
        "gone": "g", "gonedir/x": "x", "setgid": Dir(mode=0o2775, gid=9), "setgid/w": "w",
        "big": File(b"b" * 300_000),
    },
    {"d/b": "db", "d/sub/low": "low", "e/low": "", "h4": "x"},
]  # fmt: skip


def upper(form: str) -> Layer:
    white = Whiteout(form)
    return {
        "gone": white, "gonedir": white, "setgid": Dir(mode=0o2775, gid=9), "setgid/w": white, "empty": Dir(),
        "empty/x": white, "mine": File("mine", xattrs={"user.b": b"2"}), "minedir/f": "own", "void": Dir(),
    }  # fmt: skip


Operation = Callable[[Core], object]


def _link_tmpfile(core: Core) -> None:
    node, _st, file = core.union.tmpfile(core.dir("d"), 0o600, os.O_RDWR, ROOT)
    try:
        core.union.link(node, core.dir("d"), b"named")
    finally:
        core.union.release(file)
        core.met.add(node)


def _create(core: Core, path: str) -> None:
    node, _st, file = core.union.create(*core.at(path), 0o640, os.O_RDWR, ROOT)
    core.union.release(file)
    core.met.add(node)


def _open(core: Core, path: str, flags: int) -> None:
    core.union.release(core.union.open(core.node(path), flags))


def _rename(old: str, new: str, flags: int = 0) -> Operation:
    def rename(core: Core) -> None:
        core.find(new)  # as the kernel does: what is replaced is known, and forgotten by who knows it
        core.union.rename(*core.at(old), *core.at(new), flags)

    return rename


OPERATIONS: dict[str, Operation] = {
    "chmod a lower file": lambda core: core.union.chmod(core.node("f"), 0o600),
    "chown a lower symlink": lambda core: core.union.chown(core.node("link"), 1, 1),
    "utimens of a lower fifo": lambda core: core.union.utimens(core.node("pipe"), 1, 1),
    "chmod a merged directory": lambda core: core.union.chmod(core.node("d/sub"), 0o700),
    "setxattr of a lower file": lambda core: core.union.setxattr(core.node("d/a"), b"user.new", b"x", 0),
    "removexattr of a lower file": lambda core: core.union.removexattr(core.node("f"), b"user.a"),
    "write a lower file": lambda core: _open(core, "d/sub/deep", os.O_RDWR),
    "write a big lower file": lambda core: _open(core, "big", os.O_RDWR),
    "open a lower file with O_TRUNC": lambda core: _open(core, "f", os.O_RDWR | os.O_TRUNC),
    "truncate a lower file": lambda core: core.union.truncate(core.node("f"), 3),
    "truncate an upper file": lambda core: core.union.truncate(core.node("mine"), 2),
    "chmod a lower hard link": lambda core: core.union.chmod(core.node("h2"), 0o600),
    "create": lambda core: _create(core, "d/new"),
    "create in a directory of one layer": lambda core: _create(core, "minedir/new"),
    "create over a whiteout": lambda core: _create(core, "gone"),
    "create over a whiteout in a setgid directory": lambda core: _create(core, "setgid/w"),
    "mkdir": lambda core: core.union.mkdir(*core.at("e/new"), 0o755, ROOT),
    "mkdir over a whiteout": lambda core: core.union.mkdir(*core.at("gonedir"), 0o755, ROOT),
    "symlink": lambda core: core.union.symlink(*core.at("d/new"), b"t", ROOT),
    "symlink over a whiteout": lambda core: core.union.symlink(*core.at("gone"), b"t", ROOT),
    "mknod": lambda core: core.union.mknod(*core.at("d/new"), stat.S_IFIFO | 0o600, 0, ROOT),
    "link a lower file": lambda core: core.union.link(core.node("f"), *core.at("d/new")),
    "link a lower file over a whiteout": lambda core: core.union.link(core.node("f"), *core.at("gone")),
    "link a lower hard link": lambda core: core.union.link(core.node("h1"), *core.at("d/new")),
    "tmpfile, then link": _link_tmpfile,
    "unlink a lower file": lambda core: core.union.unlink(*core.at("d/a")),
    "unlink an upper file": lambda core: core.union.unlink(*core.at("mine")),
    "unlink a lower hard link": lambda core: core.union.unlink(*core.at("h1")),
    "rmdir an upper directory": lambda core: core.union.rmdir(*core.at("void")),
    "rmdir a directory of whiteouts": lambda core: core.union.rmdir(*core.at("empty")),
    "rename a lower file": _rename("f", "e/moved"),
    "rename a lower file over a lower file": _rename("f", "d/a"),
    "rename a lower file over a whiteout": _rename("f", "gone"),
    "rename a lower file over an upper file": _rename("f", "mine"),
    "rename an upper file over a lower file": _rename("mine", "d/a"),
    "rename an upper file": _rename("mine", "d/new"),
    "rename a lower hard link": _rename("h1", "e/moved"),
    "rename a merged directory": _rename("d", "e/moved"),
    "rename a merged directory over an empty one": _rename("d", "empty"),
    "rename a directory over a whiteout": _rename("d", "gonedir"),
    "rename an upper directory into a merged one": _rename("minedir", "d/minedir"),
    "exchange": _rename("d", "f", 2),
    "exchange two files": _rename("d/a", "mine", 2),
}  # fmt: skip


class Failing:
    """Counts the calls of the verbs named, and makes one of them fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
        self.calls: list[str] = []
        self.armed = False
        self.fail_at, self.error = -1, 0
        for name in names:
            monkeypatch.setattr(verbs, name, self._wrapped(name, getattr(verbs, name)))

    def _wrapped(self, name: str, verb: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if self.armed:
                self.calls.append(name)
                if len(self.calls) - 1 == self.fail_at:
                    raise OSError(self.error, os.strerror(self.error), f"injected into {name}")
            return verb(*arguments, **named)

        return call

    @contextmanager
    def watch(self, fail_at: int = -1, error: int = 0) -> Iterator[None]:
        self.calls, self.fail_at, self.error, self.armed = [], fail_at, error, True
        try:
            yield
        finally:
            self.armed = False


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Truncating a lower file copies what remains of it, and then truncates the copy: an error in between finds it short.
SHORTENS = ("open a lower file with O_TRUNC", "truncate a lower file")
# Its count is on disk as a difference to that of an inode which loses or gets names meanwhile, or not at all.
COUNTS = ("chmod a lower hard link", "link a lower hard link", "unlink a lower hard link", "rename a lower hard link")


# Those that make, lift or step over a whiteout.
WHITEOUTS = [
    what for what in OPERATIONS if "whiteout" in what or what.startswith(("unlink a lower", "rename", "exchange"))
]


class Trial:
    """One try of an operation on a fresh stack with whiteouts in `form`, with one call failing (at < 0: none)."""

    def __init__(self, base: Path, what: str, failing: Failing, at: int, error: int, warm: bool, form: str) -> None:
        self.operation, self.failing, self.error = OPERATIONS[what], failing, error
        self.problems: list[str] = []
        base.mkdir()
        descriptors = _open_descriptors()
        core = Core(base, LOWERS, upper(form), whiteout=form)
        core.union.lock.acquire()
        if warm:  # a mount that has been used has looked up every name and listed every directory
            core.view()
        self.verdict = self.attempt(core, at)
        self.calls = list(failing.calls)
        self.shown = core.view()
        core.reopen()
        not_on_disk = {"nlink"} if what in COUNTS else set()
        # A directory whose place could not be taken after all was made anew, empty.
        not_on_disk |= {"ino"} if self.verdict else set()
        self.problems += differences(self.shown, core.view(), not_on_disk)
        self.again = None if self.verdict is None else self.attempt(core, -1)
        core.close()
        self.problems += core.faults()
        if _open_descriptors() != descriptors:
            self.problems.append("a descriptor is left open")
        shutil.rmtree(base)

    def attempt(self, core: Core, at: int) -> int | None:
        """The errno that the operation ends with, None for success."""
        with self.failing.watch(at, self.error):
            try:
                self.operation(core)
            except OSError as caught:
                return caught.errno
        return None

    def judge(self, old: View, done: View, ignore: set[str]) -> list[str]:
        """After a failure: either nothing has happened, and the operation can be tried again, or all of it."""
        if self.verdict is None:
            return self.problems  # a failure that does not matter
        found = list(self.problems)
        if self.verdict != self.error:
            found.append(f"the error is {os.strerror(self.verdict)}")
        ignore |= {"ino", "mtime"}  # of other stacks
        changes = differences(old, self.shown, ignore)
        if not changes and self.again is not None:
            found.append(f"trying again gives {os.strerror(self.again)}")
        if changes and differences(done, self.shown, ignore):
            found += [f"half done: {line}" for line in changes]
        return found


FAILING = [
    pytest.param(CHANGING, ENOSPC, id="ENOSPC", marks=pytest.mark.long),
    pytest.param(CHANGING + READING, EIO, id="EIO"),
]


@pytest.mark.parametrize("warm", [True, False], ids=["used", "fresh"])
@pytest.mark.parametrize("what", OPERATIONS)
@pytest.mark.parametrize(("names", "error"), FAILING)
def test_error(
    what: str, names: tuple[str, ...], error: int, warm: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    injected(what, names, error, warm, DEVICE, tmp_path, monkeypatch)


@pytest.mark.parametrize("form", [XATTR, AUFS])
@pytest.mark.parametrize("what", WHITEOUTS)
@pytest.mark.parametrize(("names", "error"), FAILING)
def test_error_with_other_whiteouts(
    what: str, names: tuple[str, ...], error: int, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    injected(what, names, error, True, form, tmp_path, monkeypatch)


def injected(
    what: str, names: tuple[str, ...], error: int, warm: bool, form: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with Core(tmp_path / "old", LOWERS, upper(form), whiteout=form) as core:
        old = core.view()
    failing = Failing(monkeypatch, names)
    well = Trial(tmp_path / "well", what, failing, -1, 0, warm, form)
    assert (well.verdict, well.problems) == (None, [])
    ignore = {"nlink"} if what in COUNTS else {"size", "content"} if what in SHORTENS else set()
    faults: list[str] = []
    for at, called in enumerate(well.calls):
        trial = Trial(tmp_path / f"{at}", what, failing, at, error, warm, form)
        faults += [f"call {at} of {len(well.calls)}, {called}: {x}" for x in trial.judge(old, well.shown, ignore)]
    assert not faults, "\n".join(faults)
