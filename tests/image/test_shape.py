"""JSON that lies: whatever stands where in it, an image is refused with a clear error or can be worked with."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.image.programs import unionfs
from tests.image.test_hostile import archive, file
from tests.image.test_store import layout
from unionfs.image import archive_in, describe, shape
from unionfs.image.errors import BadArchive, ImageError
from unionfs.image.load import load
from unionfs.image.store import Store, parse_json, sha256
from unionfs.image.usage import usage

VALUES: list[Any] = [
    None, 0, -1, 1 << 70, 1.5, True, "", "x", "\0", "\x1b[2J", "a" * 5000, "../x", "sha256:" + "0" * 64,
    "sha256:../../../etc/passwd", "sha512:" + "a" * 128, [], [[]], {}, {"a": 1}, {"digest": 5},
]  # fmt: skip


@pytest.mark.parametrize(("value", "wanted", "says"), [
    ({}, {"!a": str}, "x: 'a' is not there"),
    ({"a": None}, {"!a": str}, "x: 'a' is not there"),
    ({"a": 1}, {"a": str}, "x: 'a' is not a string"),
    ({"a": True}, {"a": int}, "x: 'a' is not a whole number"),
    ({"a": ["b", 1]}, {"a": [str]}, r"x: 'a\[1\]' is not a string"),
    ({"a": {"b": 1}}, {"a": {"*": str}}, "x: 'a.b' is not a string"),
    ([], {"a": str}, "x is not an object"),
    ({"\x1b": 1}, {"*": str}, "is not a string"),
])  # fmt: skip
def test_what_does_not_fit_is_named(value: Any, wanted: Any, says: str) -> None:
    with pytest.raises(BadArchive, match=says) as caught:
        shape.check(value, wanted, "x")
    assert str(caught.value).isprintable()


def test_what_fits_is_silent() -> None:
    shape.check({"a": None, "other": 5, "b": {"c": [1]}}, {"a": str, "b": {"*": [int]}}, "x")


def test_half_a_character_is_not_json() -> None:
    with pytest.raises(BadArchive):
        parse_json(b'{"a": "\\ud800"}', "x")
    assert parse_json(b'{"a": "\\ud83d\\ude00"}', "x") == {"a": "\U0001f600"}


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, item in inner for found in places(item, (*place, key)))]


def changed(value: Any, dice: random.Random) -> Any:
    """A copy with another value, or none, somewhere."""
    value = json.loads(json.dumps(value))
    *way, last = dice.choice(places(value)[1:])
    inner = value
    for key in way:
        inner = inner[key]
    if dice.random() < 0.2:
        del inner[last]
    else:
        inner[last] = dice.choice(VALUES)
    return value


def put(place: Path, value: Any) -> dict[str, Any]:
    data = json.dumps(value).encode()
    (place / "blobs/sha256" / sha256(data)[7:]).write_bytes(data)
    return {"digest": sha256(data), "size": len(data)}


@pytest.mark.parametrize("seed", range(6))
def test_an_image_is_refused_or_can_be_worked_with(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)
    original = layout(tmp_path / "original", "a:1", archive(file("f", b"x")))
    index = json.loads((original / "index.json").read_text())
    manifest = json.loads((original / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    config = json.loads((original / "blobs/sha256" / manifest["config"]["digest"][7:]).read_text())
    config |= {"history": [{"created": "2020-01-01T00:00:00Z", "created_by": "x", "empty_layer": False}],
               "config": {"Env": ["A=b"], "Cmd": ["x"], "Labels": {"a": "b"}, "Healthcheck": {"Test": ["NONE"]}}}
    for number in range(40):
        place = tmp_path / f"layout{number}"
        shutil.copytree(original, place)
        which = dice.choice(["config", "manifest", "index"])
        manifest["config"] |= put(place, changed(config, dice) if which == "config" else config)
        index["manifests"][0] |= put(place, changed(manifest, dice) if which == "manifest" else manifest)
        (place / "index.json").write_text(json.dumps(changed(index, dice) if which == "index" else index))
        with Store(str(tmp_path / f"store{number}")) as store:
            try:
                images = [load(store, each) for each in archive_in.read(str(place), store)]
            except (ImageError, OSError):
                images = []
            for image in images:
                assert describe.inspect(store, image)["Id"] == image.config_digest
                describe.history_json(store, image)
            assert len(usage(store)) == len({image.digest for image in images})


def test_an_image_cannot_play_with_the_terminal(store: Path, tmp_path: Path) -> None:
    place = layout(tmp_path / "layout", "a:1", archive(file("f", b"x")))
    index = json.loads((place / "index.json").read_text())
    manifest = json.loads((place / "blobs/sha256" / index["manifests"][0]["digest"][7:]).read_text())
    config = json.loads((place / "blobs/sha256" / manifest["config"]["digest"][7:]).read_text())
    manifest["config"] |= put(place, config | {"history": [{"created_by": "RUN \x1b[2J\r\n", "comment": "\x9b2J"}]})
    index["manifests"][0] |= put(place, manifest)
    (place / "index.json").write_text(json.dumps(index))
    unionfs("load", place, store=store)
    said = unionfs("history", "a:1", store=store) + unionfs("layers", "a:1", store=store)
    assert "\x1b" not in said
    assert "\x9b" not in said
    assert "RUN \\x1b[2J" in said
