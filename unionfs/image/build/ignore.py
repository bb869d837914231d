"""What a build's context leaves out, by .dockerignore: Go's filepath.Match with **, the last match decides."""

from __future__ import annotations

import re


class Ignore:
    """The rules of one file; `Ignore("")` leaves nothing out."""

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for line in text.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            pattern = line.strip()
            keep = pattern.startswith("!")
            pattern = _clean(pattern[1:].strip() if keep else pattern)
            if pattern:
                self._rules.append((keep, re.compile(to_regex(pattern) + "(?:/.*)?", re.DOTALL)))
        self._exceptions = any(keep for keep, _ in self._rules)

    def leaves_out(self, path: str) -> bool:
        """Whether a path (relative, without ./) is not part of the context. One inside a path that is left out is
        left out, unless a later rule brings it back.
        """
        out = False
        for keep, pattern in self._rules:
            if out == keep and pattern.fullmatch(path):
                out = not keep
        return out

    def prunes(self, path: str) -> bool:
        """Whether a directory and all below it is left out, so that nobody has to look into it."""
        return not self._exceptions and self.leaves_out(path)


def _clean(pattern: str) -> str:
    parts: list[str] = []
    for part in pattern.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def to_regex(pattern: str) -> str:
    """A pattern as a regular expression for the whole path."""
    out = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 1
            if pattern.startswith("/", at):
                at += 1
                out.append("(?:.*/)?")
            else:
                out.append(".*")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := pattern.find("]", at + 1)) > 0:
            inner = pattern[at:end].replace("\\", "\\\\")
            out.append(f"(?!/)[{inner}]")
            at = end + 1
        elif char == "\\" and at < len(pattern):
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return "".join(out)
