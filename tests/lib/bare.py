"""A `Union` over described layers, without a mount: for what the kernel's caches would hide, and for speed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lib.layers import Layer, build
from unionfs.union import Config, Dir, Node, Union


def prepare(base: Path, lowers: Sequence[Layer], upper: Layer | None = None) -> Config:
    """The layers on disk: l0 (top), l1, … u w in `base`."""
    for at, layer in enumerate(lowers):
        build(str(base / f"l{at}"), layer)
    build(str(base / "u"), upper or {})
    (base / "w").mkdir(exist_ok=True)
    paths = [os.fsencode(base / f"l{at}") for at in range(len(lowers))]
    return Config(lower=paths, upper=os.fsencode(base / "u"), work=os.fsencode(base / "w"))


@contextlib.contextmanager
def opened(config: Config) -> Iterator[Union]:
    """The union, open, its lock held."""
    union = Union(config)
    try:
        with union.lock:
            yield union
    finally:
        union.close()


def find(union: Union, path: str | bytes) -> Node | None:
    """The node at a path; None where a component is missing. Raises what a lookup raises."""
    node: Node = union.root
    for name in os.fsencode(path).split(b"/"):
        assert isinstance(node, Dir)
        found = union.lookup(node, name)
        if found is None:
            return None
        node = found[0]
    return node


def directory(union: Union, path: str | bytes) -> Dir:
    node = find(union, path) if path else union.root
    assert isinstance(node, Dir)
    return node


def names(union: Union, path: str | bytes = "") -> list[bytes]:
    return sorted(entry[0] for entry in union.readdir(directory(union, path), 0))


def read(union: Union, path: str | bytes) -> bytes:
    node = find(union, path)
    assert node is not None
    file = union.open(node, os.O_RDONLY)
    try:
        return os.pread(file.fileno(), 1 << 20, 0)
    finally:
        union.release(file)
