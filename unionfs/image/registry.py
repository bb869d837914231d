"""One repository of a registry: manifests and blobs, by the OCI distribution protocol (Docker's registry API v2)."""

from __future__ import annotations

import hashlib
import os
from urllib.parse import urlencode, urljoin

from unionfs.image import incoming
from unionfs.image.codec import CHUNK, write_all
from unionfs.image.errors import BadArchive
from unionfs.image.http import TROUBLE, Client, RegistryError, reason
from unionfs.image.reference import DEFAULT_HOST
from unionfs.image.store import MAX_JSON, hex_of, sha256

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from typing import Self

    from unionfs.image.credentials import Credentials
    from unionfs.image.reference import Reference

    Advance = Callable[[int], None]
    """Called with the number of bytes that went over the wire since the last call."""

_API_HOSTS = {DEFAULT_HOST: "registry-1.docker.io"}
_ACCEPT = ", ".join((*incoming.MANIFESTS, *incoming.INDEXES))
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1"
_TRIES = 5


class Repository:
    """Where images of one name live. Safe for use by several threads. A context manager that ends the connections."""

    def __init__(
        self,
        reference: Reference,
        *,
        plain: bool = False,
        credentials: Credentials | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.path = reference.path
        self.client = Client(
            _API_HOSTS.get(reference.host, reference.host),
            plain=plain,
            credentials=credentials,
            context=context,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.client.close()

    def _url(self, kind: str, name: str) -> str:
        return f"/v2/{self.path}/{kind}/{name}"

    def _scope(self, actions: str) -> str:
        return f"repository:{self.path}:{actions}"

    # reading

    def manifest(self, name: str) -> tuple[bytes, str]:
        """(manifest or index, its media type) of a tag or digest, verified against what can be known of its digest."""
        response = self.client.request(
            "GET", self._url("manifests", name), scope=self._scope("pull"), headers={"Accept": _ACCEPT}
        )
        data = response.read(MAX_JSON + 1)
        response.close()
        kind = (response.getheader("Content-Type") or "").partition(";")[0].strip()
        if kind.startswith(_SCHEMA1):
            raise BadArchive(
                f"{self.path}:{name} has only a manifest of schema 1, which is obsolete and not supported"
            )
        promised = name if name.startswith("sha256:") else response.getheader("Docker-Content-Digest")
        if promised:
            incoming.verify(data, promised, f"the manifest of {self.path}")
        return data, kind

    def blob(self, digest: str, size: int) -> bytes:
        """A small blob, verified."""
        if size > MAX_JSON:
            raise BadArchive(f"blob {digest} of {size} bytes is too large for a config")
        response = self.client.request("GET", self._url("blobs", digest), scope=self._scope("pull"))
        data = response.read(MAX_JSON + 1)
        response.close()
        incoming.verify(data, digest, f"a blob of {self.path}")
        return data

    def download(self, digest: str, size: int, fd: int, advance: Advance) -> None:
        """A blob into a file, which may hold its beginning already: that is kept. Verified at the end.

        A broken connection is taken up again where it broke. Raises RegistryError, BadArchive (the file is then of
        no use).
        """
        hash_ = hashlib.sha256()
        have = _hash_file(fd, hash_)
        if have > size:
            os.ftruncate(fd, 0)
            hash_, have = hashlib.sha256(), 0
        advance(have)
        failures = 0
        while have < size:
            got = 0
            try:
                for chunk in self._range(digest, have, size):
                    write_all(fd, chunk)
                    hash_.update(chunk)
                    got += len(chunk)
                    advance(len(chunk))
            except _Restart:
                os.ftruncate(fd, 0)
                os.lseek(fd, 0, os.SEEK_SET)
                advance(-have)
                hash_, have = hashlib.sha256(), 0
            except TROUBLE as exc:
                if not got and failures >= _TRIES:
                    raise RegistryError(f"blob {digest}: {reason(exc)}") from None
            failures = 0 if got else failures + 1
            have += got
            if failures > _TRIES:
                raise RegistryError(f"blob {digest}: the registry ends it after {have} of {size} bytes")
        if hash_.hexdigest() != hex_of(digest):
            os.ftruncate(fd, 0)
            raise BadArchive(
                f"blob {digest}: what the registry sent has another digest: damaged or tampered with"
            )

    def _range(self, digest: str, start: int, size: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self.client.request(
            "GET", self._url("blobs", digest), scope=self._scope("pull"), headers=headers, ok=(200, 206)
        )
        if start and response.status == 200:
            response.close()
            raise _Restart  # it cannot send parts
        left = size - start
        with response:
            while left and (chunk := response.read1(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk

    # writing

    def has_blob(self, digest: str) -> bool:
        response = self.client.request(
            "HEAD", self._url("blobs", digest), scope=self._scope("pull,push"), ok=(200, 404)
        )
        response.read()
        return response.status == 200

    def upload(self, digest: str, size: int, opened: Callable[[], Iterator[bytes]]) -> None:
        """Send a blob. opened() gives its content from the start; it is called again for another attempt."""
        response = self.client.request(
            "POST",
            self._url("blobs/uploads", ""),
            scope=self._scope("pull,push"),
            headers={"Content-Length": "0"},
            ok=(202,),
        )
        response.read()
        location = response.getheader("Location")
        if not location:
            raise RegistryError(f"{self.client.host} gives no place for an upload")
        where = urljoin(self.client.url("/"), location)
        where += ("&" if "?" in where else "?") + urlencode({"digest": digest})
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        self.client.request(
            "PUT", where, scope=self._scope("pull,push"), headers=headers, body=opened, ok=(201, 204)
        ).read()

    def put_manifest(self, name: str, data: bytes, kind: str) -> str:
        """Publish a manifest under a tag or its digest; the digest."""
        response = self.client.request(
            "PUT",
            self._url("manifests", name),
            scope=self._scope("pull,push"),
            body=data,
            headers={"Content-Type": kind},
            ok=(201,),
        )
        response.read()
        return sha256(data)


class _Restart(Exception):
    """The registry sends a blob only from its start."""


def _hash_file(fd: int, hash_: hashlib._Hash) -> int:
    """Hash what the file has and go to its end; its length."""
    os.lseek(fd, 0, os.SEEK_SET)
    length = 0
    while chunk := os.read(fd, CHUNK):
        hash_.update(chunk)
        length += len(chunk)
    return length
