"""What a writable layer changes in the tree below it, as `docker diff` writes it: A added, C changed, D removed."""

from __future__ import annotations

import os
import stat

from unionfs.image import chain
from unionfs.image.attrs import meant
from unionfs.image.compare import Change
from unionfs.layer import verbs
from unionfs.layer.tree import Layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionfs.image.chain import Chain


def changes(upper: str, lowers: list[str], *, rootless: bool = False) -> list[Change]:
    """Sorted by path. lowers: top first.

    A directory is changed where anything below it is, or its own owner, mode or time differs. What an opaque
    directory hides is removed, name by name.
    """
    layer = Layer(os.fsencode(upper), 0)
    try:
        with chain.Chain(lowers, rootless=rootless) as below:
            found = {change.path: change for change in _walk(layer, below)}
    finally:
        layer.close()
    for change in list(found.values()):
        parent = change.path.rpartition(b"/")[0]
        while parent and parent not in found:
            found[parent] = Change("C", parent)
            parent = parent.rpartition(b"/")[0]
    return [found[path] for path in sorted(found)]


def _walk(layer: Layer, below: Chain) -> Iterator[Change]:
    pending = [(b"", True)]
    while pending:
        path, merges = pending.pop()
        fd = layer.open_dir(path)
        try:
            names = {entry.name: verbs.stat(fd, entry.name) for entry in verbs.scan(fd)}
            whiteouts = {name for name, st in names.items() if chain.is_whiteout(st, fd, name)}
            if below.rootless:
                names |= {name: meant(st, fd, name) for name, st in names.items() if name not in whiteouts}
            if merges and chain.is_opaque(fd):
                for name in _shown(below, path) - names.keys():
                    yield Change("D", b"/" + _join(path, name))
        finally:
            os.close(fd)
        for name, st in names.items():
            inner = _join(path, name)
            old = below.find(inner) if merges else None
            if name in whiteouts:
                if old is not None:
                    yield Change("D", b"/" + inner)
                continue
            is_dir = stat.S_ISDIR(st.st_mode)
            if old is None:
                yield Change("A", b"/" + inner)
            elif not (is_dir and _same_directory(old.stat, st)):
                yield Change("C", b"/" + inner)
            if is_dir:
                pending.append((inner, old is not None and stat.S_ISDIR(old.stat.st_mode)))


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _same_directory(old: os.stat_result, new: os.stat_result) -> bool:
    return (old.st_mode, old.st_uid, old.st_gid, old.st_mtime_ns) == (
        new.st_mode, new.st_uid, new.st_gid, new.st_mtime_ns)  # fmt: skip


def _shown(below: Chain, path: bytes) -> set[bytes]:
    """The names that the layers below show in a directory."""
    names: set[bytes] = set()
    for version in below.versions(path):
        if version.visible and stat.S_ISDIR(version.stat.st_mode):
            parent, last = below.open_parent(version.layer, path) if path else (os.dup(below.roots[version.layer]), b"")
            try:
                fd = verbs.open_dir(parent, last) if last else os.dup(parent)
            finally:
                os.close(parent)
            try:
                names |= {entry.name for entry in verbs.scan(fd)}
            finally:
                os.close(fd)
    return {name for name in names if below.find(_join(path, name)) is not None}
