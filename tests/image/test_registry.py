"""pull and push against a real registry on loopback: with and without authorization, over lines that break."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.image import programs
from tests.image.conftest import serve_registry
from tests.image.programs import unionfs
from tests.image.test_hostile import archive, file
from tests.image.test_store import layout
from unionfs.image.find import find
from unionfs.image.store import Store

BASE = archive(file("base", os.urandom(3_000_000)))
MORE = archive(file("more", os.urandom(500_000)))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A store with one image, src:1, of two layers."""
    place = tmp_path / "source"
    unionfs("load", layout(tmp_path / "layout", "src:1", BASE, MORE), store=place)
    return place


def content(store: Path, name: str) -> list[bytes]:
    layers = find(Store(str(store)), name).layers()
    return [(Path(layer.diff) / path).read_bytes() for layer, path in zip(layers, ("base", "more"), strict=True)]


def test_push_and_pull(registry: str, source: Path, store: Path) -> None:
    name = f"{registry}/team/app:v1"
    pushed = unionfs("push", "src:1", name, store=source).split()[-1]
    pulled = unionfs("pull", name, store=store).split()[-1]
    assert pulled == find(Store(str(source)), "src:1").config_digest
    assert content(store, name) == content(source, "src:1")
    facts = json.loads(unionfs("inspect", name, store=store))[0]
    assert facts["RepoTags"] == [name]
    assert facts["RepoDigests"] == [f"{registry}/team/app@{pushed}"]
    unionfs("pull", f"{registry}/team/app@{pushed}", store=store)
    assert unionfs("push", "src:1", name, store=source).split()[-1] == pushed       # compressed in the same way


def test_what_is_pushed_suits_skopeo(registry: str, source: Path, tmp_path: Path) -> None:
    programs.need("skopeo")
    name = f"{registry}/skopeo/app:v1"
    pushed = unionfs("push", "src:1", name, store=source).split()[-1]
    seen = json.loads(programs.run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}"))
    assert seen["Digest"] == pushed
    programs.run("skopeo", "copy", "--src-tls-verify=false", f"docker://{name}", f"oci:{tmp_path}/copy:v1")
    unionfs("load", tmp_path / "copy", store=tmp_path / "third")
    assert content(tmp_path / "third", "copy:v1") == content(source, "src:1")


def test_what_skopeo_pushes_is_pulled_with_its_digest(registry: str, tmp_path: Path, store: Path) -> None:
    programs.need("skopeo")
    path = layout(tmp_path / "layout", "v1", BASE, MORE)
    name = f"{registry}/from-skopeo:v1"
    programs.run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{path}:v1", f"docker://{name}")
    digest = json.loads(programs.run("skopeo", "inspect", "--tls-verify=false", f"docker://{name}"))["Digest"]
    unionfs("pull", name, store=store)
    assert find(Store(str(store)), name).digest == digest


def test_docker_pulls_what_is_pushed(docker: programs.Docker, built: str, saved: Path, registry: str, store: Path
                                     ) -> None:
    unionfs("load", saved, store=store)
    name = f"{registry}/docker/app:v1"
    pushed = unionfs("push", built, name, store=store).split()[-1]
    try:
        docker("pull", "-q", name)
        found = docker.inspect(name)
    finally:
        docker("rmi", name)
    assert found["Id"] == docker.inspect(built)["Id"]
    assert f"{registry}/docker/app@{pushed}" in found["RepoDigests"]


def test_docker_pushes_and_we_pull(docker: programs.Docker, built: str, registry: str, store: Path) -> None:
    name = f"{registry}/from-docker:v1"
    docker("tag", built, name)
    docker("push", "-q", name)
    try:
        unionfs("pull", name, store=store)
        ours = json.loads(unionfs("inspect", name, store=store))[0]
        theirs = docker.inspect(name)
    finally:
        docker("rmi", name)
    for key in ("Id", "RepoDigests", "RootFS", "Size", "Config"):
        assert ours[key] == theirs[key]


def test_platforms(registry: str, tmp_path: Path, store: Path) -> None:
    """An index of two variants, put together by hand from two pushed images: nothing here builds for other machines."""
    entries = []
    for arch, data in (("amd64", BASE), ("arm64", MORE)):
        unionfs("load", layout(tmp_path / arch, f"{arch}:1", data), store=tmp_path / "source")
        digest = unionfs("push", f"{arch}:1", f"{registry}/multi:{arch}", store=tmp_path / "source").split()[-1]
        raw = _fetch(registry, f"/v2/multi/manifests/{digest}")
        entries.append({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": len(raw),
                        "platform": {"os": "linux", "architecture": arch}})
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries}
    _fetch(registry, "/v2/multi/manifests/latest", json.dumps(index).encode(), str(index["mediaType"]))
    for arch in ("amd64", "arm64"):
        unionfs("pull", f"{registry}/multi", "--platform", f"linux/{arch}", store=store)
        assert find(Store(str(store)), f"{registry}/multi").digest == \
            next(e["digest"] for e in entries if e["platform"] == {"os": "linux", "architecture": arch})
    said = unionfs("pull", f"{registry}/multi", "--platform", "linux/s390x", store=store, fails=3)
    assert "linux/amd64, linux/arm64" in said


