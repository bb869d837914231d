"""Images in files: OCI layouts (directories and archives) and docker-archives (`docker save`, of any age
since 1.10)."""

from __future__ import annotations

import os
import re

from unionfs.image import incoming, reference, shape
from unionfs.image.errors import BadArchive, ImageError
from unionfs.image.incoming import Incoming, LayerBlob
from unionfs.image.members import open_members, small
from unionfs.image.store import hex_of, parse_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from unionfs.image.members import Members
    from unionfs.image.store import Store

_REF_NAME = "org.opencontainers.image.ref.name"
_FULL_NAME = "io.containerd.image.name"


def read(path: str, store: Store, *, platform: str = "", name: str = "") -> list[Incoming]:
    """The images of an archive, a layout directory, or standard input ("-").

    platform: which variant of a multi-platform image ("" is this machine's). name: instead of the archive's
    names. Raises ImageError.
    """
    members = open_members(path, store)
    if members.has("index.json"):  # before manifest.json: new docker-archives have both, and this tells more
        images = _layout(members, path, platform or incoming.host_platform())
    elif members.has("manifest.json"):
        images = _docker(members)
    elif members.has("repositories"):
        raise BadArchive(
            f"{path} was saved by a Docker older than 1.10, which is not supported: save it again"
        )
    else:
        raise BadArchive(
            f"{path} is no image: it has neither index.json (OCI) nor manifest.json (docker save)"
        )
    if name:
        if len(images) != 1:
            raise ImageError(f"{path} holds {len(images)} images: they cannot all be named {name}")
        images[0].names = [reference.parse(name).familiar]
    return images


# OCI layouts


def _layout(members: Members, path: str, platform: str) -> list[Incoming]:
    descriptors = _manifests(parse_json(small(members, "index.json"), "index.json"), "index.json")
    groups: dict[str, list[dict[str, Any]]] = {}
    for descriptor in descriptors:
        groups.setdefault(_name(descriptor, path), []).append(descriptor)
    found: dict[str, Incoming] = {}
    for name, group in groups.items():
        descriptor = _image(
            members, group[0] if len(group) == 1 else incoming.choose(group, platform), platform
        )
        digest = descriptor["digest"]
        if digest not in found:
            found[digest] = incoming.from_manifest(
                [], _blob(members)(digest, 0), _blob(members), _opened(members)
            )
        if name:
            found[digest].names.append(name)
    if not found:
        raise BadArchive(f"{path} is an empty layout: its index.json names no image")
    return list(found.values())


def _manifests(index: Any, what: str) -> list[dict[str, Any]]:
    shape.check(index, shape.INDEX, what)
    descriptors = [
        d
        for d in index["manifests"]
        if d.get("mediaType", incoming.OCI_MANIFEST) in incoming.INDEXES + incoming.MANIFESTS
    ]
    for descriptor in descriptors:
        hex_of(descriptor["digest"])
    return descriptors


def _image(members: Members, descriptor: dict[str, Any], platform: str) -> dict[str, Any]:
    """Down through nested indexes to the manifest of one image."""
    for _ in range(8):
        if descriptor.get("mediaType") not in incoming.INDEXES:
            return descriptor
        digest = descriptor["digest"]
        nested = _manifests(parse_json(_blob(members)(digest, 0), digest), digest)
        descriptor = nested[0] if len(nested) == 1 else incoming.choose(nested, platform)
    raise BadArchive("indexes nested more than 8 deep")


def _blob(members: Members) -> Callable[[str, int], bytes]:
    def blob(digest: str, _size: int) -> bytes:
        data = small(members, "blobs/sha256/" + hex_of(digest))
        incoming.verify(data, digest, "a blob of the layout")
        return data

    return blob


def _opened(members: Members) -> Callable[[str, int], Iterator[bytes]]:
    return lambda digest, _size: members.open("blobs/sha256/" + hex_of(digest))


def _name(descriptor: dict[str, Any], path: str) -> str:
    """The image's name: annotations hold all of it, or only a tag, which is then that of a name like the
    file's."""
    annotations = descriptor.get("annotations") or {}
    full, name = annotations.get(_FULL_NAME) or "", annotations.get(_REF_NAME) or ""
    if not name or re.search("[/:]", name):
        name = name or full
    elif full:      # tools that tag anew copy this annotation with its old tag
        name = f"{full.rpartition(':')[0]}:{name}"
    else:
        base = os.path.basename(os.path.abspath(path)).lower() if path != "-" else ""
        name = re.sub(r"(\.(oci|tar|tgz|gz|zst|zstd))+$", "", base) + f":{name}"
    if not name:
        return ""
    try:
        return reference.parse(name).familiar
    except ImageError:
        return ""  # a name that no registry could have: the image is kept without


# docker save


def _docker(members: Members) -> list[Incoming]:
    images = []
    manifest = parse_json(small(members, "manifest.json"), "manifest.json")
    shape.check(manifest, shape.DOCKER_ARCHIVE, "manifest.json")
    for item in manifest:
        config = small(members, item["Config"])
        names = [reference.parse(name).familiar for name in item.get("RepoTags") or ()]
        paths = item.get("Layers") or ()
        layers = [LayerBlob("", members.size(path), _opener(members, path)) for path in paths]
        images.append(Incoming(names, None, config, layers))
    if not images:
        raise BadArchive("the archive holds no image: its manifest.json is empty")
    return images


def _opener(members: Members, path: str) -> Callable[[], Iterator[bytes]]:
    return lambda: members.open(path)
