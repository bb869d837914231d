"""An overlay layer directory → a layer tar by OCI's rules: overlay's whiteouts become `.wh.` files.

Entries are sorted, so the same tree gives the same bytes. The directory is only read.
"""

from __future__ import annotations

import os
import stat
from errno import ENODATA, ENXIO, EOPNOTSUPP

from unionfs.image import chain, tar_entry
from unionfs.image.attrs import meant
from unionfs.image.errors import ImageError, show
from unionfs.image.tar_entry import Entry
from unionfs.layer import verbs
from unionfs.layer.tree import Layer
from unionfs.union import statmark
from unionfs.union.marks import AUFS_OPAQUE, AUFS_PREFIX, Marks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from unionfs.image.tar_write import TarWriter

_CHUNK = 1 << 20
_KINDS = {
    stat.S_IFREG: tar_entry.REGULAR, stat.S_IFDIR: tar_entry.DIRECTORY, stat.S_IFLNK: tar_entry.SYMLINK,
    stat.S_IFCHR: tar_entry.CHAR, stat.S_IFBLK: tar_entry.BLOCKDEV, stat.S_IFIFO: tar_entry.FIFO,
}  # fmt: skip
_NOT_PACKED = frozenset((b"security.selinux", b"security.ima", b"security.evm"))


def source_date_epoch() -> int | None:
    """$SOURCE_DATE_EPOCH in nanoseconds: no packed time is later. ImageError where it is no number."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not text.isdigit():
        raise ImageError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds")
    return int(text) * 1_000_000_000


class Packer:
    """Packs one layer. rootless: owners and modes come from `override_stat` xattrs, where there are any.

    latest: times later than this (ns) are written as this. Raises OSError; ImageError for what a layer tar cannot say.
    """

    def __init__(self, writer: TarWriter, *, rootless: bool = False, latest: int | None = None) -> None:
        self._writer = writer
        self._rootless = rootless
        self._latest = latest
        self._first: dict[int, bytes] = {}
        self._spaces = [Marks(user=False), Marks(user=True)]
        self.size = 0
        """Bytes of files and symlinks, hard links once: what Docker calls the layer's size."""
        self.entries = 0

    def pack(self, root: str) -> None:
        """Everything in the directory, its own attributes first (entry `./`)."""
        layer = Layer(os.fsencode(root), 0)
        try:
            pending = [b""]
            while pending:
                path = pending.pop()
                fd = layer.open_dir(path)
                try:
                    inner = self._directory(fd, path)
                finally:
                    os.close(fd)
                pending += reversed(inner)
        finally:
            layer.close()
        self._writer.end()

    def _directory(self, fd: int, path: bytes) -> list[bytes]:
        """The directory itself, what is in it, and the paths of its subdirectories, still to do."""
        self._add(self._entry(fd, b"", (path or b".") + b"/"))
        if chain.is_opaque(fd):
            self._add(Entry(_join(path, AUFS_OPAQUE), tar_entry.REGULAR, 0, 0, 0, 0))
        self._refuse_marks(fd, path)
        inner = []
        for item in sorted(verbs.scan(fd), key=lambda item: item.name):
            st = verbs.stat(fd, item.name)
            name = _join(path, item.name)
            if chain.is_whiteout(st, fd, item.name):
                self._add(Entry(_join(path, AUFS_PREFIX + item.name), tar_entry.REGULAR, 0, 0, 0, 0))
            elif stat.S_ISDIR(st.st_mode):
                inner.append(name)
            elif not stat.S_ISSOCK(st.st_mode):  # a socket's name is of no use without its listener
                self._object(fd, item.name, name, st)
        return inner

    def _refuse_marks(self, fd: int, path: bytes) -> None:
        """A directory renamed by redirect has its content elsewhere, which a layer tar cannot say."""
        for space in self._spaces:
            if _xattr(fd, b"", space.redirect) is not None:
                raise ImageError(
                    f"directory {show(b'/' + path)} was renamed in place (overlay.redirect): "
                    "mount with redirect_dir=off to make layers"
                )

    def _object(self, fd: int, name: bytes, path: bytes, st: os.stat_result) -> None:
        if st.st_nlink > 1:
            first = self._first.setdefault(st.st_ino, path)
            if first is not path:
                link = self._entry(fd, name, path)
                link.kind, link.linkname, link.size, link.xattrs = tar_entry.HARDLINK, first, 0, None
                self._add(link)
                return
        entry = self._entry(fd, name, path)
        if entry.kind != tar_entry.REGULAR:
            self.size += len(entry.linkname)
            self._add(entry)
            return
        self.size += st.st_size
        file = verbs.open_reading(fd, name)
        try:
            if st.st_blocks * 512 < st.st_size:
                entry.segments = segments(file, st.st_size)
            self.entries += 1
            self._writer.add(entry, _pieces(file, entry.segments or [(0, st.st_size)]))
        finally:
            os.close(file)

    def _add(self, entry: Entry) -> None:
        self.entries += 1
        self._writer.add(entry)

    def _entry(self, fd: int, name: bytes, path: bytes) -> Entry:
        st = verbs.stat(fd, name)
        if self._rootless:
            st = meant(st, fd, name)
        mtime = st.st_mtime_ns if self._latest is None else min(st.st_mtime_ns, self._latest)
        entry = Entry(
            path, _KINDS[stat.S_IFMT(st.st_mode)], stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid, mtime
        )
        if entry.kind == tar_entry.REGULAR:
            entry.size = st.st_size
        elif entry.kind == tar_entry.SYMLINK:
            entry.linkname = verbs.readlink(fd, name)
        elif entry.kind in (tar_entry.CHAR, tar_entry.BLOCKDEV):
            entry.devmajor, entry.devminor = os.major(st.st_rdev), os.minor(st.st_rdev)
        entry.xattrs = self._xattrs(fd, name, path)
        return entry

    def _xattrs(self, fd: int, name: bytes, path: bytes) -> dict[bytes, bytes] | None:
        found = {}
        for key in verbs.listxattr(fd, name):
            shown: bytes | None = key
            for space in self._spaces:
                if key == space.metacopy:
                    raise ImageError(
                        f"{show(path)} has its data in a lower layer (overlay.metacopy): "
                        "mount with metacopy=off to make layers"
                    )
                shown = space.to_user(shown) if shown is not None else None
            if self._rootless and shown is not None:
                shown = statmark.packed(shown)
            if shown is not None and shown not in _NOT_PACKED:
                found[shown] = verbs.getxattr(fd, name, key)
        return found or None


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name


def _xattr(fd: int, name: bytes, key: bytes) -> bytes | None:
    try:
        return verbs.getxattr(fd, name, key)
    except OSError as exc:
        if exc.errno in (ENODATA, EOPNOTSUPP):
            return None
        raise


def segments(fd: int, size: int) -> list[tuple[int, int]]:
    """The runs of data in a file, as (offset, length)."""
    found = []
    end = 0
    while end < size:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != ENXIO:
                raise
            break  # a hole up to the end
        end = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        found.append((start, end - start))
    return found


def _pieces(fd: int, runs: list[tuple[int, int]]) -> Iterator[bytes]:
    for offset, left in runs:
        while left:
            piece = os.pread(fd, min(left, _CHUNK), offset)
            if not piece:
                raise ImageError("a file became shorter while it was packed")
            yield piece
            offset += len(piece)
            left -= len(piece)
