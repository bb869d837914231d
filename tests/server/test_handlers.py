"""Every request through a whole session with a fake core: what the core is asked, what the kernel is told."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from errno import EEXIST, EIO, ENODATA, ENOENT, ENOSYS, ENOTTY, ERANGE, EROFS, ESTALE
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.server.fake import FakeNode, FakeUnion
from tests.server.kernel import Attr, FakeKernel, setattr_in, u32, u64
from tests.wire.messages import b4, b8
from unionfs.server.desk import FED_SIZE
from unionfs.server.handlers import dirs
from unionfs.server.readahead import LARGEST, PAUSE
from unionfs.server.session import Options
from unionfs.wire import encode
from unionfs.wire import kernel as k

ROOT = k.FUSE_ROOT_ID


@pytest.fixture
def tree(base: Path) -> Path:
    (base / "file").write_bytes(b"content")
    (base / "dir").mkdir()
    (base / "dir" / "inner").write_bytes(b"inner")
    return base


@pytest.fixture
def union(tree: Path) -> FakeUnion:
    return FakeUnion(os.fsencode(tree))


@pytest.fixture
def fuse(union: FakeUnion) -> Iterator[FakeKernel]:
    with FakeKernel(union) as fuse:
        yield fuse


# --- names --------------------------------------------------------------------------------------------------


def test_lookup(fuse: FakeKernel, tree: Path) -> None:
    body = fuse.good(k.FUSE_LOOKUP, ROOT, b"file\0")
    st = (tree / "file").stat()
    attr = Attr(body, 40)
    assert u64(body, 0) == 2
    assert (attr.ino, attr.size, attr.mode, attr.nlink) == (st.st_ino, 7, st.st_mode, 1)
    assert (attr.atime_ns, attr.mtime_ns, attr.ctime_ns) == (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns)
    assert u64(body, 16) == u64(body, 24) == encode.FOREVER


def test_the_same_node_has_the_same_id(fuse: FakeKernel) -> None:
    first = fuse.lookup(ROOT, b"file")
    assert fuse.lookup(ROOT, b"dir") != first
    assert fuse.lookup(ROOT, b"file") == first


def test_a_missing_name_is_a_negative_entry_that_lasts(fuse: FakeKernel) -> None:
    body = fuse.good(k.FUSE_LOOKUP, ROOT, b"missing\0")
    assert u64(body, 0) == 0
    assert u64(body, 16) == encode.FOREVER


def test_a_node_is_forgotten_when_all_its_references_are(fuse: FakeKernel, union: FakeUnion) -> None:
    node = fuse.lookup(ROOT, b"file")
    assert fuse.lookup(ROOT, b"file") == fuse.lookup(ROOT, b"file") == node
    fuse.send(k.FUSE_FORGET, node, b8(2))
    assert fuse.silent()
    assert union.forgotten == []
    fuse.send(k.FUSE_FORGET, node, b8(1))
    assert fuse.silent()
    assert [n.name for n in union.forgotten] == [b"file"]
    assert fuse.call(k.FUSE_GETATTR, node, bytes(16))[0] == ESTALE
    assert fuse.lookup(ROOT, b"dir") == node, "an id that the kernel has forgotten is used again"
    assert fuse.lookup(ROOT, b"file") != node


def test_batch_forget_passes_over_what_is_not_known(fuse: FakeKernel, union: FakeUnion) -> None:
    a, b = fuse.lookup(ROOT, b"file"), fuse.lookup(ROOT, b"dir")
    fuse.send(k.FUSE_BATCH_FORGET, 0, b4(4), b4(0), b8(a), b8(1), b8(999), b8(1), b8(b), b8(5), b8(ROOT), b8(9))
    assert fuse.silent()
    assert sorted(n.name for n in union.forgotten) == [b"dir", b"file"]
    assert fuse.lookup(ROOT, b"file")


def test_creations_belong_to_the_caller(fuse: FakeKernel, tree: Path) -> None:
    who = {"uid": 1001, "gid": 2002}
    mkdir = b4(0o40777) + b4(0o027) + b"d\0"
    mknod = b4(stat.S_IFIFO | 0o666) + b4(0) + b4(0o027) + b4(0) + b"p\0"
    create = b4(os.O_RDWR) + b4(0o100666) + b4(0o027) + b4(0) + b"f\0"
    assert fuse.call(k.FUSE_MKDIR, ROOT, mkdir, **who)[0] == 0
    assert fuse.call(k.FUSE_MKNOD, ROOT, mknod, **who)[0] == 0
    assert fuse.call(k.FUSE_SYMLINK, ROOT, b"s\0to\0", **who)[0] == 0
    assert fuse.call(k.FUSE_CREATE, ROOT, create, **who)[0] == 0
    for name, mode in [("d", 0o40750), ("p", 0o10640), ("f", 0o100640), ("s", 0o120777)]:
        st = (tree / name).lstat()
        assert (st.st_mode, st.st_uid, st.st_gid) == (mode, 1001, 2002), name


def test_create_opens_what_it_makes(fuse: FakeKernel) -> None:
    body = fuse.good(k.FUSE_CREATE, ROOT, b4(os.O_RDWR), b4(0o100644), b4(0), b4(0), b"new\0")
    node, handle = u64(body, 0), u64(body, 128)
    assert fuse.write(node, handle, 0, b"data") == 4
    assert fuse.read(node, handle, 0, 100) == b"data"
    again = fuse.call(k.FUSE_CREATE, ROOT, b4(os.O_RDWR), b4(0o100644), b4(0), b4(0), b"new\0")
    assert again == (EEXIST, b"")


def test_a_temporary_file_gets_a_name_by_link(fuse: FakeKernel, tree: Path) -> None:
    body = fuse.good(k.FUSE_TMPFILE, ROOT, b4(os.O_RDWR), b4(0o100600), b4(0), b4(0), b"/\0")
    node, handle = u64(body, 0), u64(body, 128)
    assert Attr(body, 40).nlink == 0
    fuse.write(node, handle, 0, b"data")
    linked = fuse.good(k.FUSE_LINK, ROOT, b8(node), b"named\0")
    assert (u64(linked, 0), Attr(linked, 40).nlink) == (node, 1)
    assert (tree / "named").read_bytes() == b"data"


def test_removals_and_renames(fuse: FakeKernel, tree: Path) -> None:
    inner = fuse.lookup(ROOT, b"dir")
    fuse.good(k.FUSE_RENAME, ROOT, b8(inner), b"file\0", b"moved\0")
    assert (tree / "dir" / "moved").read_bytes() == b"content"
    fuse.good(k.FUSE_RENAME2, inner, b8(inner), b4(2), b4(0), b"moved\0", b"inner\0")
    assert (tree / "dir" / "moved").read_bytes() == b"inner"
    assert fuse.call(k.FUSE_RENAME2, inner, b8(inner), b4(1), b4(0), b"moved\0", b"inner\0") == (EEXIST, b"")
    for name in (b"moved\0", b"inner\0"):
        fuse.good(k.FUSE_UNLINK, inner, name)
    assert fuse.call(k.FUSE_UNLINK, inner, b"inner\0")[0] == ENOENT
    fuse.good(k.FUSE_RMDIR, ROOT, b"dir\0")
    assert sorted(tree.iterdir()) == []


# --- attributes ---------------------------------------------------------------------------------------------


def test_getattr_and_statx(fuse: FakeKernel, tree: Path) -> None:
    node = fuse.lookup(ROOT, b"file")
    assert Attr(fuse.good(k.FUSE_GETATTR, node, b4(0), b4(0), b8(0)), 16).size == 7
    body = fuse.good(k.FUSE_STATX, node, b4(0), b4(0), b8(0), b4(0), b4(0xFFF))
    assert u32(body, 32) == 0xFFF, "all basic fields and the birth time"
    assert u64(body, 32 + 80) > 1_500_000_000
    assert u64(body, 32 + 40) == 7


def test_setattr_changes_what_is_valid_and_nothing_else(fuse: FakeKernel, tree: Path) -> None:
    file, node = tree / "file", fuse.lookup(ROOT, b"file")
    os.utime(file, ns=(10**18, 2 * 10**18))
    everything = {"size": 3, "mode": 0o100640, "uid": 5, "gid": 6, "atime": 77, "atimensec": 8}
    attr = Attr(fuse.good(k.FUSE_SETATTR, node, setattr_in(k.FATTR_MODE, **everything)), 16)
    assert (attr.mode, attr.size, attr.uid) == (0o100640, 7, 0)
    attr = Attr(fuse.good(k.FUSE_SETATTR, node, setattr_in(k.FATTR_ATIME, **everything)), 16)
    assert (attr.atime_ns, attr.mtime_ns) == (77_000_000_008, 2 * 10**18)
    attr = Attr(fuse.good(k.FUSE_SETATTR, node, setattr_in(k.FATTR_GID, **everything)), 16)
    assert (attr.uid, attr.gid) == (0, 6)
    attr = Attr(fuse.good(k.FUSE_SETATTR, node, setattr_in(k.FATTR_UID | k.FATTR_SIZE, **everything)), 16)
    assert (attr.uid, attr.gid, attr.size) == (5, 6, 3)


def test_setattr_of_times_to_now(fuse: FakeKernel, tree: Path) -> None:
    os.utime(tree / "file", ns=(1, 1))
    node = fuse.lookup(ROOT, b"file")
    valid = k.FATTR_MTIME | k.FATTR_MTIME_NOW
    attr = Attr(fuse.good(k.FUSE_SETATTR, node, setattr_in(valid)), 16)
    assert attr.atime_ns == 1
    assert attr.mtime_ns > 1_700_000_000 * 10**9


def test_truncation_strips_set_id_bits_when_told(fuse: FakeKernel, union: FakeUnion, tree: Path) -> None:
    (tree / "file").chmod(0o6755)
    node = fuse.lookup(ROOT, b"file")
    fuse.good(k.FUSE_SETATTR, node, setattr_in(k.FATTR_SIZE, size=2))
    assert (tree / "file").stat().st_mode & 0o7777 == 0o6755
    fuse.good(k.FUSE_SETATTR, node, setattr_in(k.FATTR_SIZE | k.FATTR_KILL_SUIDGID, size=1))
    assert (tree / "file").stat().st_mode & 0o7777 == 0o755


def test_readlink(fuse: FakeKernel, tree: Path) -> None:
    (tree / "link").symlink_to("../some/where")
    assert fuse.good(k.FUSE_READLINK, fuse.lookup(ROOT, b"link")) == b"../some/where"


def test_xattrs(fuse: FakeKernel, tree: Path) -> None:
    node = fuse.lookup(ROOT, b"file")
    fuse.good(k.FUSE_SETXATTR, node, b4(5), b4(0), b4(0), b4(0), b"user.a\0", b"v\0lue")
    assert fuse.good(k.FUSE_GETXATTR, node, b4(0), b4(0), b"user.a\0") == b4(5) + b4(0)
    assert fuse.good(k.FUSE_GETXATTR, node, b4(5), b4(0), b"user.a\0") == b"v\0lue"
    assert fuse.call(k.FUSE_GETXATTR, node, b4(4), b4(0), b"user.a\0") == (ERANGE, b"")
    assert fuse.good(k.FUSE_LISTXATTR, node, b4(0), b4(0)) == b4(7) + b4(0)
    assert fuse.good(k.FUSE_LISTXATTR, node, b4(99), b4(0)) == b"user.a\0"
    assert fuse.call(k.FUSE_SETXATTR, node, b4(0), b4(1), b4(0), b4(0), b"user.a\0")[0] == EEXIST
    fuse.good(k.FUSE_REMOVEXATTR, node, b"user.a\0")
    assert fuse.call(k.FUSE_GETXATTR, node, b4(5), b4(0), b"user.a\0")[0] == ENODATA


def test_trusted_xattrs_are_listed_to_root_only(fuse: FakeKernel, tree: Path) -> None:
    node = fuse.lookup(ROOT, b"file")
    for name in ("trusted.t", "user.u"):
        os.setxattr(tree / "file", name, b"v")
    lists = {uid: fuse.call(k.FUSE_LISTXATTR, node, b4(99), b4(0), uid=uid)[1] for uid in (0, 1001)}
    assert sorted(lists[0].split(b"\0")) == [b"", b"trusted.t", b"user.u"]
    assert lists[1001] == b"user.u\0"


def test_an_acl_may_take_the_set_group_id_bit(fuse: FakeKernel, tree: Path) -> None:
    (tree / "file").chmod(0o2755)
    node = fuse.lookup(ROOT, b"file")
    fuse.good(k.FUSE_SETXATTR, node, b4(1), b4(0), b4(0), b4(0), b"user.a\0", b"x")
    assert (tree / "file").stat().st_mode & 0o7777 == 0o2755
    fuse.good(k.FUSE_SETXATTR, node, b4(1), b4(0), b4(1), b4(0), b"user.a\0", b"x")
    assert (tree / "file").stat().st_mode & 0o7777 == 0o755


def test_statfs(fuse: FakeKernel, tree: Path) -> None:
    body, vfs = fuse.good(k.FUSE_STATFS, ROOT), os.statvfs(tree)
    assert (u64(body, 0), u32(body, 40), u32(body, 44), u32(body, 48)) == (vfs.f_blocks, vfs.f_bsize, 255, vfs.f_frsize)


def test_inode_flags(fuse: FakeKernel) -> None:
    node = fuse.lookup(ROOT, b"file")
    head = b8(0) + b4(0)
    get = head + b4(0x80086601) + b8(0) + b4(0) + b4(8)
    flags = u32(fuse.good(k.FUSE_IOCTL, node, get), 16)
    fuse.good(k.FUSE_IOCTL, node, head + b4(0x40086602) + b8(0) + b4(8) + b4(0) + b4(flags | 0x40) + b4(0))
    assert u32(fuse.good(k.FUSE_IOCTL, node, get), 16) == flags | 0x40
    body = fuse.good(k.FUSE_IOCTL, node, head + b4(0x801C581F) + b8(0) + b4(0) + b4(28))
    assert len(body) == 16 + 28
    assert u32(body, 16) & 0x80, "no-dump, in the other spelling"
    assert fuse.call(k.FUSE_IOCTL, node, head + b4(0x5401) + b8(0) + b4(0) + b4(0)) == (ENOTTY, b"")


# --- files --------------------------------------------------------------------------------------------------


def test_open_read_release(fuse: FakeKernel, union: FakeUnion) -> None:
    node = fuse.lookup(ROOT, b"file")
    handle, flags, backing = fuse.open(node, os.O_RDONLY)
    assert (flags, backing) == (k.FOPEN_KEEP_CACHE, 0)
    assert fuse.read(node, handle, 0, 4096) == b"content"
    assert fuse.read(node, handle, 3, 2) == b"te"
    assert fuse.read(node, handle, 7, 10) == b""
    assert fuse.read(node, handle, 99, 10) == b""
    fuse.release(node, handle)
    assert fuse.session.state.files == {}
    assert not next(n for n in union.nodes.values() if n.name == b"file").files


def evict(path: Path) -> None:
    """Let the file's data be on disk only."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:  # which had the kernel begin to read it
            os.pread(file.fileno(), 1, 0)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return
    pytest.skip("a file system in memory")


