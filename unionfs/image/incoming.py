"""What every source of images hands to `load`: names, config, manifest and a way to read each layer."""

from __future__ import annotations

import os

from unionfs.image import shape
from unionfs.image.errors import BadArchive
from unionfs.image.store import hex_of, parse_json, sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any


OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
INDEXES = (OCI_INDEX, DOCKER_INDEX)
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)


class LayerBlob:
    """One layer of an incoming image."""

    __slots__ = ("digest", "open", "ready", "size")

    def __init__(self, digest: str, size: int, opened: Callable[[], Iterator[bytes]]) -> None:
        self.digest = digest
        """Of the bytes that open() gives; empty: not known before they are read."""
        self.size = size
        self.open = opened
        """The layer's bytes from the first one on, in chunks."""
        self.ready: Callable[[], object] | None = None
        """Where set: to be called first; waits until the blob is in the store."""


class Incoming:
    """One image on its way in. `manifest` is None where the source has none of its own."""

    __slots__ = ("config", "diff_ids", "layers", "manifest", "names")

    def __init__(
        self, names: list[str], manifest: bytes | None, config: bytes, layers: list[LayerBlob]
    ) -> None:
        self.names = names
        self.manifest = manifest
        self.config = config
        self.layers = layers
        parsed = parse_json(config, "the image's config")
        self.diff_ids = _diff_ids(parsed)
        if len(self.diff_ids) != len(layers):
            raise BadArchive(
                f"the image's config names {len(self.diff_ids)} layers, its manifest {len(layers)}"
            )


def _diff_ids(config: Any) -> list[str]:
    shape.check(config, shape.CONFIG, "the image's config")
    diff_ids = list(config["rootfs"].get("diff_ids") or ())
    for diff_id in diff_ids:
        hex_of(diff_id)
    return diff_ids


def from_manifest(
    names: list[str],
    manifest: bytes,
    blob: Callable[[str, int], bytes],
    opened: Callable[[str, int], Iterator[bytes]],
) -> Incoming:
    """An image described by a manifest. blob(digest, size) gives a small blob, opened(digest, size) a
    layer's content in chunks."""
    parsed = parse_json(manifest, "the manifest")
    shape.check(parsed, shape.MANIFEST, "the manifest")
    layers = [(layer["digest"], layer["size"]) for layer in parsed["layers"]]
    config_digest = parsed["config"]["digest"]
    data = blob(config_digest, parsed["config"]["size"])
    verify(data, config_digest, "the image's config")

    def reader(digest: str, size: int) -> Callable[[], Iterator[bytes]]:
        hex_of(digest)
        return lambda: opened(digest, size)

    return Incoming(names, manifest, data, [LayerBlob(d, s, reader(d, s)) for d, s in layers])


def verify(data: bytes, digest: str, what: str) -> None:
    """BadArchive unless the data have that digest."""
    hex_of(digest)
    if sha256(data) != digest:
        raise BadArchive(f"{what} has another digest than promised ({digest}): damaged or tampered with")


_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm/v7",
    "armv6l": "arm/v6",
    "i686": "386",
    "i386": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}


def host_platform() -> str:
    machine = os.uname().machine
    return "linux/" + _ARCHITECTURES.get(machine, machine)


def choose(descriptors: list[dict[str, Any]], platform: str) -> dict[str, Any]:
    """The entry of a multi-platform index for "os/architecture[/variant]". BadArchive lists what there is."""
    wanted = platform.split("/")
    available = []
    for descriptor in descriptors:
        given = descriptor.get("platform") or {}
        have = [given.get("os") or "", given.get("architecture") or ""]
        if given.get("variant"):
            have.append(given["variant"])
        matches = (
            have == wanted or have[:2] == wanted or (have == wanted[:2] and wanted[2:] in (["v8"], ["v7"]))
        )
        if matches:
            return descriptor
        if have[0] and have[0] != "unknown":
            available.append("/".join(have))
    raise BadArchive(
        f"the image has no variant for {platform}; it has {', '.join(sorted(available)) or 'none'}"
        " (choose one with --platform)"
    )
