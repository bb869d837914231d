"""Many processes on one tree: no lost update, no phantom name, no wrong content, one copy-up."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

from tests.conftest import Mount
from tests.lib import kernel, tree
from tests.lib.asuser import in_child
from tests.lib.engines import Mounted
from tests.lib.layers import File, Layer

WORKERS = 4


def together(work: Callable[[int], object], count: int = WORKERS) -> list[object]:
    """Runs work(0…count-1) in processes of their own, begun at the same moment; their results."""
    gate_reader, gate_writer = os.pipe()
    results: list[tuple[int, int]] = []
    for number in range(count):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(gate_writer)
            os.read(gate_reader, 1)
            _run(work, number, writer)
        os.close(writer)
        results.append((pid, reader))
    os.close(gate_reader)
    os.close(gate_writer)
    return [_collect(pid, reader) for pid, reader in results]


def _run(work: Callable[[int], object], number: int, writer: int) -> None:
    import traceback

    try:
        answer = f"+{work(number)}"
    except BaseException:
        answer = "-" + traceback.format_exc()
    os.write(writer, answer.encode()[:60000])
    os._exit(0)


def _collect(pid: int, reader: int) -> object:
    with open(reader, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(pid, 0)
    assert answer.startswith("+"), answer or "a worker died"
    return answer[1:]


def settled(fs: Mounted) -> None:
    """The tree is sound and a remount shows the same."""
    assert tree.listing_faults(fs.mnt) == []
    before = fs.tree()
    fs.remount()
    tree.assert_same(before, fs.tree(), names="before after")


def test_first_writers_of_one_lower_file(mount: Mount) -> None:
    """All open it at once; every write is there at the end, so there was one copy-up."""
    fs = mount({"f": File(b"." * (8 << 20), mode=0o640, uid=7)})
    ino = fs.stat("f").st_ino

    def work(number: int) -> None:
        fd = os.open(fs.path("f"), os.O_RDWR)
        for i in range(50):
            os.pwrite(fd, b"%d" % number, i * 100_000 + number)
        assert os.fstat(fd).st_ino == ino
        os.close(fd)

    together(work, 8)
    content = fs.read("f")
    assert len(content) == 8 << 20
    for i in range(50):
        assert content[i * 100_000 : i * 100_000 + 9] == b"01234567."
    assert (fs.stat("f").st_ino, fs.stat("f").st_uid) == (ino, 7)
    settled(fs)


def test_first_changes_of_many_files(mount: Mount) -> None:
    fs = mount({f"d/f{i}": f"{i}" for i in range(40)})

    def work(number: int) -> None:
        order = list(range(40))
        random.Random(number).shuffle(order)
        for i in order:
            fs.append(f"d/f{i}", b"+")
            os.chmod(fs.path(f"d/f{i}"), 0o600)

    together(work)
    assert [fs.read(f"d/f{i}") for i in range(40)] == [b"%d++++" % i for i in range(40)]
    settled(fs)


def test_appending_from_many_processes_loses_nothing(mount: Mount) -> None:
    fs = mount({"log": ""})

    def work(number: int) -> None:
        fd = os.open(fs.path("log"), os.O_WRONLY | os.O_APPEND)
        for i in range(200):
            os.write(fd, b"%d-%03d\n" % (number, i))
        os.close(fd)

    together(work)
    lines = fs.read("log").split()
    assert len(lines) == WORKERS * 200
    assert len(set(lines)) == WORKERS * 200


def test_exclusive_creation_has_one_winner(mount: Mount) -> None:
    fs = mount({"d/x": ""})

    def work(number: int) -> int:
        won = 0
        for i in range(50):
            try:
                fs.write(f"d/lock{i}", b"%d" % number, os.O_CREAT | os.O_EXCL)
                won += 1
            except FileExistsError:
                pass
        return won

    assert sum(int(str(result)) for result in together(work)) == 50
    settled(fs)


def test_unlink_has_one_winner(mount: Mount) -> None:
    layer: Layer = {f"f{i}": "" for i in range(60)}
    fs = mount(layer)

    def work(number: int) -> int:
        won = 0
        for i in range(60):
            try:
                os.unlink(fs.path(f"f{i}"))
                won += 1
            except FileNotFoundError:
                pass
        return won

    assert sum(int(str(result)) for result in together(work)) == 60
    assert fs.ls() == []
    settled(fs)


def test_rename_and_open_of_one_name(mount: Mount) -> None:
    """Replacing a file by rename: whoever opens the name sees a whole version, and always one."""
    fs = mount({"f": b"0" * 5000})

    def work(number: int) -> None:
        for i in range(60):
            if number < 2:
                temporary = f"tmp{number}"
                fs.write(temporary, b"%d" % number * 5000)
                os.rename(fs.path(temporary), fs.path("f"))
            else:
                content = fs.read("f")
                assert len(content) == 5000, f"{len(content)} bytes in round {i}"
                assert len(set(content)) == 1

    together(work)
    assert fs.ls() == ["f"]
    settled(fs)


def test_moving_one_file_about(mount: Mount) -> None:
    """The file exists exactly once, whatever the race."""
    fs = mount({"a/token": "t", "b/x": "", "c/x": ""})

    def work(number: int) -> None:
        chosen = random.Random(number)
        for _ in range(150):
            source, target = chosen.sample("abc", 2)
            try:
                os.rename(fs.path(f"{source}/token"), fs.path(f"{target}/token"))
            except OSError as e:
                assert e.errno == errno.ENOENT  # noqa: PT017

    together(work)
    assert sum("token" in fs.ls(name) for name in "abc") == 1
    settled(fs)


def test_lookups_against_renames_of_a_parent(mount: Mount) -> None:
    fs = mount({"p0/d/f": "content"}, {"p0/d/g": "below"})

    def work(number: int) -> None:
        for i in range(80):
            if number == 0:
                os.rename(fs.path(f"p{i}"), fs.path(f"p{i + 1}"))
                continue
            for at in range(81):
                try:
                    assert fs.read(f"p{at}/d/g") == b"below"
                except FileNotFoundError:
                    continue
                break

    together(work, 3)
    assert fs.ls() == ["p80"]
    assert fs.ls("p80/d") == ["f", "g"]
    settled(fs)


def test_listing_against_creation_and_removal(mount: Mount) -> None:
    """What stays is in every listing, exactly once; what comes and goes may be."""
    stay = {f"stay{i:03}" for i in range(150)}
    fs = mount({f"d/{name}": "" for name in sorted(stay)[::2]}, {f"d/{name}": "" for name in sorted(stay)[1::2]})

    def work(number: int) -> None:
        for i in range(60):
            if number < 2:
                fs.write(f"d/come{number}-{i}", b"")
                os.unlink(fs.path(f"d/come{number}-{i}"))
            else:
                listed = os.listdir(fs.path("d"))
                assert len(listed) == len(set(listed))
                assert stay <= set(listed), stay - set(listed)

    together(work)
    assert set(fs.ls("d")) == stay
    settled(fs)


def test_everything_at_once(mount: Mount) -> None:
    """Random work of every kind: only the errors that a race explains, and a sound tree at the end."""
    layer: Layer = {f"d{i}/f{j}": f"{i}{j}" for i in range(4) for j in range(6)}
    fs = mount(layer)
    allowed = {errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ESTALE}

    def one(chosen: random.Random) -> None:
        path = fs.path(f"d{chosen.randrange(5)}/f{chosen.randrange(7)}")
        other = fs.path(f"d{chosen.randrange(5)}/f{chosen.randrange(7)}")
        kind = chosen.randrange(11)
        if kind == 0:
            os.rename(path, other)
        elif kind == 1:
            os.unlink(path)
        elif kind == 2:
            os.link(path, other)
        elif kind == 3:
            os.chmod(path, 0o600 + chosen.randrange(64))
        elif kind == 4:
            with open(path, "r+b") as file:
                file.write(b"written")
        elif kind == 5:
            with open(path, "wb") as file:
                file.write(b"fresh")
        elif kind == 6:
            os.rename(os.path.dirname(path), os.path.dirname(other))
        elif kind == 7:
            os.mkdir(os.path.dirname(path))
        elif kind == 8:
            os.listdir(os.path.dirname(path))
        elif kind == 9:
            with open(path, "r+b") as file:
                os.unlink(path)
                file.write(b"longer than before")
        elif fs.engine != "plain":
            kernel.forget_names(fs.mnt)

    def work(number: int) -> None:
        chosen = random.Random(number)
        for _ in range(250):
            try:
                one(chosen)
            except OSError as e:
                if e.errno not in allowed - {errno.ESTALE}:
                    raise

    together(work)
    settled(fs)


def test_mapped_counters_of_two_processes(mount: Mount) -> None:
    """A shared mapping is one memory, also for processes that mapped before and after the copy-up."""
    import mmap

    fs = mount({"f": b"\0" * 8192})
    fd = os.open(fs.path("f"), os.O_RDWR)
    with mmap.mmap(fd, 8192) as mine:

        def other() -> None:
            theirs = os.open(fs.path("f"), os.O_RDWR)
            with mmap.mmap(theirs, 8192) as view:
                view[0] = 42
            os.close(theirs)

        in_child(other)
        assert mine[0] == 42
    os.close(fd)
