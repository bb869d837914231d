"""The binding's calls around a core that fails, and the choice of a binding."""

from __future__ import annotations

import errno
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from unionfs.fusepy_front import bridge
from unionfs.union import UTIME_NOW


class Core:
    """Stands for the FUSE object with its operations; its calls fail as they are told to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.told: list[bytes] = []
        self.lock = threading.Lock()
        self.operations: Any = SimpleNamespace(
            union=SimpleNamespace(lock=self.lock), paths=SimpleNamespace(trim=lambda: None), stale=[]
        )
        self.service: Any = SimpleNamespace(failed=self.failed, invalidate=self.invalidate)

    def failed(self, what: str) -> None:
        self.lines.append(what)

    def invalidate(self, paths: list[bytes]) -> None:
        assert not self.lock.locked(), "the kernel may wait for pages that need the lock"
        self.told += paths

    def call(self, function: Any) -> int:
        return bridge.Calls._wrapper(self, function)  # type: ignore[arg-type]


def raising(error: BaseException) -> Any:
    def function() -> None:
        raise error

    return function


@pytest.mark.parametrize(
    ("error", "code"),
    [(OSError(errno.ENOSPC, "full"), errno.ENOSPC), (OSError("no number"), errno.EIO), (FileNotFoundError(2, ""), 2)],
)
def test_errors_of_the_union_are_the_application_s(error: OSError, code: int) -> None:
    core = Core()
    assert core.call(raising(error)) == -code
    assert not core.lines
    assert not core.lock.locked()


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("y"), SystemExit(1)])
def test_anything_else_is_eio_and_in_the_log(error: BaseException) -> None:
    core = Core()
    assert core.call(raising(error)) == -errno.EIO
    assert core.lines == ["function"]
    assert not core.lock.locked()


def test_answers_are_given_with_the_lock_held() -> None:
    core = Core()

    def function() -> int:
        assert core.lock.locked()
        return 7

    assert core.call(function) == 7


def test_other_names_are_told_once_the_lock_is_free() -> None:
    core = Core()

    def function() -> None:
        core.operations.stale += [b"/a", b"/b"]

    assert core.call(function) == 0
    assert core.told == [b"/a", b"/b"]
    assert core.operations.stale == []


def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in ("fuse", "mfusepy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "libfuse3.so.none")
    with pytest.raises(ImportError, match=r"libfuse3\.so\.none"):
        bridge.load()


@pytest.mark.parametrize(
    ("seconds", "nanoseconds", "expected"),
    [(1, 5, 1_000_000_005), (-1, 5, -999_999_995), (0, 0x3FFFFFFF, UTIME_NOW), (0, 0x3FFFFFFE, None)],
)
def test_times(seconds: int, nanoseconds: int, expected: int | None) -> None:
    assert bridge._time(SimpleNamespace(tv_sec=seconds, tv_nsec=nanoseconds)) == expected
