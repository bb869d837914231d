"""pull and push over TLS: whose word is taken, and whose is not. The authority is made here, by openssl."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image import programs
from tests.image.conftest import serve_registry
from tests.image.programs import unionfs
from tests.image.test_hostile import archive, file
from tests.image.test_store import layout
from unionfs.image.find import find
from unionfs.image.store import Store


def make_authority(place: Path, name: str) -> Path:
    programs.run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                 "-keyout", place / f"{name}.key", "-out", place / f"{name}.pem")  # fmt: skip
    return place / f"{name}.pem"


def make_certificate(place: Path, authority: Path, names: str) -> tuple[Path, Path]:
    """(certificate, key), signed by the authority, for subject alternative names like IP:127.0.0.1."""
    key, request, extensions, certificate = (place / f"server.{end}" for end in ("key", "csr", "ext", "pem"))
    programs.run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=registry", "-keyout", key,
                 "-out", request)  # fmt: skip
    extensions.write_text(f"subjectAltName={names}\n")
    programs.run("openssl", "x509", "-req", "-in", request, "-CA", authority, "-CAkey", authority.with_suffix(".key"),
                 "-CAcreateserial", "-days", "2", "-extfile", extensions, "-out", certificate)  # fmt: skip
    return certificate, key


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    programs.need("openssl")
    return make_authority(tmp_path_factory.mktemp("authority"), "authority")


def serve(place: Path, authority: Path, names: str) -> Iterator[str]:
    certificate, key = make_certificate(place, authority, names)
    yield from serve_registry(place, f"  tls:\n    certificate: {certificate}\n    key: {key}\n")


@pytest.fixture(scope="module")
def tls_registry(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[str]:
    yield from serve(tmp_path_factory.mktemp("tls"), authority, "IP:127.0.0.1")


@pytest.fixture(scope="module")
def misnamed_registry(tmp_path_factory: pytest.TempPathFactory, authority: Path) -> Iterator[str]:
    """Its certificate is for somebody else."""
    yield from serve(tmp_path_factory.mktemp("misnamed"), authority, "IP:127.0.0.2,DNS:registry.example")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    place = tmp_path / "source"
    unionfs("load", layout(tmp_path / "layout", "src:1", archive(file("f", b"content"))), store=place)
    return place


def test_the_authority_named_with_ca_is_trusted(tls_registry: str, authority: Path, source: Path, store: Path,
                                                tmp_path: Path) -> None:  # fmt: skip
    name = f"{tls_registry}/app:1"
    pushed = unionfs("push", "src:1", name, "--ca", authority, store=source).split()[-1]
    unionfs("pull", name, "--ca", authority, store=store)
    image = find(Store(str(store)), name)
    assert image.digest == pushed
    assert (Path(image.layers()[0].diff) / "f").read_bytes() == b"content"
    unionfs("pull", name, store=store, SSL_CERT_FILE=str(authority))      # as the machine's own
    other = make_authority(tmp_path, "other")       # one more, not instead
    unionfs("pull", name, "--ca", other, store=store, SSL_CERT_FILE=str(authority))


def test_strangers_are_not_trusted(tls_registry: str, authority: Path, source: Path, store: Path, tmp_path: Path
                                   ) -> None:  # fmt: skip
    """And nothing is sent in the clear instead, although this is the loopback."""
    unionfs("push", "src:1", f"{tls_registry}/app:2", "--ca", authority, store=source)
    other = make_authority(tmp_path, "other")
    for flags in ([], ["--ca", str(other)]):
        said = unionfs("pull", f"{tls_registry}/app:2", *flags, store=store, fails=4)
        assert f"{tls_registry}: its certificate is not to be trusted" in said
        assert "--ca FILE names the authority" in said
    assert Store(str(store)).names() == {}


def test_the_certificate_has_to_be_for_that_host(misnamed_registry: str, authority: Path, source: Path) -> None:
    said = unionfs("push", "src:1", f"{misnamed_registry}/app:1", "--ca", authority, store=source, fails=4)
    assert "IP address mismatch" in said


def test_no_tls_verify_believes_anybody(misnamed_registry: str, source: Path, store: Path) -> None:
    unionfs("push", "src:1", f"{misnamed_registry}/app:1", "--no-tls-verify", store=source)
    unionfs("pull", f"{misnamed_registry}/app:1", "--no-tls-verify", store=store)


def test_plain_http_to_a_registry_with_tls_fails(tls_registry: str, store: Path) -> None:
    assert "400" in unionfs("pull", f"{tls_registry}/app:1", "--plain-http", store=store, fails=4)


def test_a_file_that_names_no_authority_is_told(store: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing\n")
    assert "no such file" in unionfs("pull", "127.0.0.1:1/x", "--ca", tmp_path / "no", store=store, fails=1).lower()
    assert "no certificates" in unionfs("pull", "127.0.0.1:1/x", "--ca", tmp_path / "empty.pem", store=store, fails=1)
