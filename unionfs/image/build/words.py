"""Quotes, escapes and $VARIABLES in the words of instructions, by the rules of a Dockerfile (not all of a shell's)."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]")


class BadWord(Exception):
    """Quotes or braces without an end, or a substitution that does not exist."""


def expand(text: str, values: Mapping[str, str], escape: str = "\\") -> str:
    """The text as one word: variables replaced, quotes taken away. Raises BadWord."""
    return "".join(_Scanner(text, values, escape).run(split=False))


def split(text: str, values: Mapping[str, str], escape: str = "\\") -> list[str]:
    """The words of a text, parted by blanks outside of quotes, each expanded. Raises BadWord."""
    return _Scanner(text, values, escape).run(split=True)


def pairs(text: str, values: Mapping[str, str], escape: str = "\\") -> list[tuple[str, str]]:
    """ENV's and LABEL's `A=B C="D E"`, or the old `A all of the rest`. Raises BadWord."""
    first = re.match(r"[^\s=]+", text)
    if first is not None and "=" not in text.split()[0] and not text.startswith(("'", '"')):
        rest = text[first.end() :].strip()
        if not rest:
            raise BadWord(f"{text} has no value: NAME=VALUE")
        return [(first[0], expand(rest, values, escape))]
    found = []
    for word in split(text, values, escape):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise BadWord(f"{word!r} is not of the form NAME=VALUE")
        found.append((name, value))
    return found


class _Scanner:
    def __init__(self, text: str, values: Mapping[str, str], escape: str) -> None:
        self._text = text
        self._values = values
        self._escape = escape
        self._at = 0

    def run(self, *, split: bool) -> list[str]:
        words: list[str] = []
        word: list[str] | None = None
        while self._at < len(self._text):
            if split and self._text[self._at].isspace():
                if word is not None:
                    words.append("".join(word))
                word = None
                self._at += 1
                continue
            word = [] if word is None else word
            word.append(self._piece())
        if word is not None:
            words.append("".join(word))
        return words

    def _piece(self) -> str:
        """One character, quoted string, or variable."""
        char = self._text[self._at]
        self._at += 1
        if char == "'":
            return self._until_single_quote()
        if char == '"':
            return self._until_double_quote()
        if char == "$":
            return self._variable()
        if char == self._escape and self._at < len(self._text):
            self._at += 1
            return self._text[self._at - 1]
        return char

    def _until_single_quote(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise BadWord("a ' without its end")
        text = self._text[self._at : end]
        self._at = end + 1
        return text

    def _until_double_quote(self) -> str:
        parts: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            self._at += 1
            if char == '"':
                return "".join(parts)
            if char == "$":
                parts.append(self._variable())
            elif char == self._escape and self._text[self._at : self._at + 1] in ('"', "$", self._escape):
                parts.append(self._text[self._at])
                self._at += 1
            else:
                parts.append(char)
        raise BadWord('a " without its end')

    def _variable(self) -> str:
        if self._text[self._at : self._at + 1] == "{":
            return self._braced()
        match = _NAME.match(self._text, self._at)
        if match is None:
            return "$"
        self._at = match.end()
        return self._values.get(match[0], "")

    def _braced(self) -> str:
        """${NAME}, ${NAME:-word}, ${NAME:+word}, ${NAME:?word}, and the same without the colon."""
        match = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*|[0-9])(:?[-+?])?").match(self._text, self._at)
        if match is None:
            raise BadWord(f"{self._text[self._at - 1 :]!r}: no such substitution")
        end = self._closing(match.end())
        word, self._at = self._text[match.end() : end], end + 1
        name, how = match[1], match[2] or ""
        if not how:
            if word:
                raise BadWord(f"${{{name}{word}}}: no such substitution")
            return self._values.get(name, "")
        is_set = bool(self._values.get(name)) if how[0] == ":" else name in self._values
        if how[-1] == "+":
            return expand(word, self._values, self._escape) if is_set else ""
        if is_set:
            return self._values[name]
        if how[-1] == "?":
            raise BadWord(f"{name}: {expand(word, self._values, self._escape) or 'not set'}")
        return expand(word, self._values, self._escape)

    def _closing(self, at: int) -> int:
        depth = 1
        while at < len(self._text):
            depth += {"{": 1, "}": -1}.get(self._text[at], 0)
            if not depth:
                return at
            at += 1
        raise BadWord("${ without its }")
