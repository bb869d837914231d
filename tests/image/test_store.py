"""The store's promises: nothing half there, many processes at once, space given back and no more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.image.programs import unionfs
from tests.image.test_hostile import archive, directory, file
from unionfs.image import archive_in, gc
from unionfs.image.errors import BadArchive, ImageError, NotFound
from unionfs.image.find import find
from unionfs.image.load import load
from unionfs.image.reference import parse
from unionfs.image.store import Store, chain_ids, sha256

CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def layout(place: Path, name: str, *layers: bytes) -> Path:
    """An OCI layout of one image with these (uncompressed) layers."""
    blobs = place / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes) -> dict[str, object]:
        digest = sha256(data)
        (blobs / digest[7:]).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    config = {"architecture": "amd64", "os": "linux", "config": {},
              "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]}}
    manifest = {"schemaVersion": 2, "config": {"mediaType": CONFIG_TYPE, **put(json.dumps(config).encode())},
                "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **put(layer)} for layer in layers]}
    described = put(json.dumps(manifest).encode())
    annotations = {"org.opencontainers.image.ref.name": name}
    index = {"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", **described, "annotations": annotations}]}
    (place / "index.json").write_text(json.dumps(index))
    (place / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return place


def bring(store: Store, path: Path) -> None:
    with store:
        for image in archive_in.read(str(path), store):
            load(store, image)


def files(root: Path) -> list[str]:
    found = subprocess.run(["find", root, "-type", "f", "-printf", "%P\n"], check=True, capture_output=True, text=True)
    return sorted(found.stdout.splitlines())


BASE = archive(directory("a"), file("a/one", b"1" * 5000))
MORE = archive(file("a/two", b"2" * 3000))
OTHER = archive(file("b", b"3" * 2000))


def test_chain_ids_are_ocis() -> None:
    first, second = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    assert chain_ids([first, second]) == [first, sha256(f"{first} {second}".encode())]
    with pytest.raises(BadArchive):
        chain_ids(["../../etc"])


def test_layers_are_shared_and_gc_keeps_what_is_used(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    bring(store, layout(tmp_path / "one", "one:1", BASE, MORE))
    bring(store, layout(tmp_path / "two", "two:1", BASE, OTHER))
    assert len(store.layer_ids()) == 3
    with store:
        store.drop_image(find(store, "one:1").digest)
        freed = gc.collect(store)
    assert freed is not None
    assert (freed.layers, freed.blobs, freed.leftovers) == (1, 3, 0)     # a layer; its blob, the config, the manifest
    assert freed.bytes >= 3000
    image = find(store, "two:1")
    assert (Path(image.layers()[0].diff) / "a/one").read_bytes() == b"1" * 5000
    with pytest.raises(NotFound):
        find(store, "one:1")
    with store:
        store.drop_image(image.digest)
        gc.collect(store)
    assert files(tmp_path / "store") == ["lock"]


def test_the_limits_of_the_command_line(store: Path, tmp_path: Path) -> None:
    place = layout(tmp_path / "layout", "src:1", archive(file("a", bytes(3000)), file("b", b"")))
    assert "more than 2000 bytes" in unionfs("load", place, "--max-size", "2k", store=store, fails=3)
    assert "more than 1 entries" in unionfs("load", place, "--max-entries", "1", store=store, fails=3)
    for wrong in ("x", "1.5G", "-1", "10kB", ""):
        assert "--max-size" in unionfs("load", place, f"--max-size={wrong}", store=store, fails=2)
    assert os.listdir(store / "tmp") == []
    unionfs("load", place, "--max-size", "1M", "--max-entries=2", store=store)


def test_a_damaged_layer_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    path = layout(tmp_path / "one", "one:1", BASE, MORE)
    blob = path / "blobs/sha256" / sha256(MORE)[7:]
    blob.write_bytes(MORE.replace(b"222", b"223", 1))
    store = Store(str(tmp_path / "store"))
    with pytest.raises(BadArchive, match=r"layer 2/2 \w{12}: the layer's digest is"):
        bring(store, path)
    assert store.names() == {}
    assert store.images() == []
    assert os.listdir(tmp_path / "store/tmp") == []
    assert store.layer_ids() == [sha256(BASE)]      # complete by itself


def test_a_config_that_names_another_layer_is_refused(tmp_path: Path) -> None:
    path = layout(tmp_path / "one", "one:1", BASE)
    index = json.loads((path / "index.json").read_text())
    manifest = json.loads((path / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    (path / "blobs/sha256" / sha256(OTHER)[7:]).write_bytes(OTHER)
    manifest["layers"][0].update(digest=sha256(OTHER), size=len(OTHER))
    data = json.dumps(manifest).encode()
    (path / "blobs/sha256" / sha256(data)[7:]).write_bytes(data)
    index["manifests"][0].update(digest=sha256(data), size=len(data))
    (path / "index.json").write_text(json.dumps(index))
    with pytest.raises(BadArchive, match="as the image's config says"):
        bring(Store(str(tmp_path / "store")), path)


def test_killed_at_any_time_it_leaves_only_leftovers(tmp_path: Path) -> None:
    many = archive(*[file(f"d{n % 50}/f{n}", b"x" * 3000) for n in range(1500)])
    path = layout(tmp_path / "one", "one:1", BASE, many)
    place = tmp_path / "store"
    command = [sys.executable, "-m", "unionfs", "image", "load", str(path), "--store", str(place)]
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    took = time.monotonic() - began
    complete = files(place)
    store = Store(str(place))
    interrupted = 0
    for step in range(1, 6):
        with store:
            for image in store.images():
                store.drop_image(image.digest)
            gc.collect(store)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(took * step / 5)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            interrupted += 1
        for chain_id in store.layer_ids():      # what is there is whole
            layer = store.layer(chain_id)
            assert len(files(Path(layer.diff))) == (1 if layer.info["diff_id"] == sha256(BASE) else 1500)
        for image in store.images():
            assert len(image.layers()) == 2
        with store:
            gc.collect(store)
        assert os.listdir(place / "tmp") == []
    assert interrupted >= 2
    subprocess.run(command, check=True, capture_output=True)
    assert files(place) == complete


def test_two_processes_load_the_same_image_at_once(tmp_path: Path) -> None:
    many = archive(*[file(f"f{n}", b"x" * 100) for n in range(500)])
    path = layout(tmp_path / "one", "one:1", BASE, many)
    place = tmp_path / "store"
    command = [sys.executable, "-m", "unionfs", "image", "load", str(path), "--store", str(place)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        _out, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    store = Store(str(place))
    assert len(store.layer_ids()) == 2
    assert os.listdir(place / "tmp") == []
    assert len(files(Path(find(store, "one:1").layers()[1].diff))) == 500


def test_gc_waits_for_those_who_add(tmp_path: Path) -> None:
    store, other = Store(str(tmp_path / "store")), Store(str(tmp_path / "store"))
    done = threading.Event()

    def collect() -> None:
        with other:
            gc.collect(other)
        done.set()

    with store:
        unnamed = store.put_blob(b"a blob that no image needs yet")
        thread = threading.Thread(target=collect)
        thread.start()
        with Store(str(tmp_path / "store")) as third:
            assert gc.collect(third, wait=False) is None
        assert not done.is_set()
        assert store.has_blob(unnamed)
    thread.join(10)
    assert done.is_set()
    assert not store.has_blob(unnamed)


def test_names_move_and_go(tmp_path: Path) -> None:
    place = tmp_path / "store"
    for name, layer in (("one", BASE), ("two", OTHER)):
        unionfs("load", layout(tmp_path / name, f"{name}:1", layer), store=place)
    unionfs("tag", "one:1", "host.example:5000/team/app:v1", store=place)
    assert set(Store(str(place)).names()) == {"one:1", "two:1", "host.example:5000/team/app:v1"}
    unionfs("tag", "two:1", "one:1", store=place)
    assert find(Store(str(place)), "one:1").diff_ids == [sha256(OTHER)]
    assert unionfs("rm", "one:1", store=place) == "Untagged: one:1\n"
    assert "Deleted: sha256:" in unionfs("rm", "two:1", store=place)
    assert "no image is named two:1" in unionfs("rm", "two:1", store=place, fails=2)
    store = Store(str(place))
    assert [image.diff_ids for image in store.images()] == [[sha256(BASE)]]
    short = store.images()[0].config_digest[7:19]
    assert find(store, short).diff_ids == [sha256(BASE)]


@pytest.mark.parametrize(("text", "full", "familiar"), [
    ("busybox", ("docker.io", "library/busybox", "latest", ""), "busybox:latest"),
    ("busybox:1.36", ("docker.io", "library/busybox", "1.36", ""), "busybox:1.36"),
    ("a/b", ("docker.io", "a/b", "latest", ""), "a/b:latest"),
    ("localhost/a", ("localhost", "a", "latest", ""), "localhost/a:latest"),
    ("localhost:5000/a/b/c:x_Y.z", ("localhost:5000", "a/b/c", "x_Y.z", ""), "localhost:5000/a/b/c:x_Y.z"),
    ("docker.io/library/x:1", ("docker.io", "library/x", "1", ""), "x:1"),
    ("h.example/a@sha256:" + "0" * 64, ("h.example", "a", "", "sha256:" + "0" * 64), "h.example/a@sha256:" + "0" * 64),
])  # fmt: skip
def test_references(text: str, full: tuple[str, ...], familiar: str) -> None:
    found = parse(text)
    assert (found.host, found.path, found.tag, found.digest) == full
    assert found.familiar == familiar
    assert parse(familiar).familiar == familiar


@pytest.mark.parametrize("text", ["", "/", "UPPER", "a//b", "a:", "a:" + "t" * 129, "a@sha256:0", "../x", "a b", "-a",
                                  "host:port/a", "a/", "x@sha512:" + "0" * 64])
def test_bad_references(text: str) -> None:
    with pytest.raises(ImageError):
        parse(text)


def test_a_store_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = unionfs("ls", store=tmp_path / "file", fails=1)
    assert said.count("\n") == 1
    assert "--store" in said


def test_no_image_at_all_is_explained(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(bytes(10240))
    (tmp_path / "text").write_text("hello" * 200)
    (tmp_path / "dir").mkdir()
    for name, words in (("empty.tar", "is no image"), ("text", "not a tar archive"), ("dir", "is no image"),
                        ("missing", "No such file")):
        said = unionfs("load", tmp_path / name, store=tmp_path / "store", fails=1 if name == "missing" else 3)
        assert words in said
        assert said.count("\n") == 1
