"""The rule of merging: what a directory contains, read whole (merge) and asked for one name (probe)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lib import layers
from tests.lib.layers import AUFS, DEVICE, WHITEOUT, XATTR, Dir, Entry, File, Layer, Symlink, Whiteout
from tests.union.core import Core
from unionfs.union import lookup
from unionfs.union.merge import DT_DIR, DT_LNK, DT_REG, LAYER_MASK, LAYER_SHIFT, LOWER, TYPE, merge
from unionfs.union.merge import WHITEOUT as HIDDEN
from unionfs.union.node import UPPER

FILE, LINK, DIRECTORY = File("x"), Symlink("t"), Dir()
FORMS = [Whiteout(DEVICE), Whiteout(XATTR), Whiteout(AUFS)]
_NAMES = {id(FILE): "file", id(LINK): "link", id(DIRECTORY): "dir"}


def shown(entry: int) -> tuple[int, int] | None:
    """(DT_ type, layer) of a packed entry, None where nothing is visible."""
    return (entry & TYPE, entry >> LAYER_SHIFT & LAYER_MASK) if entry & TYPE else None


def stack_of(tmp_path: Path, *parts: Entry | None) -> Core:
    """Layers from the top, each with directory d and in it the given entry n."""
    described: list[Layer] = [{"d/keep": "", **({"d/n": part} if part is not None else {})} for part in parts]
    return Core(tmp_path, described[1:], described[0], stray_whiteouts=True)


def _id(value: object) -> str:
    return value.form if isinstance(value, Whiteout) else _NAMES.get(id(value), "none")


@pytest.mark.parametrize("form", [None, FILE, *FORMS], ids=_id)
@pytest.mark.parametrize("low", [None, FILE, LINK, DIRECTORY], ids=_id)
@pytest.mark.parametrize("top", [None, FILE, LINK, DIRECTORY], ids=_id)
def test_three_lowers(tmp_path: Path, top: Entry | None, form: Entry | None, low: Entry | None) -> None:
    """n in a lower; a whiteout, a file or nothing in the one below it; n again below that."""
    types = {id(FILE): DT_REG, id(LINK): DT_LNK, id(DIRECTORY): DT_DIR}
    if top is not None:
        expected: tuple[int, int] | None = (types[id(top)], 1)
    elif form is FILE:
        expected = (DT_REG, 2)
    else:
        expected = (types[id(low)], 3) if low is not None and form is None else None
    merges = top is DIRECTORY and low is DIRECTORY and form is None
    with stack_of(tmp_path, None, top, form, low) as core:
        directory = core.dir("d")
        names = merge(core.union, directory)
        assert shown(names.entries.get(b"n", 0)) == expected
        assert names.several.get(b"n") == ([1, 3] if merges else None)
        assert lookup._probe(core.union, directory, b"n") == names.entries.get(b"n", 0)
        node = core.find("d/n")
        assert (node is not None) == (expected is not None)
        if isinstance(node, type(directory)):
            assert node.layers == ([1, 3] if merges else [expected[1] if expected else 0])


@pytest.mark.parametrize("low", [None, FILE, DIRECTORY, *FORMS], ids=_id)
@pytest.mark.parametrize("upper", [None, FILE, DIRECTORY, WHITEOUT], ids=_id)
def test_what_removing_needs(tmp_path: Path, upper: Entry | None, low: Entry | None) -> None:
    """LOWER: a whiteout is needed when the name goes. WHITEOUT: there is one, which a new object replaces."""
    with stack_of(tmp_path, upper, low) as core:
        entry = merge(core.union, core.dir("d")).entries.get(b"n", 0)
        assert bool(entry & LOWER) == (low in (FILE, DIRECTORY))
        assert bool(entry & HIDDEN) == (upper is WHITEOUT)
        if upper in (FILE, DIRECTORY):
            assert entry >> LAYER_SHIFT & LAYER_MASK == UPPER
        assert lookup._probe(core.union, core.dir("d"), b"n") == entry


@pytest.mark.parametrize("opaque", [True, AUFS])
@pytest.mark.parametrize("where", ["upper", "lower"])
def test_opaque_ends_the_merge(tmp_path: Path, opaque: bool | str, where: str) -> None:
    if where == "upper" and opaque == AUFS:
        opaque = True  # .wh. names are whiteouts in lowers alone
    lowers: list[Layer] = [{"d/a": ""}, {"d/b": ""}, {"d/c": ""}]
    upper: Layer = {"d/u": ""}
    if where == "upper":
        upper = {"d": Dir(opaque=opaque), **upper}
    else:
        lowers[1] = {"d": Dir(opaque=opaque), **lowers[1]}
    with Core(tmp_path, lowers, upper) as core:
        assert core.dir("d").layers == ([0] if where == "upper" else [0, 1, 2])
        assert core.ls("d") == (["u"] if where == "upper" else ["a", "b", "u"])


def test_an_opaque_root_hides_the_lowers(tmp_path: Path) -> None:
    with Core(tmp_path, [{"": Dir(opaque=True), "a": ""}, {"b": ""}]) as core:
        assert core.ls() == ["a"]


# --- random directories ---------------------------------------------------------------------------------------------

_PART = st.sampled_from([None, None, "file", "link", "dir", DEVICE, XATTR, AUFS])


def _described(parts: dict[str, str | None], upper: bool) -> Layer:
    made: dict[Any, Any] = {"d": Dir()}
    for name, part in parts.items():
        if part in (DEVICE, XATTR, AUFS):
            made[f"d/{name}"] = Whiteout(DEVICE if upper else str(part))
        elif part is not None:
            made[f"d/{name}"] = {"file": File(name), "link": Symlink(name), "dir": Dir()}[part]
    return made


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries(dict.fromkeys("abcde", _PART)), min_size=2, max_size=5))
def test_merge_and_probe_and_the_description_agree(parts: list[dict[str, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as place:
        described = [_described(part, upper=at == 0) for at, part in enumerate(parts)]
        with Core(Path(place), described[1:], described[0], stray_whiteouts=True) as core:
            directory = core.dir("d")
            names = merge(core.union, directory)
            for name in [b"a", b"b", b"c", b"d", b"e", b"nothing"]:
                assert lookup._probe(core.union, directory, name) == names.entries.get(name, 0), name
            layers.merge(place + "/plain", described)
            assert core.ls("d") == sorted(os.listdir(place + "/plain/d"))
            for child in core.ls("d"):
                mode = os.lstat(f"{place}/plain/d/{child}").st_mode
                assert core.node(f"d/{child}").kind >> 12 == mode >> 12


def test_a_large_directory_is_probed_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_LARGE", 0)
    with Core(tmp_path, [{f"d/f{i}": "" for i in range(9)}, {"d/g": ""}]) as core:
        directory = core.dir("d")
        for i in range(lookup._PROBES - 4):
            assert core.find(f"d/f{i % 9}") is not None
            core.union.forget(core.node(f"d/f{i % 9}"))
        assert directory.listing is None
        for i in range(9):
            core.find(f"d/none{i}")
        assert directory.listing is not None
