"""Syncing many copied-up files together.

A copy must be on disk before a crash may show it. The kernel's overlay syncs each file, 1.6 ms here, so `chmod -R`
of 12,000 lower files takes 20 s. When only attributes change, the data is the lower's own; so the copy gets the
`metacopy` mark, which says that the data below counts, and takes its name at once. Soon after, one sync makes many
copies safe and their marks go. After a crash in between, the mark still leads to the same bytes in the lower layer.
An open for writing settles its file first; so do fsync and unmount. Only front ends that call `settle` from a thread
of theirs switch this on (`defer_sync`).
"""

from __future__ import annotations

import os
from errno import ENODATA

from unionfs.layer import verbs
from unionfs.union.lookup import release_lingering
from unionfs.union.node import NOWHERE, UNKNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.union.node import Node
    from unionfs.union.stack import Stack

MANY = 512       # copies that wait at the most; each holds a descriptor
_TOGETHER = 16   # from here on one syncfs is cheaper than as many fsyncs


def may_defer(stack: Stack) -> bool:
    """Whether a copy whose data is the lower's may wait for a common sync."""
    return stack.defer_sync and stack.abilities.xattr and len(stack.unsettled) < MANY


def defer(stack: Stack, node: Node, fd: int) -> None:
    """Remember a marked copy; the open descriptor `fd` on it is taken over."""
    stack.unsettled[node] = fd


def settle(stack: Stack) -> None:
    """Make all waiting copies safe and unmark them. The lock is held, and released during the sync."""
    while stack.settling:
        stack.copied.wait()
    batch, stack.unsettled = stack.unsettled, {}
    if batch:
        _make_safe(stack, batch)


def settle_one(stack: Stack, node: Node) -> None:
    """Before the node's own bytes change or are asked to be on disk. The lock is held, and released meanwhile."""
    while node in stack.settling:
        stack.copied.wait()
    fd = stack.unsettled.pop(node, NOWHERE)
    if fd >= 0:
        _make_safe(stack, {node: fd})


def _make_safe(stack: Stack, batch: dict[Node, int]) -> None:
    """Raises the sync's error; then the marks stay, and the bytes that count are the lower's, as they were."""
    stack.settling.update(batch)
    stack.lock.release()
    safe = False
    try:
        if len(batch) < _TOGETHER:
            for fd in batch.values():
                verbs.sync(fd)
        else:
            verbs.syncfs(next(iter(batch.values())))
        safe = True
    finally:
        stack.lock.acquire()
        for node, fd in batch.items():
            del stack.settling[node]
            if not (safe and _unmark(stack, fd)):
                node.data = UNKNOWN  # whoever changes them copies them again
            os.close(fd)
            release_lingering(stack, node)
        stack.copied.notify_all()


def _unmark(stack: Stack, fd: int) -> bool:
    """Whether the copy's bytes are its own now."""
    try:
        for mark in (stack.marks.metacopy, stack.marks.redirect):
            try:
                verbs.removexattr(fd, None, mark)
            except OSError as error:
                if error.errno != ENODATA:
                    raise
    except OSError:
        return False
    return True
