"""The files of an image archive or layout, by name: from a directory, or from inside a tar without
unpacking it."""

from __future__ import annotations

import os
import stat

from unionfs.image import tar_entry
from unionfs.image.codec import CHUNK, compression, decompress, file_chunks, write_all
from unionfs.image.errors import BadArchive, ImageError, show
from unionfs.image.store import MAX_JSON
from unionfs.image.tar_read import TarReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Protocol

    from unionfs.image.store import Store

    class Members(Protocol):
        """Files by relative name. All raise BadArchive where there is no such file."""

        def has(self, name: str) -> bool: ...
        def size(self, name: str) -> int: ...
        def open(self, name: str) -> Iterator[bytes]: ...


_MAX_MEMBERS = 1_000_000


def small(members: Members, name: str) -> bytes:
    """A whole member that is meant to be small: JSON."""
    if members.size(name) > MAX_JSON:
        raise BadArchive(f"{name} is larger than {MAX_JSON} bytes")
    return b"".join(members.open(name))


class DirMembers:
    """A layout directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    def has(self, name: str) -> bool:
        return os.path.isfile(os.path.join(self._path, name))

    def size(self, name: str) -> int:
        try:
            return os.stat(os.path.join(self._path, name)).st_size
        except FileNotFoundError:
            raise BadArchive(f"{self._path} has no {name}") from None

    def open(self, name: str) -> Iterator[bytes]:
        self.size(name)
        return file_chunks(os.open(os.path.join(self._path, name), os.O_RDONLY | os.O_CLOEXEC))


class TarMembers:
    """A tar that can be sought; its links between members are followed (`docker save` writes such)."""

    def __init__(self, fd: int) -> None:
        """Takes the descriptor over; it is closed when neither this object nor a reader of it is left."""
        self._fd = fd
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        for entry, offset in index(fd):
            name = os.path.normpath(os.fsdecode(entry.name))
            if entry.kind == tar_entry.REGULAR and entry.segments is None:
                self._files[name] = (offset, entry.size)
            elif entry.kind == tar_entry.SYMLINK:
                self._links[name] = os.path.normpath(
                    os.path.join(os.path.dirname(name), os.fsdecode(entry.linkname))
                )
            elif entry.kind == tar_entry.HARDLINK:
                self._links[name] = os.path.normpath(os.fsdecode(entry.linkname))
            if len(self._files) + len(self._links) > _MAX_MEMBERS:
                raise BadArchive(f"the archive has more than {_MAX_MEMBERS} members")

    def __del__(self) -> None:
        os.close(self._fd)

    def _find(self, name: str) -> tuple[int, int] | None:
        name = os.path.normpath(name)
        for _ in range(8):
            if name not in self._links:
                break
            name = self._links[name]
        return self._files.get(name)

    def has(self, name: str) -> bool:
        return self._find(name) is not None

    def size(self, name: str) -> int:
        return self._must(name)[1]

    def _must(self, name: str) -> tuple[int, int]:
        found = self._find(name)
        if found is None:
            raise BadArchive(f"the archive has no {show(os.fsencode(name))}")
        return found

    def open(self, name: str) -> Iterator[bytes]:
        return self._chunks(*self._must(name))

    def _chunks(self, offset: int, left: int) -> Iterator[bytes]:
        while left:
            chunk = os.pread(self._fd, min(CHUNK, left), offset)
            if not chunk:
                raise BadArchive("the archive is cut short")
            offset += len(chunk)
            left -= len(chunk)
            yield chunk


class _Seeking(TarReader):
    """A TarReader that jumps over data instead of reading them."""

    def __init__(self, fd: int) -> None:
        super().__init__(())
        self._fd = fd
        self._end = os.fstat(fd).st_size

    def _advance(self) -> bool:
        self.offset += len(self._view)
        self._view = memoryview(os.pread(self._fd, 1 << 14, self.offset))
        self._pos = 0
        return bool(self._view)

    def _skip(self, count: int) -> None:
        self._pos += count
        if self.tell() > self._end:
            raise BadArchive("the tar archive ends in the middle of an entry")
        if self._pos > len(self._view):
            self.offset += self._pos
            self._view = memoryview(b"")
            self._pos = 0


def index(fd: int) -> Iterator[tuple[tar_entry.Entry, int]]:
    """The entries of a tar that can be sought, each with the offset of its data."""
    reader = _Seeking(fd)
    for entry in reader:
        yield entry, reader.tell()


def open_members(path: str, store: Store) -> Members:
    """The members of a directory, a tar, a compressed tar, or (path "-") one on standard input.

    What cannot be sought goes through a temporary file in the store first. ImageError where it cannot be
    read.
    """
    if path != "-" and os.path.isdir(path):
        return DirMembers(path)
    try:
        fd = os.dup(0) if path == "-" else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise ImageError(f"{path}: {exc.strerror}") from None
    if stat.S_ISREG(os.fstat(fd).st_mode) and not compression(os.pread(fd, 8, 0)):
        return TarMembers(fd)
    try:
        return TarMembers(_spooled(fd, store))
    finally:
        os.close(fd)


def _spooled(fd: int, store: Store) -> int:
    spool, path = store.temporary()
    os.unlink(path)

    try:
        for chunk in decompress(file_chunks(os.dup(fd))):
            write_all(spool, chunk)
    except BaseException:
        os.close(spool)
        raise
    return spool
