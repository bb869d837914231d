"""Images that Docker built here, in and out of the store, compared with Docker's own idea of them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.image.programs import Docker, unionfs
from tests.lib import tree
from unionfs.image.find import find
from unionfs.image.store import Store


def layer_dirs(store: Path, name: str) -> list[Path]:
    return [Path(layer.diff) for layer in find(Store(str(store)), name).layers()]


def loaded(saved: Path, store: Path) -> Path:
    unionfs("load", saved, store=store)
    return store


def test_layers_are_unpacked_as_docker_does(docker: Docker, built: str, saved: Path, store: Path) -> None:
    ours, theirs = layer_dirs(loaded(saved, store), built), docker.layers(built)
    assert len(ours) == len(theirs) == 8
    for number, (mine, docks) in enumerate(zip(ours, theirs, strict=True)):
        # Docker leaves a layer's root as it made it, whatever the archive says of it
        one, two = tree.snapshot(str(mine)), tree.snapshot(str(docks))
        del one[b""], two[b""]
        for facts in (*one.values(), *two.values()):
            facts["mtime"] = int(str(facts["mtime"])) // 10**9      # all that its archives hold
            if facts["type"] == "char":
                facts.pop("mtime")      # a whiteout's means nothing
        assert not tree.diff(one, two), f"layer {number}"
        assert marks(mine) == marks(docks)


def marks(root: Path) -> dict[str, bytes]:
    """Where overlay's opaque marks are."""
    found = {}
    for directory, _names, _files in os.walk(root):
        try:
            found[os.path.relpath(directory, root)] = os.getxattr(directory, "trusted.overlay.opaque")
        except OSError:
            continue
    return found


def test_inspect_says_what_docker_says(docker: Docker, built: str, saved: Path, store: Path) -> None:
    ours = json.loads(unionfs("inspect", built, store=loaded(saved, store)))[0]
    theirs = docker.inspect(built)
    for key in ("Parent", "GraphDriver", "Metadata"):       # where it lies, and since when
        assert ours.pop(key).keys() <= theirs.pop(key).keys() if key != "Parent" else theirs.pop(key) is not None
        ours.pop(key, None)
    assert list(ours) == list(theirs)
    assert ours == theirs


def test_history_says_what_docker_says(docker: Docker, built: str, saved: Path, store: Path) -> None:
    ours = json.loads(unionfs("history", "--json", built, store=loaded(saved, store)))
    lines = docker("history", "--no-trunc", "--human=false", "--format", "{{json .}}", built).splitlines()
    theirs = [json.loads(line) for line in lines]
    assert [step["CreatedBy"] for step in ours] == [step["CreatedBy"] for step in theirs]
    assert [str(step["Size"]) for step in ours] == [step["Size"] for step in theirs]
    assert [step["Comment"] for step in ours] == [step["Comment"] for step in theirs]
    assert ours[0]["Id"] == theirs[0]["ID"]


def test_history_looks_like_dockers(docker: Docker, built: str, saved: Path, store: Path) -> None:
    ours = unionfs("history", built, store=loaded(saved, store)).splitlines()
    theirs = docker("history", "--format", "{{.CreatedBy}}|{{.Size}}", built).splitlines()
    assert len(ours) == len(theirs) + 1
    for line, (by, size) in zip(ours[1:], (line.split("|") for line in theirs), strict=True):
        assert by.strip() in line
        assert line.rstrip().endswith(size) or f" {size} " in line


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_docker_loads_what_is_saved(docker: Docker, built: str, saved: Path, store: Path, tmp_path: Path,
                                    form: str) -> None:
    loaded(saved, store)
    before = docker.inspect(built)
    out = tmp_path / "out.tar"
    unionfs("tag", built, "again:1", store=store)
    unionfs("save", "again:1", "-o", out, "--format", form, store=store)
    docker("load", "-i", out)
    try:
        after = docker.inspect("again:1")
    finally:
        docker("rmi", "again:1")
    assert after["Id"] == before["Id"]
    assert after["RootFS"] == before["RootFS"]
    assert unionfs("load", out, "--name", "third:1", store=tmp_path / "other") == "Loaded image: third:1\n"


def test_capabilities_survive(saved: Path, store: Path) -> None:
    base = layer_dirs(loaded(saved, store), "base:1")[0]
    assert os.getxattr(base / "bin/capped", "security.capability")


def test_the_same_image_comes_out_as_the_same_bytes(built: str, saved: Path, store: Path, tmp_path: Path) -> None:
    loaded(saved, store)
    outputs = []
    for number, place in enumerate((store, tmp_path / "second")):
        unionfs("load", saved, store=place)
        out = tmp_path / f"{number}.tar"
        unionfs("save", built, "base:1", "-o", out, store=place)
        outputs.append(out.read_bytes())
    assert outputs[0] == outputs[1]


def test_layers_counts_files(built: str, saved: Path, store: Path) -> None:
    facts = json.loads(unionfs("layers", "--json", built, store=loaded(saved, store)))["layers"]
    rows = {layer["created_by"].partition("-c ")[2][:9]: layer for layer in facts}
    assert (rows["rm -rf /o"]["added"], rows["rm -rf /o"]["removed"]) == (1, 1)
    assert rows["rm /d/e/g"]["removed"] == 2        # the file, and the one in the directory that went
    assert rows["mkdir -p "]["added"] == 3
    assert facts[0]["wasted"] == 4                  # old/f and gone/deep/f
    assert sum(layer["size"] for layer in facts) == json.loads(
        unionfs("inspect", built, store=store))[0]["Size"]


def test_diff_of_an_image_and_its_base(built: str, saved: Path, store: Path) -> None:
    lines = unionfs("diff", "base:1", built, store=loaded(saved, store)).splitlines()
    assert "A /d/e/f" in lines
    assert "A /old/n" in lines
    assert "D /old/f" in lines
    assert "D /gone" in lines
    assert not [line for line in lines if line.startswith("D /gone/")]
    assert [line for line in lines if line.startswith("C /tmp  (mode")]
    assert not [line for line in lines if "/bin" in line]


def test_explain_names_layers_and_what_they_hide(built: str, saved: Path, store: Path) -> None:
    loaded(saved, store)
    shown = json.loads(unionfs("explain", "--json", built, "/d/e/f", store=store))
    assert shown["visible"]
    assert [layer["layer"] for layer in shown["layers"]] == [2]
    hidden = json.loads(_explain_hidden(built, "/d/e/g", store))
    assert not hidden["visible"]
    assert [layer["what"] for layer in hidden["layers"]] == ["whiteout", "file"]
    inside = json.loads(_explain_hidden(built, "/old/f", store))
    assert [layer["what"] for layer in inside["layers"]] == ["opaque directory /old", "file"]


def _explain_hidden(name: str, path: str, store: Path) -> str:
    import subprocess
    import sys

    command = [sys.executable, "-m", "unionfs", "image", "explain", "--json", name, path, "--store", str(store)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    return done.stdout
