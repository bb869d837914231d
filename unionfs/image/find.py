"""Which image does the user mean: a name, an ID or its beginning, a digest."""

from __future__ import annotations

import re

from unionfs.image import reference
from unionfs.image.errors import ImageError, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.store import Image, Store

_HEX = re.compile(r"(?:sha256:)?([0-9a-f]{2,64})")


def find(store: Store, text: str) -> Image:
    """The image of a name (`busybox`, `host:5000/a/b:tag`), of an ID as `image ls` shows it, or of a digest.

    Raises NotFound; ImageError where the beginning of an ID fits several.
    """
    try:
        wanted = reference.parse(text)
    except ImageError:
        wanted = None
    if wanted is not None:
        digest = wanted.digest or store.names().get(wanted.familiar, "")
        if digest:
            return store.image(digest)
    match = _HEX.fullmatch(text)
    if match is None:
        raise NotFound(f"no image is named {text} (see unionfs image ls)")
    return _by_id(store, match[1])


def _by_id(store: Store, start: str) -> Image:
    images = [
        image
        for image in store.images()
        if image.config_digest[7:].startswith(start) or image.digest[7:].startswith(start)
    ]
    if not images:
        raise NotFound(f"no image is named {start}, and no ID begins so (see unionfs image ls)")
    if len({image.config_digest for image in images}) > 1:
        raise ImageError(f"the ID {start} fits {len(images)} images: write more of it")
    return images[0]


def names_of(store: Store, image: Image) -> list[str]:
    """The names that stand for the image."""
    return [name for name, digest in store.names().items() if digest == image.digest]
