"""Expecting a certain errno and no other."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def fails(*wanted: int) -> Iterator[None]:
    """The block has to raise OSError with one of these errnos."""
    names = "/".join(errno.errorcode[code] for code in wanted)
    try:
        yield
    except OSError as e:
        assert e.errno in wanted, f"{errno.errorcode.get(e.errno or 0, e.errno)} instead of {names}: {e}"  # noqa: PT017
        return
    raise AssertionError(f"succeeded instead of {names}")


def outcome(function: Callable[[], object]) -> object:
    """The result, or the name of the errno: for comparing what two sides say."""
    try:
        return function()
    except OSError as e:
        return errno.errorcode.get(e.errno or 0, str(e.errno))
