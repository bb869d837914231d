"""The descriptor of /dev/fuse as a line for whole messages.

One `receive` takes exactly one request, one `send` gives exactly one reply or notification; both may be
called from several threads at once. They are the system calls themselves: a layer around them would cost
more than they do.
"""

from __future__ import annotations

import os
from errno import ENOENT

from unionfs.wire.kernel import FUSE_MIN_READ_BUFFER

# receive(fd, [buffer]) -> length. Raises OSError: ENODEV (unmounted: the end), ENOENT (the request was
# interrupted while it was read; go on), BlockingIOError (nothing there, where the descriptor does not block).
# Into a buffer that exists: os.read would make and shrink a bytes of 1 MiB for each request.
receive = os.readv

# send(fd, message). Raises OSError: ENOENT (nobody waits for that answer any more), ENODEV (unmounted).
send = os.write


def buffer_size(max_write: int) -> int:
    """Bytes that a receiving buffer must have when `max_write` was agreed on: the kernel insists."""
    return max(FUSE_MIN_READ_BUFFER, max_write + 4096)


def notify(fd: int, message: bytes) -> bool:
    """Sends a notification; False where the kernel does not know the node or name (which is as good)."""
    try:
        send(fd, message)
    except OSError as error:
        if error.errno == ENOENT:
            return False
        raise
    return True
