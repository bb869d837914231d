"""One layer's bytes on their way from a blob to tar chunks: read, hashed, kept, decompressed, hashed again.

All of it happens on a thread of its own (hashing and inflating let go of the interpreter's lock), while the
thread that iterates over the Feed creates the files. Memory is bounded by the queue between them.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
import zlib

from unionfs.image.errors import BadArchive, ImageError, LimitExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any


CHUNK = 1 << 20
_QUEUED = 8  # chunks between the two threads: enough to smooth out a large file after many small ones
_STEP = 1 << 16  # input per call of inflate: bounds what is copied at the seam of two gzip members


class Feed:
    """Iterate (once) over the decompressed chunks of a layer; the digests are there when the iteration has
    ended.

    tee: a descriptor that gets the bytes as they were read (the caller's to close), or -1.
    limit: most decompressed bytes believed.
    Use as a context manager: leaving it ends the thread, whatever happened.
    """

    def __init__(self, chunks: Iterator[bytes], tee: int = -1, limit: int = 1 << 62) -> None:
        self._chunks = chunks
        self._tee = tee
        self._limit = limit
        self._raw = hashlib.sha256()
        self._diff = hashlib.sha256()
        self.raw_size = 0
        self.diff_size = 0
        self._queue: queue.Queue[bytes | BaseException | None] = queue.Queue(_QUEUED)
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="layer-feed", daemon=True)

    @property
    def digest(self) -> str:
        """Of the bytes as they were read. Complete once the iteration has ended."""
        return "sha256:" + self._raw.hexdigest()

    @property
    def diff_id(self) -> str:
        """Of the decompressed bytes: the layer's name in an image's config."""
        return "sha256:" + self._diff.hexdigest()

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._stop = True
        while self._thread.is_alive():
            try:
                self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self._thread.join()

    def __iter__(self) -> Iterator[bytes]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _run(self) -> None:
        try:
            for chunk in decompress(self._raw_chunks()):
                self.diff_size += len(chunk)
                if self.diff_size > self._limit:
                    raise LimitExceeded(f"the layer unpacks to more than {self._limit} bytes")
                self._diff.update(chunk)
                self._queue.put(chunk)
                if self._stop:
                    return
            self._queue.put(None)
        except BaseException as exc:  # handed to the thread that iterates, which raises it
            self._queue.put(exc)

    def _raw_chunks(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            self.raw_size += len(chunk)
            self._raw.update(chunk)
            if self._tee >= 0:
                write_all(self._tee, chunk)
            yield chunk


def file_chunks(fd: int) -> Iterator[bytes]:
    """A file from the descriptor's offset on, in chunks. Takes the descriptor over."""
    with open(fd, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until all is written."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def compression(head: bytes) -> str:
    """What the first bytes of a stream say of it: "gzip", "zstd", "bzip2", "xz" or "" (none)."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F):
        return "zstd"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    return ""


def decompress(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks decompressed, by what their first bytes are; as they are if not compressed."""
    first = next(chunks, b"")
    while len(first) < 8 and (more := next(chunks, b"")):
        first += more
    kind = compression(first)
    if not kind:
        return _chain(first, chunks)
    if kind == "gzip":
        return _gunzip(_chain(first, chunks))
    return _pull(_reader(kind, _chain(first, chunks)), kind)


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _gunzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Any number of gzip members; zeros may pad the end."""
    inflate = zlib.decompressobj(31)
    begun = False  # inside a member
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), _STEP):
            data: bytes | memoryview = view[start : start + _STEP]
            while data:
                if not begun and not (data := bytes(data).lstrip(b"\0")):
                    break
                begun = True
                try:
                    yield from _inflated(inflate, data)
                except zlib.error as exc:
                    raise BadArchive(f"damaged gzip data: {exc}") from None
                data = inflate.unused_data
                if inflate.eof:
                    inflate = zlib.decompressobj(31)
                    begun = False
    if begun:
        raise BadArchive("the gzip data end too early")


def _inflated(inflate: zlib._Decompress, data: bytes | memoryview) -> Iterator[bytes]:
    """What `data` inflates to, never more than CHUNK at a time."""
    while True:
        out = inflate.decompress(data, CHUNK)
        if out:
            yield out
        data = inflate.unconsumed_tail
        if inflate.eof or (not data and len(out) < CHUNK):
            return


class _Source:
    """Chunks as the file object that the decompressors of the library read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, count: int = -1) -> bytes:
        if not self._rest:
            self._rest = memoryview(next(self._chunks, b""))
        part = self._rest if count < 0 else self._rest[:count]
        self._rest = self._rest[len(part) :]
        return bytes(part)


def _reader(kind: str, chunks: Iterator[bytes]) -> Callable[[int], bytes]:
    """A read(n) of the decompressed bytes, over all members and frames. zstd data cut short end without an error:
    that their digest differs tells.
    """
    source: Any = _Source(chunks)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2File(source).read
    if kind == "xz":
        import lzma

        return lzma.LZMAFile(source).read
    frames = zstd().ZstdDecompressor(max_window_size=1 << 31).stream_reader(source, read_across_frames=True)
    return frames.read  # type: ignore[no-any-return]


def _pull(read: Callable[[int], bytes], kind: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = read(CHUNK)
        except (ImageError, OSError):
            raise
        except Exception as exc:  # EOFError, and an exception of each library's own
            raise BadArchive(f"damaged {kind} data: {exc}") from None
        if not chunk:
            return
        yield chunk


def zstd() -> Any:
    """The zstandard module; an ImageError that tells how to get it where it is missing."""
    try:
        import zstandard
    except ImportError:
        raise ImageError(
            "this image has zstd layers: install the package `zstandard` (pip install 'unionfs[zstd]')"
        ) from None
    return zstandard
