"""One mount being served: its beginning, its loop, its end."""

from __future__ import annotations

import gc
import os
from errno import EBUSY
from threading import Thread

from unionfs.device.backing import Backings
from unionfs.device.channel import buffer_size, receive, send
from unionfs.device.errors import MountError
from unionfs.device.mounting import unmount
from unionfs.device.readahead import widen_readahead
from unionfs.server.handlers.control import unsupported
from unionfs.server.loop import Loop
from unionfs.server.modes import Modes
from unionfs.server.pacing import Plain, pace
from unionfs.server.settler import Settler
from unionfs.server.signals import Signals
from unionfs.server.state import State
from unionfs.wire import decode, encode, kernel, negotiate, table
from unionfs.wire.decode import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.server.pacing import Pace
    from unionfs.union import Union
    from unionfs.wire.negotiate import Agreement


class Options:
    """How a session serves; see `server.mount`."""

    __slots__ = ("allow_root", "debug", "log", "max_write", "pacing", "passthrough", "timeout")

    def __init__(self) -> None:
        self.allow_root = False
        self.debug = False
        self.log: Callable[[str], None] = _silent
        self.max_write: int | None = None
        self.pacing = True
        self.passthrough = True
        self.timeout: float | None = None


# Answered by ENOSYS where xattrs are switched off: the kernel then does not even ask for security.capability
# at each exec and write.
_XATTRS = (kernel.FUSE_GETXATTR, kernel.FUSE_LISTXATTR, kernel.FUSE_SETXATTR, kernel.FUSE_REMOVEXATTR)


def _silent(_line: str) -> None:
    pass


class StopNowError(BaseException):
    """The session is to end without waiting for anything."""


