"""`unionfs run`, which is `unionfs image run`."""

from __future__ import annotations


def run(argv: list[bytes]) -> int:
    from unionfs.cli import image

    return image.run([b"run", *argv])
