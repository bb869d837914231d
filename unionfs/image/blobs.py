"""A blob on its way into the store."""

from __future__ import annotations

import hashlib
import os

from unionfs.image.codec import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from unionfs.image.store import Store

_TOGETHER = 1 << 18


class NewBlob:
    """What is written is hashed; when the block ends it is in its place, complete. Where it fails nothing is left.

    Small pieces, as of a tar, are joined, so that hashing and writing go by large ones. The caller holds the store's
    lock. `digest` is that of all written, and stands when the block has ended.
    """

    def __init__(self, store: Store) -> None:
        self.digest = ""
        self._store = store
        self._hash = hashlib.sha256()
        self._pending = bytearray()
        self._fd, self._path = store.temporary()

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes | memoryview) -> None:
        if len(data) >= _TOGETHER:
            self._flush()
            self._put(data)
            return
        self._pending += data
        if len(self._pending) >= _TOGETHER:
            self._flush()

    def _put(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        write_all(self._fd, data)

    def _flush(self) -> None:
        if self._pending:
            self._put(bytes(self._pending))
            self._pending.clear()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        complete = False
        try:
            if exc is None:
                self._flush()
                self.digest = "sha256:" + self._hash.hexdigest()
                self._store.adopt_blob(self._fd, self._path, self.digest)
                complete = True
        finally:
            os.close(self._fd)
            if not complete:
                os.unlink(self._path)
