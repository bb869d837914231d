"""What the core keeps for a directory ends when the front end forgets it, however many there are and however deep.

Straight on a `Union`, without a mount: here nothing but the core's own tables can grow.
"""

from __future__ import annotations

import errno
import gc
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lib import layers
from tests.lib.errors import fails
from tests.lib.layers import Layer, build
from unionfs.union import Config, Dir, Node, Union
from unionfs.union.merge import Names

ROOT = (0, 0, 0o022)


class Unmounted:
    """A Union over one lower and an upper; `with` holds its lock."""

    def __init__(self, base: Path) -> None:
        self.base = base
        for name in ("l", "u", "w"):
            (base / name).mkdir()

    def open(self, layer: Layer | None = None) -> Union:
        build(str(self.base / "l"), layer or {})
        paths = {name: os.fsencode(self.base / name) for name in ("l", "u", "w")}
        self.union = Union(Config(lower=[paths["l"]], upper=paths["u"], work=paths["w"]))
        return self.union


@pytest.fixture
def unmounted(tmp_path: Path) -> Iterator[Unmounted]:
    made = Unmounted(tmp_path)
    yield made
    made.union.close()
    subprocess.run(["rm", "-r", *[tmp_path / name for name in ("l", "u", "w")]], check=True)  # no depth is too deep


def alive(kind: type) -> int:
    gc.collect()
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def list_and_forget(union: Union, name: bytes) -> None:
    found = union.lookup(union.root, name)
    assert found is not None
    directory = found[0]
    assert isinstance(directory, Dir)
    list(union.readdir(directory, 0))
    union.forget(directory)


@pytest.mark.parametrize("content", ["empty", "a file"])
def test_forgotten_directories_leave_nothing(unmounted: Unmounted, content: str) -> None:
    full = content == "a file"
    union = unmounted.open({f"d{i:03}/f" if full else f"d{i:03}": "" if full else layers.Dir() for i in range(300)})
    with union.lock:
        list_and_forget(union, b"d000")
        before = alive(Dir), alive(Names), descriptors()
        for i in range(300):
            list_and_forget(union, b"d%03d" % i)
        assert (alive(Dir), alive(Names), descriptors()) == before


def test_directories_made_listed_and_removed_leave_nothing(unmounted: Unmounted) -> None:
    union = unmounted.open()

    def once() -> None:
        node, _ = union.mkdir(union.root, b"d", 0o755, ROOT)
        assert isinstance(node, Dir)
        file, _ = union.symlink(node, b"s", b"x", ROOT)
        assert len(list(union.readdir(node, 0))) == 1
        union.unlink(node, b"s")
        union.forget(file)
        union.rmdir(union.root, b"d")
        union.forget(node)

    with union.lock:
        once()
        before = alive(Dir), alive(Names), descriptors()
        for _ in range(200):
            once()
        assert (alive(Dir), alive(Names), descriptors()) == before


def test_a_changed_listing_goes_with_its_directory(unmounted: Unmounted) -> None:
    """Its offsets could not be had again, so it is kept as long as the directory is known, and no longer."""
    union = unmounted.open({f"d{i:03}/f": "" for i in range(100)})
    with union.lock:
        list_and_forget(union, b"d000")
        before = alive(Names)
        for i in range(100):
            found = union.lookup(union.root, b"d%03d" % i)
            assert found is not None
            directory = found[0]
            assert isinstance(directory, Dir)
            list(union.readdir(directory, 0))
            made, _ = union.symlink(directory, b"new", b"x", ROOT)
            union.forget(made)
            union.forget(directory)
        assert alive(Names) == before


DEEP = 1100  # levels; more than Python's stack has frames, fewer than a path of PATH_MAX can have


def chain(top: Path, depth: int) -> None:
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here))
    os.close(here)


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (96, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_copy_up_far_down(unmounted: Unmounted, few_descriptors: None) -> None:
    """Each level could cost a frame of the stack and a descriptor."""
    chain(unmounted.base / "l", DEEP)
    union = unmounted.open()
    with union.lock:
        node = union.root
        for _ in range(DEEP):
            found = union.lookup(node, b"d")
            assert found is not None
            node = found[0]  # type: ignore[assignment]
        found = union.lookup(node, b"f")
        assert found is not None
        union.chmod(found[0], 0o600)
        assert union.stat(found[0]).st_mode & 0o777 == 0o600
        assert found[0].upper


def test_a_deep_tree_forgotten_from_the_top(unmounted: Unmounted) -> None:
    """Each directory waits for the one below it, so all go with the last."""
    chain(unmounted.base / "l", DEEP)
    union = unmounted.open()
    with union.lock:
        before = alive(Dir)
        chained: list[Node] = [union.root]
        while len(chained) <= DEEP:
            chained += (union.lookup(chained[-1], b"d") or ())[:1]  # type: ignore[arg-type]
        chained.reverse()
        chained.pop()
        while chained:
            union.forget(chained.pop())
        assert alive(Dir) == before


def test_a_deep_tree_left_in_work_is_removed(unmounted: Unmounted, few_descriptors: None) -> None:
    (unmounted.base / "w/work").mkdir()
    chain(unmounted.base / "w/work", 3 * DEEP)
    unmounted.open()
    assert os.listdir(unmounted.base / "w/work") == []


@pytest.mark.parametrize("verb", ["open", "listxattr", "getxattr", "readdir", "readlink", "chmod"])
def test_descriptors_stay_bounded_without_lookups(unmounted: Unmounted, few_descriptors: None, verb: str) -> None:
    """The kernel asks for a name once; after that work in any number of directories goes on without a lookup."""
    union = unmounted.open({f"d{i}/{name}": entry for i in range(150) for name, entry in
                            (("f", "x"), ("s", layers.Symlink("t")))})  # fmt: skip
    with union.lock:
        known: list[tuple[Dir, Node, Node]] = []
        for i in range(150):
            found = union.lookup(union.root, b"d%d" % i)
            assert found is not None
            directory = found[0]
            assert isinstance(directory, Dir)
            file, link = union.lookup(directory, b"f"), union.lookup(directory, b"s")
            assert file is not None
            assert link is not None
            known.append((directory, file[0], link[0]))
        for directory, regular, symlink in known:
            if verb == "open":
                union.release(union.open(regular, os.O_RDONLY))
                opened = union.open(regular, os.O_RDONLY)
                assert os.pread(opened.fileno(), 9, 0) == b"x"
                union.release(opened)
            elif verb == "listxattr":
                assert union.listxattr(regular) == []
            elif verb == "getxattr":
                with fails(errno.ENODATA):
                    union.getxattr(regular, b"user.none")
            elif verb == "readdir":
                assert len(list(union.readdir(directory, 0))) == 2
            elif verb == "readlink":
                assert union.readlink(symlink) == b"t"
            else:
                union.chmod(regular, 0o600)