def stored(fuse: FakeKernel) -> list[tuple[int, int, bytes]]:
    """(node id, offset, data) of what the kernel was given to keep."""
    return [(u64(body, 0), u64(body, 8), body[24:]) for code, body in fuse.notifications if code == k.FUSE_NOTIFY_STORE]


def test_the_first_open_of_a_small_file_brings_its_data(fuse: FakeKernel) -> None:
    node = fuse.lookup(ROOT, b"file")
    first, _, _ = fuse.open(node, os.O_RDONLY)
    assert stored(fuse) == [(node, 0, b"content")]
    second, _, _ = fuse.open(node, os.O_RDONLY)
    fuse.release(node, first)
    fuse.release(node, second)
    fuse.release(node, fuse.open(node, os.O_RDONLY)[0])
    assert len(stored(fuse)) == 1, "the kernel has it"


def test_data_is_not_brought_where_it_may_not_be_wanted(fuse: FakeKernel, tree: Path) -> None:
    (tree / "large").write_bytes(bytes(FED_SIZE))
    (tree / "empty").touch()
    for name in (b"large", b"empty", b"dir"):
        fuse.open(fuse.lookup(ROOT, name), os.O_RDONLY)
    fuse.open(fuse.lookup(ROOT, b"file"), os.O_WRONLY)
    assert stored(fuse) == []


