"""Reading a command line: flags and positionals, in any order, as getopt_long does it.

Written out because argparse and getopt cost more start-up time than everything else that the command does
itself.
"""

from __future__ import annotations

from unionfs.cli.errors import UsageError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def parse(
    argv: list[bytes], flags: Mapping[bytes, tuple[str, bool]]
) -> tuple[list[tuple[str, bytes]], list[bytes]]:
    """The flags in order as (name, value) and the positionals.

    `flags` maps a spelling (`-o`, `--lower`) to the name that is returned and whether a value follows; the
    value of
    one without is b"". `-oVALUE`, `--long=VALUE` and joined short flags are understood, `--` ends the flags.
    Raises UsageError that names an unknown flag or a missing value.
    """
    found: list[tuple[str, bytes]] = []
    positionals: list[bytes] = []
    rest = list(reversed(argv))
    while rest:
        word = rest.pop()
        if word == b"--":
            positionals += reversed(rest)
            break
        if word == b"-" or not word.startswith(b"-"):
            positionals.append(word)
            continue
        if word.startswith(b"--"):
            flag, equals, value = word.partition(b"=")
            attached = value if equals else None
        else:
            flag, attached = word[:2], word[2:] or None
        name, wants_value = _known(flag, flags)
        if wants_value:
            if attached is None and not rest:
                raise UsageError(f"{shown(flag)} needs a value")
            found.append((name, rest.pop() if attached is None else attached))
            continue
        found.append((name, b""))
        if attached is not None:
            if flag.startswith(b"--"):
                raise UsageError(f"{shown(flag)} takes no value")
            rest.append(b"-" + attached)
    return found, positionals


def _known(flag: bytes, flags: Mapping[bytes, tuple[str, bool]]) -> tuple[str, bool]:
    if flag in flags:
        return flags[flag]
    from difflib import get_close_matches

    near = get_close_matches(shown(flag), [shown(name) for name in flags if len(name) > 2], 1)
    raise UsageError(f"unknown flag {shown(flag)}" + (f"; did you mean {near[0]}?" if near else ""))
