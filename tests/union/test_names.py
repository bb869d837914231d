"""Listing while the directory changes: what stays is given exactly once, offsets go up and stay valid."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unionfs.union import merge
from unionfs.union.merge import DT_REG, FIRST_OFFSET, LOWER, TYPE, WHITEOUT, Names, pack


def names_of(*names: str, lower: bool = False) -> Names:
    return Names({name.encode(): pack(DT_REG, 1 if lower else 0, 5, LOWER if lower else 0) for name in names}, {})


def listed(names: Names, offset: int = FIRST_OFFSET) -> list[str]:
    return [name.decode() for name, _value, _next in names.entries_from(offset)]


def test_offsets_begin_behind_the_dots_and_go_on_where_they_were() -> None:
    names = names_of("a", "b", "c")
    offsets = [after for _name, _value, after in names.entries_from(0)]
    assert offsets == [3, 4, 5]
    assert listed(names, offsets[0]) == ["b", "c"]
    assert listed(names, offsets[2]) == []
    assert listed(names, 10_000) == []


def test_a_removed_name_keeps_its_place() -> None:
    names = names_of("a", "b", "c")
    assert listed(names) == ["a", "b", "c"]
    names.remove(b"a")
    assert listed(names, 3) == ["b", "c"]
    names.add(b"a", DT_REG, 9)
    assert listed(names) == ["a", "b", "c"]


def test_removing_leaves_what_hides_it() -> None:
    names = names_of("low", lower=True)
    names.remove(b"low")
    assert names.entries[b"low"] & (TYPE | LOWER | WHITEOUT) == LOWER | WHITEOUT
    names.add(b"low", DT_REG, 7)
    assert names.entries[b"low"] & (LOWER | WHITEOUT) == LOWER
    own = names_of("own")
    own.remove(b"own")
    assert own.entries[b"own"] == 0
    own.remove(b"own", whiteout=True)
    assert own.entries[b"own"] == WHITEOUT


def test_a_listing_ends_although_names_are_made_in_it() -> None:
    names = names_of("a", "b")
    seen = []
    for name, _value, _next in names.entries_from(FIRST_OFFSET):
        seen.append(name)
        names.add(b"new%d" % len(seen), DT_REG, 1)
    assert seen == [b"a", b"b"]
    assert listed(names) == ["a", "b", "new1", "new2"]


def test_compaction_forgets_what_left_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_COMPACT_FROM", 2)
    names = names_of(*"abcdefgh")
    assert len(listed(names)) == 8
    for name in "abcdef":
        names.remove(name.encode())
    assert listed(names) == ["g", "h"]
    assert set(names.entries) == {b"g", b"h"}
    assert listed(names, 9) == ["h"], "the offset behind g is the one it always had"
    names.add(b"i", DT_REG, 1)
    assert listed(names) == ["g", "h", "i"]


def test_compaction_keeps_what_hides_a_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "_COMPACT_FROM", 0)
    names = names_of("a", "b", "c", lower=True)
    listed(names)
    for name in "ab":
        names.remove(name.encode())
    assert listed(names) == ["c"]
    assert names.entries[b"a"] == LOWER | WHITEOUT


NAME = st.sampled_from([b"n%d" % i for i in range(12)])
STEP = st.one_of(
    st.tuples(st.sampled_from(["add", "remove"]), NAME),
    st.tuples(st.just("read"), st.integers(1, 4)),
    st.tuples(st.just("other"), st.just(0)),
)


@settings(max_examples=300, deadline=None)
@given(st.sets(NAME), st.lists(STEP, max_size=60))
def test_what_stays_is_given_exactly_once(at_first: set[bytes], steps: list[tuple[str, bytes | int]]) -> None:
    """One reader in pieces, other readers from the start in between (who may compact), and any changes."""
    before = merge._COMPACT_FROM
    merge._COMPACT_FROM = 1
    try:
        names = Names({name: pack(DT_REG, 1, 5, LOWER) for name in sorted(at_first)}, {})
        stayed, offset, seen = set(at_first), FIRST_OFFSET, []
        started = False
        for what, argument in steps:
            if what == "add" and isinstance(argument, bytes):
                names.add(argument, DT_REG, 1)
            elif what == "remove" and isinstance(argument, bytes):
                if names.entries.get(argument, 0) & TYPE:  # nobody removes what is not there
                    names.remove(argument)
                stayed.discard(argument)
            elif what == "other":
                list(names.entries_from(FIRST_OFFSET))
            elif isinstance(argument, int):
                if not started:
                    stayed = {name for name, value in names.entries.items() if value & TYPE}
                    started = True
                for _, (name, _value, after) in zip(range(argument), names.entries_from(offset), strict=False):
                    assert after > offset
                    offset = after
                    seen.append(name)
        if not started:
            stayed = {name for name, value in names.entries.items() if value & TYPE}
        seen += [name for name, _value, _after in names.entries_from(offset)]
        for name in stayed:
            assert seen.count(name) == 1
    finally:
        merge._COMPACT_FROM = before
