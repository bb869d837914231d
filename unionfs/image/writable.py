"""Writable layers of the store, each over one image: ROOT/writable/NAME/ with

    diff, work   the upper and its scratch directory; the mount that uses them holds a flock on both
    mnt          a place to mount, for commands that bring no mount point of their own
    layer.json   {"image": manifest digest, "kept": false: goes with its mount, "mountpoint": the last one}

The image of a kept layer stays in the store, whatever becomes of its names.
"""

from __future__ import annotations

import json
import os
import re
from errno import EINVAL, ENOENT, EPERM

from unionfs import libc
from unionfs.image.copies import copy_attributes
from unionfs.image.errors import ImageError, NotFound
from unionfs.image.store import Image, is_locked
from unionfs.image.trees import remove_tree
from unionfs.layer import verbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


class Writable:
    """One writable layer; the paths are absolute."""

    __slots__ = ("diff", "image", "kept", "mnt", "mountpoint", "name", "path", "work")

    def __init__(self, path: str, record: dict[str, object]) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.diff, self.work, self.mnt = (os.path.join(path, name) for name in ("diff", "work", "mnt"))
        self.image = str(record["image"])
        """The manifest digest of the image below."""
        self.kept = bool(record["kept"])
        self.mountpoint = str(record["mountpoint"])

    def base(self, store: Store) -> Image:
        """The image below; it need not have a name any more."""
        return Image(store, self.image, "")

    def in_use(self) -> bool:
        """Whether a mount has it."""
        try:
            return is_locked(self.diff)
        except FileNotFoundError:
            return False

    def mounted_at(self, mountpoint: str) -> None:
        """Remember where."""
        self.mountpoint = mountpoint
        _record(self)

    def discard(self) -> None:
        """Remove it with all that is in it."""
        try:
            os.rmdir(self.mnt)  # refused while something is mounted there, which must not be removed
        except FileNotFoundError:
            pass
        remove_tree(self.path)


def make(store: Store, image: Image, name: str = "") -> Writable:
    """A new, empty one; with a name it is kept, else it goes with its mount. The caller holds the store's lock."""
    kept = bool(name)
    if kept and not _NAME.fullmatch(name):
        raise ImageError(f"{name!r} cannot name a writable layer: letters, digits, '_', '.' and '-'")
    path = store.path("writable", name or os.urandom(6).hex())
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        raise ImageError(f"there is a writable layer {name} already") from None
    made = Writable(path, {"image": image.digest, "kept": kept, "mountpoint": ""})
    fill(made.diff, made.work, image.lowerdirs())
    os.mkdir(made.mnt, 0o700)
    _record(made)
    return made


def fill(diff: str, work: str, lowers: list[str]) -> None:
    """An empty upper over these layers (top first), its root with the attributes that the image's root has."""
    os.mkdir(work, 0o700)
    os.mkdir(diff, 0o755)
    os.chmod(diff, 0o755)  # whatever the umask
    if not lowers:
        return
    below, upper = (os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) for path in (lowers[0], diff))
    try:
        copy_attributes(below, b"", upper, b"")
        verbs.set_times(upper, b"", os.stat(below))
    finally:
        os.close(below)
        os.close(upper)


def _record(layer: Writable) -> None:
    path = os.path.join(layer.path, "layer.json")
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump({"image": layer.image, "kept": layer.kept, "mountpoint": layer.mountpoint}, file)
    os.rename(path + ".new", path)


def every(store: Store) -> list[Writable]:
    """All complete ones, by name."""
    found = []
    try:
        names = sorted(os.listdir(store.path("writable")))
    except FileNotFoundError:
        return []
    for name in names:
        path = store.path("writable", name)
        try:
            with open(os.path.join(path, "layer.json"), encoding="utf-8") as file:
                found.append(Writable(path, json.load(file)))
        except FileNotFoundError:
            continue
    return found


def find(store: Store, text: str) -> Writable:
    """By its name, or by where it is mounted. NotFound."""
    layers = every(store)
    place = os.path.realpath(text)
    for layer in layers:
        if layer.name == text or (layer.mountpoint == place and layer.in_use()):
            return layer
    kept = ", ".join(layer.name for layer in layers if layer.kept)
    raise NotFound(f"{text} is neither a writable layer nor where one is mounted; there is {kept or 'none'}")


def collect(store: Store) -> list[str]:
    """What a killed mount or an interrupted start left: directories to be removed. The store's lock is exclusive."""
    complete = {layer.path: layer for layer in every(store)}
    try:
        names = os.listdir(store.path("writable"))
    except FileNotFoundError:
        return []
    doomed = []
    for path in (store.path("writable", name) for name in names):
        layer = complete.get(path)
        if layer is None or not (layer.kept or layer.in_use()):
            _detach(os.path.join(path, "mnt"))
            doomed.append(path)
    return doomed


def _detach(mountpoint: str) -> None:
    """A daemon that was killed has left its mount: nothing below it may be taken for ours."""
    try:
        libc.umount2(os.fsencode(mountpoint), libc.MNT_DETACH | libc.UMOUNT_NOFOLLOW)
    except OSError as exc:
        if exc.errno not in (EINVAL, ENOENT, EPERM):
            raise
