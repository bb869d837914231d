"""INIT: what is agreed on, for kernels of every age."""

from __future__ import annotations

import pytest

from tests.wire.messages import UNIQUE, b2, b4, reply
from unionfs.wire import encode, kernel
from unionfs.wire.decode import WireError
from unionfs.wire.negotiate import CONGESTION, MAX_BACKGROUND, WANTED, Agreement, init_reply, negotiate

EVERYTHING = (1 << 64) - 1


def agree(minor: int = 45, offered: int = EVERYTHING, wanted: int = WANTED) -> Agreement:
    agreement = negotiate(7, minor, 131072, offered, wanted)
    assert agreement is not None
    return agreement


def test_only_what_both_have_is_agreed_on() -> None:
    assert agree().flags == WANTED
    assert agree(offered=WANTED & ~kernel.FUSE_POSIX_ACL).flags == WANTED & ~kernel.FUSE_POSIX_ACL
    assert not agree().has(kernel.FUSE_PASSTHROUGH)
    assert agree(wanted=WANTED | kernel.FUSE_PASSTHROUGH).has(kernel.FUSE_PASSTHROUGH)


@pytest.mark.parametrize(("minor", "spoken"), [(31, 31), (36, 36), (45, 45), (46, 45), (99, 45)])
def test_the_smaller_minor_is_spoken(minor: int, spoken: int) -> None:
    assert agree(minor).minor == spoken


def test_without_init_ext_no_upper_flag_is_in_force() -> None:
    upper = WANTED | kernel.FUSE_PASSTHROUGH
    agreement = agree(31, EVERYTHING & ~kernel.FUSE_INIT_EXT, upper)
    assert agreement.flags == upper & 0xFFFFFFFF & ~kernel.FUSE_INIT_EXT
    assert agreement.stack_depth == 0


def test_without_max_pages_a_write_has_32_pages() -> None:
    assert agree(offered=EVERYTHING & ~kernel.FUSE_MAX_PAGES).max_write == 32 * 4096
    assert agree().max_write == 256 * 4096


@pytest.mark.parametrize(
    ("asked", "got"), [(1, 4096), (4096, 4096), (70000, 65536 + 4096), (1 << 20, 1 << 20), (1 << 30, 1 << 20)]
)
def test_max_write_is_in_whole_pages(asked: int, got: int) -> None:
    agreement = negotiate(7, 45, 0, EVERYTHING, WANTED, asked)
    assert agreement is not None
    assert agreement.max_write == got


@pytest.mark.parametrize(("major", "minor"), [(7, 30), (7, 8), (6, 99), (0, 0)])
def test_too_old(major: int, minor: int) -> None:
    with pytest.raises(WireError, match=f"speaks FUSE {major}.{minor}"):
        negotiate(major, minor, 0, EVERYTHING, WANTED)


def test_a_newer_major_is_asked_for_ours() -> None:
    assert negotiate(8, 0, 0, EVERYTHING, WANTED) is None
    assert bytes(init_reply(None)) == reply(b4(7), b4(45), bytes(56), unique=0)


def test_reply() -> None:
    buf = init_reply(agree(wanted=kernel.FUSE_PASSTHROUGH | kernel.FUSE_INIT_EXT | kernel.FUSE_MAX_PAGES))
    encode.put_unique(buf, encode.UNIQUE_AT, UNIQUE)
    assert bytes(buf) == reply(
        b4(7), b4(45), b4(131072), b4(kernel.FUSE_INIT_EXT | kernel.FUSE_MAX_PAGES),
        b2(MAX_BACKGROUND), b2(CONGESTION), b4(1 << 20), b4(1), b2(256), b2(0),
        b4(1 << 5), b4(1), b2(0), bytes(22),
    )  # fmt: skip