class Session:
    """`run` it in the main thread of the process. `stop` may be called from any thread and signal handler.

    pace          makes what waits for requests; replaceable before `run`
    passthrough   why the kernel does not read and write upper files by itself; "" where it does. After INIT.
    """

    def __init__(self, union: Union, mountpoint: bytes, fd: int, options: Options) -> None:
        """`fd` is the descriptor of /dev/fuse with the mount, the session's from now on."""
        self._union = union
        self._mountpoint = mountpoint
        self._fd = fd
        self._options = options
        self._log = options.log
        self._stops = 0
        self._backings = Backings(fd)
        self._buffer = bytearray(buffer_size(negotiate.MAX_WRITE))
        self.passthrough = ""
        self.pace: Callable[[int, bytearray], Pace] = pace if options.pacing else Plain
        self.state = State(union, Modes(union, None, self._lost_passthrough), Settler(union, self._log))
        self.loop = Loop(fd, self.state, _lifetime(options.timeout), self._log)
        self._wrap_handlers()

    def _wrap_handlers(self) -> None:
        loop, options = self.loop, self._options
        if options.allow_root:
            from unionfs.server.guard import guarded

            loop.handlers = guarded(loop.handlers, os.geteuid())
        if options.debug:
            from unionfs.server.trace import traced

            loop.handlers = traced(loop.handlers, self._log)

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serves until the mount is gone; then all that was begun is finished and the device closed.

        `ready` is called once, when the mount answers; if it raises OSError the mount is given up. SIGTERM,
        SIGINT and SIGHUP unmount (see `stop`), SIGUSR1 logs the counters.
        Raises MountError when kernel and unionfs do not understand each other; the mount is then gone too.
        """
        try:
            with Signals(self.stop, self.report):
                self._shake_hands()
                widen_readahead(self._mountpoint)
                _no_more_collections()
                if ready is not None:
                    self._announce(ready)
                self._serve()
        except StopNowError:
            pass
        finally:
            self._close()

    def _serve(self) -> None:
        pace = self.pace(self._fd, self._buffer)
        try:
            self.loop.run(pace.receive, self._buffer)
        finally:
            pace.close()

    # --- the beginning ---------------------------------------------------------------------------------------

    def _shake_hands(self) -> None:
        """Receives INIT and answers it. Before it the kernel sends nothing else."""
        while self.state.agreement is None:
            try:
                length = receive(self._fd, [self._buffer])
                opcode, unique, _nodeid, values = table.request(self._buffer, length)
                if opcode != kernel.FUSE_INIT:
                    raise WireError(f"it sends {table.opname(opcode)} before INIT")
                reply = self._agree(*values)  # type: ignore[arg-type]
                encode.put_unique(reply, encode.UNIQUE_AT, unique)
                send(self._fd, reply)
            except (OSError, WireError) as error:
                self._unmount()
                raise MountError(f"no agreement with the kernel: {error}") from None

    def _agree(self, major: int, minor: int, max_readahead: int, offered: int) -> bytearray:
        wanted = negotiate.WANTED
        if not self._union.config.acl:
            wanted &= ~kernel.FUSE_POSIX_ACL
        if self._union.readonly:
            wanted |= kernel.FUSE_NO_OPEN_SUPPORT
        elif self._options.passthrough and self._backings.permitted:
            wanted |= kernel.FUSE_PASSTHROUGH
        max_write = self._options.max_write or negotiate.MAX_WRITE
        agreement = negotiate.negotiate(major, minor, max_readahead, offered, wanted, max_write)
        if agreement is not None:
            self._put_in_force(agreement)
        return negotiate.init_reply(agreement)

    def _put_in_force(self, agreement: Agreement) -> None:
        if self._options.debug:
            self._log(f"INIT -> FUSE 7.{agreement.minor}, flags {agreement.flags:#x}, max_write {agreement.max_write}")
        state = self.state
        state.agreement = agreement
        state.zero_open = agreement.has(kernel.FUSE_NO_OPEN_SUPPORT)
        if not agreement.has(kernel.FUSE_SETXATTR_EXT):
            self.loop.decoders[kernel.FUSE_SETXATTR] = decode.setxattr_compat
        if not self._union.config.xattr:
            for opcode in _XATTRS:
                self.loop.handlers[opcode] = unsupported
        if agreement.has(kernel.FUSE_PASSTHROUGH):
            state.modes = Modes(self._union, self._backings, self._lost_passthrough)
        else:
            self.passthrough = self._reason_against_passthrough()

    def _reason_against_passthrough(self) -> str:
        if self._union.readonly:
            return "a read-only mount needs none: the kernel keeps the pages"
        if not self._options.passthrough:
            return "it is switched off"
        if not self._backings.permitted:
            return "it needs CAP_SYS_ADMIN"
        return "this kernel has none (Linux 6.9 has)"

    def _lost_passthrough(self, error: OSError) -> None:
        self.passthrough = f"the file system of upper cannot: {error.strerror}"
        self._log(f"data goes through the daemon: {self.passthrough}")

    def _announce(self, ready: Callable[[], None]) -> None:
        try:
            ready()
        except OSError:
            self.stop()

    # --- the end ---------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Unmounts, and `run` returns when the mount is gone. Where it is in use it is detached, and served
        on until the last file is closed; a second call ends it at once (open files then get ENOTCONN).
        """
        self._stops += 1
        if self._stops > 1:
            raise StopNowError
        # The kernel may wait for answers while it unmounts, and this may be the thread that gives them.
        Thread(target=self._unmount, name="unionfs-unmount", daemon=True).start()

    def _unmount(self) -> None:
        try:
            unmount(self._mountpoint)
        except OSError as error:
            try:
                if error.errno != EBUSY:
                    raise
                unmount(self._mountpoint, lazy=True)
            except OSError as last:
                self._log(f"cannot unmount: {last.strerror}")

    def _close(self) -> None:
        self.loop.workers.join()
        self.state.settler.join()
        os.close(self._fd)
        gc.enable()

    def report(self) -> None:
        """Writes the counters to the log."""
        counts = {table.NAMES[i]: n for i, n in enumerate(self.loop.counts) if n}
        counts.update(nodes=len(self.state.nodes) - 1 - len(self.state.unused), files=len(self.state.files))
        counts.update(self._union.counters)
        self._log(" ".join(f"{name}={value}" for name, value in counts.items()))


def _lifetime(timeout: float | None) -> tuple[int, int]:
    """(s, ns) of a lifetime in seconds; None is for good."""
    if timeout is None:
        return encode.FOREVER, 0
    seconds = min(int(timeout), encode.FOREVER)
    return seconds, int((timeout - seconds) * 1e9) if seconds < encode.FOREVER else 0


def _no_more_collections() -> None:
    """What exists now is no garbage, and what comes is freed by counting references."""
    gc.collect()
    gc.freeze()
    gc.disable()
