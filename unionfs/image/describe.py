"""What an image's config says, in the form in which Docker prints it: inspect, history."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from unionfs.image.find import names_of
from unionfs.image.store import hex_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unionfs.image.store import Image, Store

# Docker's container config, in its order. The second half is printed only where it is set.
_CONFIG: dict[str, Any] = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False,
    "AttachStderr": False, "ExposedPorts": None, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None,
    "Cmd": None, "Healthcheck": None, "ArgsEscaped": False, "Image": "", "Volumes": None, "WorkingDir": "",
    "Entrypoint": None, "NetworkDisabled": False, "MacAddress": "", "OnBuild": None, "Labels": None,
    "StopSignal": "", "StopTimeout": None, "Shell": None,
}  # fmt: skip
_IF_SET = frozenset(("ExposedPorts", "Healthcheck", "ArgsEscaped", "NetworkDisabled", "MacAddress", "StopSignal",
                     "StopTimeout", "Shell"))  # fmt: skip
_NEVER = "0001-01-01T00:00:00Z"


def inspect(store: Store, image: Image) -> dict[str, Any]:
    """The facts of an image under the names and in the order of `docker inspect`."""
    config = image.config
    names = names_of(store, image)
    size = sum(layer.size for layer in image.layers())
    return {
        "Id": image.config_digest,
        "RepoTags": [name for name in names if "@" not in name],
        "RepoDigests": [name for name in names if "@" in name],
        "Parent": "",
        "Comment": config.get("comment") or _last_comment(config),
        "Created": config.get("created") or _NEVER,
        "Container": config.get("container") or "",
        "ContainerConfig": container_config(config.get("container_config") or {}),
        "DockerVersion": config.get("docker_version") or "",
        "Author": config.get("author") or "",
        "Config": container_config(config.get("config") or {}),
        "Architecture": config.get("architecture") or "",
        **({"Variant": config["variant"]} if config.get("variant") else {}),
        "Os": config.get("os") or "",
        **({"OsVersion": config["os.version"]} if config.get("os.version") else {}),
        "Size": size,
        "VirtualSize": size,
        "GraphDriver": {"Data": _directories(image), "Name": "overlay2"},
        "RootFS": {"Type": "layers", "Layers": image.diff_ids},
        "Metadata": {"LastTagTime": _tagged(store, names)},
    }


def _last_comment(config: dict[str, Any]) -> str:
    history = config.get("history") or [{}]
    return history[-1].get("comment") or ""


def container_config(given: dict[str, Any]) -> dict[str, Any]:
    """A container config with what Docker adds and leaves out when it prints one."""
    full = {key: given.get(key, default) for key, default in _CONFIG.items()}
    return {key: value for key, value in full.items() if value or key not in _IF_SET}


def _directories(image: Image) -> dict[str, str]:
    lowers = image.lowerdirs()
    if not lowers:
        return {}
    below = {"LowerDir": ":".join(lowers[1:])} if lowers[1:] else {}
    return {**below, "UpperDir": lowers[0]}


def _tagged(store: Store, names: list[str]) -> str:
    times = [os.stat(store.name_path(name)).st_mtime_ns for name in names]
    if not times:
        return _NEVER
    seconds, nanoseconds = divmod(max(times), 1_000_000_000)
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{nanoseconds:09}Z"


class Step:
    """One line of an image's history."""

    __slots__ = ("comment", "created", "created_by", "layer", "size")

    def __init__(self, entry: dict[str, Any], layer: int | None, size: int) -> None:
        self.created = parse_time(entry.get("created") or _NEVER)
        """Seconds since the epoch."""
        self.created_by = str(entry.get("created_by") or "")
        self.comment = str(entry.get("comment") or "")
        self.layer = layer
        """Index of the layer that this step made (0 is the bottom), None for one that made none."""
        self.size = size


def history(image: Image) -> list[Step]:
    """The steps that made the image, the last one first. Layers that no step accounts for come with empty ones."""
    sizes = [layer.size for layer in image.layers()]
    steps: list[Step] = []
    used = 0
    for entry in image.config.get("history") or []:
        if entry.get("empty_layer") or used == len(sizes):
            steps.append(Step(entry, None, 0))
        else:
            steps.append(Step(entry, used, sizes[used]))
            used += 1
    steps += [Step({}, index, sizes[index]) for index in range(used, len(sizes))]
    return steps[::-1]


def history_json(store: Store, image: Image) -> list[dict[str, Any]]:
    """The history as Docker's API gives it for an image that was pulled or loaded."""
    tags = [name for name in names_of(store, image) if "@" not in name] or None
    return [
        {
            "Comment": step.comment,
            "Created": step.created,
            "CreatedBy": step.created_by,
            "Id": "<missing>" if index else image.config_digest,
            "Size": step.size,
            "Tags": None if index else tags,
        }
        for index, step in enumerate(history(image))
    ]


def parse_time(text: str) -> int:
    """RFC 3339 → whole seconds since the epoch (Docker's zero time is far before it)."""
    try:
        main = text.partition(".")[0].removesuffix("Z")
        zone = text[len(main) :].lstrip(".0123456789") or "Z"
        return int(datetime.fromisoformat(main + ("+00:00" if zone == "Z" else zone)).timestamp())
    except ValueError:
        return 0


def short(digest: str) -> str:
    """An ID as it stands in tables."""
    return hex_of(digest)[:12]


def ago(seconds: float) -> str:
    """A duration in Docker's words."""
    minutes, hours = int(seconds / 60), int(seconds / 3600 + 0.5)
    if seconds < 1:
        return "Less than a second ago"
    if seconds < 2:
        return "1 second ago"
    if seconds < 60:
        return f"{int(seconds)} seconds ago"
    if minutes == 1:
        return "About a minute ago"
    if minutes < 60:
        return f"{minutes} minutes ago"
    if hours == 1:
        return "About an hour ago"
    for unit, length, limit in (
        ("hours", 1, 48),
        ("days", 24, 336),
        ("weeks", 168, 1440),
        ("months", 720, 17520),
    ):
        if hours < limit:
            return f"{hours // length} {unit} ago"
    return f"{int(seconds / 3600) // 8760} years ago"
