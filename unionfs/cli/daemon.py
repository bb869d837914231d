"""Running the body of a mount: as a daemon that reports over a pipe when it is ready, or in the foreground.

A daemon is forked, never executed: the parent has already paid for the interpreter. It keeps nothing of its
parent's: a session of its own, /dev/null as its three standard descriptors, no other descriptor, umask 0, and
`/` as its directory as soon as the layers are open. (Podman waits for the end of file on the command's
stderr.)
"""

from __future__ import annotations

import os
import signal
import sys

from unionfs.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from unionfs.cli.log import Log

    Body = Callable[["Report"], None]

_READY, _NOTE, _ERROR = b"R", b"N", b"E"  # the first byte of a line on the pipe


class Report:
    """What the body tells whoever started it. Errors it raises."""

    def note(self, text: str) -> None:
        """One line for the user that is no failure."""
        print(f"unionfs: {text}", file=sys.stderr)

    def ready(self) -> None:
        """The mount answers. Raises OSError (EPIPE) when the starter has gone: then unmount and return."""


class _PipeReport(Report):
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def note(self, text: str) -> None:
        self._send(_NOTE, text)

    def ready(self) -> None:
        self._send(_READY, "")
        self.close()

    def error(self, text: str) -> None:
        if self._fd >= 0:
            self._send(_ERROR, text)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _send(self, kind: bytes, text: str) -> None:
        line = " ".join(text.split()).encode("utf-8", "backslashreplace")
        os.write(self._fd, kind + line + b"\n")


def spawn(body: Body, log: Log) -> None:
    """Run `body` in a daemon; return when it has reported ready. Its notes go to stderr.

    Raises CommandError with the daemon's message when it failed first, and then it has ended.
    """
    receiving, sending = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_daemon(body, _PipeReport(sending), {sending, log.fd}, log)
    os.close(sending)
    try:
        _await(pid, receiving)
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(receiving)


def foreground(body: Body) -> None:
    """Run `body` here, to its end."""
    raise_open_file_limit()
    os.umask(0)
    body(Report())


def raise_open_file_limit() -> None:
    """What applications hold open on the mount is open here too: take as many as the hard limit allows."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _become_daemon(body: Body, report: _PipeReport, keep: set[int], log: Log) -> NoReturn:
    code = 1
    try:
        _let_go(keep)
        raise_open_file_limit()
        body(report)
        code = 0
    except CommandError as error:
        report.error(str(error))
        log(f"ended: {error}")
    except BaseException as error:  # whatever it is, the parent must hear of it and the process must end here
        report.error(f"internal error: {type(error).__name__}: {error} (--debug shows the traceback)")
        _log_traceback(log)
    finally:
        os._exit(code)  # nothing of the parent's is flushed or run twice


def _let_go(keep: set[int]) -> None:
    os.setsid()
    os.umask(0)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    first = 3
    for fd in sorted(keep):
        if fd >= first:
            os.closerange(first, fd)
            first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _log_traceback(log: Log) -> None:
    from traceback import format_exc

    log(format_exc())


def _await(pid: int, receiving: int) -> None:
    """Reads to the end what the daemon says. Raises CommandError unless that includes ready."""
    said = bytearray()
    while part := os.read(receiving, 4096):
        said += part
    ready, failure = False, ""
    for line in bytes(said).splitlines():
        kind, text = line[:1], line[1:].decode("utf-8")
        if kind == _READY:
            ready = True
        elif kind == _ERROR:
            failure = text
        else:
            print(f"unionfs: {text}", file=sys.stderr)
    if not ready:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        raise CommandError(failure or f"the daemon ended before the mount answered ({_how(code)})")


def _how(code: int) -> str:
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
