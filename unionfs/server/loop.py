"""The loop: a request in, its handler, the reply out. Errors become errnos here and nowhere else:
an OSError its errno, anything else EIO and a traceback in the log. Nothing that a request holds ends the loop.
"""

from __future__ import annotations

from errno import EINVAL, EIO, ENODEV, ENOENT, ENOSYS, ESTALE

from unionfs.device.channel import send
from unionfs.server.desk import NO_REPLY, Desk
from unionfs.server.handlers import HANDLERS
from unionfs.server.workers import Workers
from unionfs.wire import decode, encode, kernel, table
from unionfs.wire.decode import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.server.desk import Reply
    from unionfs.server.handlers import Handler
    from unionfs.server.state import State
    from unionfs.server.workers import Job

_UNANSWERED = (kernel.FUSE_FORGET, kernel.FUSE_BATCH_FORGET, kernel.FUSE_INTERRUPT)
_LARGEST_ERRNO = 511  # what the kernel takes in a reply


class Loop:
    """
    handlers, decoders   by opcode; may be replaced before `run`
    counts               requests answered by the loop, by opcode
    """

    __slots__ = ("_fd", "_log", "_state", "_valid", "counts", "decoders", "handlers", "workers")

    def __init__(self, fd: int, state: State, valid: tuple[int, int], log: Callable[[str], None]) -> None:
        """`valid` (s, ns): how long the kernel may keep names and attributes."""
        self._fd = fd
        self._state = state
        self._valid = valid
        self._log = log
        self.handlers: list[Handler] = list(HANDLERS)
        self.decoders = list(table.DECODERS)
        self.counts = [0] * table.LENGTH
        self.workers = Workers(self.make_desk, self.answer, self.send)

    def make_desk(self, request: bytearray | None = None) -> Desk:
        """A desk for one thread: the loop's has the buffer with the `request`."""
        return Desk(self._state, self.workers, self._valid, request, self._fd)

    def run(self, receive: Callable[[], int], buf: bytearray) -> None:
        """Answers requests, which `receive` puts into `buf`, until the mount is gone.

        Ends by what `receive` raises: OSError of ENODEV is caught here, ENOENT (a request interrupted while
        it was read) passed over.
        """
        desk = self.make_desk(buf)
        while True:
            try:
                self._run(receive, buf, desk)
            except OSError as error:
                if error.errno == ENODEV:
                    return
                if error.errno != ENOENT:
                    raise

    def _run(self, receive: Callable[[], int], buf: bytearray, desk: Desk) -> None:
        # Every request of every application passes here, so all is looked up once.
        fd, handlers, decoders, counts, minimum = self._fd, self.handlers, self.decoders, self.counts, table.MINIMUM
        acquire, release = desk.union.lock.acquire, desk.union.lock.release
        unpack, put_unique, write = decode.unpack_request, encode.put_unique, send
        values: tuple[object, ...]
        while True:
            length = receive()
            opcode, unique, nodeid = unpack(buf)
            values = ()
            try:
                if length < minimum[opcode]:
                    raise WireError(f"{length} bytes are too few")
                counts[opcode] += 1
                values = decoders[opcode](buf, length)
                acquire()
                try:
                    reply = handlers[opcode](desk, nodeid, *values)
                finally:
                    release()
            except Exception as error:
                reply = self._failure(error, opcode, nodeid, values)
            if reply:
                put_unique(reply, 8, unique)
                try:
                    write(fd, reply)
                except OSError as error:
                    self._unsent(error)
            elif reply is not NO_REPLY:
                self.workers.submit((opcode, unique, nodeid, _kept(values)))

    def answer(self, desk: Desk, job: Job) -> None:
        """Carries out a request that the loop passed on. For workers."""
        opcode, unique, nodeid, values = job
        try:
            with desk.union.lock:
                reply = self.handlers[opcode](desk, nodeid, *values)
        except Exception as error:
            reply = self._failure(error, opcode, nodeid, values)
        if reply:
            encode.put_unique(reply, encode.UNIQUE_AT, unique)
            self.send(reply)

    def send(self, reply: bytes | bytearray | memoryview) -> None:
        """Sends a finished reply; a failure is logged."""
        try:
            send(self._fd, reply)
        except OSError as error:
            self._unsent(error)

    def _failure(self, error: Exception, opcode: int, nodeid: int, values: tuple[object, ...]) -> Reply:
        if isinstance(error, OSError) and opcode not in _UNANSWERED:
            number = error.errno or EIO
            return encode.status_reply(number if number <= _LARGEST_ERRNO else EIO)
        if opcode >= table.LENGTH:
            return encode.status_reply(ENOSYS)
        if isinstance(error, IndexError) and nodeid >= len(self._state.nodes):
            return encode.status_reply(ESTALE)
        self._log_exception(opcode, nodeid, values)
        if opcode in _UNANSWERED:
            return NO_REPLY
        return encode.status_reply(EINVAL if isinstance(error, WireError) else EIO)

    def _log_exception(self, opcode: int, nodeid: int, values: tuple[object, ...]) -> None:
        from traceback import format_exc

        self._log(f"{table.opname(opcode)} of node {nodeid} {values!r:.300} failed\n{format_exc()}")

    def _unsent(self, error: OSError) -> None:
        # A mount that has gone, or a request given up meanwhile, is no news.
        if error.errno not in (ENOENT, ENODEV):
            self._log(f"the kernel refused a reply: {error}")


def _kept(values: tuple[object, ...]) -> tuple[object, ...]:
    """Values that outlive the buffer which the next request is read into."""
    return tuple([bytes(value) if isinstance(value, memoryview) else value for value in values])
