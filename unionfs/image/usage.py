"""How large images are, and how much of that they share."""

from __future__ import annotations

from unionfs.image.errors import NotFound
from unionfs.image.find import find, names_of
from unionfs.image.store import chain_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unionfs.image.store import Image, Store


class Usage:
    """One image's sizes, in bytes as Docker counts layers: all of it, what other images use too, and the rest."""

    __slots__ = ("digests", "image", "own", "shared", "size", "tags")

    def __init__(
        self, image: Image, names: list[str], sizes: dict[str, int], users: dict[str, set[str]]
    ) -> None:
        self.image = image
        self.tags = [name for name in names if "@" not in name]
        self.digests = [name for name in names if "@" in name]
        ids = chain_ids(image.diff_ids)
        self.size = sum(sizes[chain_id] for chain_id in ids)
        self.shared = sum(sizes[chain_id] for chain_id in ids if len(users[chain_id]) > 1)
        self.own = self.size - self.shared

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.image.config_digest, "digest": self.image.digest, "names": self.tags,
            "repo_digests": self.digests, "created": self.image.config.get("created") or "",
            "size": self.size, "shared": self.shared, "own": self.own, "layers": len(self.image.diff_ids),
        }  # fmt: skip


def usage(store: Store, name: str = "") -> list[Usage]:
    """Of every image, the newest first; or only of the one that is named."""
    images = store.images()
    sizes: dict[str, int] = {}
    users: dict[str, set[str]] = {}
    for image in images:
        for chain_id in chain_ids(image.diff_ids):
            users.setdefault(chain_id, set()).add(image.config_digest)
            if chain_id not in sizes:
                sizes[chain_id] = _size(store, chain_id)
    wanted = [find(store, name)] if name else images
    return [Usage(image, names_of(store, image), sizes, users) for image in wanted]


def _size(store: Store, chain_id: str) -> int:
    try:
        return store.layer(chain_id).size
    except NotFound:
        return 0  # removed by hand: `ls` still has to work
