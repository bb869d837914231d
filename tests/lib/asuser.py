"""Runs a function as somebody else in a forked child, and brings its result or its OSError back."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from typing import TypeVar

from tests.lib import kernel

T = TypeVar("T")

ALICE, BOB, STAFF = 4001, 4002, 4100


def as_user(
    function: Callable[[], T], uid: int = ALICE, gid: int | None = None, groups: Sequence[int] = (), umask: int = 0o022
) -> T:
    """Calls `function` in a child with these ids and no capabilities; an OSError there is raised here.

    Any other exception of the child is raised as an AssertionError that holds its traceback.
    """

    def change() -> T:
        os.setgroups(list(groups))
        os.setresgid(*[uid if gid is None else gid] * 3)
        os.setresuid(*[uid] * 3)
        os.umask(umask)
        return function()

    return in_child(change)


def in_child(function: Callable[[], T]) -> T:
    """Calls `function` in a forked child, which may change anything about itself.

    There capabilities go with the user id as usual, whatever a union in this process has set.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(function, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    if not answer:
        raise AssertionError("the child died without an answer")
    kind, value = pickle.loads(answer)
    if kind == "oserror":
        raise OSError(*value)
    if kind == "bug":
        raise AssertionError(value)
    result: T = value
    return result


def _child(function: Callable[[], T], writer: int) -> None:
    try:
        kernel.drop_on_setuid()
        answer: tuple[str, object] = ("value", function())
    except OSError as e:
        answer = ("oserror", (e.errno, e.strerror, e.filename))
    except BaseException:
        answer = ("bug", traceback.format_exc())
    try:
        with open(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
    finally:
        os._exit(0)
