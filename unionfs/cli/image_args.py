"""What the actions of `unionfs image` share: their arguments, the store they work on, how they print."""

from __future__ import annotations

import os
import sys

from unionfs.cli.args import parse
from unionfs.cli.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.store import Store
    from unionfs.image.unpack import Limits

_STORE = {b"--store": ("store", True)}


class Arguments:
    """Parsed arguments: positionals as text, the last value of each flag."""

    def __init__(
        self,
        argv: list[bytes],
        flags: dict[bytes, tuple[str, bool]],
        least: int,
        most: int | None,
        usage: str,
    ) -> None:
        found, words = parse(argv, {**_STORE, **flags})
        if len(words) < least or (most is not None and len(words) > most):
            raise UsageError(f"usage: unionfs image {usage}")
        self.words = [os.fsdecode(word) for word in words]
        self._flags = {name: os.fsdecode(value) for name, value in found}

    def has(self, flag: str) -> bool:
        return flag in self._flags

    def get(self, flag: str, default: str = "") -> str:
        return self._flags.get(flag, default)

    def store(self) -> Store:
        from unionfs.image.store import Store

        return Store(self.get("store") or None)


def command_after(
    argv: list[bytes], flags: dict[bytes, tuple[str, bool]], usage: str
) -> tuple[list[tuple[str, str]], str, list[str]]:
    """For `FLAGS NAME COMMAND…`: flags in order, the name, and the command, whose own flags are not looked at."""
    flags = {**_STORE, **flags}
    end = 0
    while end < len(argv) and argv[end].startswith(b"-") and argv[end] != b"--":
        word = argv[end]
        spelled = word.partition(b"=")[0] if word.startswith(b"--") else word[:2]
        takes = flags.get(spelled, ("", False))[1]
        end += 2 if takes and word == spelled else 1
    found, _ = parse(argv[:end], flags)
    rest = [os.fsdecode(word) for word in argv[end:]]
    if rest[:1] == ["--"]:
        rest = rest[1:]
    if not rest:
        raise UsageError(f"usage: {usage}")
    return [(name, os.fsdecode(value)) for name, value in found], rest[0], rest[1:]


LIMITS = {b"--max-size": ("max-size", True), b"--max-entries": ("max-entries", True)}


def limits(arguments: Arguments) -> Limits:
    """What --max-size and --max-entries say of a layer; without them, the usual. Raises UsageError."""
    from unionfs.image.unpack import Limits

    found = Limits()
    if arguments.has("max-size"):
        found.size = _bytes("--max-size", arguments.get("max-size"))
    if arguments.has("max-entries"):
        found.entries = _bytes("--max-entries", arguments.get("max-entries"))
    return found


def _bytes(flag: str, text: str) -> int:
    """A number, also with k, M, G, T: powers of 1000, as `size` prints them."""
    number, power = (text[:-1], "kMGT".index(text[-1]) + 1) if text[-1:] and text[-1] in "kMGT" else (text, 0)
    if not number.isdecimal() or len(number) > 18:
        raise UsageError(f"{flag} {text}: it has to be a number, such as 500M or 20G")
    return int(number + "000" * power)


def size(count: int) -> str:
    """A size as Docker prints it: powers of 1000, three digits that matter."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{value:.3g}{unit}" if unit != "B" else f"{count}B"
        value /= 1000
    raise AssertionError("unreachable")


def plain(text: str) -> str:
    """Text of an image as a terminal may get it: nothing in it can move the cursor, and nothing cannot be encoded."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def table(rows: list[list[str]]) -> None:
    """Columns set three spaces apart; the first row is the heading."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def report(line: str) -> None:
    """Progress and notes: for people, so not on standard output."""
    print(plain(line), file=sys.stderr, flush=True)