def test_data_is_not_brought_to_a_second_reader(fuse: FakeKernel, union: FakeUnion, tree: Path) -> None:
    """The first may be waiting for a READ with its pages locked, and a store would wait for him, and he for us."""
    node = fuse.lookup(ROOT, b"file")
    fuse.open(node, os.O_WRONLY)
    fuse.open(node, os.O_RDONLY)
    assert stored(fuse) == []


def test_an_open_waits_for_no_disk(fuse: FakeKernel, tree: Path) -> None:
    evict(tree / "file")
    fuse.open(fuse.lookup(ROOT, b"file"), os.O_RDONLY)
    assert stored(fuse) == []


def test_files_are_read_ahead_once_files_come_from_disk(fuse: FakeKernel, union: FakeUnion, tree: Path) -> None:
    (tree / "dir" / "more").write_bytes(b"more")
    (tree / "dir" / "large").write_bytes(bytes(LARGEST + 1))
    os.mkfifo(tree / "dir" / "fifo")
    listing = fuse.lookup(ROOT, b"dir"), b8(0), b8(0), b4(4096), b4(0), b8(0), b8(0)
    fuse.good(k.FUSE_READDIRPLUS, *listing)
    assert union.read_ahead == [], "nobody reads files"
    evict(tree / "file")
    node = fuse.lookup(ROOT, b"file")
    fuse.read(node, fuse.open(node, os.O_RDONLY)[0], 0, 4096)
    fuse.good(k.FUSE_READDIRPLUS, *listing)
    assert sorted(union.read_ahead) == [b"inner", b"more"]
    for _ in range(PAUSE + 1):
        fuse.good(k.FUSE_READDIRPLUS, *listing)
    union.read_ahead.clear()
    fuse.good(k.FUSE_READDIRPLUS, *listing)
    assert union.read_ahead == [], "directories are listed, but their files not read any more"


