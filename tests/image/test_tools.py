"""The other tools of the trade: what umoci, buildah and skopeo make is loaded, what is saved here they read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.image import programs
from tests.image.programs import run, unionfs
from tests.lib import tree
from unionfs.image.find import find
from unionfs.image.save import blobs
from unionfs.image.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="images with owners and devices need root")


def test_umoci_and_we_unpack_the_same_tree(built: str, saved: Path, store: Path, tmp_path: Path) -> None:
    programs.need("umoci")
    unionfs("load", saved, store=store)
    unionfs("save", "base:1", "-o", f"{tmp_path}/layout/", store=store)
    run("umoci", "unpack", "--image", f"{tmp_path}/layout:1", tmp_path / "bundle")
    ours = find(Store(str(store)), "base:1").layers()[0].diff
    tree.assert_same(tree.snapshot(str(ours)), tree.snapshot(f"{tmp_path}/bundle/rootfs"), names="ours umoci's")


def test_a_layer_umoci_adds_is_loaded(saved: Path, store: Path, tmp_path: Path) -> None:
    programs.need("umoci")
    unionfs("load", saved, store=store)
    layout = tmp_path / "layout"
    unionfs("save", "base:1", "-o", f"{layout}/", store=store)
    run("umoci", "unpack", "--image", f"{layout}:1", tmp_path / "bundle")
    root = tmp_path / "bundle/rootfs"
    shutil.rmtree(root / "gone")
    (root / "new").write_text("new")
    (root / "old/f").write_text("changed")
    run("umoci", "repack", "--image", f"{layout}:2", tmp_path / "bundle")
    unionfs("load", layout, "--name", "x:1", store=store, fails=1)      # two images, one name
    assert set(unionfs("load", layout, store=store).splitlines()) == {
        "Loaded image: base:1", "Loaded image: base:2"}
    lines = unionfs("diff", "base:1", "base:2", store=store).splitlines()
    assert "D /gone" in lines
    assert "A /new" in lines
    assert "C /old/f  (time, content)" in lines


def test_skopeo_copies_there_and_back(built: str, saved: Path, store: Path, tmp_path: Path) -> None:
    programs.need("skopeo")
    unionfs("load", saved, store=store)
    out = tmp_path / "out.tar"
    unionfs("save", built, "-o", out, store=store)
    run("skopeo", "copy", f"oci-archive:{out}:img", f"oci:{tmp_path}/copy:img")
    image = find(Store(str(store)), built)
    config = json.loads(run("skopeo", "inspect", "--config", "--raw", f"oci:{tmp_path}/copy:img"))
    assert config["rootfs"]["diff_ids"] == image.diff_ids
    unionfs("load", tmp_path / "copy", "--name", "back:1", store=tmp_path / "second")
    back = find(Store(str(tmp_path / "second")), "back:1")
    assert back.config_digest == image.config_digest
    for mine, again in zip(image.layers(), back.layers(), strict=True):
        tree.assert_same(tree.snapshot(mine.diff), tree.snapshot(again.diff))


@pytest.fixture
def buildah(tmp_path: Path) -> list[str]:
    programs.need("buildah")
    return ["buildah", "--root", f"{tmp_path}/ba", "--runroot", f"{tmp_path}/ba-run", "--storage-driver", "vfs"]


def test_buildah_builds_and_reads(buildah: list[str], saved: Path, store: Path, tmp_path: Path) -> None:
    unionfs("load", saved, store=store)
    base = tmp_path / "base.tar"
    unionfs("save", "base:1", "-o", base, store=store)
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text(
        f"FROM docker-archive:{base}\nRUN rm -r /gone && echo hi > /new\nLABEL a=b\n")
    run(*buildah, "bud", "--isolation", "chroot", "--layers", "-t", "built:1", tmp_path / "context")
    run(*buildah, "push", "built:1", f"oci-archive:{tmp_path}/built.tar:built:1")
    assert unionfs("load", tmp_path / "built.tar", store=store) == "Loaded image: built:1\n"
    facts = json.loads(unionfs("inspect", "built:1", store=store))[0]
    theirs = json.loads(run(*buildah, "inspect", "--type", "image", "built:1"))
    assert facts["Id"] == "sha256:" + theirs["FromImageID"]
    assert facts["Config"]["Labels"]["a"] == "b"
    assert facts["RootFS"]["Layers"] == theirs["OCIv1"]["rootfs"]["diff_ids"]
    assert "D /gone" in unionfs("diff", "base:1", "built:1", store=store)
    unionfs("save", "built:1", "-o", tmp_path / "again.tar", store=store)
    assert theirs["FromImageID"] in run(*buildah, "pull", "-q", f"oci-archive:{tmp_path}/again.tar")


def test_zstd_layers(saved: Path, store: Path, tmp_path: Path) -> None:
    programs.need("skopeo")
    pytest.importorskip("zstandard", reason="needs the extra `zstd`")
    unionfs("load", saved, store=store)
    out = tmp_path / "out.tar"
    unionfs("save", "base:1", "-o", out, store=store)
    run("skopeo", "copy", "--dest-compress-format", "zstd", "--dest-compress", f"oci-archive:{out}:1",
        f"dir:{tmp_path}/dir")
    run("skopeo", "copy", "--dest-oci-accept-uncompressed-layers", f"dir:{tmp_path}/dir", f"oci:{tmp_path}/zstd:1")
    unionfs("load", tmp_path / "zstd", "--name", "zstd:1", store=tmp_path / "second")
    image = find(Store(str(tmp_path / "second")), "zstd:1")
    assert [layer["mediaType"] for layer in image.manifest["layers"]] == [
        "application/vnd.oci.image.layer.v1.tar+zstd"]
    assert image.diff_ids == find(Store(str(store)), "base:1").diff_ids


def test_a_layout_gets_images_added_and_replaced(built: str, saved: Path, store: Path, tmp_path: Path) -> None:
    unionfs("load", saved, store=store)
    unionfs("save", "base:1", "-o", f"{tmp_path}/layout/", store=store)
    unionfs("save", built, "-o", f"{tmp_path}/layout/", store=store)
    unionfs("save", built, "-o", f"{tmp_path}/layout/", store=store)
    names = [descriptor["annotations"]["org.opencontainers.image.ref.name"]
             for descriptor in json.loads((tmp_path / "layout/index.json").read_text())["manifests"]]
    assert names == ["1", "img"]
    there = {"sha256:" + name for name in os.listdir(tmp_path / "layout/blobs/sha256")}
    images = [find(Store(str(store)), name) for name in ("base:1", built)]
    assert there == {digest for image in images for digest in blobs(image)}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_debian_image_loads_about_as_fast_as_umoci_unpacks(tmp_path: Path) -> None:
    """No more than 1.2 times umoci's time, the best of three each, taken in turns."""
    programs.need("debootstrap", "skopeo", "umoci")
    run("debootstrap", "--variant=minbase", "--include=perl,python3", "stable", tmp_path / "debian")
    command = ["tar", "--numeric-owner", "-C", f"{tmp_path}/debian", "-c", "."]
    with (tmp_path / "layer.tar").open("wb") as out:
        subprocess.run(command, check=True, stdout=out)
    run("umoci", "init", "--layout", tmp_path / "oci")
    run("umoci", "new", "--image", f"{tmp_path}/oci:deb")
    run("umoci", "raw", "add-layer", "--image", f"{tmp_path}/oci:deb", tmp_path / "layer.tar")
    ours, theirs = [], []
    for number in range(3):
        began = time.monotonic()
        unionfs("load", tmp_path / "oci", store=tmp_path / f"store{number}")
        ours.append(time.monotonic() - began)
        began = time.monotonic()
        run("umoci", "unpack", "--image", f"{tmp_path}/oci:deb", tmp_path / f"bundle{number}")
        theirs.append(time.monotonic() - began)
    assert min(ours) <= 1.2 * min(theirs), f"unionfs {ours}, umoci {theirs}"
    layer = find(Store(str(tmp_path / "store0")), "oci:deb").layers()[0].diff
    tree.assert_same(tree.snapshot(layer), tree.snapshot(f"{tmp_path}/bundle0/rootfs"), names="ours umoci's")
