"""Registries that lie: each answer of theirs ends with one clear line, in bounded time and space."""

from __future__ import annotations

import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.image.programs import unionfs
from unionfs.image.store import sha256

Answer = tuple[int, dict[str, str], bytes]
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]}}).encode()


def manifest(**layer: object) -> bytes:
    described = {"digest": "sha256:" + "1" * 64, "size": 10, **layer}
    return json.dumps({"schemaVersion": 2, "config": {"digest": sha256(CONFIG), "size": len(CONFIG)},
                       "layers": [described]}).encode()  # fmt: skip


def manifests(data: bytes, **headers: str) -> Callable[[str], Answer | None]:
    return lambda path: (200, {"Content-Type": MANIFEST, **headers}, data) if "/manifests/" in path else None


def always(status: int, **headers: str) -> Callable[[str], Answer]:
    return lambda _path: (status, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


DAMAGED, REFUSED = 3, 4  # exit codes

CASES: dict[str, tuple[Callable[[str], Answer | None], int, str]] = {
    "no JSON": (manifests(b"<html>"), DAMAGED, "is not JSON"),
    "a list": (manifests(b"[]"), DAMAGED, "the manifest is not an object"),
    "an endless manifest": (manifests(b" " * (5 << 20)), DAMAGED, "larger than"),
    "another digest": (
        manifests(manifest(), **{"Docker-Content-Digest": "sha256:" + "0" * 64}), DAMAGED, "another digest"),
    "a digest that is none": (
        manifests(manifest(digest="sha256:../../../../etc/passwd")), DAMAGED, "is not a sha256 digest"),
    "a layer larger than the disk": (manifests(manifest(size=1 << 60)), DAMAGED, "no room"),
    "a layer smaller than nothing": (manifests(manifest(size=-1)), DAMAGED, "no room"),
    "a layer cut short": (manifests(manifest()), REFUSED, "ends it after 0 of 10 bytes"),
    "redirected in a circle": (always(307, Location="/v2/a/manifests/1"), REFUSED, "redirected too often"),
    "redirected to nonsense": (always(307, Location="http://[x"), REFUSED, "sent what cannot be used"),
    "redirected to a file": (always(307, Location="file:///etc/passwd"), REFUSED, "address that cannot be used"),
    "an unknown challenge": (always(401, WWW_Authenticate="Sorcery x"), REFUSED, "not authorized"),
    "a challenge without a realm": (always(401, WWW_Authenticate="Bearer"), REFUSED, "without encryption"),
    "a token server elsewhere": (
        always(401, WWW_Authenticate='Bearer realm="http://192.0.2.1/token"'), REFUSED, "without encryption"),
    "an error that is none": (always(404), REFUSED, "404"),
}  # fmt: skip


@pytest.fixture
def liar() -> Iterator[Callable[[Callable[[str], Answer | None]], str]]:
    """Starts a server that gives these answers, and the config and an empty layer where it has none."""
    running: list[tuple[http.server.ThreadingHTTPServer, threading.Thread]] = []

    def start(answer: Callable[[str], Answer | None]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                blob = CONFIG if sha256(CONFIG) in self.path else b""
                status, headers, body = answer(self.path) or (200, {}, blob)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        running.append((server, thread))
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("case", CASES)
def test_a_lie_ends_with_a_clear_error(case: str, liar: Callable[[Callable[[str], Answer | None]], str], store: Path
                                       ) -> None:  # fmt: skip
    answer, code, says = CASES[case]
    address = liar(answer)
    said = unionfs("pull", f"{address}/a:1", store=store, fails=code)
    assert says in said
    assert "Traceback" not in said
    assert [name for name in os.listdir(store / "tmp") if not name.endswith(".part")] == []
    assert os.listdir(store / "names") == os.listdir(store / "images") == []
