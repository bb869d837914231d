"""User names and passwords for registries, where Docker and Podman keep them."""

from __future__ import annotations

import base64
import json
import os

from unionfs.image.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DOCKER_HUB_KEY = "https://index.docker.io/v1/"


class Credentials:
    """A user's name and password for one registry. Never printed."""

    __slots__ = ("password", "user")

    def __init__(self, user: str, password: str) -> None:
        self.user = user
        self.password = password

    def basic(self) -> str:
        """The value of an Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def stored(host: str) -> Credentials | None:
    """What `docker login` or `podman login` kept for the host. ImageError where a helper program would be needed."""
    for path in _files():
        try:
            with open(path, encoding="utf-8") as file:
                config = json.load(file)
        except (OSError, ValueError):
            continue
        if (found := _in(config, host, path)) is not None:
            return found
    return None


def _files() -> list[str]:
    home = os.path.expanduser("~")
    docker = os.environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    files = [os.path.join(runtime, "containers/auth.json"), os.path.join(docker, "config.json")]
    named = os.environ.get("REGISTRY_AUTH_FILE")
    return [named, *files] if named else files


def _in(config: Any, host: str, path: str) -> Credentials | None:
    auths = config.get("auths") or {}
    keys = [host, f"https://{host}", f"http://{host}", f"https://{host}/v1/", f"https://{host}/v2/"]
    if host == "docker.io":
        keys.append(_DOCKER_HUB_KEY)
    for key in keys:
        if encoded := (auths.get(key) or {}).get("auth"):
            try:
                user, _, password = base64.b64decode(encoded).decode().partition(":")
            except ValueError:
                raise ImageError(f"{path}: the login for {host} cannot be read") from None
            return Credentials(user, password.rstrip("\0"))
        if key in (config.get("credHelpers") or {}) or (config.get("credsStore") and key in auths):
            raise ImageError(
                f"{path}: the login for {host} is kept by a helper program, which is not supported: "
                "give --username and --password-stdin"
            )
    return None
