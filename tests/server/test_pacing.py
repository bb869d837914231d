"""Spinning and following a lone client's processor: when each is done, and above all when not."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.lib.engines import wait_until
from tests.wire.messages import request
from unionfs.server import pacing
from unionfs.server.pacing import EVERY, SPIN, Pacer, Plain, pace, processor_of, running_threads
from unionfs.wire import kernel as k


class Stream:
    """A pacer that is fed requests, each from a pid, and asked where it is bound to afterwards.

    running   threads that want a processor; two are to be had
    interval  ns from one request to the next
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.places = {1: 0, 2: 1}
        self.bound: set[int] = set()
        self.bindings = 0
        self.running = 3
        self.interval = 20_000
        self.now = 10**9
        monkeypatch.setattr(pacing, "running_threads", lambda _fd: self.running)
        monkeypatch.setattr(pacing, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr(pacing, "processor_of", lambda pid: self.places.get(pid, -1))
        monkeypatch.setattr(pacing, "receive", lambda _fd, _buffers: 40)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1})
        monkeypatch.setattr(os, "sched_setaffinity", self._bind)
        self._buf = bytearray(64)
        self.pacer = Pacer(0, self._buf)

    def _bind(self, _pid: int, places: object) -> None:
        self.bound = set(places)  # type: ignore[call-overload]
        self.bindings += 1

    def requests(self, *pids: int, opcode: int = k.FUSE_LOOKUP, looks: int = 1) -> set[int]:
        """`looks` times as many requests as are needed for a look, from the pids in turn."""
        for _ in range(looks):
            for pid in pids:
                raw = bytearray(request(opcode))
                raw[32:36] = pid.to_bytes(4, "little")
                self._buf[: len(raw)] = raw
                for _ in range(EVERY):
                    self.now += self.interval
                    self.pacer.receive()
        return self.bound

    def spins(self) -> bool:
        return self.pacer.spinning


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stream]:
    stream = Stream(monkeypatch)
    yield stream
    stream.pacer.close()


def test_a_lone_client_is_followed(stream: Stream) -> None:
    assert stream.requests(1) == set(), "one look is not enough"
    assert stream.requests(1) == {0}
    stream.places[1] = 1
    assert stream.requests(1) == {1}
    before = stream.bindings
    stream.requests(1, looks=5)
    assert stream.bindings == before, "no call where nothing changes"


def test_parallel_clients_let_it_go(stream: Stream) -> None:
    stream.requests(1, looks=3)
    assert stream.requests(1, 2) == {0, 1}
    before = stream.bindings
    stream.requests(1, 2, looks=5)
    assert stream.bindings == before


@pytest.mark.parametrize("opcode", [k.FUSE_READ, k.FUSE_WRITE])
def test_data_lets_it_go(stream: Stream, opcode: int) -> None:
    stream.requests(1, looks=3)
    assert stream.requests(1, opcode=opcode) == {0, 1}


def test_requests_of_nobody_change_nothing(stream: Stream) -> None:
    stream.requests(1, looks=2)
    assert stream.requests(0, looks=5) == {0}
    assert stream.requests(1) == {0}


def test_a_client_that_cannot_be_seen_is_not_followed(stream: Stream) -> None:
    assert stream.requests(999, looks=5) == set()


def test_only_to_processors_that_are_ours(stream: Stream) -> None:
    stream.places[1] = 7
    assert stream.requests(1, looks=5) == set()


def test_idleness_lets_it_go(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "IDLE", 0.01)
    assert stream.requests(1, looks=2) == {0}
    wait_until(lambda: stream.bound == {0, 1}, "the alarm")
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0, "and there is no other"


def test_the_end_gives_back_thread_and_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGALRM)
    stream = Stream(monkeypatch)
    stream.requests(1, looks=2)
    assert stream.bound == {0}
    stream.pacer.close()
    assert stream.bound == {0, 1}
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_lost_processor_is_no_error(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int, _places: object) -> None:
        raise OSError(22, "not allowed")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    stream.requests(1, looks=3)
    assert stream.bound == set()


def test_the_processor_of_a_thread() -> None:
    mine = os.sched_getaffinity(0)
    for place in mine:
        os.sched_setaffinity(0, {place})
        assert processor_of(os.getpid()) == place
    os.sched_setaffinity(0, mine)
    assert processor_of(2**22 + 1) == -1


def test_it_spins_while_requests_come_densely_and_nobody_else_wants_to_run(stream: Stream) -> None:
    stream.running = 2
    stream.requests(1)
    assert not stream.spins(), "one look is not enough to know how densely they come"
    stream.requests(1)
    assert stream.spins()
    stream.interval = 3 * SPIN
    stream.requests(1)
    assert not stream.spins()


def test_spinning_binds_to_nothing(stream: Stream) -> None:
    stream.requests(1, looks=3)
    assert stream.bound == {0}
    stream.running = 1
    stream.requests(1, looks=pacing.CALM + 1)
    assert stream.spins()
    assert stream.bound == {0, 1}


def test_others_who_want_to_run_end_the_spinning_for_a_while(stream: Stream) -> None:
    stream.running = 2
    stream.requests(1, looks=2)
    stream.running = 3
    stream.requests(1)
    assert not stream.spins()
    stream.running = 2
    stream.requests(1, looks=pacing.CALM - 1)
    assert not stream.spins()
    stream.requests(1, looks=2)
    assert stream.spins()


@pytest.mark.parametrize("spinning", [False, True])
def test_waiting_returns_the_request_that_came_late(spinning: bool) -> None:
    mine, yours = socket.socketpair()
    with mine, yours:
        buf = bytearray(64)
        pacer = pace(mine.fileno(), buf)
        assert isinstance(pacer, Pacer)
        pacer.spinning = spinning
        late = threading.Timer(0.05, yours.send, [b"request"])
        late.start()
        assert pacer.receive() == 7
        assert bytes(buf[:7]) == b"request"
        late.join()
        pacer.close()


def test_running_threads() -> None:
    fd = os.open("/proc/loadavg", os.O_RDONLY)
    assert running_threads(fd) >= 1
    assert running_threads(fd) >= 1, "it can be asked again"
    os.close(fd)


def test_with_one_processor_there_is_nobody_to_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    assert isinstance(pace(-1, bytearray(64)), Plain)
