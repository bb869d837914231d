"""What differs between two trees, as `docker diff` writes it: A added, C changed, D removed."""

from __future__ import annotations

import os
import stat

from unionfs.layer import verbs
from unionfs.layer.tree import Layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionfs.image.merged import Merged, Object

_CHUNK = 1 << 18


class Change:
    """One line of a comparison: kind "A", "C" or "D", and what about a changed path differs."""

    __slots__ = ("kind", "path", "what")

    def __init__(self, kind: str, path: bytes, what: tuple[str, ...] = ()) -> None:
        self.kind = kind
        self.path = path
        self.what = what


class Side:
    """A merged tree together with its layer directories (bottom first), held open to read files' content."""

    def __init__(self, merged: Merged, layers: list[str]) -> None:
        self.root = merged.root
        self.paths = layers
        self._layers = [Layer(os.fsencode(path), index) for index, path in enumerate(layers)]

    def close(self) -> None:
        for layer in self._layers:
            layer.close()

    def parent(self, path: bytes, layer: int) -> tuple[int, bytes]:
        """(directory descriptor, to be closed; name) of an absolute path in the layer that shows it."""
        parent, _, name = path.lstrip(b"/").rpartition(b"/")
        return self._layers[layer].open_dir(parent), name


def changes(old: Side, new: Side) -> Iterator[Change]:
    """Sorted by path. Whatever is below an added or removed directory has a line of its own, as in `docker diff`
    for added ones; a removed directory is one line.
    """
    pending: list[tuple[bytes, Object | None, Object | None]] = [(b"", old.root, new.root)]
    while pending:
        path, before, after = pending.pop()
        if after is None:
            yield Change("D", path)
            continue
        if before is None:
            yield Change("A", path)
        elif path and (what := _differences(old, new, path, before, after)):
            yield Change("C", path, what)
        was = before.children if before is not None and before.children else {}
        now = after.children or {}
        names = sorted(was.keys() | now.keys(), reverse=True)
        if after.children is not None:
            pending += [(path + b"/" + name, was.get(name), now.get(name)) for name in names]


def _differences(old: Side, new: Side, path: bytes, before: Object, after: Object) -> tuple[str, ...]:
    if old.paths[before.layer] == new.paths[after.layer]:
        return ()  # the very same object
    if stat.S_IFMT(before.mode) != stat.S_IFMT(after.mode):
        return ("type",)
    what = [
        word
        for word, differs in (
            ("mode", before.mode != after.mode),
            ("owner", (before.uid, before.gid) != (after.uid, after.gid)),
            ("device", before.rdev != after.rdev),
            ("time", before.mtime != after.mtime),
        )
        if differs
    ]
    if before.children is None and not _same_content(
        old.parent(path, before.layer), new.parent(path, after.layer)
    ):
        what.append("content")
    return tuple(what)


def _same_content(old: tuple[int, bytes], new: tuple[int, bytes]) -> bool:
    """Whether two objects of one type have the same data or target. Closes the directories' descriptors."""
    try:
        st, other = verbs.stat(*old), verbs.stat(*new)
        if stat.S_ISLNK(st.st_mode) and stat.S_ISLNK(other.st_mode):
            return verbs.readlink(*old) == verbs.readlink(*new)
        if not stat.S_ISREG(st.st_mode) or not stat.S_ISREG(other.st_mode):
            return True
        return st.st_size == other.st_size and _same_bytes(verbs.open_reading(*old), verbs.open_reading(*new))
    finally:
        os.close(old[0])
        os.close(new[0])


def _same_bytes(old: int, new: int) -> bool:
    with open(old, "rb", buffering=0) as one, open(new, "rb", buffering=0) as two:
        while (chunk := one.read(_CHUNK)) == two.read(_CHUNK):
            if not chunk:
                return True
    return False
