"""COPY and ADD: from one tree (the context, a stage, an unpacked archive) into another.

Sources are looked for first, and hashed for the cache; only what is not cached is copied.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from errno import ENOENT, ENOTDIR

from unionfs.image.build.ignore import Ignore, to_regex
from unionfs.image.errors import ImageError, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionfs.image.build.tree import Tree
    from unionfs.union.node import Dir, Node

_WILD = re.compile(r"[*?\[\\]")


class Source:
    """One thing to be copied: where it was found, and the name it has there."""

    __slots__ = ("name", "node", "path", "stat", "tree")

    def __init__(self, tree: Tree, path: str, node: Node, st: os.stat_result) -> None:
        self.tree = tree
        self.path = path
        self.name = os.fsencode(path.rpartition("/")[2])
        self.node = node
        self.stat = st


class Target:
    """Where things go. owner: of everything, None: as they are (directories that have to be made are then root's);
    mode: of everything that is no directory, None: as it is."""

    __slots__ = ("directory", "mode", "owner", "path")

    def __init__(self, path: str, owner: tuple[int, int] | None, mode: int | None, *, directory: bool) -> None:
        self.path = os.fsencode(path)
        self.owner = owner
        self.mode = mode
        self.directory = directory or path.endswith("/")


def find(tree: Tree, patterns: list[str], ignore: Ignore, where: str) -> list[Source]:
    """The sources that paths or patterns stand for. ImageError where one stands for nothing."""
    found = []
    for pattern in patterns:
        clean = os.path.normpath("/" + pattern).lstrip("/")
        paths = _matching(tree, clean) if _WILD.search(clean) else [clean]
        kept = [path for path in paths if not path or not ignore.leaves_out(path)]
        sources = [source for path in kept if (source := _source(tree, path)) is not None]
        if not sources:
            out = " (.dockerignore leaves it out)" if len(kept) < len(paths) else ""
            raise ImageError(f"{where} has no {pattern}{out}")
        found += sources
    return found


def _source(tree: Tree, path: str) -> Source | None:
    try:
        return Source(tree, path, *tree.find(os.fsencode(path)))
    except OSError as exc:
        if exc.errno in (ENOENT, ENOTDIR):
            return None
        raise


def _matching(tree: Tree, pattern: str) -> list[str]:
    """Paths that match, part by part."""
    paths = [""]
    for part in pattern.split("/"):
        fits = re.compile(to_regex(part), re.DOTALL)
        paths = [
            f"{path}/{name}" if path else name
            for path in paths
            if (here := _source(tree, path)) is not None and here.node.is_dir
            for name in map(os.fsdecode, tree.names(here.node))
            if fits.fullmatch(name)
        ]
    return paths


def walk(source: Source, ignore: Ignore) -> Iterator[tuple[str, Node, os.stat_result]]:
    """What is below a directory, parents first, sorted: (path from it, object, stat); without what is ignored."""
    pending = [("", source.node)]
    while pending:
        at, directory = pending.pop()
        inner = []
        for name in source.tree.names(directory):
            path = f"{at}/{os.fsdecode(name)}" if at else os.fsdecode(name)
            full = f"{source.path}/{path}" if source.path else path
            node, st = source.tree.child(directory, name)
            if node.is_dir and not ignore.prunes(full):
                inner.append((path, node))
            if not ignore.leaves_out(full):
                yield path, node, st
        pending += inner[::-1]


def digest(sources: list[Source], ignore: Ignore, *, owners: bool) -> str:
    """A hash of all that copying would write, but for the times, as in Docker. owners: those count, too."""
    total = hashlib.sha256()
    for source in sources:
        _hash(total, source.tree, os.fsdecode(source.name), source.node, source.stat, owners)
        if source.node.is_dir:
            for path, node, st in walk(source, ignore):
                _hash(total, source.tree, path, node, st, owners)
    return total.hexdigest()


def _hash(total: hashlib._Hash, tree: Tree, path: str, node: Node, st: os.stat_result, owners: bool) -> None:
    facts: list[object] = [os.fsencode(path), st.st_mode, st.st_rdev, sorted(tree.xattrs(node).items())]
    if owners:
        facts += [st.st_uid, st.st_gid]
    if stat.S_ISLNK(st.st_mode):
        facts.append(tree.readlink(node))
    total.update(repr(facts).encode())
    if stat.S_ISREG(st.st_mode):
        content = hashlib.sha256()
        for piece in tree.data(node):
            content.update(piece)
        total.update(content.digest())


class Copier:
    """Copies into one tree; names of one file stay hard links of each other."""

    def __init__(self, tree: Tree, target: Target, ignore: Ignore) -> None:
        self._tree = tree
        self._target = target
        self._ignore = ignore
        self._links: dict[tuple[int, int], Node] = {}
        self._times: list[tuple[Node, int]] = []

    def copy(self, sources: list[Source]) -> None:
        """Raises ImageError where something else is in the way, OSError."""
        target = self._target
        many = target.directory or len(sources) > 1 or self._is_directory(target.path)
        for source in sources:
            if source.node.is_dir:
                self._directory(source, self._tree.make_directories(target.path, target.owner or (0, 0)))
                continue
            parent, _, name = target.path.rstrip(b"/").rpartition(b"/")
            if many:
                parent, name = target.path, source.name
            directory = self._tree.make_directories(parent, target.owner or (0, 0))
            self._object(source.tree, source.node, source.stat, directory, name)
        for node, mtime in reversed(self._times):
            self._tree.union.utimens(node, mtime, mtime)

    def _is_directory(self, path: bytes) -> bool:
        try:
            return self._tree.find(path)[0].is_dir
        except OSError as exc:
            if exc.errno != ENOENT:
                raise
            return False

    def _directory(self, source: Source, top: Dir) -> None:
        """What is in a directory goes into `top`, an existing one, which stays as it is."""
        made: dict[str, Dir] = {"": top}
        for path, node, st in walk(source, self._ignore):
            parent, _, name = path.rpartition("/")
            directory = made.get(parent)
            if directory is None:       # its own entry is left out, but not this one in it
                directory = made[parent] = self._below(top, parent)
            inner = self._object(source.tree, node, st, directory, os.fsencode(name))
            if inner is not None:
                made[path] = inner

    def _below(self, top: Dir, path: str) -> Dir:
        here = top
        for name in path.split("/"):
            found = self._tree.union.lookup(here, os.fsencode(name))
            if found is None:
                found = self._tree.union.mkdir(here, os.fsencode(name), 0o755, (0, 0, 0))
                self._tree.attributes(found[0], self._target.owner or (0, 0), 0o755)
            here = found[0]  # type: ignore[assignment]
        return here

    def _object(self, origin: Tree, node: Node, st: os.stat_result, directory: Dir, name: bytes) -> Dir | None:
        """One object; of a directory only itself. The directory, if it is one."""
        union = self._tree.union
        there = union.lookup(directory, name)
        if there is not None:
            if node.is_dir and there[0].is_dir:
                return there[0]  # type: ignore[return-value]
            if node.is_dir or there[0].is_dir:
                raise ImageError(f"{show(name)}: a directory and something else would have the same name")
            union.unlink(directory, name)
        first = self._links.get((st.st_dev, st.st_ino)) if st.st_nlink > 1 and not node.is_dir else None
        if first is not None:
            union.link(first, directory, name)
            return None
        made = self._make(origin, node, st, directory, name)
        if st.st_nlink > 1 and not node.is_dir:
            self._links[st.st_dev, st.st_ino] = made
        owner = self._target.owner or (st.st_uid, st.st_gid)
        fixed = self._target.mode
        mode = stat.S_IMODE(st.st_mode) if fixed is None or node.is_dir else fixed
        self._tree.attributes(made, owner, mode, origin.xattrs(node))
        self._times.append((made, st.st_mtime_ns))
        return made if node.is_dir else None  # type: ignore[return-value]

    def _make(self, origin: Tree, node: Node, st: os.stat_result, directory: Dir, name: bytes) -> Node:
        union = self._tree.union
        who = (0, 0, 0)
        if stat.S_ISREG(st.st_mode):
            return self._tree.write(directory, name, origin.data(node))
        if stat.S_ISDIR(st.st_mode):
            return union.mkdir(directory, name, 0o700, who)[0]
        if stat.S_ISLNK(st.st_mode):
            return union.symlink(directory, name, origin.readlink(node), who)[0]
        return union.mknod(directory, name, st.st_mode, st.st_rdev, who)[0]
