"""`override_stat` and the xattrs kept beside it: laws, and values as other programs write them and as nobody should."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unionfs.union import statmark

TIMES = {"st_rdev": 0, "st_mtime_ns": 8_000_000_001}
FILE = os.stat_result((stat.S_IFREG | 0o600, 1, 2, 1, 1000, 1000, 0, 7, 8, 9), TIMES)
DIRECTORY = os.stat_result((stat.S_IFDIR | 0o700, 1, 2, 2, 1000, 1000, 0, 7, 8, 9), TIMES)
IDS = st.integers(0, 0xFFFFFFFE)
NAMES = st.lists(st.sampled_from([b"user.", b"containers.", b"override_", b"security.", b"system.posix_acl_", b"stat",
                                  b"fuseoverlayfs.", b"x"])).map(b"".join)  # fmt: skip


@given(kind=st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK]),
       mode=st.integers(0, 0o7777), uid=IDS, gid=IDS, major=st.integers(0, 4095), minor=st.integers(0, 0xFFFFF))
def test_what_is_kept_is_shown(kind: int, mode: int, uid: int, gid: int, major: int, minor: int) -> None:
    rdev = os.makedev(major, minor) if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    seen = statmark.shown(FILE, statmark.value(kind | mode, uid, gid, rdev))
    assert (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_rdev) == (kind | mode, uid, gid, rdev)
    assert (seen.st_ino, seen.st_size, seen.st_mtime_ns) == (FILE.st_ino, FILE.st_size, FILE.st_mtime_ns)


@pytest.mark.parametrize(("text", "mode", "uid", "gid", "rdev"), [
    (b"0:0:0755:file", stat.S_IFREG | 0o755, 0, 0, 0),
    (b"0:0:755", stat.S_IFREG | 0o755, 0, 0, 0),                            # without a type
    (b"5:6:104755", stat.S_IFREG | 0o4755, 5, 6, 0),                        # fuse-overlayfs writes type bits, too
    (b"1:2:0644:char-5-1", stat.S_IFCHR | 0o644, 1, 2, os.makedev(5, 1)),
    (b"1:2:0644:block-7-0-more", stat.S_IFBLK | 0o644, 1, 2, os.makedev(7, 0)),
    (b"1:2:0644:file:later", stat.S_IFREG | 0o644, 1, 2, 0),                # what a later version may add
])  # fmt: skip
def test_values_of_other_programs(text: bytes, mode: int, uid: int, gid: int, rdev: int) -> None:
    seen = statmark.shown(FILE, text)
    assert (seen.st_mode, seen.st_uid, seen.st_gid, seen.st_rdev) == (mode, uid, gid, rdev)


@pytest.mark.parametrize("text", [
    b"", b":", b"::", b"1:2", b"-1:0:0644:file", b"+1:0:0644", b"1_0:0:0644", b" 1:0:0644", b"0:4294967295:0644",
    b"99999999999999999999:0:0644:file", b"0:0:-644", b"0:0:9:file", b"0:0:0644:char", b"0:0:0644:char-x-y",
    b"0:0:0644:char-99999999999999999999-1", b"\xff\xfe:0:0644",
])  # fmt: skip
def test_what_cannot_be_read_changes_nothing(text: bytes) -> None:
    assert statmark.shown(FILE, text) is FILE


@pytest.mark.parametrize("text", [b"3:4:0751:file", b"3:4:0751:char-1-3", b"3:4:0751:symlink", b"3:4:0751:socket"])
def test_a_directory_stays_one(text: bytes) -> None:
    assert statmark.shown(DIRECTORY, text).st_mode == stat.S_IFDIR | 0o751


@pytest.mark.parametrize("text", [b"3:4:0777:dir", b"3:4:0777:symlink"])
def test_a_file_is_no_directory_and_no_symlink(text: bytes) -> None:
    """Neither has what it would take to be read as one."""
    assert statmark.shown(FILE, text).st_mode == stat.S_IFREG | 0o777


def test_what_has_no_mark_is_roots_where_it_is_the_users_own() -> None:
    mine, other = statmark.unmarked(FILE, 1000, 5), statmark.unmarked(FILE, 7, 1000)
    assert (mine.st_uid, mine.st_gid) == (0, 1000)
    assert (other.st_uid, other.st_gid) == (1000, 0)


@given(NAMES)
def test_names_come_back(key: bytes) -> None:
    for there, back in ((statmark.to_disk, statmark.to_user), (statmark.unpacked, statmark.packed)):
        disk = there(key)
        assert disk is None or back(disk) == key


@given(NAMES, NAMES)
def test_no_two_names_meet_on_disk(one: bytes, two: bytes) -> None:
    for there in (statmark.to_disk, statmark.unpacked):
        if there(one) is not None:
            assert (there(one) == there(two)) == (one == two)


@pytest.mark.parametrize("key", [statmark.KEY, statmark.OLD_KEY])
def test_nobody_sees_or_sets_the_mark_itself(key: bytes) -> None:
    assert statmark.to_user(key) is statmark.to_disk(key) is statmark.packed(key) is statmark.unpacked(key) is None
