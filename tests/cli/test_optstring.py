"""The laws of the option syntax, and golden strings of the two programs whose spelling it follows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.cli.optstring import (
    SyntaxProblem,
    escape,
    join_layers,
    join_options,
    split_layers,
    split_options,
    unescape,
)

# paths that are rich in what the syntax treats specially
pieces = st.sampled_from([b"\\", b":", b",", b'"', b"=", b"/", b"a", b" ", b"\xff"])
paths = st.lists(pieces, min_size=1).map(b"".join)
names = st.text("abcxyz_+", min_size=1).map(str.encode)


@given(paths)
def test_escape_then_unescape_is_the_path(path: bytes) -> None:
    assert unescape(escape(path)) == path


@given(st.binary())
def test_any_bytes_survive_the_escape(path: bytes) -> None:
    assert unescape(escape(path)) == path


@given(st.lists(st.tuples(names, st.none() | paths.map(escape))))
def test_join_then_split_is_the_options(pairs: list[tuple[bytes, bytes | None]]) -> None:
    assert split_options(join_options(pairs)) == pairs


@given(st.lists(paths, min_size=1), st.lists(paths))
def test_join_then_split_is_the_layers(lower: list[bytes], data: list[bytes]) -> None:
    assert split_layers(join_layers(lower, data)) == (lower, data)


@given(st.lists(paths, min_size=1), st.lists(paths), paths)
def test_layers_survive_a_whole_option_string(lower: list[bytes], data: list[bytes], upper: bytes) -> None:
    stack = [(b"lowerdir", join_layers(lower, data)), (b"upperdir", escape(upper))]
    text = join_options([*stack, (b"ro", None)])
    (_, layers), (_, up), last = split_options(text)
    assert layers is not None
    assert up is not None
    assert split_layers(layers) == (lower, data)
    assert unescape(up) == upper
    assert last == (b"ro", None)


@given(st.binary())
def test_splitting_any_bytes_gives_options_or_the_one_error(text: bytes) -> None:
    try:
        pairs = split_options(text)
    except SyntaxProblem:
        return
    assert all(isinstance(name, bytes) for name, _ in pairs)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (b"", []),
        (b"ro", [(b"ro", None)]),
        (b"work,,volatile", [(b"work", None), (b"volatile", None)]),
        (b",a,", [(b"a", None)]),
        (b"upperdir=", [(b"upperdir", b"")]),
        (b"a=b=c,d", [(b"a", b"b=c"), (b"d", None)]),
        (b"=x", [(b"", b"x")]),
        (rb"lowerdir=/a\,b:/c,ro", [(b"lowerdir", rb"/a\,b:/c"), (b"ro", None)]),
        (rb"lowerdir=/a\\,ro", [(b"lowerdir", rb"/a\\"), (b"ro", None)]),
        (b'context="s0:c1,c2",rw', [(b"context", b"s0:c1,c2"), (b"rw", None)]),
        (b'context="s0:c1,c2"', [(b"context", b"s0:c1,c2")]),
        (rb'lowerdir=\"a,b', [(b"lowerdir", rb'\"a'), (b"b", None)]),
        (rb'lowerdir="/a\":/b"', [(b"lowerdir", rb'/a\":/b')]),
        (b'lowerdir=/a"b', [(b"lowerdir", b'/a"b')]),
        (b"lowerdir+=/x,datadir+=/y", [(b"lowerdir+", b"/x"), (b"datadir+", b"/y")]),
    ],
)
def test_split_options(text: bytes, pairs: list[tuple[bytes, bytes | None]]) -> None:
    assert split_options(text) == pairs


@pytest.mark.parametrize(
    ("text", "lower", "data"),
    [
        (b"/a", [b"/a"], []),
        (b"/a:/b:/c", [b"/a", b"/b", b"/c"], []),
        (rb"/a\:b:c", [b"/a:b", b"c"], []),
        (rb"/a\\:b", [b"/a\\", b"b"], []),
        (b"l1::d1::d2", [b"l1"], [b"d1", b"d2"]),
        (b"l1:l2::d1", [b"l1", b"l2"], [b"d1"]),
        (b"l/X/../diff1:l/Y", [b"l/X/../diff1", b"l/Y"], []),
    ],
)
def test_split_layers(text: bytes, lower: list[bytes], data: list[bytes]) -> None:
    assert split_layers(text) == (lower, data)


@pytest.mark.parametrize("text", [b"", b":", b":a", b"a:", b"a:::b", b"::d", b"a::"])
def test_an_empty_layer_is_an_error(text: bytes) -> None:
    with pytest.raises(SyntaxProblem, match="empty entry"):
        split_layers(text)


def test_no_layer_below_data_only_layers() -> None:
    with pytest.raises(SyntaxProblem, match="below data-only layers at position 7"):
        split_layers(b"l1::d1:l2")


@pytest.mark.parametrize(
    ("text", "message"), [(b'context="s0:c1,c2', "never closed"), (b'context="s0"x,ro', "comma is missing")]
)
def test_quotes_must_close_and_end_the_option(text: bytes, message: str) -> None:
    with pytest.raises(SyntaxProblem, match=message):
        split_options(text)
