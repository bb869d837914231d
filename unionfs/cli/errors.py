"""What a command that cannot do its work raises; `main` prints the message and exits with the code."""

from __future__ import annotations


class CommandError(Exception):
    """The command failed. The message is one line for a person and names the thing and what to do."""

    exit_code = 1


class UsageError(CommandError):
    """The command was spelled wrongly: an unknown option, a missing argument, a value that cannot be read."""

    exit_code = 2


def shown(name: bytes) -> str:
    """A name or path as a person may read it, also when it is not UTF-8 or holds control characters."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