def _fetch(host: str, path: str, body: bytes | None = None, kind: str = "") -> bytes:
    import http.client

    connection = http.client.HTTPConnection(host, timeout=30)
    headers = {"Content-Type": kind} if kind else {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    connection.request("PUT" if body else "GET", path, body=body, headers=headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    assert answer.status < 300, data
    return data


@pytest.mark.parametrize(("name", "words"), [("nothing/here:v1", "404"), ("team/app:none", "404")])
def test_what_is_not_there_is_said(registry: str, store: Path, name: str, words: str) -> None:
    said = unionfs("pull", f"{registry}/{name}", store=store, fails=4)
    assert words in said
    assert name.split(":")[0] in said
    assert said.count("\n") == 1


def test_nobody_listens(store: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        said = unionfs("pull", f"127.0.0.1:{probe.getsockname()[1]}/a", store=store, fails=4)
    assert "refused" in said


# authorization

@pytest.fixture(scope="module")
def basic_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    programs.need("htpasswd")
    place = tmp_path_factory.mktemp("basic")
    (place / "users").write_text(programs.run("htpasswd", "-nbB", "alice", "s3cret"))
    yield from serve_registry(place, f"auth:\n  htpasswd:\n    realm: test\n    path: {place}/users\n")


def test_basic_authorization(basic_registry: str, source: Path, store: Path, tmp_path: Path) -> None:
    name = f"{basic_registry}/a:1"
    login = ["--username", "alice", "--password-stdin"]
    assert "log in" in unionfs("push", "src:1", name, store=source, fails=4)
    said = unionfs("push", "src:1", name, *login, store=source, fails=4, stdin=b"wrong\n")
    assert "wrong" not in said
    unionfs("push", "src:1", name, *login, store=source, stdin=b"s3cret\n")
    auth = {"auths": {basic_registry: {"auth": base64.b64encode(b"alice:s3cret").decode()}}}
    (tmp_path / "config.json").write_text(json.dumps(auth))
    unionfs("pull", name, store=store, DOCKER_CONFIG=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path / "none"))
    assert content(store, name) == content(source, "src:1")


class TokenServer(http.server.ThreadingHTTPServer):
    """Gives tokens signed for the registry, to alice only; keeps what was asked for."""

    daemon_threads = True

    def __init__(self, place: Path) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.key = place / "key.pem"
        self.certificate = place / "cert.pem"
        self.scopes: list[list[str]] = []
        programs.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=tokens", "-days", "1",
                     "-keyout", self.key, "-out", self.certificate)
        der = subprocess.run(["openssl", "rsa", "-in", self.key, "-pubout", "-outform", "DER"], check=True,
                             capture_output=True).stdout
        text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
        self.kid = ":".join(text[at : at + 4] for at in range(0, 48, 4))

    def token(self, query: dict[str, list[str]]) -> str:
        access = []
        for scope in query.get("scope", []):
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": actions.split(",")})
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "kid": self.kid}
        claims = {"iss": "tokens", "sub": "alice", "aud": "registry", "exp": now + 600, "nbf": now - 60, "iat": now,
                  "jti": "1", "access": access}
        text = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
        signature = subprocess.run(["openssl", "dgst", "-sha256", "-sign", self.key], input=text, check=True,
                                   capture_output=True).stdout
        return (text + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        self.server.scopes.append(query.get("scope", []))
        expected = "Basic " + base64.b64encode(b"alice:s3cret").decode()
        allowed = self.headers.get("Authorization") == expected
        body = json.dumps({"token": self.server.token(query)} if allowed else {}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenServer]:
    programs.need("openssl")
    server = TokenServer(tmp_path_factory.mktemp("tokens"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def bearer_registry(tokens: TokenServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve_registry(
        tmp_path_factory.mktemp("bearer"),
        f"auth:\n  token:\n    realm: http://127.0.0.1:{tokens.server_port}/token\n    service: registry\n"
        f"    issuer: tokens\n    rootcertbundle: {tokens.certificate}\n",
    )


def test_bearer_authorization(bearer_registry: str, tokens: TokenServer, source: Path, store: Path) -> None:
    name = f"{bearer_registry}/team/a:1"
    login = ["--username", "alice", "--password-stdin"]
    assert "401" in unionfs("push", "src:1", name, *login, store=source, fails=4, stdin=b"wrong\n")
    unionfs("push", "src:1", name, *login, store=source, stdin=b"s3cret\n")
    unionfs("pull", name, *login, store=store, stdin=b"s3cret\n")
    assert content(store, name) == content(source, "src:1")
    asked = {scope for scopes in tokens.scopes for scope in scopes}
    assert asked == {"repository:team/a:pull,push", "repository:team/a:pull"} or \
        asked == {"repository:team/a:push,pull", "repository:team/a:pull,push", "repository:team/a:pull"}


# lines that break

class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to the registry. `rule(bytes so far)` says how many more of an answer to let through (-1: all)
    before the connection is cut; `requests` holds the head of each request.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, target: str, rule: Callable[[bytes], int]) -> None:
        super().__init__(("127.0.0.1", 0), _RelayHandler)
        host, _, port = target.partition(":")
        self.target = (host, int(port))
        self.rule = rule
        self.requests: list[bytes] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _RelayHandler(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(self.server.target) as upstream:
            while True:
                head = self._head(self.request)
                if not head.startswith((b"GET ", b"HEAD ")):    # not HTTP at all: somebody tries TLS
                    return
                self.server.requests.append(head)
                upstream.sendall(head)
                answer = self._head(upstream)
                size = next((int(line.split(b":")[1]) for line in answer.split(b"\r\n")
                             if line.lower().startswith(b"content-length:")), 0)
                self.request.sendall(answer)
                if head.startswith(b"HEAD ") or not self._body(upstream, size, self.server.rule(head)):
                    return

    def _body(self, upstream: socket.socket, size: int, allowed: int) -> bool:
        cut = 0 <= allowed < size
        left = allowed if cut else size
        while left:
            data = upstream.recv(min(left, 1 << 16))
            self.request.sendall(data)
            left -= len(data)
        return not cut

    @staticmethod
    def _head(source: socket.socket) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = source.recv(1)
            if not byte or (len(head) == 3 and not head.isalpha()):
                return b""
            head += byte
        return head


@pytest.fixture
def relay(registry: str) -> Iterator[Callable[[Callable[[bytes], int]], Relay]]:
    started = []

    def start(rule: Callable[[bytes], int]) -> Relay:
        server = Relay(registry, rule)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return server

    yield start
    for server, thread in started:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_broken_download_goes_on_where_it_broke(registry: str, source: Path, store: Path,
                                                  relay: Callable[[Callable[[bytes], int]], Relay]) -> None:
    unionfs("push", "src:1", f"{registry}/broken:1", "--as-is", store=source)
    between = relay(lambda head: 700_000 if b"/blobs/" in head else -1)
    name = f"{between.address}/broken:1"
    unionfs("pull", name, "--plain-http", store=store)
    assert content(store, name) == content(source, "src:1")
    starts = sorted(int(line.split(b"bytes=")[1].split(b"-")[0]) for request in between.requests
                    for line in request.split(b"\r\n") if line.startswith(b"Range:"))
    assert starts == [700_000, 1_400_000, 2_100_000, 2_800_000]


def test_a_killed_pull_goes_on_where_it_was(registry: str, source: Path, store: Path,
                                            relay: Callable[[Callable[[bytes], int]], Relay]) -> None:
    unionfs("push", "src:1", f"{registry}/killed:1", "--as-is", store=source)
    stuck = threading.Event()
    go_on = threading.Event()

    def rule(head: bytes) -> int:
        if b"/blobs/" in head and b"Range" in head and not go_on.is_set():
            stuck.set()
            go_on.wait(60)
        return 1_000_000 if b"/blobs/" in head else -1

    between = relay(rule)
    name = f"{between.address}/killed:1"
    command = [sys.executable, "-m", "unionfs", "image", "pull", name, "--plain-http", "--store", str(store)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert stuck.wait(60)       # the first part is on disk, the second asked for
    process.kill()
    process.wait()
    go_on.set()
    assert [path.stat().st_size for path in (store / "tmp").glob("*.part")] == [1_000_000]
    before = len(between.requests)
    unionfs("pull", name, "--plain-http", store=store)
    assert content(store, name) == content(source, "src:1")
    big = [request for request in between.requests[before:] if b"Range: bytes=1000000-" in request]
    assert len(big) == 1
    assert list((store / "tmp").iterdir()) == []


def test_a_registry_that_sends_other_bytes_is_not_believed(registry: str, source: Path, store: Path,
                                                           tmp_path: Path) -> None:
    """The blob is changed where the registry keeps it."""
    unionfs("push", "src:1", f"{registry}/tampered:1", "--as-is", store=source)
    layer = find(Store(str(source)), "src:1").manifest["layers"][1]["digest"]
    [kept] = [Path(path) for path in _registry_blobs(layer)]
    data = bytearray(kept.read_bytes())
    data[1000] ^= 1
    kept.write_bytes(data)
    try:
        said = unionfs("pull", f"{registry}/tampered:1", store=store, fails=3)
    finally:
        data[1000] ^= 1
        kept.write_bytes(data)
    assert "another digest" in said
    assert Store(str(store)).names() == {}


def _registry_blobs(digest: str) -> list[str]:
    """Where the running registries keep a blob."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if len(command) > 2 and command[1] == b"serve":
                place = Path(os.fsdecode(command[2])).parent / "data"
                found += [str(path) for path in place.glob(f"**/sha256/{digest[7:9]}/{digest[7:]}/data")]
    return found