def test_a_read_of_the_largest_size(fuse: FakeKernel, tree: Path) -> None:
    content = os.urandom(1 << 20)
    (tree / "big").write_bytes(content + b"more")
    node = fuse.lookup(ROOT, b"big")
    handle, _, _ = fuse.open(node, os.O_RDONLY)
    assert fuse.read(node, handle, 0, 1 << 20) == content
    assert fuse.read(node, handle, 1 << 20, 1 << 20) == b"more"


def test_a_read_from_the_disk_is_complete(fuse: FakeKernel, tree: Path) -> None:
    """Half the pages are in memory: a short answer would be the end of the file to the kernel."""
    content = os.urandom(1 << 20)
    (tree / "big").write_bytes(content)
    with (tree / "big").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 512 << 10, 512 << 10, os.POSIX_FADV_DONTNEED)
        node = fuse.lookup(ROOT, b"big")
        handle, _, _ = fuse.open(node, os.O_RDONLY)
        assert fuse.read(node, handle, 0, 1 << 20) == content


def test_truncating_open(fuse: FakeKernel, union: FakeUnion, tree: Path) -> None:
    (tree / "file").chmod(0o4755)
    node = fuse.lookup(ROOT, b"file")
    fuse.good(k.FUSE_OPEN, node, b4(os.O_WRONLY | os.O_TRUNC), b4(k.FUSE_OPEN_KILL_SUIDGID))
    assert (tree / "file").read_bytes() == b""
    assert (tree / "file").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("flags", [0, k.FUSE_WRITE_KILL_SUIDGID])
