"""Requests about the conversation itself. Handlers: see `server.desk`."""

from __future__ import annotations

from errno import EINTR, ENOSYS

from unionfs.server.desk import NO_REPLY
from unionfs.wire import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.server.desk import Desk, Reply


def interrupt(desk: Desk, _nodeid: int, unique: int) -> Reply:
    """A request that no worker has begun is answered by EINTR; what has begun runs to its end."""
    if desk.workers.withdraw(unique):
        reply = encode.status_reply(EINTR)
        encode.put_unique(reply, encode.UNIQUE_AT, unique)
        desk.workers.send(reply)
    return NO_REPLY


def destroy(desk: Desk, _nodeid: int) -> Reply:
    return desk.ok


def unsupported(desk: Desk, _nodeid: int, *_values: object) -> Reply:
    """What the table has no handler for. The kernel remembers, and does it itself or without."""
    return desk.failure(ENOSYS)
