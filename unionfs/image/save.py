"""Images out of the store: OCI layout directories, archives that are OCI and docker-archive in one, docker-archives.

The same images give the same bytes: members are sorted, owned by root, and all of one time.
"""

from __future__ import annotations

import os

from unionfs.image import incoming, tar_entry
from unionfs.image.codec import decompress, file_chunks, write_all
from unionfs.image.errors import ImageError
from unionfs.image.load import encode
from unionfs.image.pack import source_date_epoch
from unionfs.image.reference import parse
from unionfs.image.store import chain_ids, hex_of
from unionfs.image.tar_entry import Entry
from unionfs.image.tar_write import TarWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from unionfs.image.store import Image, Store

    Named = list[tuple[Image, list[str]]]
    """Images, each with the names it is saved under."""

_LAYOUT = encode({"imageLayoutVersion": "1.0.0"})


def layout(store: Store, images: Named, path: str) -> None:
    """An OCI layout directory; one that exists gets the images added, names that it has go to the new ones."""
    os.makedirs(os.path.join(path, "blobs/sha256"), exist_ok=True)
    for image, _names in images:
        for digest in blobs(image):
            _copy_blob(store, digest, os.path.join(path, "blobs/sha256", hex_of(digest)))
    _replace(os.path.join(path, "oci-layout"), _LAYOUT)
    index = os.path.join(path, "index.json")
    _replace(index, encode(_index(store, images, _present(index))))


def _present(path: str) -> list[dict[str, Any]]:
    from unionfs.image.store import parse_json

    try:
        with open(path, "rb") as file:
            return list(parse_json(file.read(), path)["manifests"])
    except FileNotFoundError:
        return []


def _copy_blob(store: Store, digest: str, target: str) -> None:
    if os.path.exists(target):
        return
    source = store.open_blob(digest)
    temporary = f"{target}.{os.getpid()}"
    try:
        out = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            while os.copy_file_range(source, out, 1 << 30):
                pass
        finally:
            os.close(out)
        os.rename(temporary, target)
    finally:
        os.close(source)


def _replace(path: str, data: bytes) -> None:
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(data)
    os.rename(temporary, path)


def blobs(image: Image) -> list[str]:
    """The digests an image consists of: manifest, config, layers, each once."""
    layers = [layer["digest"] for layer in image.manifest["layers"]]
    return list(dict.fromkeys([image.digest, image.config_digest, *layers]))


def _index(store: Store, images: Named, present: list[dict[str, Any]]) -> dict[str, Any]:
    added = []
    for image, names in images:
        size = os.stat(store.blob_path(image.digest)).st_size
        descriptor: dict[str, Any] = {
            "mediaType": image.manifest.get("mediaType") or incoming.OCI_MANIFEST,
            "digest": image.digest,
            "size": size,
            "platform": {
                "architecture": image.config.get("architecture", ""),
                "os": image.config.get("os", ""),
            },
        }
        for name in names or [""]:
            annotations = {"annotations": _annotations(name)} if name else {}
            added.append(descriptor | annotations)
    taken = [
        (d["annotations"]["org.opencontainers.image.ref.name"] if "annotations" in d else "", d["digest"])
        for d in added
    ]
    kept = [
        d
        for d in present
        if (d.get("annotations") or {}).get("org.opencontainers.image.ref.name", "")
        not in {name for name, _ in taken if name}
        and ("", d["digest"]) not in taken
    ]
    return {"schemaVersion": 2, "mediaType": incoming.OCI_INDEX, "manifests": kept + added}


def _annotations(name: str) -> dict[str, str]:
    reference = parse(name)
    return {
        "io.containerd.image.name": f"{reference.host}/{reference.path}:{reference.tag}",
        "org.opencontainers.image.ref.name": reference.tag,
    }


# archives


def archive(store: Store, images: Named, fd: int) -> None:
    """An OCI archive that `docker load` reads as well: beside index.json it has a manifest.json."""
    names = sorted({digest for image, _ in images for digest in blobs(image)})
    legacy = []
    for image, given in images:
        layers = ["blobs/sha256/" + hex_of(layer["digest"]) for layer in image.manifest["layers"]]
        legacy.append(
            {
                "Config": "blobs/sha256/" + hex_of(image.config_digest),
                "RepoTags": given or None,
                "Layers": layers,
            }
        )
    tar = _Archive(fd)
    tar.directory("blobs/")
    tar.directory("blobs/sha256/")
    for digest in names:
        tar.file("blobs/sha256/" + hex_of(digest), *_blob(store, digest))
    tar.small("index.json", encode(_index(store, images, [])))
    tar.small("manifest.json", encode(legacy))
    tar.small("oci-layout", _LAYOUT)
    tar.end()


def docker_archive(store: Store, images: Named, fd: int) -> None:
    """What every Docker since 1.10 loads: configs and uncompressed layers, whatever the blobs are compressed with."""
    tar = _Archive(fd)
    listed = []
    done: set[str] = set()
    for image, names in images:
        config = hex_of(image.config_digest) + ".json"
        if config not in done:
            tar.file(config, *_blob(store, image.config_digest))
        paths = []
        for chain_id, diff_id in zip(chain_ids(image.diff_ids), image.diff_ids, strict=True):
            path = hex_of(diff_id) + ".tar"
            if path not in done:
                tar.file(path, *_unpacked(store, store.layer(chain_id).info["blob"]))
            done.add(path)
            paths.append(path)
        done.add(config)
        listed.append({"Config": config, "RepoTags": names or None, "Layers": paths})
    tar.small("manifest.json", encode(listed))
    tar.end()


class _Archive:
    """A tar written to a descriptor; every member has the same owner, mode and time."""

    def __init__(self, fd: int) -> None:
        self._time = source_date_epoch() or 0
        self._tar = TarWriter(lambda data: write_all(fd, data))
        self.end = self._tar.end

    def directory(self, name: str) -> None:
        self._tar.add(Entry(name.encode(), tar_entry.DIRECTORY, 0o755, 0, 0, self._time))

    def file(self, name: str, size: int, data: Iterator[bytes]) -> None:
        entry = Entry(name.encode(), tar_entry.REGULAR, 0o644, 0, 0, self._time)
        entry.size = size
        self._tar.add(entry, data)

    def small(self, name: str, data: bytes) -> None:
        self.file(name, len(data), iter([data]))


def _blob(store: Store, digest: str) -> tuple[int, Iterator[bytes]]:
    """(size, content) of a blob."""
    fd = store.open_blob(digest)
    return os.fstat(fd).st_size, file_chunks(fd)


def _unpacked(store: Store, digest: str) -> tuple[int, Iterator[bytes]]:
    """(size, content) of a layer's blob, decompressed; twice over, for a tar has to know the size first."""
    size = sum(len(chunk) for chunk in decompress(_blob(store, digest)[1]))
    return size, decompress(_blob(store, digest)[1])


def named(store: Store, texts: list[str]) -> Named:
    """The images that a user asked for, with the names to save them under: the one given, or for an ID all its own."""
    from unionfs.image.find import find, names_of

    found: dict[str, tuple[Image, list[str]]] = {}
    for text in texts:
        image = find(store, text)
        names = [name for name in names_of(store, image) if "@" not in name]
        try:
            familiar = parse(text).familiar
        except ImageError:
            familiar = ""
        names = [familiar] if familiar in names else names
        kept = found.setdefault(image.digest, (image, []))[1]
        kept += [name for name in names if name not in kept]
    return list(found.values())
