"""Layers seen as one tree: which layer a path comes from, and what lies hidden below it.

Only for looking at unpacked layers, one path at a time; mounting them is the union's work, by the same rules.
"""

from __future__ import annotations

import os
import stat

from unionfs.layer import verbs
from unionfs.union import marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

_NAMESPACES = (marks.Marks(user=False), marks.Marks(user=True))


def is_whiteout(st: os.stat_result, dir_fd: int, name: bytes) -> bool:
    """Whether an object of a layer is a whiteout, in either form."""
    if stat.S_ISCHR(st.st_mode):
        return st.st_rdev == marks.WHITEOUT_RDEV
    return (
        stat.S_ISREG(st.st_mode)
        and st.st_size == 0
        and any(marks.read(dir_fd, name, space.whiteout) is not None for space in _NAMESPACES)
    )


def is_opaque(fd: int) -> bool:
    """Whether a layer's directory hides what lies below it."""
    return any(marks.read(fd, b"", space.opaque) == b"y" for space in _NAMESPACES)


class Version:
    """One layer's object at a path."""

    __slots__ = ("layer", "opaque", "stat", "visible", "whiteout")

    def __init__(self, layer: int, st: os.stat_result, whiteout: bool, opaque: bool, visible: bool) -> None:
        self.layer = layer
        """Index into the chain's roots: 0 is the top."""
        self.stat = st
        self.whiteout = whiteout
        self.opaque = opaque
        self.visible = visible
        """Takes part in what a mount shows: the topmost object, or a directory that merges into it."""


class Chain:
    """Open layer directories, top first. A context manager; raises OSError where a layer cannot be opened."""

    def __init__(self, roots: Sequence[bytes | str]) -> None:
        self.roots: list[int] = []
        try:
            for root in roots:
                self.roots.append(os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError:
            self.close()
            raise

    def __enter__(self) -> Chain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        while self.roots:
            os.close(self.roots.pop())

    def versions(self, path: bytes) -> list[Version]:
        """Every layer's object of that path (relative, normal), top first; the hidden ones are not
        `visible`."""
        found: list[Version] = []
        covered = False  # a layer above hides this and all lower ones
        for index, root in enumerate(self.roots):
            state = self._in_layer(index, root, path)
            version, ends = state
            if version is not None:
                is_dir = stat.S_ISDIR(version.stat.st_mode)
                merges = not any(v.visible for v in found) or (is_dir and stat.S_ISDIR(found[0].stat.st_mode))
                version.visible = not covered and not version.whiteout and merges
                found.append(version)
                covered |= version.whiteout or not is_dir or version.opaque
            covered |= ends
        return found

    def find(self, path: bytes) -> Version | None:
        """What a mount would show at the path."""
        versions = self.versions(path)
        return versions[0] if versions and versions[0].visible else None

    def _in_layer(self, index: int, root: int, path: bytes) -> tuple[Version | None, bool]:
        """One layer's object, and whether its parents hide the layers below (opaque, whiteout, not a
        directory)."""
        names = path.split(b"/") if path else []
        fd = os.dup(root)
        ends = is_opaque(fd) and bool(names)
        try:
            for name in names[:-1]:
                step = _step(fd, name)
                if step is None:
                    return None, ends or _blocked(fd, name)
                os.close(fd)
                fd = step
                ends |= is_opaque(fd)
            return _version(index, fd, names[-1] if names else b""), ends
        finally:
            os.close(fd)

    def open_parent(self, layer: int, path: bytes) -> tuple[int, bytes]:
        """(descriptor of the directory, last name) of a path in one layer; the caller closes it. Raises
        OSError."""
        fd = os.dup(self.roots[layer])
        names = path.split(b"/")
        for name in names[:-1]:
            try:
                step = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
            fd = step
        return fd, names[-1]


def _step(fd: int, name: bytes) -> int | None:
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        if verbs.exists(fd, name):  # ELOOP for a symlink, ENXIO for a device without driver
            return None
        raise


def _blocked(fd: int, name: bytes) -> bool:
    return verbs.exists(fd, name)


def _version(index: int, fd: int, name: bytes) -> Version | None:
    try:
        st = verbs.stat(fd, name)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(st.st_mode):
        return Version(index, st, is_whiteout(st, fd, name), False, False)
    directory = verbs.open_dir(fd, name) if name else os.dup(fd)
    try:
        return Version(index, st, False, is_opaque(directory), False)
    finally:
        os.close(directory)
