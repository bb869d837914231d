"""Flags and positionals on a command line."""

from __future__ import annotations

import pytest

from unionfs.cli.args import parse
from unionfs.cli.errors import UsageError

FLAGS = {b"-o": ("options", True), b"--lower": ("lower", True), b"-f": ("foreground", False),
         b"-d": ("debug", False), b"--debug": ("debug", False)}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "found", "positionals"),
    [
        ("", [], []),
        ("a b", [], ["a", "b"]),
        ("-o x mnt", [("options", "x")], ["mnt"]),
        ("mnt -o x", [("options", "x")], ["mnt"]),
        ("-ox=1 mnt -o y", [("options", "x=1"), ("options", "y")], ["mnt"]),
        ("--lower=a=b --lower c", [("lower", "a=b"), ("lower", "c")], []),
        ("--lower=", [("lower", "")], []),
        ("-fd mnt", [("foreground", ""), ("debug", "")], ["mnt"]),
        ("-fo x", [("foreground", ""), ("options", "x")], []),
        ("-f -- -o x", [("foreground", "")], ["-o", "x"]),
        ("- -f", [("foreground", "")], ["-"]),
        ("-o -f", [("options", "-f")], []),
    ],
)
def test_parse(line: str, found: list[tuple[str, str]], positionals: list[str]) -> None:
    argv = [word.encode() for word in line.split()]
    expected = [(name, value.encode()) for name, value in found]
    assert parse(argv, FLAGS) == (expected, [word.encode() for word in positionals])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-o", "-o needs a value"),
        ("--lower", "--lower needs a value"),
        ("--lowr a", r"unknown flag --lowr; did you mean --lower\?"),
        ("-x", "unknown flag -x$"),
        ("-fx", "unknown flag -x$"),
        ("--debug=1", "--debug takes no value"),
    ],
)
def test_mistakes_are_named(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse([word.encode() for word in line.split()], FLAGS)
