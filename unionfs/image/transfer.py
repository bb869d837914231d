"""pull and push: images between a registry and the store, several blobs at a time."""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

from unionfs.image import incoming, shape
from unionfs.image.blobs import NewBlob
from unionfs.image.codec import CHUNK, compression, file_chunks
from unionfs.image.errors import LimitExceeded
from unionfs.image.load import describe_layer, encode, load, silent
from unionfs.image.store import hex_of, parse_json, sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from typing import Any, Protocol

    from unionfs.image.incoming import LayerBlob
    from unionfs.image.load import Report
    from unionfs.image.reference import Reference
    from unionfs.image.registry import Repository
    from unionfs.image.store import Image, Store
    from unionfs.image.unpack import Limits

    class Progress(Protocol):
        """Told from several threads how far each blob is."""

        def start(self, digest: str, size: int) -> None: ...
        def advance(self, digest: str, count: int) -> None: ...
        def finish(self, digest: str, outcome: str) -> None: ...


_PARALLEL = 3
_GZIP_LEVEL = 6


def pull(
    store: Store,
    repository: Repository,
    reference: Reference,
    progress: Progress,
    *,
    platform: str = "",
    limits: Limits | None = None,
    report: Report = silent,
) -> Image:
    """Fetch an image and unpack it; layers are unpacked while later ones are still on their way.

    An interrupted pull goes on where it stopped. The caller holds the store's lock. Raises ImageError, OSError.
    """
    data, kind = repository.manifest(reference.digest or reference.tag)
    published = sha256(data)
    names = [f"{reference.repository}@{published}"]
    if reference.tag:
        names.append(reference.familiar)
    if kind in incoming.INDEXES:
        index = parse_json(data, "the index")
        shape.check(index, shape.INDEX, "the index")
        chosen = incoming.choose(index["manifests"], platform or incoming.host_platform())
        hex_of(chosen["digest"])
        data, kind = repository.manifest(chosen["digest"])
    image = incoming.from_manifest(names, data, repository.blob, _never)
    with ThreadPoolExecutor(_PARALLEL, "pull") as pool:
        downloads = _Downloads(store, repository, progress, pool)
        try:
            for layer in image.layers:
                layer.ready = downloads.begin(layer)
            return load(store, image, limits=limits, report=report)
        except BaseException:
            downloads.stop = True
            pool.shutdown(cancel_futures=True)
            raise


def _never(_digest: str, _size: int) -> Iterator[bytes]:
    raise AssertionError("a pulled layer is read from the store")


class _Stopped(Exception):
    """Another blob failed."""


class _Downloads:
    """The downloads of one pull; the same blob is fetched once."""

    def __init__(
        self, store: Store, repository: Repository, progress: Progress, pool: ThreadPoolExecutor
    ) -> None:
        self.stop = False
        self._store = store
        self._repository = repository
        self._progress = progress
        self._pool = pool
        self._futures: dict[str, Future[None]] = {}

    def begin(self, layer: LayerBlob) -> Callable[[], None]:
        """Start fetching a layer unless it is here; what is returned waits for it, and raises what went wrong."""
        digest = layer.digest
        if self._store.has_blob(digest):
            self._progress.start(digest, layer.size)
            self._progress.finish(digest, "already here")
            return lambda: None
        if digest not in self._futures:
            self._futures[digest] = self._pool.submit(self._fetch, digest, layer.size)
        return self._futures[digest].result

    def _fetch(self, digest: str, size: int) -> None:
        """Into a file that keeps its name, so that a later attempt finds what this one got."""
        path = self._store.path("tmp", hex_of(digest) + ".part")
        space = os.statvfs(self._store.root)
        if not 0 <= size <= space.f_bavail * space.f_frsize:
            raise LimitExceeded(f"blob {digest} of {size} bytes: there is no room for it on the disk")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._progress.start(digest, size)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # another process may be fetching the same
            if not self._store.has_blob(digest):
                self._repository.download(digest, size, fd, lambda count: self._advance(digest, count))
                self._store.adopt_blob(fd, path, digest)
            self._progress.finish(digest, "complete")
        finally:
            os.close(fd)

    def _advance(self, digest: str, count: int) -> None:
        if self.stop:
            raise _Stopped
        self._progress.advance(digest, count)


def push(
    store: Store, image: Image, repository: Repository, tag: str, progress: Progress, *, compress: bool
) -> str:
    """Send an image; the digest it has in the registry. compress: gzip layers that the store has uncompressed."""
    manifest = _compressed(store, image) if compress else _stored_manifest(store, image)
    parsed = parse_json(manifest, "the manifest")
    descriptors = {d["digest"]: d for d in [parsed["config"], *parsed["layers"]]}
    with ThreadPoolExecutor(_PARALLEL, "push") as pool:
        sent = [pool.submit(_send, store, repository, progress, d) for d in descriptors.values()]
        try:
            for future in sent:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return repository.put_manifest(tag, manifest, parsed.get("mediaType") or incoming.OCI_MANIFEST)


def _stored_manifest(store: Store, image: Image) -> bytes:
    with open(store.open_blob(image.digest), "rb") as file:
        return file.read()


def _send(store: Store, repository: Repository, progress: Progress, descriptor: dict[str, Any]) -> None:
    digest, size = descriptor["digest"], descriptor["size"]
    progress.start(digest, size)
    if repository.has_blob(digest):
        progress.finish(digest, "already there")
        return

    def content() -> Iterator[bytes]:
        for chunk in file_chunks(store.open_blob(digest)):
            yield chunk
            progress.advance(digest, len(chunk))

    repository.upload(digest, size, content)
    progress.finish(digest, "sent")


def _compressed(store: Store, image: Image) -> bytes:
    """The image's manifest, or one like it whose uncompressed layers are gzipped; these blobs are in the store."""
    changed = False
    layers = []
    for layer in image.manifest["layers"]:
        fd = store.open_blob(layer["digest"])
        try:
            if compression(os.pread(fd, 8, 0)):
                layers.append(layer)
                continue
            layers.append(describe_layer(store, _gzip(store, fd)))
            changed = True
        finally:
            os.close(fd)
    if not changed:
        return _stored_manifest(store, image)
    return encode(
        {
            "schemaVersion": 2,
            "mediaType": incoming.OCI_MANIFEST,
            "config": image.manifest["config"],
            "layers": layers,
        }
    )


def _gzip(store: Store, source: int) -> str:
    """Compress a blob into another one; its digest. The same input gives the same bytes."""
    import zlib

    deflate = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 31)
    with NewBlob(store) as blob:
        while chunk := os.read(source, CHUNK):
            blob.write(deflate.compress(chunk))
        blob.write(deflate.flush())
    return blob.digest
