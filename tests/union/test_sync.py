"""What was asked to be on disk is synced, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lib.layers import Layer
from tests.union.core import Core
from unionfs.layer import verbs

LOWER: Layer = {"low": "l", "d/x": "x"}
UPPER: Layer = {"mine": "m", "own/y": "y"}


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(verb, name of what it was given) of every sync."""
    calls: list[tuple[str, str]] = []

    def watched(name: str) -> None:
        verb = getattr(verbs, name)

        def call(fd: int) -> None:
            calls.append((name, os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))))
            verb(fd)

        monkeypatch.setattr(verbs, name, call)

    for name in ("sync", "sync_data", "syncfs"):
        watched(name)
    return calls


def sync_everything(core: Core) -> None:
    union = core.union
    for name in ("mine", "low"):
        file = union.open(core.node(name), os.O_RDONLY)
        union.fsync(file, False)
        union.fsync(file, True)
        union.release(file)
    union.fsyncdir(core.dir("own"))
    union.fsyncdir(core.dir("d"))
    union.syncfs()


def test_what_upper_has_is_synced(tmp_path: Path, synced: list[tuple[str, str]]) -> None:
    with Core(tmp_path, [LOWER], UPPER) as core:
        sync_everything(core)
        assert synced == [("sync", "mine"), ("sync_data", "mine"), ("sync", "own"), ("syncfs", "u")]


@pytest.mark.parametrize("how", ["volatile", "fsync=0"])
def test_never_synced(tmp_path: Path, synced: list[tuple[str, str]], how: str) -> None:
    core = Core(tmp_path, [LOWER], UPPER, volatile=how == "volatile", sync=False)
    core.union.lock.acquire()
    sync_everything(core)
    core.union.chmod(core.node("low"), 0o600)
    core.close()
    assert synced == []
