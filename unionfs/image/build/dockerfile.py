"""A Dockerfile → its instructions, each with its line. Nothing is expanded here.

What is wrong is told by a BuildError that names line and instruction.
"""

from __future__ import annotations

import json
import re

from unionfs.image.errors import ImageError

# keyword → the flags it may have; this is what a build knows
KNOWN: dict[str, tuple[str, ...]] = {
    "FROM": ("platform",), "RUN": (), "COPY": ("from", "chown", "chmod"), "ADD": ("chown", "chmod"), "CMD": (),
    "ENTRYPOINT": (), "ENV": (), "ARG": (), "LABEL": (), "EXPOSE": (), "STOPSIGNAL": (), "WORKDIR": (), "USER": (),
    "VOLUME": (), "SHELL": (), "ONBUILD": (), "MAINTAINER": (),
    "HEALTHCHECK": ("interval", "timeout", "start-period", "start-interval", "retries"),
}  # fmt: skip
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z]+)\s*=\s*(.+?)\s*$")
_FLAG = re.compile(r"--([a-z-]+)(?:=(\S*))?(?:\s+|$)")
_HEREDOC = re.compile(r"(?:^|\s)\d*<<-?[\"']?[A-Za-z_]")


class BuildError(ImageError):
    """Something is wrong in the Dockerfile, or a step failed; begins with the line."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(f"line {line}: {text}")


class Instruction:
    """One instruction. text: what follows keyword and flags, on one line; words: the JSON form, where it has that."""

    __slots__ = ("flags", "keyword", "line", "text", "words")

    def __init__(self, line: int, keyword: str, flags: dict[str, str], text: str) -> None:
        self.line = line
        self.keyword = keyword
        self.flags = flags
        self.text = text
        self.words = _json_form(text)

    def __str__(self) -> str:
        flags = "".join(f" --{name}={value}" for name, value in self.flags.items())
        return f"{self.keyword}{flags} {self.text}"

    def after(self, word: str) -> Instruction:
        """The instruction without that word, which it begins with."""
        return Instruction(self.line, self.keyword, self.flags, self.text[len(word) :].strip())

    def error(self, text: str) -> BuildError:
        return BuildError(self.line, f"{self.keyword}: {text}")


def parse(source: str) -> tuple[list[Instruction], str]:
    """(instructions, the escape character)."""
    lines = source.removeprefix("\ufeff").splitlines()
    escape = _escape(lines)
    found = [instruction(number, text) for number, text in _logical(lines, escape)]
    if not found:
        raise BuildError(1, "the Dockerfile has no instruction")
    first = next((each for each in found if each.keyword != "ARG"), found[0])
    if first.keyword != "FROM":
        raise BuildError(first.line, f"{first.keyword}: before the first FROM; only ARG may stand there")
    return found, escape


def _escape(lines: list[str]) -> str:
    """The directive `# escape=` among those at the very top."""
    for number, line in enumerate(lines, 1):
        match = _DIRECTIVE.match(line)
        if match is None:
            break
        if match[1].lower() == "escape":
            if match[2] not in ("\\", "`"):
                raise BuildError(number, f"escape={match[2]}: it must be \\ or `")
            return match[2]
    return "\\"


def _logical(lines: list[str], escape: str) -> list[tuple[int, str]]:
    """Lines joined where they end in the escape character; comments and empty lines between them do not count."""
    found: list[tuple[int, str]] = []
    parts: list[str] = []
    start = 0
    for number, line in enumerate(lines, 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if not parts:
            start = number
        text = line.rstrip() if parts else stripped
        goes_on = text.endswith(escape)
        parts.append(text[: -len(escape)] if goes_on else text)
        if not goes_on:
            found.append((start, "".join(parts).strip()))
            parts = []
    if parts:
        found.append((start, "".join(parts).strip()))
    return found


def instruction(line: int, text: str) -> Instruction:
    """One instruction, lines joined already. Raises BuildError for what a build does not know."""
    keyword, rest = [*text.split(None, 1), ""][:2]
    keyword = keyword.upper()
    if keyword not in KNOWN:
        raise BuildError(line, f"{keyword}: unknown instruction; there are {', '.join(KNOWN)}")
    flags: dict[str, str] = {}
    while match := _FLAG.match(rest):
        if match[1] not in KNOWN[keyword]:
            raise BuildError(line, f"{keyword}: --{match[1]} is not supported")
        flags[match[1]] = match[2] or ""
        rest = rest[match.end() :]
    if not rest:
        raise BuildError(line, f"{keyword}: nothing follows it")
    if keyword in ("RUN", "COPY", "ADD") and _HEREDOC.search(rest):
        raise BuildError(line, f"{keyword}: here-documents are not supported; put the text into a file of the context")
    return Instruction(line, keyword, flags, rest)


def _json_form(text: str) -> list[str] | None:
    if not text.startswith("["):
        return None
    try:
        words = json.loads(text)
    except ValueError:
        return None
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else None
