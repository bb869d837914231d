"""An fsck for a stack that is not mounted: is what lies in upper and work well formed?

    assert check(lowers, upper, work) == []

Looks only at the disk, by the format that the kernel's overlayfs reads; it shares no code with the union.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence

from tests.lib import kernel

WH = b".wh."
_FH = struct.Struct("<BBBBB16s")
_FH_MAGIC = 0xFB
_NLINK = re.compile(rb"^[LU][+-]\d+$")


class Stack:
    """Layers as directories, top first: what is merged under a path, by the marks on the disk."""

    def __init__(self, layers: Sequence[bytes], space: str = "trusted.overlay.") -> None:
        self.layers, self.space = list(layers), space

    def xattr(self, path: bytes, name: str) -> bytes | None:
        try:
            return os.getxattr(path, self.space + name, follow_symlinks=False)
        except OSError:
            return None

    def is_whiteout(self, path: bytes) -> bool:
        """Device 0:0, or an empty file with the mark in a directory that says it has such."""
        st = os.lstat(path)
        if stat.S_ISCHR(st.st_mode) and st.st_rdev == 0:
            return True
        marked = stat.S_ISREG(st.st_mode) and st.st_size == 0 and self.xattr(path, "whiteout") is not None
        return marked and self.xattr(os.path.dirname(path), "opaque") == b"x"

    def is_opaque(self, directory: bytes) -> bool:
        return self.xattr(directory, "opaque") == b"y" or os.path.lexists(directory + b"/.wh..wh..opq")

    def descend(self, places: list[tuple[int, bytes]], name: bytes) -> list[tuple[int, bytes]]:
        """Where `name` lies, given where its parent lies: (layer, path) from the top; [] if it is not visible."""
        found: list[tuple[int, bytes]] = []
        for at, (layer, parent) in enumerate(places):
            path = parent + b"/" + name
            if os.path.lexists(parent + b"/" + WH + name):
                break
            if not os.path.lexists(path):
                continue
            if self.is_whiteout(path) or (found and not _is_dir(path)):
                break
            found.append((layer, path))
            if not _is_dir(path) or self.is_opaque(path):
                break
            redirect = self.xattr(path, "redirect")
            if redirect is not None:
                return found + self._redirected(redirect, layer, places[at + 1 :])
        return found

    def _redirected(
        self, redirect: bytes, layer: int, below: list[tuple[int, bytes]]
    ) -> list[tuple[int, bytes]]:
        """What a redirected directory of `layer` merges with."""
        if not redirect.startswith(b"/"):
            return [place for place in self.descend(below, redirect) if _is_dir(place[1])]
        places = list(enumerate(self.layers))[layer + 1 :]
        for part in redirect.split(b"/")[1:]:
            places = self.descend(places, part)
        return [place for place in places if _is_dir(place[1])]


def check(
    lowers: Sequence[str | bytes],
    upper: str | bytes,
    work: str | bytes,
    *,
    form: str = "device",
    space: str = "trusted.overlay.",
    stray_whiteouts: bool = False,
) -> list[str]:
    """The faults found. form: the whiteouts that the mount writes; stray_whiteouts: RENAME_WHITEOUT makes some."""
    top = os.fsencode(upper)
    stack = Stack([top, *(os.fsencode(lower) for lower in lowers)], space)
    checker = _Checker(stack, form, stray_whiteouts)
    checker.directory(top, [(i, layer) for i, layer in enumerate(stack.layers) if i])
    return checker.faults + _work_faults(os.fsencode(work))


def _handles(top: bytes) -> Iterator[bytes | None]:
    yield kernel.file_handle(top)
    for parent, dirs, files in os.walk(top):
        for name in dirs + files:
            yield kernel.file_handle(parent + b"/" + name)


def _is_dir(path: bytes) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)


class _Checker:
    def __init__(self, stack: Stack, form: str, stray_whiteouts: bool) -> None:
        self.stack, self.form, self.stray = stack, form, stray_whiteouts
        self.faults: list[str] = []

    @functools.cached_property
    def handles(self) -> set[bytes | None]:
        """Those of everything in the lowers; read only when an origin is to be checked."""
        return {handle for lower in self.stack.layers[1:] for handle in _handles(lower)}

    def fault(self, path: bytes, what: str) -> None:
        self.faults.append(f"{os.fsdecode(path[len(self.stack.layers[0]) :]) or '/'}: {what}")

    def directory(self, path: bytes, below: list[tuple[int, bytes]]) -> None:
        """A directory of upper, which merges with the directories `below`."""
        self.marks(path)
        impure = self.stack.xattr(path, "impure") is not None
        for name in sorted(os.listdir(path)):
            child = path + b"/" + name
            if name.startswith(WH):
                self.aufs_mark(child, name, below)
            elif self.stack.is_whiteout(child):
                self.whiteout(child, name, below)
            else:
                self.entry(child, name, below, impure)

    def aufs_mark(self, path: bytes, name: bytes, below: list[tuple[int, bytes]]) -> None:
        if self.form != "aufs":
            self.fault(path, "an AUFS mark, which others would show as a file")
        elif name != b".wh..wh..opq" and not self.stack.descend(below, name[len(WH) :]):
            self.fault(path, "a whiteout of nothing")

    def whiteout(self, path: bytes, name: bytes, below: list[tuple[int, bytes]]) -> None:
        form = "device" if stat.S_ISCHR(os.lstat(path).st_mode) else "xattr"
        if form != self.form:
            self.fault(path, f"a whiteout in {form} form")
        if not self.stray and not self.stack.descend(below, name):
            self.fault(path, "a whiteout of nothing")

    def entry(self, path: bytes, name: bytes, below: list[tuple[int, bytes]], impure: bool) -> None:
        if self.stack.xattr(path, "origin") and not impure:
            self.fault(path, "has an origin, but its directory is not marked impure")
        if not _is_dir(path):
            self.marks(path)
            return
        redirect = self.stack.xattr(path, "redirect")
        if self.stack.is_opaque(path):
            merged = []
        elif redirect is not None:
            merged = self.stack._redirected(redirect, 0, below)
            if not merged:
                self.fault(path, f"redirects to {redirect!r}, where no directory is")
        else:
            merged = [place for place in self.stack.descend(below, name) if _is_dir(place[1])]
        self.directory(path, merged)

    def marks(self, path: bytes) -> None:
        for full in os.listxattr(path, follow_symlinks=False):
            if not full.startswith(self.stack.space):
                continue
            name = full[len(self.stack.space) :]
            if name.startswith("overlay."):
                continue
            value = os.getxattr(path, full, follow_symlinks=False)
            problem = self.problem(name, value, _is_dir(path), path == self.stack.layers[0])
            if problem:
                self.fault(path, f"{full} = {value!r}: {problem}")

    def problem(self, name: str, value: bytes, is_dir: bool, is_root: bool) -> str | None:
        if name == "opaque":
            return None if is_dir and value in (b"y", b"x") else "must be y or x, on a directory"
        if name == "impure":
            return None if is_dir and value == b"y" else "must be y, on a directory"
        if name == "redirect":
            return _redirect_problem(value)
        if name == "origin":
            return self.origin_problem(value)
        if name == "nlink":
            return None if _NLINK.match(value) and not is_dir else "not a link count"
        if name == "uuid":
            return None if is_root and len(value) == 16 else "must be 16 bytes, on upper itself"
        if name in ("metacopy", "protattr", "upper"):
            return None
        return "no mark that anybody knows"

    def origin_problem(self, value: bytes) -> str | None:
        """An empty origin is what the kernel writes where a lower has no file handles."""
        if not value:
            return None
        if len(value) < _FH.size:
            return "shorter than a file handle"
        version, magic, length, flags, kind, _uuid = _FH.unpack_from(value)
        if version != 0 or magic != _FH_MAGIC or length != len(value) or flags & ~7:
            return "not a file handle of version 0"
        if bytes([kind]) + value[_FH.size :] not in self.handles:
            return "the handle of nothing in the lower layers"
        return None


def _redirect_problem(value: bytes) -> str | None:
    if not value.startswith(b"/"):
        return "a name with a slash" if b"/" in value or value in (b"", b".", b"..") else None
    parts = value[1:].split(b"/")
    return "an empty, . or .. component" if any(part in (b"", b".", b"..") for part in parts) else None


def _work_faults(work: bytes) -> list[str]:
    """workdir may hold work/ (empty), index/ (hard links by handle) and, while volatile, work/incompat/."""
    faults: list[str] = []
    for name in sorted(os.listdir(work)):
        path = work + b"/" + name
        if name == b"work":
            faults += [
                f"left over in workdir: work/{os.fsdecode(left)}" for left in os.listdir(path) if left != b"incompat"
            ]
        elif name != b"index":
            faults.append(f"left over in workdir: {os.fsdecode(name)}")
    return faults
