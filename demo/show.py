"""Words on the terminal: headings, commands, results, checks; colour where there is a terminal."""

from __future__ import annotations

import os
import sys

_COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _styled(code: str, text: str) -> str:
    return f"\033[{code}m{text}\033[0m" if _COLOUR else text


def title(text: str) -> None:
    print(_styled("1", text))


def step(number: int, text: str) -> None:
    print(f"\n{_styled('1;36', f'{number}. {text}')}")


def say(text: str) -> None:
    print(f"   {text}")


def command(text: str) -> None:
    print(f"   {_styled('33', '$ ' + text)}")


def result(text: str) -> None:
    for line in text.splitlines() or [""]:
        print(f"     {_styled('2', line)}")


def table(rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as they need to be; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for index, row in enumerate(rows):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(f"     {_styled('1' if index == 0 else '0', line)}")


def check(holds: bool, text: str) -> None:
    """A promise that the demo makes and keeps; it ends where one does not hold."""
    print(f"   {_styled('32', '✓') if holds else _styled('1;31', '✗')} {text}")
    if not holds:
        raise SystemExit(f"demo: this does not hold: {text}")


def skipped(text: str) -> None:
    print(f"   {_styled('35', '–')} {text}")


def size(count: int) -> str:
    return f"{count:,} bytes"


def micros(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs"
