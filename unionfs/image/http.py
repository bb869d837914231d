"""HTTP as registries speak it: kept connections, redirects, proxies, basic and bearer authorization.

One Client serves one registry. Network trouble and answers that say "later"
(429, 5xx) are tried again by `Client.request`; what remains is a RegistryError that names the request.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
import time
from http.client import HTTPException
from urllib.parse import quote, urlencode, urljoin, urlsplit

from unionfs import __version__
from unionfs.image.connections import Connections, is_loopback
from unionfs.image.errors import ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from http.client import HTTPResponse

    from unionfs.image.credentials import Credentials

    Body = bytes | Callable[[], Iterable[bytes]] | None
    """A small body, or a function that gives a large one from its start (it may be sent twice)."""

_ATTEMPTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_LATER = (429, 500, 502, 503, 504)
TROUBLE = (OSError, HTTPException)
_MAX_ERROR = 1 << 16


class RegistryError(ImageError):
    """The registry could not be reached, or refused. `status` is that of the answer, 0 without one."""

    code = 4

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Requests to one registry host ("HOST[:PORT]").

    Plain HTTP is spoken only where asked for, and to a loopback host that does not speak TLS.
    """

    def __init__(
        self,
        host: str,
        *,
        plain: bool = False,
        credentials: Credentials | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.host = host
        self.scheme = "http" if plain else "https"
        self._plain = plain
        self._credentials = credentials
        self._connections = Connections(context)
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """End all connections; to be called when no request is under way."""
        self._connections.close()

    def url(self, path: str) -> str:
        return f"{self.scheme}://{self.host}{path}"

    def request(
        self,
        method: str,
        url: str,
        *,
        scope: str = "",
        headers: dict[str, str] | None = None,
        body: Body = None,
        ok: tuple[int, ...] = (200,),
    ) -> HTTPResponse:
        """The answer, its body not read yet; its status is one of `ok`. url: absolute, or a path on the registry.

        scope: what a token must allow, like "repository:library/busybox:pull". Raises RegistryError.
        """
        for attempt in range(_ATTEMPTS):
            target = self.url(url) if url.startswith("/") else url
            last = attempt == _ATTEMPTS - 1
            try:
                response = self._authorized(method, target, scope, headers or {}, body)
            except ssl.SSLCertVerificationError as exc:
                raise RegistryError(
                    f"{urlsplit(target).netloc}: its certificate is not to be trusted ({exc.verify_message}); "
                    "--ca FILE names the authority that signed it"
                ) from None
            except ssl.SSLError as exc:
                if not self._fall_back(target):
                    raise RegistryError(f"{self.host}: TLS: {exc.reason or exc}; does it speak TLS?") from None
                continue
            except TROUBLE as exc:
                if last or isinstance(exc, ConnectionRefusedError):
                    raise RegistryError(f"{method} {target}: {reason(exc)}") from None
                self._pause(attempt, None)
                continue
            except ValueError as exc:  # an address or a header that it sent
                raise RegistryError(f"{self.host} sent what cannot be used: {exc}") from None
            if response.status in ok:
                return response
            if response.status not in _LATER or last:
                raise _refusal(method, target, response)
            response.read(_MAX_ERROR)
            self._pause(attempt, response.getheader("Retry-After"))
        raise RegistryError(f"{method} {url}: no answer")

    def _fall_back(self, failed: str) -> bool:
        """From TLS to plain HTTP, where that is allowed; several threads may come here at once."""
        if not failed.startswith(f"https://{self.host}/") or not (self._plain or is_loopback(self.host)):
            return False
        self.scheme = "http"
        return True

    @staticmethod
    def _pause(attempt: int, asked: str | None) -> None:
        seconds = int(asked) if asked and asked.isdigit() else 0.2 * 2**attempt
        time.sleep(min(seconds, 30))

    def _authorized(
        self, method: str, url: str, scope: str, headers: dict[str, str], body: Body
    ) -> HTTPResponse:
        """The request with what authorizes it; that is for the registry alone, not for addresses it hands out."""
        trusted = urlsplit(url).netloc == self.host
        sent = self._authorization(scope) if trusted else {}
        response = self._redirected(method, url, headers | sent, body)
        if response.status != 401 or not trusted:
            return response
        challenge = response.getheader("WWW-Authenticate") or ""
        response.read(_MAX_ERROR)
        self._answer(challenge, scope, sent)
        return self._redirected(method, url, headers | self._authorization(scope), body)

    # authorization

    def _authorization(self, scope: str) -> dict[str, str]:
        with self._lock:
            value = self._tokens.get(scope) or self._tokens.get("")
        return {"Authorization": value} if value else {}

    def _answer(self, challenge: str, scope: str, sent: dict[str, str]) -> None:
        """Get what the registry asks for. RegistryError where we have nothing that it did not refuse already."""
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "bearer":
            fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
            value = "Bearer " + self._token(fields, fields.get("scope") or scope)
        else:
            value = self._credentials.basic() if self._credentials and kind.lower() == "basic" else ""
            if not value or sent.get("Authorization") == value:
                raise RegistryError(
                    f"{self.host}: not authorized: log in (docker login) or give --username", 401
                )
        with self._lock:
            self._tokens[scope] = value

    def _token(self, fields: dict[str, str], scope: str) -> str:
        realm = fields.get("realm", "")
        server = urlsplit(realm)
        if server.scheme != "https" and not (self._plain or (self.scheme == "http" and is_loopback(server.netloc))):
            raise RegistryError(
                f"{self.host} wants the password sent without encryption, to {realm!r}: refused"
            )
        query = [("service", fields["service"])] if "service" in fields else []
        query += [("scope", each) for each in scope.split(" ") if each]
        url = realm + ("&" if "?" in realm else "?") + urlencode(query)
        headers = {"Authorization": self._credentials.basic()} if self._credentials else {}
        response = self._redirected("GET", url, headers, None)
        data = response.read(1 << 20)
        if response.status != 200:
            raise RegistryError(
                f"{self.host}: not authorized ({response.status} from {realm})", response.status
            )
        try:
            answer = json.loads(data)
            return str(answer.get("token") or answer["access_token"])
        except (ValueError, KeyError, AttributeError):
            raise RegistryError(f"{self.host}: {realm} sent no token") from None

    # the wire

    def _redirected(self, method: str, url: str, headers: dict[str, str], body: Body) -> HTTPResponse:
        for _ in range(8):
            response = self._once(method, url, headers, body)
            location = response.getheader("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            response.read(_MAX_ERROR)
            target = urljoin(url, location)
            if urlsplit(target).netloc != urlsplit(url).netloc:
                headers = {key: value for key, value in headers.items() if key != "Authorization"}
            if urlsplit(target).scheme == "http" and urlsplit(url).scheme == "https":
                raise RegistryError(f"{self.host} redirects to an unencrypted address, {target}: refused")
            url = target
        raise RegistryError(f"{method} {url}: redirected too often")

    def _once(self, method: str, url: str, headers: dict[str, str], body: Body) -> HTTPResponse:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RegistryError(f"{self.host} sent an address that cannot be used: {url!r}")
        target = quote(parts.path or "/", safe="/:@%+~!$&'()*,;=-._") + (
            f"?{parts.query}" if parts.query else ""
        )
        kept = self._connections.get(parts.scheme, parts.netloc)
        try:
            kept.connection.request(
                method,
                f"{parts.scheme}://{parts.netloc}{target}" if kept.proxied else target,
                body=body() if callable(body) else body,
                headers={"User-Agent": f"unionfs/{__version__}", **headers},
                encode_chunked=False,
            )
            kept.answer = kept.connection.getresponse()
            return kept.answer
        except BaseException:
            kept.connection.close()  # a new request opens it again
            kept.answer = None
            raise


def reason(exc: BaseException) -> str:
    """Why a request failed, in words; some exceptions have none."""
    return str(exc) or type(exc).__name__


def _refusal(method: str, url: str, response: HTTPResponse) -> RegistryError:
    """What the registry says went wrong."""
    text = response.read(_MAX_ERROR)
    try:
        why = "; ".join(str(error.get("message") or error["code"]) for error in json.loads(text)["errors"])
    except (ValueError, KeyError, TypeError, AttributeError):
        why = response.reason
    return RegistryError(f"{method} {url}: {response.status} {why}", response.status)
