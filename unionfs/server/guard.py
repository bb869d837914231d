"""allow_root: of the users other than the mounter only root may enter.

The kernel knows allow_other alone, so who else comes is turned away here. (What the kernel has in its cache it
shows to everyone; libfuse has the same limit.)
"""

from __future__ import annotations

from errno import EACCES

from unionfs.wire.decode import caller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.server.desk import Desk, Reply
    from unionfs.server.handlers import Handler


def guarded(handlers: list[Handler], owner: int) -> list[Handler]:
    """The same handlers, for root and the user `owner` alone."""
    return [Guarded(handler, owner) for handler in handlers]


class Guarded:
    __slots__ = ("_admitted", "_handler")

    def __init__(self, handler: Handler, owner: int) -> None:
        self._handler = handler
        self._admitted = (0, owner)

    def __call__(self, desk: Desk, nodeid: int, *values: object) -> Reply:
        # Workers get only what the loop, whose desk has the request, has let in.
        if desk.on_loop and caller(desk.request)[0] not in self._admitted:
            raise OSError(EACCES, "only root and the user who mounted may enter")
        return self._handler(desk, nodeid, *values)
