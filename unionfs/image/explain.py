"""Where a path of an image comes from, and what lies hidden below it."""

from __future__ import annotations

import os
import stat

from unionfs.image.chain import Chain
from unionfs.image.describe import history
from unionfs.image.errors import ImageError, show
from unionfs.layer import verbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unionfs.image.chain import Version
    from unionfs.image.store import Image

_MAX_LINKS = 40
_WORDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket",
}  # fmt: skip


def explain(image: Image, path: str) -> dict[str, Any]:
    """{"path", "visible", "layers": [{layer, diff_id, created_by, what, size, mode, shown, …}, …]} top first.

    Symlinks on the way to the last name are followed as a process in the image would. Raises ImageError.
    """
    layers = image.layers()
    made_by = {step.layer: step.created_by for step in history(image) if step.layer is not None}
    with Chain([layer.diff for layer in reversed(layers)], rootless=image.store.rootless) as chain:
        real = resolve(chain, os.fsencode(path))
        versions = chain.versions(real)
        found = []
        for version in versions:
            index = len(layers) - 1 - version.layer
            found.append({
                "layer": index + 1,
                "diff_id": layers[index].info["diff_id"],
                "created_by": made_by.get(index, ""),
                **_facts(version),
            })  # fmt: skip
    return {
        "path": "/" + real.decode("utf-8", "backslashreplace"),
        "visible": any(version.visible for version in versions),
        "layers": found,
    }


def _facts(version: Version) -> dict[str, Any]:
    st = version.stat
    word = "whiteout" if version.whiteout else _WORDS.get(stat.S_IFMT(st.st_mode), "object")
    if version.above:
        above = "/" + version.above.decode("utf-8", "backslashreplace").lstrip(".")
        return {"what": f"{'opaque ' * version.opaque}{word} {above}", "shown": False, "hides": True}
    if version.whiteout:
        return {"what": word, "shown": False, "hides": True}
    return {
        "what": f"opaque {word}" if version.opaque else word,
        "shown": version.visible,
        "hides": version.opaque,
        "size": 0 if stat.S_ISDIR(st.st_mode) else st.st_size,
        "mode": stat.filemode(st.st_mode),
        "mtime_ns": st.st_mtime_ns,
    }


def resolve(chain: Chain, path: bytes) -> bytes:
    """The path without symlinks on the way, relative to the root; the last name stays as it is."""
    rest = [name for name in reversed(path.split(b"/")) if name and name != b"."]
    done: list[bytes] = []
    links = 0
    while rest:
        name = rest.pop()
        if name == b"..":
            del done[-1:]
            continue
        done.append(name)
        if not rest:
            break
        here = b"/".join(done)
        version = chain.find(here)
        if version is not None and stat.S_ISLNK(version.stat.st_mode):
            links += 1
            if links > _MAX_LINKS:
                raise ImageError(f"{show(path)}: too many symlinks on the way")
            done.pop()
            target = _readlink(chain, version.layer, here)
            if target.startswith(b"/"):
                done = []
            rest += [step for step in reversed(target.split(b"/")) if step and step != b"."]
    return b"/".join(done)


def _readlink(chain: Chain, layer: int, path: bytes) -> bytes:
    fd, name = chain.open_parent(layer, path)
    try:
        return verbs.readlink(fd, name)
    finally:
        os.close(fd)
