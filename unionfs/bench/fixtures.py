"""The layers that the workloads work on: made from a fixed seed, the same on every machine."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from unionfs.bench.engines import Stack

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEED = 20240

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_TOPDIR_FL = 0x80086601, 0x40086602, 0x00020000


class Fixtures:
    """Makes stacks below `home` when first asked for and keeps them until `clear`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._made: dict[str, Stack] = {}

    def stack(self, name: str, layers: int, fill: Callable[[list[Path]], None], flat: bool = True) -> Stack:
        """`fill` gets the layers' directories, top first, the first time that the stack `name` is asked for.

        Without `flat` there is no merged copy, so that the plain engine cannot take part.
        """
        if name not in self._made:
            home = self.home / name
            names = tuple(str(i) for i in range(layers))
            for layer in names:
                (home / layer).mkdir(parents=True)
            fill([home / layer for layer in names])
            stack = Stack(name, home, names)
            if flat:
                _flatten(stack)
            self._made[name] = stack
        return self._made[name]

    def file(self, name: str, make: Callable[[Path], None]) -> Path:
        """A single file or directory outside every stack, made once."""
        path = self.home / "files" / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            make(path)
        return path

    def forget(self, name: str) -> None:
        """Removes one stack to make room."""
        if stack := self._made.pop(name, None):
            shutil.rmtree(stack.home)

    def clear(self) -> None:
        self._made.clear()
        shutil.rmtree(self.home, ignore_errors=True)


def spread(directory: Path) -> None:
    """Has ext4 put every directory made here into a block group of its own (`chattr +T`).

    For minutes after a file is removed ext4 steps over its inode, one by one, to find a free one: a turn that
    creates files where the turn before removed 2,000 would take 20 times as long (370 µs a file instead of
    20). Other file systems refuse the flag and do not need it.
    """
    fd = os.open(directory, os.O_RDONLY)
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, FS_IOC_GETFLAGS, bytes(8)), "little")
        fcntl.ioctl(fd, FS_IOC_SETFLAGS, (flags | FS_TOPDIR_FL).to_bytes(8, "little"))
    except OSError:
        pass
    finally:
        os.close(fd)


def _flatten(stack: Stack) -> None:
    """The merged tree for the plain file system; the stacks hold no whiteouts, so copying from the bottom up
    is merging.
    """
    stack.flat.mkdir()
    for layer in reversed(stack.lowers):
        subprocess.run(["cp", "-a", f"{stack.home / layer}/.", f"{stack.flat}/"], check=True)


def shuffled(names: list[str]) -> list[str]:
    """The names in an order that no directory scan has."""
    random.Random(SEED).shuffle(names)
    return names


def flat_names(count: int) -> list[str]:
    return [f"file-{i:06d}.txt" for i in range(count)]


def missing_names(count: int) -> list[str]:
    return [f"none-{i:06d}.txt" for i in range(count)]


def one_directory(files: int, own: int = 10, size: int = 4096) -> Callable[[list[Path]], None]:
    """A directory `d` that every layer has: the bottom one with `files` files of `size` bytes, as an image's
    base layer has,
    the others with `own` files each."""

    def fill(layers: list[Path]) -> None:
        for i, layer in enumerate(layers):
            (layer / "d").mkdir()
            names = flat_names(files) if layer is layers[-1] else [f"own-{i}-{j}" for j in range(own)]
            for name in names:
                (layer / "d" / name).write_bytes(b"d" * size)

    return fill


def listings(sizes: list[int]) -> Callable[[list[Path]], None]:
    """A directory `nSIZE` for each size, its empty files dealt out to the layers."""

    def fill(layers: list[Path]) -> None:
        for size in sizes:
            for layer in layers:
                (layer / f"n{size}").mkdir()
            for i, name in enumerate(flat_names(size)):
                os.close(os.open(layers[i % len(layers)] / f"n{size}" / name, os.O_CREAT | os.O_WRONLY))

    return fill