def test_a_write_strips_set_id_bits_when_told(fuse: FakeKernel, tree: Path, flags: int) -> None:
    (tree / "file").chmod(0o6755)
    node = fuse.lookup(ROOT, b"file")
    handle, _, _ = fuse.open(node, os.O_RDWR)
    assert fuse.write(node, handle, 2, b"NT", flags) == 2
    assert (tree / "file").read_bytes() == b"coNTent"
    assert (tree / "file").stat().st_mode & 0o7777 == (0o755 if flags else 0o6755)


def test_after_a_slow_write_the_next_are_for_workers(fuse: FakeKernel, tree: Path) -> None:
    node = fuse.lookup(ROOT, b"file")
    handle, _, _ = fuse.open(node, os.O_RDWR)
    fuse.session.state.throttled_until = float("inf")
    data = os.urandom(100_000)
    assert fuse.write(node, handle, 5, data) == len(data)
    assert (tree / "file").read_bytes() == b"conte" + data


def test_sync_reaches_the_core(fuse: FakeKernel, union: FakeUnion) -> None:
    node, directory = fuse.lookup(ROOT, b"file"), fuse.lookup(ROOT, b"dir")
    handle, _, _ = fuse.open(node, os.O_RDWR)
    fuse.good(k.FUSE_FSYNC, node, b8(handle), b4(0), b4(0))
    fuse.good(k.FUSE_FSYNC, node, b8(handle), b4(1), b4(0))
    fuse.good(k.FUSE_FSYNCDIR, directory, b8(0), b4(0), b4(0))
    fuse.good(k.FUSE_SYNCFS, ROOT, b8(0))
    assert union.calls == ["fsync", "fdatasync", "fsyncdir", "syncfs"]


