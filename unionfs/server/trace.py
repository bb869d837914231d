"""A line for each request and its reply, for `--debug`.

Tracing replaces the handlers by objects that call them: switched off it does not exist.
"""

from __future__ import annotations

import os
from errno import errorcode

from unionfs.server.desk import DEFER
from unionfs.wire.table import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.server.desk import Desk, Reply
    from unionfs.server.handlers import Handler

_LONGEST = 60  # bytes of a value shown


def traced(handlers: list[Handler], log: Callable[[str], None]) -> list[Handler]:
    """The same handlers, each telling `log` what it was asked and what it said."""
    return [Traced(NAMES[opcode], handler, log) for opcode, handler in enumerate(handlers)]


class Traced:
    __slots__ = ("_handler", "_log", "_name")

    def __init__(self, name: str, handler: Handler, log: Callable[[str], None]) -> None:
        self._name = name
        self._handler = handler
        self._log = log

    def __call__(self, desk: Desk, nodeid: int, *values: object) -> Reply:
        call = f"{self._name} {nodeid} {' '.join(map(_shown, values))}".rstrip()
        try:
            reply = self._handler(desk, nodeid, *values)
        except OSError as error:
            self._log(f"{call} -> {errorcode.get(error.errno or 0, str(error.errno))}")
            raise
        except Exception as error:
            self._log(f"{call} -> {type(error).__name__}")
            raise
        self._log(f"{call} -> {_summary(reply)}")
        return reply


def _shown(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return os.fsdecode(bytes(value)).__repr__() if len(value) <= _LONGEST else f"<{len(value)} bytes>"
    if isinstance(value, tuple):
        return "/".join(map(str, value))
    if isinstance(value, list):
        return f"<{len(value)} items>"
    return str(value)


def _summary(reply: Reply) -> str:
    if reply is None:
        return "no reply"
    if reply is DEFER:
        return "to a worker"
    error = int.from_bytes(reply[4:8], "little", signed=True)
    if error:
        return errorcode.get(-error, str(error))
    return f"ok, {len(reply) - 16} bytes" if len(reply) > 16 else "ok"
