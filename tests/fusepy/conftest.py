"""Mounts of front end B with each library that is installed, and a union to translate to without any mount."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib.layers import Layer, build
from unionfs.union import Config, Union

LIBRARIES = ("libfuse3.so.3", "libfuse.so.2")


def is_installed(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a library, which the mounts of this test use."""
    name: str = request.param
    if not is_installed(name):
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("FUSE_LIBRARY_PATH", name)
    return name


@pytest.fixture
def union(base: Path) -> Iterator[Union]:
    """A writable union over one lower with d/x0 … d/x19, d/y and f."""
    lower: Layer = {**{f"d/x{i}": "x" for i in range(20)}, "d/y": "y", "f": "content"}
    build(str(base / "l"), lower)
    for name in ("u", "w"):
        os.mkdir(base / name)
    made = Union(Config(lower=[os.fsencode(base / "l")], upper=os.fsencode(base / "u"), work=os.fsencode(base / "w")))
    with made.lock:
        yield made
    made.close()


