"""An image's layers merged in memory, bottom up: what each adds, changes, removes, and what it hides for good.

Reads names and attributes only, never the files' content, and each layer once.
"""

from __future__ import annotations

import os
import stat

from unionfs.image import chain
from unionfs.image.attrs import meant
from unionfs.layer import verbs
from unionfs.layer.tree import Layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class Object:
    """What a path is in the merged tree."""

    __slots__ = ("children", "gid", "layer", "linked", "mode", "mtime", "rdev", "size", "uid")

    def __init__(self, st: os.stat_result, layer: int) -> None:
        self.layer = layer
        """Index of the layer that shows it; 0 is the bottom."""
        self.mode = st.st_mode
        self.uid = st.st_uid
        self.gid = st.st_gid
        self.size = 0 if stat.S_ISDIR(st.st_mode) else st.st_size
        self.mtime = st.st_mtime_ns
        self.rdev = st.st_rdev
        self.linked = st.st_nlink > 1 and not stat.S_ISDIR(st.st_mode)
        self.children: dict[bytes, Object] | None = {} if stat.S_ISDIR(st.st_mode) else None

    def walk(self, path: bytes = b"") -> Iterator[tuple[bytes, Object]]:
        """Everything below, parents first, sorted: (absolute path, object)."""
        pending = [(path, self)]
        while pending:
            at, here = pending.pop()
            if at != path:
                yield at, here
            if here.children:
                pending += [
                    (at + b"/" + name, here.children[name]) for name in sorted(here.children, reverse=True)
                ]

    def find(self, path: bytes) -> Object | None:
        """The object at a path below this one, symlinks not followed."""
        here: Object | None = self
        for name in path.split(b"/"):
            if name and here is not None:
                here = (here.children or {}).get(name)
        return here


class LayerFacts:
    """What one layer does to the tree below it. Files are everything that is not a directory."""

    __slots__ = ("added", "changed", "removed", "size", "wasted")

    def __init__(self) -> None:
        self.added = 0
        self.changed = 0
        self.removed = 0
        self.size = 0
        """Bytes of its files (hard links once)."""
        self.wasted = 0
        """Of these, bytes that layers above hide: stored and sent, seen by nobody."""

    def as_json(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in self.__slots__}


class Merged:
    """The merged tree of layer directories (bottom first), and the facts of each layer."""

    def __init__(self, layers: list[str], *, rootless: bool = False) -> None:
        self._rootless = rootless
        self.facts = [LayerFacts() for _ in layers]
        self.root = Object(os.stat("/"), 0)
        for index, directory in enumerate(layers):
            layer = Layer(os.fsencode(directory), index)
            try:
                self._copy_attributes(self.root, Object(self._stat(os.stat(layer.fd), layer.fd, b""), index))
                self._layer(layer)
            finally:
                layer.close()

    def _layer(self, layer: Layer) -> None:
        """Lay one layer over what is there."""
        self._inodes: set[int] = set()
        pending = [(b"", self.root)]
        while pending:
            path, target = pending.pop()
            fd = layer.open_dir(path)
            try:
                for name, child in self._directory(fd, target, layer.index):
                    pending.append((path + b"/" + name if path else name, child))
            finally:
                os.close(fd)

    def _directory(self, fd: int, target: Object, index: int) -> list[tuple[bytes, Object]]:
        """Lay one directory of a layer over its place; its subdirectories, which are still to do."""
        children = target.children
        assert children is not None
        if children and chain.is_opaque(fd):
            for name in list(children):
                self._hide(children.pop(name), index, count=True)
        inner = []
        for entry in sorted(verbs.scan(fd), key=lambda entry: entry.name):
            name, st = entry.name, verbs.stat(fd, entry.name)
            below = children.get(name)
            if chain.is_whiteout(st, fd, name):
                if below is not None:
                    self._hide(children.pop(name), index, count=True)
                continue
            new = Object(self._stat(st, fd, name), index)
            if new.children is None:
                self._file(children, name, below, new, st)
            else:
                inner.append((name, self._merge_directory(children, name, below, new)))
        return inner

    def _merge_directory(
        self, children: dict[bytes, Object], name: bytes, below: Object | None, new: Object
    ) -> Object:
        if below is not None and below.children is not None:
            self._copy_attributes(below, new)
            return below
        if below is not None:
            self._hide(below, new.layer, count=True)
        children[name] = new
        return new

    def _file(
        self,
        children: dict[bytes, Object],
        name: bytes,
        below: Object | None,
        new: Object,
        st: os.stat_result,
    ) -> None:
        facts = self.facts[new.layer]
        if below is None:
            facts.added += 1
        else:
            facts.changed += 1
            self._hide(below, new.layer, count=below.children is not None)
        if st.st_ino in self._inodes:
            new.size = 0  # another name of a file counted already
        elif new.linked:
            self._inodes.add(st.st_ino)
        facts.size += new.size
        children[name] = new

    def _hide(self, gone: Object, by: int, *, count: bool) -> None:
        """An object, and all below it, is seen no more. count: as removed, not as replaced."""
        for _path, each in [(b"", gone), *gone.walk()]:
            if each.children is None:
                self.facts[each.layer].wasted += each.size
                self.facts[by].removed += count

    @staticmethod
    def _copy_attributes(old: Object, new: Object) -> None:
        old.layer, old.mode, old.uid, old.gid, old.mtime = new.layer, new.mode, new.uid, new.gid, new.mtime

    def _stat(self, st: os.stat_result, fd: int, name: bytes) -> os.stat_result:
        """The attributes the image means: of an ordinary user's store they are in an xattr."""
        if not self._rootless:
            return st
        return meant(st, fd, name)