def test_fallocate_seek_and_copy(fuse: FakeKernel, tree: Path) -> None:
    node, other = fuse.lookup(ROOT, b"file"), fuse.lookup(fuse.lookup(ROOT, b"dir"), b"inner")
    a, b = fuse.open(node, os.O_RDWR)[0], fuse.open(other, os.O_RDWR)[0]
    fuse.good(k.FUSE_FALLOCATE, node, b8(a), b8(0), b8(1 << 20), b4(0), b4(0))
    assert (tree / "file").stat().st_size == 1 << 20
    assert u64(fuse.good(k.FUSE_LSEEK, node, b8(a), b8(0), b4(os.SEEK_HOLE), b4(0)), 0) > 0
    copy = b8(a) + b8(3) + b8(other) + b8(b) + b8(1) + b8(4) + b8(0)
    assert u32(fuse.good(k.FUSE_COPY_FILE_RANGE, node, copy), 0) == 4
    assert u64(fuse.good(k.FUSE_COPY_FILE_RANGE_64, node, copy), 0) == 4
    assert (tree / "dir" / "inner").read_bytes() == b"itent"


@pytest.mark.parametrize("uid", [0, 1001])
def test_fallocate_and_copy_of_users_strip_set_id_bits(fuse: FakeKernel, tree: Path, uid: int) -> None:
    node = fuse.lookup(ROOT, b"file")
    handle = fuse.open(node, os.O_RDWR)[0]
    for opcode, body in [
        (k.FUSE_FALLOCATE, b8(handle) + b8(0) + b8(100) + b4(0) + b4(0)),
        (k.FUSE_COPY_FILE_RANGE, b8(handle) + b8(0) + b8(node) + b8(handle) + b8(50) + b8(4) + b8(0)),
    ]:
        (tree / "file").chmod(0o6755)
        assert fuse.call(opcode, node, body, uid=uid)[0] == 0
        assert (tree / "file").stat().st_mode & 0o7777 == (0o755 if uid else 0o6755)


# --- directories --------------------------------------------------------------------------------------------


def records(body: bytes, plus: bool) -> list[tuple[bytes, int, int, int, int]]:
    """(name, node id, inode number, type, cookie) of a reply to READDIR or READDIRPLUS"""
    found, at = [], 0
    while at < len(body):
        head = at + 128 if plus else at
        node = u64(body, at) if plus else 0
        length = u32(body, head + 16)
        name = body[head + 24 : head + 24 + length]
        found.append((name, node, u64(body, head), u32(body, head + 20), u64(body, head + 8)))
        at = head + 24 + (length + 7) // 8 * 8
    assert at == len(body)
    return found


