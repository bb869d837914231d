"""The loop lives: errors become errnos, malformed requests are answered, slow work keeps nobody waiting."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from errno import EINTR, EINVAL, EIO, ENOSYS, ESTALE, EXDEV
from pathlib import Path

import pytest

from tests.lib.engines import wait_until
from tests.server.fake import FakeNode, FakeUnion
from tests.server.kernel import FakeKernel, setattr_in
from tests.wire.messages import MALFORMED, b4, b8
from unionfs.server import workers
from unionfs.server.session import Options
from unionfs.wire import kernel as k
from unionfs.wire import table

ROOT = k.FUSE_ROOT_ID


@pytest.fixture
def union(base: Path) -> FakeUnion:
    (base / "file").write_bytes(b"content")
    (base / "slow").write_bytes(b"content")
    return FakeUnion(os.fsencode(base))


@pytest.fixture
def fuse(union: FakeUnion) -> Iterator[FakeKernel]:
    with FakeKernel(union) as fuse:
        yield fuse


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (OSError(EXDEV, "other device"), EXDEV),
        (PermissionError(13, "no"), 13),
        (OSError("without a number"), EIO),
        (OSError(9999, "a number that the kernel does not take"), EIO),
        (RuntimeError("a bug"), EIO),
        (KeyError("a bug"), EIO),
        (MemoryError(), EIO),
    ],
)
def test_what_the_core_raises_becomes_an_errno(
    fuse: FakeKernel, union: FakeUnion, monkeypatch: pytest.MonkeyPatch, error: Exception, answer: int
) -> None:
    def fail(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(union, "lookup", fail)
    assert fuse.call(k.FUSE_LOOKUP, ROOT, b"file\0") == (answer, b"")
    monkeypatch.undo()
    assert fuse.lookup(ROOT, b"file"), "the loop goes on, the lock is free"
    expected = not isinstance(error, OSError)
    assert any("LOOKUP of node 1" in line and "Traceback" in line for line in fuse.log) == expected


def test_a_request_for_an_unknown_node_is_an_error_of_its_own(fuse: FakeKernel) -> None:
    assert fuse.call(k.FUSE_GETATTR, 4711, b4(0), b4(0), b8(0)) == (ESTALE, b"")
    assert fuse.call(k.FUSE_READ, ROOT, b8(4711), b8(0), b4(1), b4(0), b8(0), b8(0)) == (EIO, b"")
    assert fuse.lookup(ROOT, b"file")


@pytest.mark.parametrize("raw", MALFORMED, ids=[table.NAMES[r[4]] for r in MALFORMED])
def test_malformed_requests_are_answered(fuse: FakeKernel, raw: bytes) -> None:
    fuse.send_raw(raw)
    if raw[4] != k.FUSE_BATCH_FORGET:
        assert fuse.receive()[1:] == (EINVAL, b"")
    assert fuse.silent()
    assert len(fuse.log) == 1


def test_truncated_requests_are_answered(fuse: FakeKernel) -> None:
    for opcode, minimum in enumerate(table.MINIMUM):
        if minimum > 40 and opcode not in (k.FUSE_FORGET, k.FUSE_BATCH_FORGET, k.FUSE_INTERRUPT):
            assert fuse.call(opcode, ROOT, bytes(minimum - 41)) == (EINVAL, b"")
    assert fuse.lookup(ROOT, b"file")


@pytest.mark.parametrize("opcode", [0, 7, table.LENGTH, 4096, 0xFFFFFFFF])
def test_unknown_requests_are_not_implemented(fuse: FakeKernel, opcode: int) -> None:
    assert fuse.call(opcode, ROOT, b"whatever") == (ENOSYS, b"")
    assert fuse.log == []


@pytest.mark.parametrize("opcode", [k.FUSE_FLUSH, k.FUSE_ACCESS, k.FUSE_BMAP, k.FUSE_POLL, k.FUSE_GETLK])
def test_what_the_kernel_does_better_is_not_implemented(fuse: FakeKernel, opcode: int) -> None:
    assert fuse.call(opcode, ROOT, bytes(100)) == (ENOSYS, b"")


def test_a_failing_forget_is_not_answered(fuse: FakeKernel, union: FakeUnion, monkeypatch: pytest.MonkeyPatch) -> None:
    node = fuse.lookup(ROOT, b"file")

    def fail(_node: FakeNode) -> None:
        raise OSError(EIO, "a bug")

    monkeypatch.setattr(union, "forget", fail)
    fuse.send(k.FUSE_FORGET, node, b8(1))
    assert fuse.silent()


def test_resent_requests_are_answered_under_their_marked_number(fuse: FakeKernel) -> None:
    unique = 7 | k.FUSE_UNIQUE_RESEND
    fuse.send_raw(b4(40) + b4(k.FUSE_STATFS) + b8(unique) + b8(ROOT) + bytes(16))
    assert fuse.receive()[0] == unique


class Gate:
    """Stands in for a slow method of the core: waits, with the lock released, until it is opened."""

    def __init__(self, union: FakeUnion) -> None:
        self._union = union
        self._open = threading.Event()
        self.waiting = 0

    def __call__(self, *_arguments: object) -> None:
        self.waiting += 1
        self._union.lock.release()
        try:
            assert self._open.wait(10)
        finally:
            self._union.lock.acquire()

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def gate(union: FakeUnion, monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(union)
    union.slow_names.add(b"slow")
    for name in ("chmod", "fsync"):
        monkeypatch.setattr(union, name, gate)
    return gate


def test_slow_work_keeps_nobody_waiting(fuse: FakeKernel, gate: Gate) -> None:
    node, other = fuse.lookup(ROOT, b"slow"), fuse.lookup(ROOT, b"file")
    sent = fuse.send(k.FUSE_SETATTR, node, setattr_in(k.FATTR_MODE, mode=0o600))
    for _ in range(50):
        fuse.good(k.FUSE_GETATTR, other, b4(0), b4(0), b8(0))
    gate.open()
    assert fuse.receive()[:2] == (sent, 0)


def test_many_slow_requests_run_side_by_side_and_leave_no_thread(
    fuse: FakeKernel, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "LINGER", 0.05)
    before = threading.active_count()
    node = fuse.lookup(ROOT, b"slow")
    sent = {fuse.send(k.FUSE_SETATTR, node, setattr_in(k.FATTR_MODE, mode=0o600)) for _ in range(40)}
    wait_until(lambda: gate.waiting == workers.MAX_THREADS, "as many workers as there may be")
    gate.open()
    assert {fuse.receive()[0] for _ in range(40)} == sent
    wait_until(lambda: threading.active_count() == before, "the workers to end")
    again = fuse.send(k.FUSE_SETATTR, node, setattr_in(k.FATTR_MODE, mode=0o600))
    assert fuse.receive()[:2] == (again, 0)


def test_an_interrupted_request_is_answered_unless_it_was_begun(fuse: FakeKernel, gate: Gate) -> None:
    node = fuse.lookup(ROOT, b"slow")
    change = setattr_in(k.FATTR_MODE, mode=0o600)
    begun = [fuse.send(k.FUSE_SETATTR, node, change) for _ in range(workers.MAX_THREADS)]
    wait_until(lambda: gate.waiting == len(begun), "all workers to be busy")
    waiting = fuse.send(k.FUSE_SETATTR, node, change)
    fuse.send(k.FUSE_INTERRUPT, 0, b8(begun[0]))
    fuse.send(k.FUSE_INTERRUPT, 0, b8(waiting))
    assert fuse.receive() == (waiting, EINTR, b"")
    gate.open()
    assert sorted(fuse.receive()[0] for _ in begun) == begun
    assert fuse.silent()


def test_the_payload_of_a_deferred_write_is_kept(fuse: FakeKernel, base: Path) -> None:
    """The buffer it came in is used for the next request before a worker sees it."""
    fuse.session.state.throttled_until = float("inf")
    node = fuse.lookup(ROOT, b"file")
    handle = fuse.open(node, os.O_RDWR)[0]
    sent = []
    for i in range(20):
        head = b8(handle) + b8(i * 1000) + b4(1000) + b4(0) + b8(0) + b4(1) + b4(0)
        sent.append(fuse.send(k.FUSE_WRITE, node, head, bytes([i]) * 1000))
    assert sorted(fuse.receive()[0] for _ in sent) == sent
    assert (base / "file").read_bytes() == b"".join(bytes([i]) * 1000 for i in range(20))


def test_the_end_waits_for_what_was_begun(union: FakeUnion, gate: Gate, base: Path) -> None:
    with FakeKernel(union) as fuse:
        node = fuse.lookup(ROOT, b"slow")
        fuse.send(k.FUSE_SETATTR, node, setattr_in(k.FATTR_MODE, mode=0o600))
        wait_until(lambda: gate.waiting == 1, "the worker to begin")
        threading.Timer(0.05, gate.open).start()
    assert not [t for t in threading.enumerate() if t.name == workers.NAME]


def test_copies_that_wait_are_settled_soon(fuse: FakeKernel, union: FakeUnion) -> None:
    assert union.defer_sync
    node = fuse.lookup(ROOT, b"file")
    union.unsettled[union.root] = 1
    fuse.good(k.FUSE_SETATTR, node, setattr_in(k.FATTR_MODE, mode=0o600))
    wait_until(lambda: "settle" in union.calls, "the settler")
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "unionfs-settler"], "its end")


def test_the_trace_shows_requests_and_replies(union: FakeUnion) -> None:
    options = Options()
    options.debug = True
    with FakeKernel(union, options) as fuse:
        node = fuse.lookup(ROOT, b"file")
        fuse.call(k.FUSE_UNLINK, ROOT, b"miss\xffing\0")
        fuse.send(k.FUSE_FORGET, node, b8(1))
        fuse.good(k.FUSE_FSYNCDIR, ROOT, b8(0), b4(0), b4(0))
    assert fuse.log[0].startswith("INIT -> FUSE 7.45, flags 0x")
    assert fuse.log[1:] == [
        "LOOKUP 1 'file' -> ok, 128 bytes",
        "UNLINK 1 'miss\\udcffing' -> ENOENT",
        f"FORGET {node} 1 -> no reply",
        "FSYNCDIR 1 0 0 -> to a worker",
        "FSYNCDIR 1 0 0 -> ok",
    ]


def test_counters(fuse: FakeKernel) -> None:
    for _ in range(3):
        fuse.lookup(ROOT, b"file")
    fuse.session.report()
    assert "LOOKUP=3 nodes=2 files=0" in fuse.log[-1]
