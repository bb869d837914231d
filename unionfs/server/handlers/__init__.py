"""The handlers of all requests, by opcode, as the table of the protocol names them."""

from __future__ import annotations

from unionfs.server.handlers import attrs, control, dirs, files, names
from unionfs.wire.table import LENGTH, ROWS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from unionfs.server.desk import Reply

    Handler = Callable[..., Reply]


def _find(name: str) -> Handler:
    for module in (names, attrs, files, dirs, control):
        if name in vars(module):
            handler: Handler = vars(module)[name]
            return handler
    raise LookupError(name)


HANDLERS: list[Handler] = [control.unsupported] * LENGTH
for _row in ROWS:
    if _row[5]:
        HANDLERS[_row[0]] = _find(_row[5])
