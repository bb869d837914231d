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
from unionfs.union.node import UPPER

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
    batch = stack.unsettled
    if not batch:
        return
    stack.unsettled = {}
    stack.settling = batch
    stack.lock.release()
    try:
        if len(batch) < _TOGETHER:
            for fd in batch.values():
                verbs.sync(fd)
        else:
            verbs.syncfs(next(iter(batch.values())))
    except OSError:
        for fd in batch.values():  # the marks stay: what the lower has is still right
            os.close(fd)
        raise
    finally:
        stack.lock.acquire()
        stack.settling = {}
        stack.copied.notify_all()
    for fd in batch.values():
        _unmark(stack, fd)


def settle_one(stack: Stack, node: Node) -> None:
    """Before the node's own bytes change or are asked to be on disk."""
    fd = stack.unsettled.pop(node, None)
    if fd is None:
        if node not in stack.settling:
            return
        fd = verbs.open_file(*_place(stack, node), os.O_RDONLY | os.O_NONBLOCK)
    stack.lock.release()
    try:
        verbs.sync(fd)
    finally:
        stack.lock.acquire()
    _unmark(stack, fd)


def _place(stack: Stack, node: Node) -> tuple[int, bytes]:
    return (node.fd, b"") if node.fd >= 0 else (stack.part_fd(node.parent, UPPER), node.name)


def _unmark(stack: Stack, fd: int) -> None:
    try:
        for mark in (stack.marks.metacopy, stack.marks.redirect):
            try:
                verbs.removexattr(fd, None, mark)
            except OSError as error:
                if error.errno != ENODATA:
                    raise
    finally:
        os.close(fd)
