"""An incoming image → the store: each layer unpacked in one pass, each digest verified, the image recorded
last."""

from __future__ import annotations

import json
import os

from unionfs.image import incoming
from unionfs.image.codec import Feed, compression, file_chunks
from unionfs.image.errors import BadArchive
from unionfs.image.store import chain_ids
from unionfs.image.tar_read import TarReader
from unionfs.image.trees import remove_tree
from unionfs.image.unpack import Limits, Unpacker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from unionfs.image.incoming import Incoming, LayerBlob
    from unionfs.image.store import Image, Store

    Report = Callable[[str], None]


def silent(_line: str) -> None:
    """Report nothing."""


def load(store: Store, image: Incoming, *, limits: Limits | None = None, report: Report = silent) -> Image:
    """Bring an image in; what the store has already is not read again. The caller holds the store's lock.

    report: gets one line per layer, and notes of what could not be kept. Raises ImageError, OSError; then
    nothing of the image is visible in the store, except layers that are complete by themselves.
    """
    limits = limits or Limits()
    ids = chain_ids(image.diff_ids)
    lowers: list[bytes] = []
    for index, (blob, chain_id) in enumerate(zip(image.layers, ids, strict=True)):
        label = f"layer {index + 1}/{len(ids)} {image.diff_ids[index][7:19]}"
        try:
            if blob.ready is not None:
                blob.ready()
            if store.has_layer(chain_id):
                _keep_blob(store, blob, chain_id, image.diff_ids[index])
                report(f"{label}: already here")
            else:
                place = _Place(image.diff_ids[index], chain_id, ids[index - 1] if index else "", lowers)
                _tell(report, label, _unpack(store, blob, place, limits))
        except BadArchive as exc:
            exc.args = (f"{label}: {exc}",)
            raise
        lowers.insert(0, os.fsencode(store.layer(chain_id).diff))
    store.put_blob(image.config)
    return store.put_image(image.manifest or _manifest(store, image, ids), image.names)


def bring_layer(store: Store, blob: LayerBlob, diff_ids: list[str]) -> None:
    """Unpack one layer, the last of these (bottom first), over the others, which are in the store.

    The caller holds the store's lock. Raises ImageError, OSError.
    """
    ids = chain_ids(diff_ids)
    if store.has_layer(ids[-1]):
        _keep_blob(store, blob, ids[-1], diff_ids[-1])
        return
    lowers = [os.fsencode(store.layer(chain_id).diff) for chain_id in reversed(ids[:-1])]
    parent = ids[-2] if len(ids) > 1 else ""
    _unpack(store, blob, _Place(diff_ids[-1], ids[-1], parent, lowers), Limits())


def _tell(report: Report, label: str, info: dict[str, Any]) -> None:
    report(f"{label}: {info['entries']} entries, {info['size']} bytes")
    for reason, (count, first) in info["notes"].items():
        report(f"{label}: note: {reason}: {first}" + (f" and {count - 1} more" if count > 1 else ""))


class _Place:
    """Where a layer belongs: its own identity, and the layers below it (directories, top first)."""

    def __init__(self, diff_id: str, chain_id: str, parent: str, lowers: list[bytes]) -> None:
        self.diff_id = diff_id
        self.chain_id = chain_id
        self.parent = parent
        self.lowers = lowers


def _unpack(store: Store, blob: LayerBlob, place: _Place, limits: Limits) -> dict[str, Any]:
    """Unpack a layer into the store and keep its blob; the layer's info."""
    directory = store.temporary_dir()
    tee, kept = (-1, "") if blob.digest and store.has_blob(blob.digest) else store.temporary()
    try:
        root = os.path.join(directory, "diff")
        os.mkdir(root, 0o755)
        os.chmod(root, 0o755)  # whatever the umask
        unpacker = Unpacker(
            os.fsencode(root), place.lowers, rootless=store.rootless, limits=_bounded(limits, root)
        )
        with Feed(_chunks(store, blob), tee, limits.size + (limits.entries << 10)) as feed:
            reader = TarReader(feed)
            unpacker.run(reader)
            reader.drain()
            _verify(feed, blob.digest, place.diff_id)
        info = {
            "diff_id": place.diff_id, "parent": place.parent, "blob": feed.digest, "blob_size": feed.raw_size,
            "size": unpacker.counts.size, "entries": unpacker.counts.entries,
            "notes": {reason: [count, first.decode("utf-8", "backslashreplace")]
                      for reason, (count, first) in unpacker.notes.seen.items()},
        }  # fmt: skip
        store.adopt_layer(directory, place.chain_id, info, kept)
        return info
    except BaseException:
        remove_tree(directory)
        if kept:
            _unlink(kept)
        raise
    finally:
        if tee >= 0:
            os.close(tee)


def _bounded(limits: Limits, root: str) -> Limits:
    """No more than the file system has room for, so that a bomb ends before the disk is full."""
    space = os.statvfs(root)
    return Limits(
        size=min(limits.size, space.f_bavail * space.f_frsize), entries=limits.entries, depth=limits.depth
    )


def _chunks(store: Store, blob: LayerBlob) -> Iterator[bytes]:
    if blob.digest and store.has_blob(blob.digest):
        return file_chunks(store.open_blob(blob.digest))
    return blob.open()


def _verify(feed: Feed, digest: str, diff_id: str) -> None:
    if digest and feed.digest != digest:
        raise BadArchive(f"the layer's digest is {feed.digest}, not {digest}: damaged or tampered with")
    if feed.diff_id != diff_id:
        raise BadArchive(
            f"the unpacked layer's digest is {feed.diff_id}, not {diff_id} as the image's config says"
        )


def _keep_blob(store: Store, blob: LayerBlob, chain_id: str, diff_id: str) -> None:
    """Keep the blob of a layer that is unpacked already: the same content may come compressed in another
    way."""
    if store.has_blob(blob.digest or store.layer(chain_id).info["blob"]):
        return
    fd, path = store.temporary()
    try:
        with Feed(blob.open(), fd) as feed:
            for _chunk in feed:
                pass
        _verify(feed, blob.digest, diff_id)
        store.adopt_blob(fd, path, feed.digest)
    except BaseException:
        _unlink(path)
        raise
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def _manifest(store: Store, image: Incoming, ids: list[str]) -> bytes:
    """A manifest for an image that came without one: the same for the same content."""
    config = {
        "mediaType": incoming.OCI_CONFIG,
        "digest": store.put_blob(image.config),
        "size": len(image.config),
    }
    layers = [describe_layer(store, store.layer(chain_id).info["blob"]) for chain_id in ids]
    return encode(
        {"schemaVersion": 2, "mediaType": incoming.OCI_MANIFEST, "config": config, "layers": layers}
    )


def describe_layer(store: Store, digest: str) -> dict[str, Any]:
    """The descriptor of a layer's blob in the store."""
    fd = store.open_blob(digest)
    try:
        kind = compression(os.pread(fd, 8, 0))
        suffix = {"gzip": "+gzip", "zstd": "+zstd"}.get(kind, "")
        return {"mediaType": incoming.OCI_LAYER + suffix, "digest": digest, "size": os.fstat(fd).st_size}
    finally:
        os.close(fd)


def encode(value: object) -> bytes:
    """JSON as it goes into blobs: the same bytes for the same value."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