@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("size", [4096, 400, 200])
def test_reading_a_directory_in_pieces(fuse: FakeKernel, tree: Path, plus: bool, size: int) -> None:
    for i in range(40):
        (tree / "dir" / f"{'n' * i}{i}").touch()
    directory = fuse.lookup(ROOT, b"dir")
    opcode = k.FUSE_READDIRPLUS if plus else k.FUSE_READDIR
    seen, cookie = [], 0
    while piece := records(fuse.good(opcode, directory, b8(0), b8(cookie), b4(size), b4(0), b8(0), b8(0)), plus):
        seen += piece
        cookie = piece[-1][4]
    assert [s[0] for s in seen[:2]] == [b".", b".."]
    assert sorted(s[0] for s in seen[2:]) == sorted(os.listdir(os.fsencode(tree / "dir")))
    assert len({s[4] for s in seen}) == len(seen), "cookies are distinct"
    inode = {os.fsencode(e.name): e.inode() for e in os.scandir(tree / "dir")}
    assert all(s[2] == inode[s[0]] and s[3] == 8 for s in seen[2:])
    assert [s[2:4] for s in seen[:2]] == [((tree / "dir").stat().st_ino, 4), (tree.stat().st_ino, 4)]


def test_readdirplus_counts_a_reference_for_each_entry_it_gives(fuse: FakeKernel, union: FakeUnion) -> None:
    body = fuse.good(k.FUSE_READDIRPLUS, ROOT, b8(0), b8(0), b4(4096), b4(0), b8(0), b8(0))
    found = {name: node for name, node, *_ in records(body, True)}
    assert found[b"."] == found[b".."] == 0
    assert found[b"file"] == fuse.lookup(ROOT, b"file")
    fuse.send(k.FUSE_FORGET, found[b"file"], b8(2))
    assert fuse.silent()
    assert [n.name for n in union.forgotten] == [b"file"]


def test_names_far_behind_come_without_attributes(
    fuse: FakeKernel, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dirs, "PLUS", 4)
    for name in "abcd":
        (tree / "dir" / name).touch()
    body = fuse.good(k.FUSE_READDIRPLUS, fuse.lookup(ROOT, b"dir"), b8(0), b8(0), b4(4096), b4(0), b8(0), b8(0))
    assert [node != 0 for _name, node, *_ in records(body, True)[2:]] == [True, True, False, False, False]


