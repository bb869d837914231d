"""Whatever comes as a request: the loop goes on, each request gets exactly one answer with an errno, nothing outside
the upper is touched and nothing piles up. The core behind it is the real one; only the kernel is a fake.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lib import tree
from tests.lib.layers import Dir, Special, Symlink, build
from tests.server.kernel import FakeKernel
from tests.wire.messages import b2, b4, b8
from unionfs.union import Config, Union
from unionfs.wire import kernel as k
from unionfs.wire import table

NAMES = [
    b"f", b"d", b"s", b"p", b"new", b"new2", b"..", b".", b"", b"a/b", b"../../escaped", b"/tmp/unionfs-escaped",
    b"x" * 255, b"x" * 256, b"x" * 5000, b"\xff\n", b".wh.f", b"user.a", b"trusted.overlay.opaque",
    b"system.posix_acl_access", b"security.capability",
]  # fmt: skip
NUMBERS = [0, 1, 2, 3, 4, 5, 40, 4096, 1 << 31, (1 << 32) - 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
UNANSWERED = {k.FUSE_FORGET, k.FUSE_BATCH_FORGET, k.FUSE_INTERRUPT}
OPCODES = [row[0] for row in table.ROWS if row[5] and row[0] not in UNANSWERED | {k.FUSE_DESTROY}]
ROWS = {row[0]: row for row in table.ROWS}
Body = Callable[[random.Random, int], bytes]


def plausible(rnd: random.Random, opcode: int) -> bytes:
    """The right lengths and places, with any values."""
    row = ROWS.get(opcode)
    if row is None:
        return rnd.randbytes(rnd.randrange(80))
    size = row[2].size if row[2] is not None else 0
    words = [b4(rnd.choice(NUMBERS) if rnd.random() < 0.8 else rnd.getrandbits(32)) for _ in range(size // 4)]
    return b"".join(words + [rnd.choice(NAMES) + b"\0" for _ in range(row[3])])


def mutated(rnd: random.Random, opcode: int) -> bytes:
    """Cut short, with something behind, with a wrong byte, or nothing that was ever right."""
    body = bytearray(plausible(rnd, opcode))
    what = rnd.randrange(4)
    if what == 0:
        del body[rnd.randrange(len(body) + 1) :]
    elif what == 1:
        body += rnd.randbytes(rnd.randrange(200))
    elif what == 2 and body:
        body[rnd.randrange(len(body))] = rnd.randrange(256)
    else:
        body = bytearray(rnd.randbytes(rnd.randrange(200)))
    return bytes(body)


@pytest.fixture
def union(tmp_path: Path) -> Union:
    layer = {"f": "y", "d/f": "x" * 5000, "s": Symlink("f"), "p": Special(0o010000), "e": Dir(mode=0o555)}
    build(str(tmp_path / "l"), layer)
    for name in ("u", "w"):
        (tmp_path / name).mkdir()
    lower, upper, work = (os.fsencode(tmp_path / name) for name in ("l", "u", "w"))
    return Union(Config(lower=[lower], upper=upper, work=work))


def ask(fake: FakeKernel, opcode: int, nodeid: int, body: bytes) -> int:
    """The errno of the one answer."""
    fake._unique += 2
    header = b4(40 + len(body)) + b4(opcode) + b8(fake._unique) + b8(nodeid) + b4(0) + b4(0) + b4(1) + b2(0) + b2(0)
    fake.send_raw(header + body)
    unique, error, _ = fake.receive()
    assert unique == fake._unique
    return error


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("body", [plausible, mutated])
def test_any_request_has_one_answer(union: Union, tmp_path: Path, body: Body, seed: int) -> None:
    rnd = random.Random(seed)
    before = tree.snapshot(str(tmp_path / "l"), exact=True)
    with FakeKernel(union) as fake:  # type: ignore[arg-type]
        for _ in range(2500):
            opcode = rnd.choice(OPCODES) if rnd.random() < 0.97 else rnd.choice([0, 7, 19, 60, 4095, 0xFFFFFFFF])
            nodeid = rnd.choice([0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 50, 1 << 31, 1 << 63, (1 << 64) - 1])
            assert 0 <= ask(fake, opcode, nodeid, body(rnd, opcode)) < 512
        fake.good(k.FUSE_STATFS, 1)
        open_files = list(fake.session.state.files)
        for handle in open_files:
            fake.release(1, handle)
    union.close()
    assert sorted(os.listdir(tmp_path)) == ["l", "u", "w"], "a name led out of the upper"
    assert not os.path.lexists("/tmp/unionfs-escaped")
    assert tree.diff(before, tree.snapshot(str(tmp_path / "l"), exact=True)) == []


def test_unanswered_requests_stay_so(union: Union) -> None:
    rnd = random.Random(1)
    with FakeKernel(union) as fake:  # type: ignore[arg-type]
        for opcode in UNANSWERED:
            for _ in range(100):
                fake.send(opcode, rnd.choice([0, 1, 2, 1 << 63]), mutated(rnd, opcode))
        assert fake.silent()
    union.close()


def test_nothing_piles_up(union: Union) -> None:
    """Requests that fail leave no node, no open file, no descriptor and no thread."""
    with FakeKernel(union) as fake:  # type: ignore[arg-type]
        fake.lookup(1, b"d")
        state = fake.session.state

        def fail() -> None:
            for name in (b"nowhere", b"..", b"a/b", b"x" * 300):
                assert fake.call(k.FUSE_UNLINK, 1, name + b"\0")[0]
                assert fake.call(k.FUSE_CREATE, 2, b4(0x80000000), b4(0xFFFFFFFF), b8(0), name + b"\0")[0]
            assert fake.call(k.FUSE_READ, 2, b8(99), b8(1 << 63), b4(1 << 31), b4(0), b8(0), b8(0))[0]
            assert fake.call(k.FUSE_GETATTR, 1 << 40, b4(0), b4(0), b8(0))[0]

        def held() -> tuple[int, ...]:
            return len(state.nodes), len(state.files), len(os.listdir("/proc/self/fd")), threading.active_count()

        fail()  # the directory is copied up, and its descriptors stay
        before = held()
        for _ in range(300):
            fail()
        assert held() == before
    union.close()


@pytest.mark.parametrize("name", [b"..", b".", b"a/b", b"../u", b"/etc"])
def test_a_name_is_one_component(union: Union, tmp_path: Path, name: bytes) -> None:
    with FakeKernel(union) as fake:  # type: ignore[arg-type]
        calls = [
            (k.FUSE_LOOKUP, b""), (k.FUSE_UNLINK, b""), (k.FUSE_RMDIR, b""), (k.FUSE_MKDIR, b4(0o755) + b4(0)),
            (k.FUSE_MKNOD, b4(0o100644) + b4(0) + b8(0)), (k.FUSE_CREATE, b4(os.O_RDWR) + b4(0o644) + b8(0)),
            (k.FUSE_LINK, b8(2)),
        ]  # fmt: skip
        assert fake.lookup(1, b"f") == 2
        for opcode, head in calls:
            assert fake.call(opcode, 1, head, name + b"\0")[0] == 22, table.opname(opcode)
        assert fake.call(k.FUSE_SYMLINK, 1, name + b"\0", b"target\0")[0] == 22
        assert fake.call(k.FUSE_RENAME2, 1, b8(1) + b8(0), b"f\0" + name + b"\0")[0] == 22
        assert fake.call(k.FUSE_RENAME2, 1, b8(1) + b8(0), name + b"\0" + b"g\0")[0] == 22
    union.close()
    assert sorted(os.listdir(tmp_path)) == ["l", "u", "w"]


def test_an_unexpected_exception_is_eio_with_a_traceback(union: Union, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Union, "readlink", broken)
    with FakeKernel(union) as fake:  # type: ignore[arg-type]
        assert fake.call(k.FUSE_READLINK, 1)[0] == 5
        assert "ZeroDivisionError" in fake.log[-1]
        assert "READLINK of node 1" in fake.log[-1]
        assert fake.lookup(1, b"f")
    union.close()


def test_a_node_that_was_never_known_is_stale(union: Union) -> None:
    with FakeKernel(union) as fake:  # type: ignore[arg-type]
        for nodeid in (77, 1 << 40, (1 << 64) - 1):
            assert fake.call(k.FUSE_GETATTR, nodeid, b4(0), b4(0), b8(0))[0] == 116
            assert fake.call(k.FUSE_LOOKUP, nodeid, b"f\0")[0] == 116
        assert fake.log == []
    union.close()
