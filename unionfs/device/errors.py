"""What goes wrong with a mount, in words for a person."""

from __future__ import annotations


class MountError(Exception):
    """The mount could not be made, and is not. The message is one line: what failed, and what to do."""


def shown(path: bytes) -> str:
    """A path as a person may read it, also when it is not UTF-8."""
    return path.decode("utf-8", "backslashreplace")
