"""Kept HTTP connections, one per thread and host, straight or through the proxy that the environment names."""

from __future__ import annotations

import ipaddress
import ssl
import threading
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from http.client import HTTPResponse

TIMEOUT = 60


class Kept:
    """A connection that is kept for the next request, with the last answer that came over it."""

    __slots__ = ("answer", "connection", "proxied")

    def __init__(self, connection: HTTPConnection, proxied: bool) -> None:
        self.connection = connection
        self.proxied = proxied
        """Requests must name the whole address."""
        self.answer: HTTPResponse | None = None


class Connections:
    """Safe for use by several threads: each gets connections of its own."""

    def __init__(self, context: ssl.SSLContext | None) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._kept: dict[tuple[int, str, str], Kept] = {}

    def get(self, scheme: str, netloc: str) -> Kept:
        """A connection on which nothing is under way."""
        key = (threading.get_ident(), scheme, netloc)
        with self._lock:
            kept = self._kept.get(key)
            if kept is None:
                kept = self._kept[key] = self._connect(scheme, netloc)
        if kept.answer is not None and not kept.answer.isclosed():
            kept.answer.close()  # it was not read to the end, so the connection cannot go on
            kept.connection.close()
        return kept

    def close(self) -> None:
        with self._lock:
            for kept in self._kept.values():
                if kept.answer is not None:
                    kept.answer.close()
                kept.connection.close()
            self._kept.clear()

    def _connect(self, scheme: str, netloc: str) -> Kept:
        proxy = "" if proxy_bypass(netloc) or is_loopback(netloc) else getproxies().get(scheme, "")
        if proxy:
            via = urlsplit(proxy if "//" in proxy else "//" + proxy).netloc.rpartition("@")[2]
            if scheme == "http":
                return Kept(HTTPConnection(via, timeout=TIMEOUT), True)
            # the way to the proxy is plain; TLS begins inside the tunnel
            tunnel = HTTPSConnection(via, timeout=TIMEOUT, context=self._tls())
            target = urlsplit("//" + netloc)
            tunnel.set_tunnel(target.hostname or "", target.port or 443)
            return Kept(tunnel, False)
        if scheme == "http":
            return Kept(HTTPConnection(netloc, timeout=TIMEOUT), False)
        return Kept(HTTPSConnection(netloc, timeout=TIMEOUT, context=self._tls()), False)

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = ssl.create_default_context()
        return self._context


def is_loopback(host: str) -> bool:
    """Whether "HOST[:PORT]" is this machine itself."""
    name = urlsplit("//" + host).hostname or ""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
