"""The rules of data modes, one by one, against a list of registered backing files."""

from __future__ import annotations

import os
from errno import ELOOP, ENOMEM
from pathlib import Path

import pytest

from tests.server.fake import FakeFile, FakeNode, FakeUnion
from unionfs.server import modes
from unionfs.server.modes import Modes
from unionfs.wire.kernel import FOPEN_KEEP_CACHE, FOPEN_PASSTHROUGH

CACHED, FRESH = (FOPEN_KEEP_CACHE, 0), (0, 0)
READ, WRITE = os.O_RDONLY, os.O_RDWR


class FakeBackings:
    """Numbers files from 1; `error` is raised instead when set."""

    def __init__(self) -> None:
        self.alive: list[int] = []
        self.opened = 0
        self.error: OSError | None = None

    def open(self, fd: int) -> int:
        os.fstat(fd)
        if self.error:
            raise self.error
        self.opened += 1
        self.alive.append(self.opened)
        return self.opened

    def close(self, backing: int) -> None:
        self.alive.remove(backing)


class Opens:
    """Opens and releases files of one union through Modes."""

    def __init__(self, base: Path, passthrough: bool = True) -> None:
        self.union = FakeUnion(os.fsencode(base))
        self.backings = FakeBackings()
        self.given_up: list[OSError] = []
        backings = self.backings if passthrough else None
        self.modes = Modes(self.union, backings, self.given_up.append)  # type: ignore[arg-type]

    def node(self, name: str, mode: int = 0o644) -> FakeNode:
        path = Path(os.fsdecode(self.union.root.path())) / name
        path.touch()
        path.chmod(mode)
        with self.union.lock:
            found = self.union.lookup(self.union.root, os.fsencode(name))
        assert found is not None
        return found[0]

    def open(self, node: FakeNode, flags: int = READ) -> tuple[int, int]:
        return self.modes.opened(FakeFile(node, flags))  # type: ignore[arg-type]

    def release(self, node: FakeNode) -> None:
        self.modes.released(node)  # type: ignore[arg-type]


@pytest.fixture
def opens(base: Path) -> Opens:
    return Opens(base)


def test_upper_files_pass_through_with_one_backing_for_all_opens(opens: Opens) -> None:
    node = opens.node("f")
    assert [opens.open(node), opens.open(node, WRITE), opens.open(node)] == [(FOPEN_PASSTHROUGH, 1)] * 3


def test_the_backing_is_kept_for_the_next_open(opens: Opens) -> None:
    node = opens.node("f")
    for _ in range(3):
        assert opens.open(node) == (FOPEN_PASSTHROUGH, 1)
        opens.release(node)
    assert opens.backings.alive == [1]


def test_backings_of_files_that_nobody_has_open_are_limited(opens: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "MAX_IDLE", 2)
    nodes = [opens.node(f"f{i}") for i in range(4)]
    for node in nodes:
        opens.open(node)
    assert opens.backings.alive == [1, 2, 3, 4]
    for node in nodes:
        opens.release(node)
    assert opens.backings.alive == [3, 4]
    assert opens.open(nodes[0]) == (FOPEN_PASSTHROUGH, 5)
    assert opens.open(nodes[3]) == (FOPEN_PASSTHROUGH, 4)


def test_a_forgotten_node_gives_its_backing_back(opens: Opens) -> None:
    node = opens.node("f")
    opens.open(node)
    opens.release(node)
    opens.modes.forget(node)  # type: ignore[arg-type]
    assert opens.backings.alive == []
    assert node.front == 0
    assert opens.open(node) == (FOPEN_PASSTHROUGH, 2)


def test_lower_files_are_cached(opens: Opens) -> None:
    node = opens.node("low")
    assert opens.open(node) == CACHED
    assert opens.backings.alive == []


def test_the_mode_stays_while_an_open_lives(opens: Opens) -> None:
    node = opens.node("low")
    opens.open(node)
    node.upper = True  # copied up for the next open
    assert opens.open(node, WRITE) == CACHED
    opens.release(node)
    assert opens.open(node) == CACHED
    opens.release(node)
    opens.release(node)
    assert opens.open(node) == (FOPEN_PASSTHROUGH, 1)


def test_data_in_a_lower_does_not_pass_through(opens: Opens) -> None:
    node = opens.node("f")
    node.data = (1, b"f")
    assert opens.open(node) == CACHED


def test_what_is_no_regular_file_is_cached(opens: Opens) -> None:
    os.mkfifo(opens.union.root.path() + b"/p")
    assert opens.open(opens.node("p")) == CACHED


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6755])
def test_a_set_id_file_that_is_written_is_cached(opens: Opens, mode: int) -> None:
    node = opens.node("f", mode)
    assert opens.open(node, WRITE) == CACHED
    opens.release(node)
    assert opens.open(node, READ) == (FOPEN_PASSTHROUGH, 1)


def test_pages_are_dropped_after_writes_that_passed_them_by(opens: Opens) -> None:
    node = opens.node("f", 0o755)
    opens.open(node, WRITE)
    opens.release(node)
    os.chmod(node.path(), 0o4755)
    assert opens.open(node, WRITE) == FRESH
    opens.release(node)
    assert opens.open(node, WRITE) == CACHED


def test_pages_are_kept_after_reads_that_passed_them_by(opens: Opens) -> None:
    node = opens.node("f", 0o4755)
    opens.open(node, READ)
    opens.release(node)
    assert opens.open(node, WRITE) == CACHED


def test_where_backing_is_impossible_all_is_cached_and_one_is_told_once(opens: Opens) -> None:
    opens.backings.error = OSError(ELOOP, "stacked")
    assert [opens.open(opens.node(f"f{i}")) for i in range(3)] == [CACHED] * 3
    assert [e.errno for e in opens.given_up] == [ELOOP]


def test_a_passing_failure_is_for_one_file(opens: Opens) -> None:
    opens.backings.error = OSError(ENOMEM, "for now")
    assert opens.open(opens.node("a")) == CACHED
    opens.backings.error = None
    assert opens.open(opens.node("a")) == CACHED, "its mode stays while it is open"
    assert opens.open(opens.node("b")) == (FOPEN_PASSTHROUGH, 1)
    assert opens.given_up == []


def test_without_passthrough_all_is_cached(base: Path) -> None:
    opens = Opens(base, passthrough=False)
    assert opens.open(opens.node("f"), WRITE) == CACHED
