r"""The syntax of mount options: `a=b,c` strings and `A:B::C` lists of layers. Bytes in and out, no meaning.

One rule of escaping serves both, the kernel's: a backslash makes the character after it an ordinary one, and
is dropped only when a value is finally read (`unescape`). A value that begins with a double quote runs to the
next one, commas included, as in `context="s0:c1,c2"`.

Laws, each a test:
    unescape(escape(x)) == x
    split_options(join_options(pairs)) == pairs, with escaped values
    split_layers(join_layers(lower, data)) == (lower, data)
"""

from __future__ import annotations

from unionfs.cli.errors import shown

_BACKSLASH, _QUOTE, _COMMA = b"\\", b'"', b","


class SyntaxProblem(Exception):
    """The text cannot be split; the message says where and names no option."""


def escape(path: bytes) -> bytes:
    """`path` as it is written in an option string, whatever characters it has."""
    for special in (_BACKSLASH, b":", _COMMA, _QUOTE):  # the backslash first
        path = path.replace(special, _BACKSLASH + special)
    return path


def unescape(text: bytes) -> bytes:
    r"""The value that `text` stands for: `\x` is x. A backslash at the very end stands for itself."""
    value, escaped = bytearray(), False
    for byte in text:
        escaped = byte == _BACKSLASH[0] and not escaped
        if not escaped:
            value.append(byte)
    return bytes(value + _BACKSLASH if escaped else value)


def split_options(text: bytes) -> list[tuple[bytes, bytes | None]]:
    """(name, value) of every option, in order; value None where there is no `=`. Empty options are skipped.

    Values keep their escapes; the quotes around a quoted value are dropped. SyntaxProblem on an open quote.
    """
    pairs: list[tuple[bytes, bytes | None]] = []
    start = 0
    while start < len(text):
        end = _find(text, _COMMA, start)
        name, equals, value = text[start:end].partition(b"=")
        if value.startswith(_QUOTE):
            opening = start + len(name) + 1
            end = _find(text, _QUOTE, opening + 1)
            value = text[opening + 1 : end]
            if end == len(text):
                raise SyntaxProblem(f"the quote after {shown(name)}= is never closed")
            end += 1
            if text[end : end + 1] not in (_COMMA, b""):
                raise SyntaxProblem(f"a comma is missing after {shown(name)}=\"…\"")
        if name or equals:
            pairs.append((name, value if equals else None))
        start = end + 1
    return pairs


def join_options(pairs: list[tuple[bytes, bytes | None]]) -> bytes:
    """The option string of (name, escaped value) pairs."""
    return _COMMA.join(name if value is None else name + b"=" + value for name, value in pairs)


def split_layers(text: bytes) -> tuple[list[bytes], list[bytes]]:
    """The layers and the data-only layers of a `lowerdir=` value, unescaped, top first.

    `A:B` are layers; after the first `::` all are data-only, each with `::` before it. SyntaxProblem on an
    empty entry and on a layer below a data-only one.
    """
    lower: list[bytes] = []
    data: list[bytes] = []
    target, start = lower, 0
    while start <= len(text):
        end = _find(text, b":", start)
        if end == start:
            raise SyntaxProblem(f"empty entry at position {start}")
        target.append(unescape(text[start:end]))
        start = end + 1
        if text[start : start + 1] == b":":
            target, start = data, start + 1
        elif target is data and start <= len(text):
            raise SyntaxProblem(f"a layer (after a single ':') below data-only layers at position {start}")
    return lower, data


def join_layers(lower: list[bytes], data: list[bytes]) -> bytes:
    """The `lowerdir=` value of these layers; `lower` must not be empty, nor any entry."""
    return b"::".join([b":".join(map(escape, lower)), *map(escape, data)])


def _find(text: bytes, character: bytes, start: int) -> int:
    """Where `character` first stands unescaped, from `start` on; the end of the text where it does not."""
    while True:
        end = text.find(character, start)
        if end < 0:
            return len(text)
        backslash = text.find(_BACKSLASH, start, end)
        if backslash < 0:
            return end
        start = backslash + 2
