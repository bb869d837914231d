"""Layers seen as one tree: which layer a path comes from, and what lies hidden below it.

Only for looking at unpacked layers, one path at a time; mounting them is the union's work, by the same rules.
"""

from __future__ import annotations

import os
import stat

from unionfs.image.attrs import meant
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
    """One layer's object at a path; or, where `above` is not empty, a parent of the path that hides lower layers."""

    __slots__ = ("above", "layer", "opaque", "stat", "visible", "whiteout")

    def __init__(
        self,
        layer: int,
        st: os.stat_result,
        *,
        whiteout: bool = False,
        opaque: bool = False,
        above: bytes = b"",
    ) -> None:
        self.layer = layer
        """Index into the chain's roots: 0 is the top."""
        self.stat = st
        self.whiteout = whiteout
        self.opaque = opaque
        self.above = above
        self.visible = False
        """Takes part in what a mount shows: the topmost object, or a directory that merges into it."""


class Chain:
    """Open layer directories, top first. A context manager; raises OSError where a layer cannot be opened."""

    def __init__(self, roots: Sequence[bytes | str], *, rootless: bool = False) -> None:
        """rootless: tell the attributes that the image means, of an ordinary user's store (see attrs.meant)."""
        self.rootless = rootless
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
        """Every layer's object of that path (relative, normal), top first; the hidden ones are not `visible`.

        Between them stand the parents that hide what lies below: whiteouts, opaque directories, files.
        """
        found: list[Version] = []
        merging = True  # layers from here on still add to what is shown
        shown = False
        for index, root in enumerate(self.roots):
            version, cover = self._in_layer(index, root, path)
            if version is not None:
                is_dir = stat.S_ISDIR(version.stat.st_mode)
                version.visible = merging and not version.whiteout and (is_dir or not shown)
                shown |= version.visible
                merging &= is_dir and not version.opaque
                found.append(version)
            if cover is not None:
                if merging:
                    found.append(cover)
                merging = False
        return found

    def find(self, path: bytes) -> Version | None:
        """What a mount would show at the path."""
        versions = self.versions(path)
        return versions[0] if versions and versions[0].visible else None

    def _in_layer(self, index: int, root: int, path: bytes) -> tuple[Version | None, Version | None]:
        """One layer's object, and the parent of it that hides the layers below, if one does."""
        names = path.split(b"/") if path else []
        cover: Version | None = None
        fd = os.dup(root)
        try:
            for depth, name in enumerate(names):
                if cover is None and is_opaque(fd):
                    cover = Version(index, os.stat(fd), opaque=True, above=b"/".join(names[:depth]) or b".")
                version = self._version(index, fd, name)
                if depth == len(names) - 1 or version is None:
                    return version, cover
                if not stat.S_ISDIR(version.stat.st_mode):
                    version.above = b"/".join(names[: depth + 1])
                    return None, version
                step = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = step
            return self._version(index, fd, b""), None
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

    def _version(self, index: int, fd: int, name: bytes) -> Version | None:
        try:
            st = verbs.stat(fd, name)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(st.st_mode):
            whiteout = is_whiteout(st, fd, name)
            return Version(index, meant(st, fd, name) if self.rootless and not whiteout else st, whiteout=whiteout)
        directory = verbs.open_dir(fd, name) if name else os.dup(fd)
        try:
            return Version(index, meant(st, directory, b"") if self.rootless else st, opaque=is_opaque(directory))
        finally:
            os.close(directory)
