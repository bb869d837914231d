"""Overlay's marks: escaping, redirects, origins; laws, and values as the kernel writes them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.lib.errors import fails
from unionfs.layer import verbs
from unionfs.union import marks
from unionfs.union.marks import Marks

BOTH = [Marks(user=False), Marks(user=True)]
KEY = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.lists(st.sampled_from([b"trusted.", b"user.", b"overlay.", b"opaque", b"x"])).map(b"".join),
)


@pytest.mark.parametrize("space", BOTH, ids=["trusted", "user"])
@given(key=KEY)
@example(key=b"trusted.overlay.opaque")
@example(key=b"user.overlay.overlay.opaque")
def test_what_a_user_writes_a_user_reads(space: Marks, key: bytes) -> None:
    assert space.to_user(space.to_disk(key)) == key


@pytest.mark.parametrize("space", BOTH, ids=["trusted", "user"])
@given(one=KEY, two=KEY)
def test_no_two_names_meet_on_disk(space: Marks, one: bytes, two: bytes) -> None:
    assert (space.to_disk(one) == space.to_disk(two)) == (one == two)


@pytest.mark.parametrize("space", BOTH, ids=["trusted", "user"])
def test_own_marks_are_no_users(space: Marks) -> None:
    own = [space.opaque, space.redirect, space.origin, space.impure, space.metacopy, space.nlink, space.whiteout]
    assert [space.to_user(key) for key in own] == [None] * len(own)
    assert all(space.to_disk(key) != key for key in own)


def test_a_name_of_the_other_namespace_is_nobodys() -> None:
    trusted, user = BOTH
    assert trusted.to_user(user.opaque) == user.opaque
    assert user.to_disk(trusted.opaque) == trusted.opaque


LETTER = st.integers(1, 255).filter(lambda letter: letter != ord("/"))
NAME = st.lists(LETTER, min_size=1, max_size=9).map(bytes).filter(lambda name: name not in (b".", b".."))
ASTRAY = [b"", b"/", b".", b"..", b"a/b", b"/a//b", b"/a/", b"/..", b"/a/../b", b"//a", b"a/", b"/a\0b"]


@given(st.lists(NAME, min_size=1, max_size=5))
def test_absolute_redirects(names: list[bytes]) -> None:
    assert marks.parse_redirect(b"/" + b"/".join(names)) == [b"", *names]


@given(NAME)
def test_redirects_to_a_sibling(name: bytes) -> None:
    assert marks.parse_redirect(name) == [name]


@pytest.mark.parametrize("value", ASTRAY)
def test_redirects_that_could_lead_astray(value: bytes) -> None:
    with fails(errno.EINVAL):
        marks.parse_redirect(value)


@given(st.integers(0, 255), st.binary(max_size=100), st.binary(min_size=16, max_size=16))
def test_origins_come_back(kind: int, handle: bytes, uuid: bytes) -> None:
    assert marks.unpack_origin(marks.pack_origin(kind, handle, uuid)) == (kind, handle, uuid)


@given(st.binary(max_size=60))
@example(b"")
@example(b"\0\xfb\x15")
def test_garbage_is_no_origin(value: bytes) -> None:
    found = marks.unpack_origin(value)
    assert found is None or marks.pack_origin(*found)[:3] == value[:3]


@given(st.integers(0, 255), st.binary(max_size=40), st.integers(0, 4))
def test_a_changed_head_is_no_origin(kind: int, handle: bytes, where: int) -> None:
    """Version, magic, length and byte order are checked; type and the flag for an upper file are not."""
    value = bytearray(marks.pack_origin(kind, handle, bytes(16)))
    value[where] ^= 1
    assert (marks.unpack_origin(bytes(value)) is None) == (where < 4)


def test_the_inode_number_is_in_the_handle(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert marks.inode_of(*verbs.handle(fd, b"f")) == os.stat(tmp_path / "f").st_ino
    finally:
        os.close(fd)


def test_handles_of_the_usual_file_systems() -> None:
    ino = (0x1122334455).to_bytes(8, "little")
    assert marks.inode_of(1, (77).to_bytes(4, "little") + b"gene") == 77
    assert marks.inode_of(1, b"gene" + ino) == 0x1122334455, "tmpfs"
    assert marks.inode_of(0x81, ino + b"gene") == 0x1122334455, "xfs"
    assert marks.inode_of(0x4D, ino + bytes(16)) == 0x1122334455, "btrfs"
    assert marks.inode_of(0xFE, b"what is this") is None
