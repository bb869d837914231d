"""The store on disk: plain files, each made complete elsewhere and renamed into place.

    ROOT/lock                       flock: shared by whoever adds or uses, exclusive for gc
    ROOT/blobs/sha256/HEX           manifests, configs, layers as they came; the name is the content's digest
    ROOT/layers/HEX/diff            an unpacked layer, by chain id; info.json beside it; a mount that uses it
                                    holds a shared flock on layers/HEX
    ROOT/images/HEX.json            an image, by manifest digest: the root from which gc reaches the rest
    ROOT/names/NAME                 the manifest digest a name stands for; "/" in the name is %2F
    ROOT/writable/NAME/             a writable layer over an image (see writable.py)
    ROOT/steps/HEX.json             what a step of a build made, by what it was made from (see build/cache.py)
    ROOT/tmp/                       what is being made; anything here while gc holds the lock is left over

What has been renamed into place is complete and synced, so a crash or a kill at any time leaves only files
in tmp. Two processes that make the same thing both succeed: names come from content, the second rename
changes nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import tempfile
from errno import EEXIST, ENOTEMPTY
from urllib.parse import quote, unquote

from unionfs import libc
from unionfs.image import userns
from unionfs.image.codec import write_all
from unionfs.image.errors import BadArchive, ImageError, NotFound
from unionfs.image.trees import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MAX_JSON = 4 << 20
"""Largest manifest or config believed (the registries' own limit)."""


def default_root() -> str:
    """/var/lib/unionfs for root, else $XDG_DATA_HOME/unionfs; $UNIONFS_STORE overrides both."""
    if root := os.environ.get("UNIONFS_STORE"):
        return os.path.abspath(root)
    if os.geteuid() == 0 and not userns.inside():
        return "/var/lib/unionfs"
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(home, "unionfs")


def hex_of(digest: object) -> str:
    """The hex half of a digest. BadArchive unless it is a well-formed sha256: digests become file names."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise BadArchive(f"{digest!r} is not a sha256 digest")
    return digest[7:]


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def chain_ids(diff_ids: list[str]) -> list[str]:
    """The name of each layer together with all layers below it, bottom first, as OCI defines it."""
    chain: list[str] = []
    for diff_id in diff_ids:
        hex_of(diff_id)
        chain.append(sha256(f"{chain[-1]} {diff_id}".encode()) if chain else diff_id)
    return chain


class Layer:
    """An unpacked layer. `diff` is the directory to mount, never to be written."""

    __slots__ = ("chain_id", "diff", "info")

    def __init__(self, chain_id: str, directory: str, info: dict[str, Any]) -> None:
        self.chain_id = chain_id
        self.diff = os.path.join(directory, "diff")
        self.info = info
        """diff_id, blob (digest), parent (chain id or ""), size (as Docker counts), entries, notes."""

    @property
    def size(self) -> int:
        return int(self.info["size"])


class Image:
    """One image of the store. manifest and config are the parsed JSON of the blobs of these digests."""

    __slots__ = ("added", "config", "config_digest", "digest", "manifest", "store")

    def __init__(self, store: Store, digest: str, added: str) -> None:
        self.store = store
        self.digest = digest
        self.added = added
        self.manifest: dict[str, Any] = store.read_json(digest)
        self.config_digest: str = self.manifest["config"]["digest"]
        self.config: dict[str, Any] = store.read_json(self.config_digest)

    @property
    def diff_ids(self) -> list[str]:
        """Bottom first, as RootFS.Layers."""
        return list(self.config["rootfs"]["diff_ids"])

    def layers(self) -> list[Layer]:
        """Bottom first. NotFound if one is missing."""
        return [self.store.layer(chain_id) for chain_id in chain_ids(self.diff_ids)]

    def lowerdirs(self) -> list[str]:
        """The directories to mount, top first."""
        return [layer.diff for layer in reversed(self.layers())]


class Store:
    """Open a store; made where it does not exist. Raises ImageError where that is not possible.

    A context manager that holds the shared lock: what is added or read inside it is safe from a gc meanwhile.
    Everything that adds needs it.
    """

    def __init__(self, root: str | None = None) -> None:
        self.root = os.path.abspath(root) if root else default_root()
        try:
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            for name in ("blobs/sha256", "layers", "images", "names", "tmp"):
                os.makedirs(os.path.join(self.root, name), mode=0o700, exist_ok=True)
            os.close(os.open(self.path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as exc:
            raise ImageError(
                f"the image store {self.root} cannot be used: {exc.strerror}; "
                "choose another with --store or $UNIONFS_STORE"
            ) from None
        self.rootless = os.geteuid() != 0 or os.stat(self.root).st_uid != 0 or userns.inside()
        """Owners, modes and devices of layers are in an xattr (union/statmark.py): their files are a user's own."""

    def __enter__(self) -> Self:
        self._lock = os.open(self.path("lock"), os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def alone(self, wait: bool) -> bool:
        """Turn the lock held into the exclusive one. False: others are at work, and we were not to wait."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            fcntl.flock(self._lock, fcntl.LOCK_SH)
            return False
        return True

    def path(self, *names: str) -> str:
        return os.path.join(self.root, *names)

    # blobs

    def blob_path(self, digest: str) -> str:
        return self.path("blobs/sha256", hex_of(digest))

    def has_blob(self, digest: str) -> bool:
        return os.path.exists(self.blob_path(digest))

    def open_blob(self, digest: str) -> int:
        """A descriptor for reading. NotFound."""
        try:
            return os.open(self.blob_path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise NotFound(f"the store has no blob {digest}") from None

    def read_json(self, digest: str) -> Any:
        """A manifest or config, verified and parsed."""
        fd = self.open_blob(digest)
        with open(fd, "rb") as file:
            data = file.read(MAX_JSON + 1)
        if sha256(data) != digest:
            raise BadArchive(f"blob {digest} in the store is damaged: pull or load the image again")
        return parse_json(data, digest)

    def put_blob(self, data: bytes) -> str:
        """Keep a small blob (a manifest, a config). Its digest."""
        digest = sha256(data)
        if not self.has_blob(digest):
            fd, path = self.temporary()
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(path, self.blob_path(digest))
        return digest

    def adopt_blob(self, fd: int, path: str, digest: str) -> None:
        """Move a complete, verified file of ours (from `temporary`) to its place."""
        os.fsync(fd)
        os.rename(path, self.blob_path(digest))

    def temporary(self) -> tuple[int, str]:
        """A new file in tmp, as (descriptor, path)."""
        return tempfile.mkstemp(dir=self.path("tmp"))

    def temporary_dir(self) -> str:
        return tempfile.mkdtemp(dir=self.path("tmp"))

    # layers

    def has_layer(self, chain_id: str) -> bool:
        return os.path.isdir(self.path("layers", hex_of(chain_id)))

    def layer(self, chain_id: str) -> Layer:
        directory = self.path("layers", hex_of(chain_id))
        try:
            with open(os.path.join(directory, "info.json"), "rb") as file:
                return Layer(chain_id, directory, json.load(file))
        except FileNotFoundError:
            raise NotFound(f"the store has no layer {chain_id}") from None

    def use(self, layers: list[Layer]) -> list[int]:
        """Descriptors that keep these layers from gc as long as they are open, in this process or a child of it."""
        held: list[int] = []
        try:
            for layer in layers:
                held.append(os.open(os.path.dirname(layer.diff), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
                fcntl.flock(held[-1], fcntl.LOCK_SH)
        except BaseException:
            for fd in held:
                os.close(fd)
            raise
        return held

    def in_use(self, chain_id: str) -> bool:
        """Whether a process has the layer in use."""
        return is_locked(self.path("layers", hex_of(chain_id)))

    def layer_ids(self) -> list[str]:
        return ["sha256:" + name for name in sorted(os.listdir(self.path("layers")))]

    def adopt_layer(self, directory: str, chain_id: str, info: dict[str, Any], blob: str = "") -> None:
        """Move a complete directory of ours (holding `diff`) to its place; where another was first, drop
        ours.

        blob: a complete, verified file of ours that becomes the blob info["blob"].
        """
        with open(os.path.join(directory, "info.json"), "w", encoding="utf-8") as file:
            json.dump(info, file, indent=1)
        self.sync()
        if blob:
            os.rename(blob, self.blob_path(info["blob"]))
        try:
            os.rename(directory, self.path("layers", hex_of(chain_id)))
        except OSError as exc:
            if exc.errno not in (EEXIST, ENOTEMPTY):
                raise
            remove_tree(directory)

    def sync(self) -> None:
        """Everything written so far is on the disk: one call for a whole layer instead of one per file."""
        libc.syncfs(self._lock)

    # images and names

    def put_image(self, manifest: bytes, names: list[str]) -> Image:
        """Keep an image whose blobs and layers are all here, under these names. Last step of every import."""
        digest = self.put_blob(manifest)
        self.sync()
        record = self.path("images", hex_of(digest) + ".json")
        if not os.path.exists(record):
            from datetime import UTC, datetime

            added = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            self._write(record, json.dumps({"manifest": digest, "added": added}))
        for name in names:
            self.tag(name, digest)
        return self.image(digest)

    def _write(self, path: str, text: str) -> None:
        fd, temporary = self.temporary()
        try:
            write_all(fd, text.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def image(self, digest: str) -> Image:
        try:
            with open(self.path("images", hex_of(digest) + ".json"), encoding="utf-8") as file:
                record = json.load(file)
        except FileNotFoundError:
            raise NotFound(f"no image with the manifest {digest}") from None
        return Image(self, digest, record["added"])

    def images(self) -> list[Image]:
        """All images, newest addition first."""
        found = [
            self.image("sha256:" + name.removesuffix(".json"))
            for name in sorted(os.listdir(self.path("images")))
        ]
        return sorted(found, key=lambda image: image.added, reverse=True)

    def name_path(self, name: str) -> str:
        """The file that says what a name stands for."""
        return self.path("names", quote(name, safe=""))

    def tag(self, name: str, digest: str) -> None:
        """Let a full name (with its tag) stand for an image; it leaves the one it stood for."""
        path = self.name_path(name)
        if len(os.path.basename(path)) > 255:
            raise ImageError(f"the image name {name} is too long")
        self._write(path, digest + "\n")

    def untag(self, name: str) -> None:
        try:
            os.unlink(self.name_path(name))
        except FileNotFoundError:
            raise NotFound(f"no image is named {name}") from None

    def names(self) -> dict[str, str]:
        """Every name and the manifest digest it stands for."""
        found = {}
        for file in sorted(os.listdir(self.path("names"))):
            try:
                with open(self.path("names", file), encoding="ascii") as text:
                    found[unquote(file)] = text.read().strip()
            except FileNotFoundError:
                continue  # removed by another process since the listing
        return found

    def drop_image(self, digest: str) -> None:
        """Forget an image and all its names; gc gives back its space."""
        for name, target in self.names().items():
            if target == digest:
                self.untag(name)
        try:
            os.unlink(self.path("images", hex_of(digest) + ".json"))
        except FileNotFoundError:
            raise NotFound(f"no image with the manifest {digest}") from None


def parse_json(data: bytes, what: str) -> Any:
    """JSON from outside. BadArchive where it is none, or larger than any manifest is."""
    if len(data) > MAX_JSON:
        raise BadArchive(f"{what} is larger than {MAX_JSON} bytes")
    try:
        value = json.loads(data)
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be printed, nor written again
        return value
    except (ValueError, RecursionError):
        raise BadArchive(f"{what} is not JSON") from None


def is_locked(directory: str) -> bool:
    """Whether a process holds a flock on the directory, as whoever uses a layer does."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
