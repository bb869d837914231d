"""What can go wrong with an image, in words for the person who asked for it."""

from __future__ import annotations


class ImageError(Exception):
    """One clear line that names the thing and, where there is one, the way out. The command exits with
    `code`."""

    code = 1


class NotFound(ImageError):
    """No image, layer or blob of that name."""

    code = 2


class BadArchive(ImageError):
    """The bytes are not what they claim to be: damaged, cut short, or with a digest that differs."""

    code = 3


class HostileEntry(BadArchive):
    """A layer's entry that would reach outside its tree, or breaks the format's rules. Names the entry."""

    def __init__(self, name: bytes, why: str) -> None:
        super().__init__(f"entry {show(name)}: {why}")
        self.name = name


class LimitExceeded(BadArchive):
    """The archive is larger than the limits allow."""


def show(name: bytes) -> str:
    """A name from an archive, fit for a terminal: quoted, no control characters."""
    return (
        ascii(name.decode("utf-8", "replace"))
        if not name.isascii() or not name.decode().isprintable()
        else f"'{name.decode()}'"
    )
