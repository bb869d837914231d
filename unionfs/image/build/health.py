"""HEALTHCHECK → the container config's `Healthcheck`, as Docker writes it. It describes; nothing here runs it."""

from __future__ import annotations

import re

from unionfs.image.build.words import BadWord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unionfs.image.build.dockerfile import Instruction

_FIELDS = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod",
           "start-interval": "StartInterval"}  # fmt: skip
FLAGS = (*_FIELDS, "retries")
_UNITS = {"h": 3_600_000_000_000, "m": 60_000_000_000, "s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|ns)")
_SHORTEST = 1_000_000


def config(instruction: Instruction) -> dict[str, Any]:
    """Raises BadWord."""
    kind, _, _ = instruction.text.partition(" ")
    command = instruction.after(kind)
    if kind.upper() == "NONE":
        if command.text or instruction.flags:
            raise BadWord("NONE stands alone")
        return {"Test": ["NONE"]}
    if kind.upper() != "CMD" or not command.text:
        raise BadWord("it has to be HEALTHCHECK [--interval=… …] CMD COMMAND, or HEALTHCHECK NONE")
    test = ["CMD", *command.words] if command.words is not None else ["CMD-SHELL", command.text]
    found: dict[str, Any] = {"Test": test}
    for flag, field in _FIELDS.items():
        if flag in instruction.flags and (time := _nanoseconds(flag, instruction.flags[flag])):
            found[field] = time
    if retries := instruction.flags.get("retries", ""):
        if not retries.isdigit():
            raise BadWord(f"--retries={retries} is no number")
        if int(retries):
            found["Retries"] = int(retries)
    return found


def _nanoseconds(flag: str, text: str) -> int:
    """A duration in Go's spelling: 1m30s, 500ms, 0."""
    parts = _PART.findall(text)
    if (text != "0" and "".join(number + unit for number, unit in parts) != text) or not text:
        raise BadWord(f"--{flag}={text} is no duration such as 1m30s")
    time = round(sum(float(number) * _UNITS[unit] for number, unit in parts))
    if 0 < time < _SHORTEST:
        raise BadWord(f"--{flag}={text} is shorter than 1ms")
    return time
