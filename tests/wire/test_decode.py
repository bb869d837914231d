"""Requests: the golden messages mean what they say, and nothing shorter, longer or random does any harm."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.wire.messages import GID, MALFORMED, NODE, PID, REQUESTS, UID, UNIQUE, Case, b4, request
from unionfs.wire import decode, kernel, table

IDS = [f"{table.NAMES[c.opcode]}-{len(c.raw)}" for c in REQUESTS]


def buffer(raw: bytes, rest: bytes = b"\xa5" * 300) -> bytearray:
    """The message as the loop has it: in a bigger buffer, with leftovers behind it."""
    return bytearray(raw + rest)


@pytest.mark.parametrize("case", REQUESTS, ids=IDS)
def test_golden(case: Case) -> None:
    opcode, unique, nodeid, values = table.request(buffer(case.raw), len(case.raw))
    assert (opcode, unique, nodeid) == (case.opcode, UNIQUE, NODE)
    assert values == case.values
    assert decode.caller(buffer(case.raw)) == (UID, GID, PID)


@pytest.mark.parametrize("case", REQUESTS, ids=IDS)
def test_leftovers_are_not_looked_at(case: Case) -> None:
    other = table.request(buffer(case.raw, b"\0" * 300), len(case.raw))
    assert table.request(buffer(case.raw), len(case.raw)) == other


@pytest.mark.parametrize("case", REQUESTS, ids=IDS)
def test_every_truncation_is_an_error_or_another_message(case: Case) -> None:
    """A message cut anywhere, its length made true again, never yields the values of the whole one."""
    for end in range(len(case.raw)):
        cut = b4(end) + case.raw[4:end]
        for rest in (b"", b"\xa5" * 300, b"\0" * 300):
            try:
                values = table.request(bytearray(cut + rest), end)[3]
            except decode.WireError:
                continue
            assert values != case.values
            assert case.opcode == kernel.FUSE_INIT, "only INIT has a shorter form"


@pytest.mark.parametrize("raw", MALFORMED, ids=[table.NAMES[r[4]] for r in MALFORMED])
@pytest.mark.parametrize("rest", [b"", b"\xa5" * 300, b"\0" * 300])
def test_malformed(raw: bytes, rest: bytes) -> None:
    with pytest.raises(decode.WireError):
        table.request(bytearray(raw + rest), len(raw))


def test_every_message_has_a_golden_case() -> None:
    missing = {row[1] for row in table.ROWS if row[5]} - {table.NAMES[c.opcode] for c in REQUESTS}
    assert not missing


def test_the_length_in_the_header_must_be_true() -> None:
    raw = request(kernel.FUSE_STATFS)
    with pytest.raises(decode.WireError, match="says it has"):
        table.request(bytearray(b4(41) + raw[4:]), 40)
    with pytest.raises(decode.WireError, match="shorter than its header"):
        table.request(bytearray(b"abc"), 3)


def test_resent_requests_keep_the_mark_in_unique() -> None:
    raw = bytearray(request(kernel.FUSE_STATFS))
    raw[15] |= 0x80
    assert table.request(raw, 40)[1] == UNIQUE | kernel.FUSE_UNIQUE_RESEND


def test_an_unknown_opcode_has_no_values() -> None:
    for opcode in (0, 7, 19, table.LENGTH, 4096, 0xFFFFFFFF):
        raw = bytearray(request(opcode, b"whatever"))
        assert table.request(raw, len(raw)) == (opcode, UNIQUE, NODE, ())


def test_an_extension_block_is_skipped() -> None:
    """FUSE_CREATE_SUPP_GROUP: size type nr_groups groups, behind the name, in units of 8 bytes."""
    groups = b4(16) + b4(32) + b4(1) + b4(2002)
    raw = request(kernel.FUSE_MKDIR, b4(0o755), b4(0), b"dir\0", extension=groups)
    assert table.request(bytearray(raw), len(raw))[3] == (b"dir", 0o755, (UID, GID, 0))


def test_the_compat_form_of_setxattr() -> None:
    raw = request(kernel.FUSE_SETXATTR, b4(3), b4(1), b"user.a\0", b"\0\1\2")
    assert decode.setxattr_compat(bytearray(raw), len(raw)) == (b"user.a", b"\0\1\2", 1, 0)
    with pytest.raises(decode.WireError):
        decode.setxattr_compat(bytearray(raw), len(raw) - 1)


def test_upper_flags_count_only_with_init_ext() -> None:
    raw = request(kernel.FUSE_INIT, b4(7), b4(45), b4(0), b4(1), b4(0xFFFFFFFF), *[b4(0)] * 11)
    assert table.request(bytearray(raw), len(raw))[3] == (7, 45, 0, 1)


@settings(max_examples=1500, deadline=None)
@given(st.integers(0, 60), st.binary(max_size=120))
def test_random_bodies_raise_wire_error_or_nothing(opcode: int, body: bytes) -> None:
    raw = request(opcode, body)
    try:
        values = table.request(buffer(raw), len(raw))[3]
    except decode.WireError:
        return
    assert isinstance(values, tuple)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_raise_wire_error_or_nothing(raw: bytes) -> None:
    try:
        table.request(bytearray(raw), len(raw))
    except decode.WireError:
        pass
