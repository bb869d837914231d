"""A writable layer → a layer of the store, and an image with it on top."""

from __future__ import annotations

import copy
import os

from unionfs.image import incoming
from unionfs.image.blobs import NewBlob
from unionfs.image.codec import file_chunks
from unionfs.image.incoming import LayerBlob
from unionfs.image.load import bring_layer, describe_layer, encode
from unionfs.image.pack import Packer, source_date_epoch
from unionfs.image.tar_write import TarWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unionfs.image.store import Image, Store

_DOCKERS_OWN = ("container", "container_config", "docker_version", "id", "parent", "moby.buildkit.buildinfo.v1")
"""What Docker notes in a config about how it made that very image."""


def now() -> str:
    """The time for `created`: $SOURCE_DATE_EPOCH where it is set."""
    from datetime import UTC, datetime

    epoch = source_date_epoch()
    moment = datetime.now(UTC) if epoch is None else datetime.fromtimestamp(epoch // 1_000_000_000, UTC)
    return moment.replace(tzinfo=None).isoformat() + "Z"


def pack(store: Store, directory: str) -> str:
    """Pack an upper into a blob of the store; its digest, which is its diff id. The caller holds the store's lock."""
    with NewBlob(store) as blob:
        Packer(TarWriter(blob.write), rootless=store.rootless, latest=source_date_epoch()).pack(directory)
    return blob.digest


def add_layer(store: Store, directory: str, below: list[str]) -> str:
    """The upper `directory` as a layer of the store over the layers with these diff ids (bottom first); its diff id."""
    diff_id = pack(store, directory)
    size = os.stat(store.blob_path(diff_id)).st_size
    blob = LayerBlob(diff_id, size, lambda: file_chunks(store.open_blob(diff_id)))
    bring_layer(store, blob, [*below, diff_id])
    return diff_id


class Draft:
    """An image in the making: a config, and the blobs of its layers."""

    def __init__(self, base: Image | Draft | None) -> None:
        self.blobs: list[str] = []
        self.config: dict[str, Any] = {
            "architecture": "", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": []}, "history": [],
        }  # fmt: skip
        if base is None:
            self.config["os"], self.config["architecture"], *variant = incoming.host_platform().split("/")
            if variant:
                self.config["variant"] = variant[0]
            return
        self.config = copy.deepcopy(base.config)
        for key in _DOCKERS_OWN:
            self.config.pop(key, None)
        self.config["config"] = self.config.get("config") or {}
        self.config["history"] = self.config.get("history") or []
        self.blobs = list(base.blobs) if isinstance(base, Draft) else [
            layer["digest"] for layer in base.manifest["layers"]]  # fmt: skip

    @property
    def diff_ids(self) -> list[str]:
        ids: list[str] = self.config["rootfs"]["diff_ids"]
        return ids

    def step(self, created_by: str, created: str, *, diff_id: str = "", comment: str = "", author: str = "") -> None:
        """One more entry of the history, with its layer (a blob of the store that is not compressed) or without."""
        entry = {"created": created, "created_by": created_by}
        if author:
            entry["author"] = self.config["author"] = author
        if comment:
            entry["comment"] = comment
        if diff_id:
            self.diff_ids.append(diff_id)
            self.blobs.append(diff_id)
        self.config["history"].append(entry if diff_id else {**entry, "empty_layer": True})
        self.config["created"] = created

    def store(self, store: Store, names: list[str]) -> Image:
        """Keep it. The caller holds the store's lock."""
        config = encode(self.config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": incoming.OCI_MANIFEST,
            "config": {"mediaType": incoming.OCI_CONFIG, "digest": store.put_blob(config), "size": len(config)},
            "layers": [describe_layer(store, digest) for digest in self.blobs],
        }
        return store.put_image(encode(manifest), names)


def commit(
    store: Store, base: Image, upper: str, names: list[str], *, created_by: str = "", comment: str = "",
    author: str = "", config: dict[str, Any] | None = None,
) -> Image:  # fmt: skip
    """The image `base` with an upper as one more layer. config: what the container config has instead.

    The upper must not change meanwhile. The caller holds the store's lock. Raises ImageError, OSError.
    """
    draft = Draft(base)
    draft.config["config"].update(config or {})
    diff_id = add_layer(store, upper, draft.diff_ids)
    draft.step(created_by, now(), diff_id=diff_id, comment=comment, author=author)
    return draft.store(store, names)
