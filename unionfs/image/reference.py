"""Names of images: as people write them, as registries take them, as Docker prints them.

busybox → docker.io/library/busybox:latest (full), shown as busybox:latest (familiar)
"""

from __future__ import annotations

import re

from unionfs.image.errors import ImageError

DEFAULT_HOST = "docker.io"
_HOST = r"(?:localhost|\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATTERN = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_PART}(?:/{_PART})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class Reference:
    """A parsed name. `tag` is empty where only a digest was given."""

    __slots__ = ("digest", "host", "path", "tag")

    def __init__(self, host: str, path: str, tag: str, digest: str) -> None:
        self.host = host
        self.path = path
        self.tag = tag
        self.digest = digest

    @property
    def familiar(self) -> str:
        """The short form that Docker prints, and names in the store are kept in: host and `library/` left
        out."""
        return self.repository + (f":{self.tag}" if self.tag else f"@{self.digest}")

    @property
    def repository(self) -> str:
        """The familiar form without tag or digest."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.path}"
        return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path


def parse(name: str) -> Reference:
    """ImageError for what is no name of an image."""
    host, slash, rest = name.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost" or host.startswith("[")):
        host, rest = DEFAULT_HOST, name
    match = _PATTERN.fullmatch(f"{host}/{rest}")
    if match is None or not rest:
        raise ImageError(
            f"{name!r} is not the name of an image ([HOST/]PATH[:TAG][@sha256:…], path in lower case)"
        )
    path = match["path"]
    if host == "index.docker.io":
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in path:
        path = "library/" + path
    digest = match["digest"] or ""
    return Reference(host, path, match["tag"] or ("" if digest else "latest"), digest)
