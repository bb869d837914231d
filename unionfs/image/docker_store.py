"""Docker's own store (driver overlay2), read where it lies: the layer directories of an image or a container.

    image/overlay2/repositories.json               names → image ids
    image/overlay2/imagedb/content/sha256/ID       an image's config
    image/overlay2/layerdb/sha256/CHAIN/cache-id   chain id → directory below overlay2/
    image/overlay2/layerdb/mounts/ID/{mount-id,init-id,parent}   a container's
    containers/ID/config.v2.json                   its name and state
"""

from __future__ import annotations

import json
import os
import re

from unionfs.image import reference
from unionfs.image.errors import ImageError, NotFound
from unionfs.image.store import chain_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_ROOT = "/var/lib/docker"


class Stack:
    """Layers as Docker has them. lowers: top first. upper and work: a container's, else empty."""

    __slots__ = ("lowers", "name", "running", "upper", "work")

    def __init__(self, name: str, lowers: list[str], upper: str = "", work: str = "", *, running: bool = False) -> None:
        self.name = name
        self.lowers = lowers
        self.upper = upper
        self.work = work
        self.running = running


def find(root: str, text: str) -> Stack:
    """An image by name or ID, or a container by name or ID (images first). Raises NotFound, ImageError."""
    graph = os.path.join(root, "image/overlay2")
    if not os.path.isdir(graph):
        raise ImageError(
            f"{root} is no store of Docker with the driver overlay2; name its data root with --docker-root"
            if os.path.isdir(root) else f"{root} does not exist; name Docker's data root with --docker-root"
        )  # fmt: skip
    image = _image_id(graph, text)
    if image:
        return Stack(text, _image_layers(root, graph, image))
    return _container(root, graph, text)


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read().strip()


def _image_id(graph: str, text: str) -> str:
    """The ID (hex) of an image; "" where there is none of that name."""
    try:
        repositories = json.loads(_read(os.path.join(graph, "repositories.json")))["Repositories"]
    except FileNotFoundError:
        repositories = {}
    names = {name: digest for tags in repositories.values() for name, digest in tags.items()}
    try:
        wanted = reference.parse(text).familiar
    except ImageError:
        wanted = ""
    if wanted in names:
        return str(names[wanted]).removeprefix("sha256:")
    return _by_id(os.path.join(graph, "imagedb/content/sha256"), text, "images")


def _by_id(directory: str, text: str, what: str) -> str:
    start = text.removeprefix("sha256:")
    if not re.fullmatch("[0-9a-f]{2,64}", start):
        return ""
    try:
        found = [name for name in os.listdir(directory) if name.startswith(start)]
    except FileNotFoundError:
        return ""
    if len(found) > 1:
        raise ImageError(f"the ID {start} fits {len(found)} {what}: write more of it")
    return found[0] if found else ""


def _image_layers(root: str, graph: str, image: str) -> list[str]:
    config: dict[str, Any] = json.loads(_read(os.path.join(graph, "imagedb/content/sha256", image)))
    chain = chain_ids(list(config["rootfs"].get("diff_ids") or []))
    return [_layer(root, graph, chain_id) for chain_id in reversed(chain)]


def _layer(root: str, graph: str, chain_id: str) -> str:
    cache = _read(os.path.join(graph, "layerdb/sha256", chain_id.removeprefix("sha256:"), "cache-id"))
    return _directory(root, cache, "diff")


def _directory(root: str, name: str, part: str) -> str:
    if not re.fullmatch(r"[0-9a-z]+(-init)?", name):
        raise ImageError(f"{name!r} is no layer's directory")
    return os.path.join(root, "overlay2", name, part)


def _container(root: str, graph: str, text: str) -> Stack:
    containers = os.path.join(root, "containers")
    found = _by_id(containers, text, "containers") or _by_name(containers, text)
    if not found:
        raise NotFound(f"Docker has neither an image nor a container {text} in {root}")
    config = json.loads(_read(os.path.join(containers, found, "config.v2.json")))
    mounts = os.path.join(graph, "layerdb/mounts", found)
    parts = {part: _read(os.path.join(mounts, part)) for part in ("mount-id", "init-id", "parent")
             if os.path.exists(os.path.join(mounts, part))}  # fmt: skip
    lowers = _chain_below(root, graph, parts.get("parent", ""))
    if "init-id" in parts:
        lowers.insert(0, _directory(root, parts["init-id"], "diff"))
    upper, work = (_directory(root, parts["mount-id"], part) for part in ("diff", "work"))
    state = config.get("State") or {}
    return Stack(text, lowers, upper, work, running=bool(state.get("Running") or state.get("Paused")))


def _by_name(containers: str, text: str) -> str:
    try:
        ids = os.listdir(containers)
    except FileNotFoundError:
        return ""
    for each in ids:
        try:
            name = json.loads(_read(os.path.join(containers, each, "config.v2.json"))).get("Name")
        except FileNotFoundError:
            continue
        if name == "/" + text.removeprefix("/"):
            return each
    return ""


def _chain_below(root: str, graph: str, chain_id: str) -> list[str]:
    """From the top layer of a container's image down, by each layer's `parent`."""
    layers = []
    while chain_id:
        layers.append(_layer(root, graph, chain_id))
        parent = os.path.join(graph, "layerdb/sha256", chain_id.removeprefix("sha256:"), "parent")
        chain_id = _read(parent) if os.path.exists(parent) else ""
    return layers
