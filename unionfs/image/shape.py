"""What the JSON of an image looks like: checked once, where it comes in, so that nothing later has to doubt it.

A shape is a type; [shape], a list of such; {"name": shape}, an object, whose fields may be missing or null unless their
name here begins with "!"; {"*": shape}, an object with any fields of that shape. Fields that are not named may be
anything.
"""

from __future__ import annotations

from unionfs.image.errors import BadArchive, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CONTAINER = {
    "User": str, "Env": [str], "Cmd": [str], "Entrypoint": [str], "WorkingDir": str, "Shell": [str], "OnBuild": [str],
    "StopSignal": str, "Labels": {"*": str}, "ExposedPorts": {"*": object}, "Volumes": {"*": object},
    "Healthcheck": {"*": object},
}  # fmt: skip
CONFIG = {
    "!rootfs": {"diff_ids": [str]}, "architecture": str, "os": str, "variant": str, "os.version": str, "created": str,
    "author": str, "comment": str, "container": str, "docker_version": str, "config": _CONTAINER,
    "container_config": _CONTAINER,
    "history": [{"created": str, "created_by": str, "author": str, "comment": str, "empty_layer": bool}],
}  # fmt: skip
_BLOB = {"!digest": str, "!size": int, "mediaType": str}
MANIFEST = {"!config": _BLOB, "!layers": [_BLOB], "mediaType": str}
INDEX = {"!manifests": [{
    "!digest": str, "mediaType": str, "annotations": {"*": str},
    "platform": {"os": str, "architecture": str, "variant": str},
}]}  # fmt: skip
DOCKER_ARCHIVE = [{"!Config": str, "RepoTags": [str], "Layers": [str]}]

_WORDS = {str: "a string", int: "a whole number", bool: "true or false"}


def check(value: Any, shape: Any, what: str) -> None:
    """Raises BadArchive that names the field which is not as it has to be."""
    pending = [(value, shape, "")]
    while pending:
        value, shape, place = pending.pop()
        if isinstance(shape, list):
            _expect(isinstance(value, list), what, place, "a list")
            pending += [(item, shape[0], f"{place}[{number}]") for number, item in enumerate(value)]
        elif isinstance(shape, dict):
            _expect(isinstance(value, dict), what, place, "an object")
            pending += _fields(value, shape, what, place)
        elif shape is not object:
            fits = isinstance(value, shape) and (shape is bool or not isinstance(value, bool))
            _expect(fits, what, place, _WORDS[shape])


def _fields(value: dict[str, Any], shape: dict[str, Any], what: str, place: str) -> list[tuple[Any, Any, str]]:
    if "*" in shape:
        return [(item, shape["*"], f"{place}.{name}") for name, item in value.items()]
    found = []
    for name, inner in shape.items():
        field = name.removeprefix("!")
        item = value.get(field)
        _expect(item is not None or field == name, what, f"{place}.{field}", "there")
        if item is not None:
            found.append((item, inner, f"{place}.{field}"))
    return found


def _expect(fits: bool, what: str, place: str, wanted: str) -> None:
    if not fits:
        where = show(place.lstrip(".").encode("utf-8", "backslashreplace")[:200])
        raise BadArchive(f"{what}: {where} is not {wanted}" if place else f"{what} is not {wanted}")
