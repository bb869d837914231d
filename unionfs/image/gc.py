"""Giving space back: what no image needs, and what interrupted work left behind."""

from __future__ import annotations

import os

from unionfs.image import writable
from unionfs.image.build import cache
from unionfs.image.errors import NotFound
from unionfs.image.store import chain_ids, hex_of
from unionfs.image.trees import disk_usage, remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.store import Store


class Freed:
    """What a collection removed."""

    def __init__(self) -> None:
        self.blobs = 0
        self.layers = 0
        self.leftovers = 0
        self.bytes = 0
        """Space on disk."""


def collect(store: Store, *, wait: bool = True) -> Freed | None:
    """Remove what no image reaches. None: other processes are adding to the store, and we were not to wait.

    The caller holds the store's lock; while this works it is exclusive.
    """
    if not store.alone(wait):
        return None
    freed = Freed()
    blobs, layers = _reachable(store)
    for name in os.listdir(store.path("tmp")):
        freed.bytes += remove(store.path("tmp", name))
        freed.leftovers += 1
    for path in writable.collect(store):
        freed.bytes += remove(path)
        freed.leftovers += 1
    for name in sorted(os.listdir(store.path("layers"))):
        if name not in layers and not store.in_use("sha256:" + name):
            freed.bytes += _remove_layer(store, name)
            freed.layers += 1
    for name in sorted(os.listdir(store.path("blobs/sha256"))):
        if name not in blobs:
            freed.bytes += remove(store.path("blobs/sha256", name))
            freed.blobs += 1
    cache.collect(store)
    return freed


def _reachable(store: Store) -> tuple[set[str], set[str]]:
    """The blobs and the layers that images need, as hex."""
    blobs: set[str] = set()
    layers: set[str] = set()
    for image in store.images() + [layer.base(store) for layer in writable.every(store) if layer.kept]:
        blobs |= {hex_of(image.digest), hex_of(image.config_digest)}
        blobs |= {hex_of(layer["digest"]) for layer in image.manifest["layers"]}
        for chain_id in chain_ids(image.diff_ids):
            layers.add(hex_of(chain_id))
            try:
                blobs.add(hex_of(store.layer(chain_id).info["blob"]))
            except NotFound:
                continue
    return blobs, layers


def _remove_layer(store: Store, name: str) -> int:
    """First out of its place, so that a crash leaves no half layer there."""
    doomed = store.path("tmp", "gone-" + name)
    os.rename(store.path("layers", name), doomed)
    return remove(doomed)


def remove(path: str) -> int:
    """Remove a file or tree; the bytes on disk it took."""
    size = disk_usage(path)
    if os.path.isdir(path) and not os.path.islink(path):
        remove_tree(path)
    else:
        os.unlink(path)
    return size
