"""`unionfs bench`: how fast the engines of this machine are, on its own disk and on the user's own layers."""

from __future__ import annotations

import os
import sys

from unionfs.cli.args import parse
from unionfs.cli.errors import CommandError, UsageError, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

USAGE = """usage: unionfs bench [--engines NAMES] [--dir DIR] [--lower DIR …] [--only NAMES]
                     [--rounds N] [--json FILE]

Mounts test layers with every engine that is installed, runs a short set of workloads in interleaved rounds
and prints medians, with the ratio to the kernel's overlay in brackets. Takes about two minutes; needs root.

  --engines NAMES  separated by commas, mount options after colons: kernel,unionfs,unionfs:fsync=0
                   known: ext4 (the plain file system, whatever its type), kernel, unionfs, fusepy,
                   fuse-overlayfs, unionfs-fuse, mergerfs (the first three and fuse-overlayfs)
  --dir DIR        where to work, so the disk that is measured (the current directory)
  --lower DIR      your own layers, top first, instead of test layers: walks them, changes nothing in them
  --only NAMES     only these workloads, * and ? understood
  --rounds N       rounds of each (2)
  --json FILE      write the figures there, too
"""

_FLAGS = {
    b"--engines": ("engines", True), b"--dir": ("dir", True), b"--lower": ("lower", True),
    b"--only": ("only", True), b"--rounds": ("rounds", True), b"--json": ("json", True),
    b"-h": ("help", False), b"--help": ("help", False),
}  # fmt: skip


def run(argv: list[bytes]) -> int:
    """Runs the short comparison. Raises CommandError where nothing can be measured."""
    found, positionals = parse(argv, _FLAGS)
    if positionals:
        raise UsageError(f"unexpected argument {shown(positionals[0])}; see unionfs bench --help")
    options = dict(found)
    if "help" in options:
        print(USAGE, end="")
        return 0
    if os.geteuid():
        raise CommandError("unionfs bench mounts file systems and drops caches, which needs root")
    return _bench(options, [value for name, value in found if name == "lower"])


def _bench(options: dict[str, bytes], lowers: list[bytes]) -> int:
    from pathlib import Path

    from unionfs.bench import short

    rounds = options.get("rounds", b"2")
    if not rounds.isdigit() or rounds == b"0":
        raise UsageError(f"--rounds: {shown(rounds)} is not a number above 0")
    try:
        results = short.run(
            Path(os.fsdecode(options.get("dir", b"."))),
            engines=os.fsdecode(options.get("engines", os.fsencode(short.ENGINES))),
            lowers=[Path(os.fsdecode(lower)) for lower in lowers],
            only=os.fsdecode(options.get("only", b"*")),
            rounds=int(rounds),
            progress=_progress(),
        )
    except (ValueError, OSError) as error:
        raise CommandError(f"bench: {error}") from None
    print(short.table(results))
    if "json" in options:
        results.save(Path(os.fsdecode(options["json"])))
    return 1 if results.failures else 0


def _progress() -> Callable[[str], None]:
    """Shows what is running: on one line of a terminal, on lines of their own elsewhere."""
    if not sys.stderr.isatty():
        return lambda text: print(text, file=sys.stderr, flush=True)
    return lambda text: print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
