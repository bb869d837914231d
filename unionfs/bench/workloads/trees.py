"""Whole trees, by the programs that people run on them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from unionfs.bench.context import EVERYTHING, Context, drop_caches, run_command
from unionfs.bench.fixtures import Fixtures, listings, modules, nothing, repository, tarball, tree
from unionfs.bench.workloads.base import CHANGE, CREATE, READ, Workload

if TYPE_CHECKING:
    from pathlib import Path

    from unionfs.bench.engines import Stack

LAYERS = 8
WALKED_DIRECTORIES = 100
PATTERN = "no such text"


def _files(quick: bool) -> int:
    return 1200 if quick else 12_000


def _tree(fixtures: Fixtures, quick: bool) -> Stack:
    return fixtures.stack("tree", LAYERS, tree(_files(quick)))


def _empty(fixtures: Fixtures, _quick: bool) -> Stack:
    return fixtures.stack("empty", 2, nothing)


def _walk(ctx: Context) -> None:
    commands = {
        "find -ls": ["find", "tree", "-ls"],
        "tar c": ["bash", "-c", "set -o pipefail; tar cf - tree | cat > /dev/null"],
        "grep -r": ["grep", "-r", PATTERN, "tree"],
    }
    for name, command in commands.items():
        codes = (1,) if name == "grep -r" else (0,)
        ctx.fresh(EVERYTHING)
        ctx.command(f"{name} cold", command, codes=codes)
        ctx.command(f"{name} warm", command, codes=codes)
    for processes in (2, 8):
        script = f"ls -d tree/* | xargs -P {processes} -n 1 grep -r '{PATTERN}' || [ $? = 123 ]"
        ctx.command(f"grep -r warm, {processes} processes", ["sh", "-c", script])


def _untar(ctx: Context) -> None:
    archive = ctx.fixtures.file("tree.tar", tarball(_files(ctx.quick)))
    archive.read_bytes()  # into the page cache, for every engine alike
    ctx.command("untar", ["tar", "xf", str(archive)])


def _copy(ctx: Context) -> None:
    ctx.command("cp -a", ["cp", "-a", "tree", "copy"])


def _chmod(ctx: Context) -> None:
    ctx.command("chmod -R", ["chmod", "-R", "g-r,o-r", "tree"])


def _remove(ctx: Context) -> None:
    ctx.command("rm -rf", ["rm", "-rf", "tree"])


def _repository(ctx: Context) -> Path:
    return ctx.fixtures.file("repository", repository(_files(ctx.quick) // 4))


def _clone(ctx: Context) -> None:
    ctx.command("git clone", ["git", "clone", "-q", "--no-hardlinks", str(_repository(ctx)), "clone"])


def _lower_repository(fixtures: Fixtures, quick: bool) -> Stack:
    def fill(layers: list[Path]) -> None:
        (layers[0] / "other").mkdir()
        repository(_files(quick) // 4)(layers[-1] / "repo")

    return fixtures.stack("repository", 2, fill)


def _git(ctx: Context) -> None:
    repo = ctx.root / "repo"
    run_command(["git", "status"], repo)  # the index learns the inode numbers and times of this engine
    ctx.fresh(EVERYTHING)
    ctx.command("git status cold", ["git", "status"], repo)
    ctx.command("git status", ["git", "status"], repo)
    ctx.command("git checkout", ["git", "checkout", "-q", "other"], repo)


def _modules(fixtures: Fixtures, quick: bool) -> Stack:
    return fixtures.stack("modules", LAYERS, modules(80 if quick else 300))


def _compile(ctx: Context) -> None:
    ctx.command("compileall", [sys.executable, "-m", "compileall", "-q", "lib"])


def _many(fixtures: Fixtures, quick: bool) -> Stack:
    each = 100 if quick else 1000

    def fill(layers: list[Path]) -> None:
        for i in range(WALKED_DIRECTORIES):
            parts = [layer / f"dir{i:03d}" for layer in layers]
            for part in parts:
                part.mkdir()
            listings([each])(parts)

    return fixtures.stack("many", 2, fill, flat=False)


def _memory(ctx: Context) -> None:
    drop_caches(2)
    ctx.fresh()
    before = ctx.mount.daemon.rss()
    files = WALKED_DIRECTORIES * (100 if ctx.quick else 1000)
    ctx.command(f"find -ls over {files:,} files", ["find", ".", "-ls"])
    ctx.record(
        f"daemon memory after find over {files:,} files",
        "MiB",
        lambda: ctx.mount.daemon.rss() / 1024,
        before=before / 1024,
    )


WORKLOADS = [
    Workload("walk", READ, _tree, _walk, rounds=5, limit=110),
    Workload("untar", CREATE, _empty, _untar, rounds=3, limit=75),
    Workload("copy", CREATE, _tree, _copy, rounds=3, limit=75),
    Workload("chmod", CHANGE, _tree, _chmod, rounds=3, limit=75),
    Workload("remove", CHANGE, _tree, _remove, rounds=3, limit=75),
    Workload("clone", CREATE, _empty, _clone, rounds=3, limit=60),
    Workload("git", CHANGE, _lower_repository, _git, rounds=3, limit=60),
    Workload("compileall", CREATE, _modules, _compile, rounds=3, limit=60),
    Workload("memory", READ, _many, _memory, rounds=3, skip=("ext4", "kernel"), limit=60),
]
