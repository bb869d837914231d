"""Layers on disk from a description: a dict of path → entry, parents made on the way.

    build(root, {"etc/passwd": "root", "etc/old": WHITEOUT, "bin": Dir(opaque=True), "sh": Symlink("bin/sh")})

A plain str or bytes is a file with that content. Whiteouts come in the three forms in use: the device 0:0, the
empty file marked by an xattr, and AUFS's `.wh.` names (which extracted image layers have).
`merge` shows the same description as one plain directory; it knows nothing of any layer on disk.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Mapping
from typing import Any

DEVICE, XATTR, AUFS = "device", "xattr", "aufs"
NAMESPACE = "trusted.overlay."


class Entry:
    """What all entries have. times: mtime (and atime) in ns; None leaves the present."""

    mode = 0o644

    def __init__(
        self,
        *,
        mode: int | None = None,
        uid: int = 0,
        gid: int = 0,
        mtime: int | None = None,
        xattrs: Mapping[str, bytes] | None = None,
    ) -> None:
        self.mode = type(self).mode if mode is None else mode
        self.uid, self.gid, self.mtime, self.xattrs = uid, gid, mtime, dict(xattrs or {})

    def __repr__(self) -> str:
        """As it could be written in a test; what is usual is left out."""
        usual: dict[str, object] = {"uid": 0, "gid": 0, "mtime": None, "xattrs": {}, "size": None, "opaque": False}
        usual["mode"] = type(self).mode
        said = {key: value for key, value in vars(self).items() if value != usual.get(key, ...)}
        return f"{type(self).__name__}({', '.join(f'{key}={_short(value)}' for key, value in said.items())})"

    def make(self, path: bytes) -> None:
        raise NotImplementedError

    def dress(self, path: bytes) -> None:
        """Owner, mode, xattrs and times, in the order in which none undoes another."""
        os.chown(path, self.uid, self.gid, follow_symlinks=False)
        if not os.path.islink(path):
            os.chmod(path, self.mode)
        for name, value in self.xattrs.items():
            os.setxattr(path, name, value, follow_symlinks=False)
        if self.mtime is not None:
            os.utime(path, ns=(self.mtime, self.mtime), follow_symlinks=False)


def _short(value: object) -> str:
    if isinstance(value, bytes) and len(value) > 40:
        return f"{value[:6]!r} and so on, {len(value)} bytes"
    return repr(value)


class File(Entry):
    def __init__(self, content: str | bytes = b"", *, size: int | None = None, **rest: object) -> None:
        """size: the file is made that long by a hole at its end."""
        super().__init__(**rest)  # type: ignore[arg-type]
        self.content = content.encode() if isinstance(content, str) else content
        self.size = size

    def make(self, path: bytes) -> None:
        with open(path, "wb") as file:
            file.write(self.content)
            if self.size is not None:
                file.truncate(self.size)


class Dir(Entry):
    mode = 0o755

    def __init__(self, *, opaque: bool | str = False, redirect: str | bytes | None = None, **rest: object) -> None:
        """opaque: True for the xattr form, AUFS for `.wh..wh..opq`."""
        super().__init__(**rest)  # type: ignore[arg-type]
        self.opaque = opaque
        if opaque is True:
            self.xattrs[NAMESPACE + "opaque"] = b"y"
        if redirect is not None:
            self.xattrs[NAMESPACE + "redirect"] = os.fsencode(redirect)

    def make(self, path: bytes) -> None:
        os.makedirs(path, exist_ok=True)
        if self.opaque == AUFS:
            os.close(os.open(path + b"/.wh..wh..opq", os.O_CREAT | os.O_WRONLY, 0o644))


class Symlink(Entry):
    def __init__(self, target: str | bytes, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.target = os.fsencode(target)

    def make(self, path: bytes) -> None:
        os.symlink(self.target, path)


class Link(Entry):
    """Another name for an entry that stands earlier in the same description."""

    def __init__(self, to: str | bytes) -> None:
        super().__init__()
        self.to = os.fsencode(to)

    def make(self, path: bytes) -> None:
        raise AssertionError("made by build, which knows the root")


class Special(Entry):
    """A device, FIFO or socket: kind is one of stat.S_IFCHR, S_IFBLK, S_IFIFO, S_IFSOCK."""

    def __init__(self, kind: int, rdev: int = 0, **rest: object) -> None:
        super().__init__(**rest)  # type: ignore[arg-type]
        self.kind, self.rdev = kind, rdev

    def make(self, path: bytes) -> None:
        os.mknod(path, self.kind | 0o600, self.rdev)


class Whiteout(Entry):
    def __init__(self, form: str = DEVICE) -> None:
        super().__init__()
        self.form = form

    def make(self, path: bytes) -> None:
        parent, name = os.path.split(path)
        if self.form == DEVICE:
            os.mknod(path, stat.S_IFCHR, 0)
        elif self.form == AUFS:
            os.close(os.open(parent + b"/.wh." + name, os.O_CREAT | os.O_WRONLY, 0o644))
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))
            os.setxattr(path, NAMESPACE + "whiteout", b"")
            os.setxattr(parent, NAMESPACE + "opaque", b"x")


WHITEOUT = Whiteout()
Described = str | bytes | Entry
# Paths are str or bytes, values are Described; said so loosely because mappings are invariant in their keys.
Layer = Mapping[Any, Any]


def entries(layer: Layer) -> list[tuple[bytes, Entry]]:
    """The description with its shorthands spelled out, in its own order."""
    return [
        (os.fsencode(path), entry if isinstance(entry, Entry) else File(entry)) for path, entry in layer.items()
    ]


def build(root: str | bytes, layer: Layer) -> None:
    """Makes the layer in the directory `root` (made if missing). "" describes the root itself."""
    base = os.fsencode(root)
    os.makedirs(base, exist_ok=True)
    made = [(base + b"/" + path if path else base, entry) for path, entry in entries(layer)]
    for path, entry in made:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if isinstance(entry, Link):
            os.link(base + b"/" + entry.to, path, follow_symlinks=False)
        else:
            entry.make(path)
    # From the leaves up, or a directory's times would not last.
    for path, entry in reversed(made):
        if not isinstance(entry, (Link, Whiteout)):
            entry.dress(path)


def merge(root: str | bytes, layers: list[Layer]) -> None:
    """Makes in `root` the tree that a mount of these layers (top first) has to show."""
    base = os.fsencode(root)
    os.makedirs(base, exist_ok=True)
    for layer in reversed(layers):
        _lay_over(base, layer)


def _lay_over(base: bytes, layer: Layer) -> None:
    _reset_dir(base)
    opaque = [path for path, entry in entries(layer) if isinstance(entry, Dir) and entry.opaque]
    for path in opaque:
        _clear(base + b"/" + path)
    shown: dict[bytes, Entry] = {}
    for path, entry in entries(layer):
        full = base + b"/" + path if path else base
        _reset_parents(base, path)
        if isinstance(entry, Dir):
            _reset_dir(full)
        else:
            _clear(full)
        if isinstance(entry, Whiteout):
            continue
        shown[path] = _without_marks(entry)
    build(base, shown)


def _reset_parents(base: bytes, path: bytes) -> None:
    """The directories that lead to an entry are in its layer too, so they hide what stands below."""
    full = base
    for part in path.split(b"/")[:-1]:
        full += b"/" + part
        _reset_dir(full)


def _reset_dir(path: bytes) -> None:
    """A directory with the attributes of a fresh one, whatever was there; its entries stay."""
    if not _is_dir(path):
        _clear(path)
        os.mkdir(path)
    os.chown(path, 0, 0)
    os.chmod(path, Dir.mode)
    os.utime(path)
    for name in os.listxattr(path):
        os.removexattr(path, name)


def _without_marks(entry: Entry) -> Entry:
    if not isinstance(entry, Dir):
        return entry
    xattrs = {name: value for name, value in entry.xattrs.items() if not name.startswith(NAMESPACE)}
    return Dir(mode=entry.mode, uid=entry.uid, gid=entry.gid, mtime=entry.mtime, xattrs=xattrs)


def _is_dir(path: bytes) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _clear(path: bytes) -> None:
    if _is_dir(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def make_socket(path: str | bytes) -> None:
    """Binds a socket there by a short name, since sun_path holds 108 bytes."""
    parent, name = os.path.split(os.fsencode(path))
    fd = os.open(parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(b"/proc/self/fd/%d/%s" % (fd, name))
    finally:
        os.close(fd)