def tree(files: int, per_directory: int = 15, mean: int = 5000) -> Callable[[list[Path]], None]:
    """A tree `tree` like that of sources: directories three deep, sizes of a long-tailed distribution, dealt
    out to all layers.
    """

    def fill(layers: list[Path]) -> None:
        rng = random.Random(SEED)
        text = rng.randbytes(1 << 16).hex()
        words = "\n".join(text[i : i + 72] for i in range(0, len(text), 72)).encode()
        for path in tree_paths(files, per_directory):
            target = rng.choice(layers) / "tree" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            size = min(int(rng.lognormvariate(0, 1.2) * mean / 2), 1 << 20)
            start = rng.randrange(len(words))
            target.write_bytes((words[start:] + words * (size // len(words) + 1))[:size])

    return fill


def tree_paths(files: int, per_directory: int) -> Iterator[str]:
    """Paths of the files of a tree."""
    for i in range(files):
        d = i // per_directory
        yield f"pkg{d % 20}/mod{d // 20 % 10}/part{d // 200}/source_{i:05d}.py"


def big_file(size: int, name: str = "big") -> Callable[[list[Path]], None]:
    """One file of real blocks in the bottom layer."""

    def fill(layers: list[Path]) -> None:
        block = random.Random(SEED).randbytes(1 << 20)
        with open(layers[-1] / name, "wb") as file:
            for done in range(0, size, len(block)):
                file.write(block[: size - done])

    return fill


def nothing(layers: list[Path]) -> None:
    """Layers with one small file each, for workloads that make everything themselves."""
    for i, layer in enumerate(layers):
        (layer / f"layer-{i}").write_text("layer\n")


def tarball(files: int) -> Callable[[Path], None]:
    """The tree of `tree(files)` as an uncompressed archive."""

    def make(path: Path) -> None:
        scratch = path.with_suffix(".d")
        scratch.mkdir()
        tree(files)([scratch])
        subprocess.run(["tar", "cf", path, "-C", scratch, "tree"], check=True)
        shutil.rmtree(scratch)

    return make


def repository(files: int) -> Callable[[Path], None]:
    """A git repository with branches `main` and `other`, which differ in half of the files."""

    def make(path: Path) -> None:
        path.mkdir()
        tree(files)([path])
        git(path, "init", "-q", "-b", "main")
        commit(path, "first")
        git(path, "checkout", "-q", "-b", "other")
        for i, name in enumerate(tree_paths(files, 15)):
            if i % 2:
                with open(path / "tree" / name, "ab") as file:
                    file.write(b"changed\n")
        commit(path, "second")
        git(path, "checkout", "-q", "main")

    return make


def modules(count: int) -> Callable[[list[Path]], None]:
    """`count` modules of this Python's own library, in directories of 20, dealt out to the layers without
    their byte code.
    """

    def fill(layers: list[Path]) -> None:
        library = Path(os.__file__).parent
        found = sorted(p for p in library.rglob("*.py") if not {"test", "tests", "site-packages"} & set(p.parts))
        for i, source in enumerate(found[:count]):
            target = layers[i % len(layers)] / "lib" / f"part{i // 20}" / f"m{i}_{source.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    return fill


def git(where: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=where, env=git_environment(), check=True, stdout=subprocess.DEVNULL)


def commit(where: Path, message: str) -> None:
    git(where, "add", "-A")
    git(where, "commit", "-q", "-m", message)


def git_environment() -> dict[str, str]:
    """git without the machine's settings, and without maintenance in the background."""
    settings = {
        "user.name": "bench",
        "user.email": "bench@localhost",
        "gc.auto": "0",
        "maintenance.auto": "false",
        "safe.directory": "*",
    }
    numbered = {
        f"GIT_CONFIG_{kind}_{i}": text
        for i, pair in enumerate(settings.items())
        for kind, text in zip(("KEY", "VALUE"), pair, strict=True)
    }
    return {
        **os.environ,
        **numbered,
        "GIT_CONFIG_COUNT": str(len(settings)),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
    }
