"""Both load generators do the same to a directory and count alike."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from unionfs.bench.client import Client, Failed

if TYPE_CHECKING:
    from pathlib import Path

NAMES = [f"f{i}" for i in range(20)]


@pytest.fixture(params=["c", "python"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    if request.param == "c" and not (shutil.which("gcc") or shutil.which("cc")):
        pytest.skip("no C compiler")
    (tmp_path / "scratch").mkdir()
    made = Client(tmp_path / "scratch", force_python=request.param == "python")
    assert made.kind == request.param
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def test_the_life_of_files(client: Client, root: Path) -> None:
    assert client.run("create", root, NAMES, block=100).n == 20
    assert {p.name: p.read_bytes() for p in root.iterdir()} == dict.fromkeys(NAMES, b"x" * 100)
    for operation in ("stat", "read", "pread", "change"):
        sample = client.run(operation, root, NAMES)
        assert (sample.n, sample.missing) == (20, 0), operation
        assert 0 < sample.p50 <= sample.p99 <= sample.sum <= sample.wall
    assert client.run("list", root.parent, ["root"]).entries == 22
    client.run("rename", root, NAMES)
    assert sorted(p.name for p in root.iterdir()) == sorted(f"{name}.renamed" for name in NAMES)
    client.run("unlink", root, [f"{name}.renamed" for name in NAMES])
    assert not list(root.iterdir())


def test_changing_writes_one_byte_at_the_start(client: Client, root: Path) -> None:
    (root / "f").write_bytes(b"abc")
    client.run("change", root, ["f"])
    assert (root / "f").read_bytes() == b"xbc"


def test_missing_names_are_counted(client: Client, root: Path) -> None:
    (root / "there").touch()
    sample = client.run("stat", root, ["there", "not", "nor"], repeat=2)
    assert (sample.n, sample.missing) == (6, 4)


def test_other_errors_raise(client: Client, root: Path) -> None:
    (root / "f").touch()
    with pytest.raises(Failed, match="1 of 1 operations `create` failed"):
        client.run("create", root, ["f"])


def test_an_unusable_directory_raises(client: Client, root: Path) -> None:
    with pytest.raises(Failed):
        client.run("stat", root / "none", ["f"])


def test_streams_and_random_access(client: Client, root: Path) -> None:
    client.run("writeall", root, ["f"], bytes=10_000, block=1000)
    assert (root / "f").read_bytes() == b"x" * 10_000
    (root / "f").write_bytes(b"-" * 10_000)
    client.run("readall", root, ["f"], bytes=10_000, block=1000)
    client.run("randread", root, ["f"], bytes=10_000, block=1000)
    assert (root / "f").read_bytes() == b"-" * 10_000
    client.run("randwrite", root, ["f"], bytes=10_000, block=1000)
    blocks = {(root / "f").read_bytes()[i : i + 1000] for i in range(0, 10_000, 1000)}
    assert blocks == {b"-" * 1000, b"x" * 1000}


def test_parallel_clients_share_the_names(client: Client, root: Path) -> None:
    sample = client.run("create", root, NAMES, processes=3)
    assert sample.n == 20
    assert sorted(p.name for p in root.iterdir()) == sorted(NAMES)