def test_an_entry_that_cannot_be_looked_up_is_listed(
    fuse: FakeKernel, union: FakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = union.lookup

    def lookup(directory: FakeNode, name: bytes) -> tuple[FakeNode, os.stat_result] | None:
        if name == b"file":
            raise OSError(EIO, "a bad sector")
        return None if name == b"dir" else plain(directory, name)

    (Path(os.fsdecode(union.root.name)) / "other").touch()
    monkeypatch.setattr(union, "lookup", lookup)
    body = fuse.good(k.FUSE_READDIRPLUS, ROOT, b8(0), b8(0), b4(4096), b4(0), b8(0), b8(0))
    assert [(name, node != 0) for name, node, *_ in records(body, True)[2:]] == [
        (b"dir", False), (b"file", False), (b"other", True),
    ]  # fmt: skip


def test_an_open_that_fails_late_leaves_nothing_open(
    fuse: FakeKernel, union: FakeUnion, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = fuse.lookup(ROOT, b"file")

    def fail(*_arguments: object) -> None:
        raise OSError(EIO, "no backing file")

    monkeypatch.setattr(fuse.session.state, "modes", SimpleNamespace(opened=fail))
    assert fuse.call(k.FUSE_OPEN, node, b4(0), b4(0)) == (EIO, b"")
    assert not next(n for n in union.nodes.values() if n.name == b"file").files


def test_directories_are_opened_without_a_message(fuse: FakeKernel) -> None:
    assert fuse.call(k.FUSE_OPENDIR, ROOT, b4(0), b4(0)) == (ENOSYS, b"")


# --- read-only mounts, options --------------------------------------------------------------------------------


def test_a_read_only_mount_opens_files_without_a_message(tree: Path) -> None:
    union = FakeUnion(os.fsencode(tree), readonly=True)
    with FakeKernel(union) as fuse:
        node = fuse.lookup(ROOT, b"file")
        assert fuse.call(k.FUSE_OPEN, node, b4(0), b4(0)) == (ENOSYS, b"")
        assert fuse.read(node, 0, 0, 100) == b"content"
        assert fuse.read(node, 0, 3, 100) == b"tent"
        assert u64(fuse.good(k.FUSE_LSEEK, node, b8(0), b8(0), b4(os.SEEK_HOLE), b4(0)), 0) == 7
        write = b8(0) + b8(0) + b4(1) + b4(0) + b8(0) + b4(1) + b4(0) + b"x"
        assert fuse.call(k.FUSE_WRITE, node, write) == (EROFS, b"")
        assert fuse.call(k.FUSE_UNLINK, ROOT, b"file\0") == (EROFS, b"")
        assert len(fuse.session.state.readers) == 1
        fuse.send(k.FUSE_FORGET, node, b8(1))
        assert fuse.silent()
        assert fuse.session.state.readers == {}


def test_files_read_without_a_handle_are_closed_again(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unionfs.server.state.MAX_READERS", 3)
    for i in range(10):
        (tree / f"f{i}").write_bytes(b"%d" % i)
    with FakeKernel(FakeUnion(os.fsencode(tree), readonly=True)) as fuse:
        nodes = [fuse.lookup(ROOT, b"f%d" % i) for i in range(10)]
        for _ in range(2):
            assert [fuse.read(node, 0, 0, 9) for node in nodes] == [b"%d" % i for i in range(10)]
        assert len(fuse.session.state.readers) == 3


def test_lifetimes_as_asked_for(union: FakeUnion) -> None:
    options = Options()
    options.timeout = 1.5
    with FakeKernel(union, options) as fuse:
        body = fuse.good(k.FUSE_LOOKUP, ROOT, b"file\0")
        assert (u64(body, 16), u64(body, 24), u32(body, 32), u32(body, 36)) == (1, 1, 500_000_000, 500_000_000)
        body = fuse.good(k.FUSE_GETATTR, ROOT, b4(0), b4(0), b8(0))
        assert (u64(body, 0), u32(body, 8)) == (1, 500_000_000)


def test_allow_root(union: FakeUnion) -> None:
    options = Options()
    options.allow_root = True
    with FakeKernel(union, options) as fuse:
        assert fuse.call(k.FUSE_LOOKUP, ROOT, b"file\0", uid=os.geteuid())[0] == 0
        assert fuse.call(k.FUSE_LOOKUP, ROOT, b"file\0", uid=4711)[0] != 0


def test_xattrs_switched_off_are_never_asked_for_again(union: FakeUnion) -> None:
    union.config.xattr = False
    with FakeKernel(union) as fuse:
        node = fuse.lookup(ROOT, b"file")
        assert fuse.call(k.FUSE_GETXATTR, node, b4(64), b4(0), b"security.capability\0") == (ENOSYS, b"")
        assert fuse.call(k.FUSE_LISTXATTR, node, b4(64), b4(0)) == (ENOSYS, b"")


@pytest.mark.parametrize("acl", [True, False])
def test_acls_are_the_kernels_only_where_wanted(union: FakeUnion, acl: bool) -> None:
    union.config.acl = acl
    with FakeKernel(union) as fuse:
        assert bool(u32(fuse.init, 12) & k.FUSE_POSIX_ACL) == acl


def test_an_old_kernel_sends_the_shorter_setxattr(union: FakeUnion, tree: Path) -> None:
    with FakeKernel(union, minor=31) as fuse:
        node = fuse.lookup(ROOT, b"file")
        fuse.good(k.FUSE_SETXATTR, node, b4(1), b4(0), b"user.a\0", b"x")
        assert os.getxattr(tree / "file", "user.a") == b"x"
