"""Real mounts through each library: what the binding alone would get wrong."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Mount
from tests.lib.asuser import as_user
from tests.lib.engines import ROOT, is_mounted, wait_until
from tests.lib.errors import fails

pytestmark = [pytest.mark.engines("fusepy"), pytest.mark.usefixtures("library")]
NAMES = [b"\xff\xfe", b"caf\xe9", "grüße".encode(), b"line\nbreak", b"comma,", b"back\\slash", b"\xed\xa0\x80"]


def test_names_are_bytes(mount: Mount) -> None:
    fs = mount({}, upper={})
    for name in NAMES:
        fs.write(name, name)
        os.symlink(name, os.fsencode(fs.path(b"l" + name)))
        os.setxattr(os.fsencode(fs.path(name)), b"user." + name, name)
    root = os.fsencode(fs.mnt)
    assert sorted(os.listdir(root)) == sorted([*NAMES, *(b"l" + name for name in NAMES)])
    for name in NAMES:
        assert fs.read(name) == name
        assert os.readlink(root + b"/l" + name) == name
        assert os.getxattr(root + b"/" + name, b"user." + name) == name
        assert os.listxattr(root + b"/" + name) == [os.fsdecode(b"user." + name)]


def test_a_mount_point_and_a_source_with_every_special(mount: Mount, base: Path) -> None:
    fs = mount({"f": "x"}, options=[r"fsname=a\,b\\c d"])
    assert fs.read("f") == b"x"
    with open("/proc/self/mounts") as mounts:
        line = next(line for line in mounts if f" {fs.mnt} " in line)
    assert line.startswith(r"a,b\134c\040d ")
    assert line.split()[2] == "fuse.unionfs"


def test_the_caller_owns_what_he_makes(mount: Mount) -> None:
    fs = mount({}, upper={})
    os.chmod(fs.mnt, 0o777)

    def work() -> tuple[int, ...]:
        os.umask(0o027)
        os.mkdir(fs.path("d"))
        os.mkfifo(fs.path("p"), 0o666)
        os.symlink("x", fs.path("l"))
        with open(fs.path("f"), "x"):
            return tuple(fs.stat(name).st_mode & 0o777 for name in ("d", "p", "f"))

    assert as_user(work) == (0o750, 0o640, 0o640)
    assert {fs.stat(name).st_uid for name in ("d", "p", "l", "f")} == {as_user(os.getuid)}


def test_times_to_the_nanosecond_and_one_at_a_time(mount: Mount) -> None:
    fs = mount({"f": "x"})
    os.utime(fs.path("f"), ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    st = fs.stat("f")
    assert (st.st_atime_ns, st.st_mtime_ns) == (1_234_567_890_123_456_789, 987_654_321_987_654_321)
    subprocess.run(["touch", "-a", "-d", "@5.000000007", fs.path("f")], check=True)
    st = fs.stat("f")
    assert (st.st_atime_ns, st.st_mtime_ns) == (5_000_000_007, 987_654_321_987_654_321)
    # what UTIME_OMIT would be, were it a time
    os.utime(fs.path("f"), ns=(1_073_741_822, 1_073_741_823))
    st = fs.stat("f")
    assert (st.st_atime_ns, st.st_mtime_ns) == (1_073_741_822, 1_073_741_823)


def test_every_name_of_a_file_shows_a_change(mount: Mount) -> None:
    fs = mount({"d/a": "first"})
    os.link(fs.path("d/a"), fs.path("b"))
    names = ("d/a", "b")
    assert [fs.stat(name).st_nlink for name in names] == [2, 2]
    fs.append("b", b" second")
    assert [fs.read(name) for name in names] == [b"first second"] * 2
    with open(fs.path("d/a"), "r+b") as file:
        file.truncate(3)
    assert [fs.stat(name).st_size for name in names] == [3, 3]
    os.chmod(fs.path("b"), 0o604)
    os.utime(fs.path("b"), ns=(5, 6))
    assert [(fs.stat(name).st_mode & 0o777, fs.stat(name).st_mtime_ns) for name in names] == [(0o604, 6)] * 2
    os.rename(fs.path("d"), fs.path("e"))
    os.chown(fs.path("b"), 3, 4)
    assert fs.stat("e/a").st_uid == 3
    os.unlink(fs.path("b"))
    assert fs.stat("e/a").st_nlink == 1


def test_an_unlinked_open_file_is_all_there(mount: Mount) -> None:
    fs = mount({"f": "content"})
    fd = os.open(fs.path("f"), os.O_RDWR)
    try:
        os.unlink(fs.path("f"))
        assert fs.ls() == []
        assert not [name for name in os.listdir(fs.upper) if "hidden" in name]
        os.pwrite(fd, b"more", 20)
        os.ftruncate(fd, 30)
        os.fchmod(fd, 0o600)
        os.setxattr(fd, "user.x", b"1")
        st = os.fstat(fd)
        assert (st.st_size, st.st_mode & 0o777, st.st_nlink) == (30, 0o600, 0)
        fs.write("f", b"another")
        assert os.pread(fd, 7, 0) == b"content"
    finally:
        os.close(fd)
    assert fs.ls() == ["f"]
    assert fs.read("f") == b"another"


def test_a_directory_with_an_unlinked_open_file_can_go(mount: Mount) -> None:
    fs = mount({"d/f": "content"})
    with open(fs.path("d/f"), "rb") as file:
        os.unlink(fs.path("d/f"))
        os.rmdir(fs.path("d"))
        assert file.read() == b"content"
    assert fs.ls() == []


def test_a_replaced_open_file_keeps_its_content(mount: Mount) -> None:
    fs = mount({"f": "old", "g": "new"})
    with open(fs.path("f"), "rb") as file:
        os.rename(fs.path("g"), fs.path("f"))
        assert file.read() == b"old"
        assert os.fstat(file.fileno()).st_nlink == 0
    assert fs.read("f") == b"new"
    assert fs.ls() == ["f"]


def test_rename_flags(mount: Mount, library: str) -> None:
    from tests.lib.kernel import renameat2

    noreplace, exchange = 1, 2
    fs = mount({"f": "f", "g": "g"})
    if "fuse3" in library:
        renameat2(fs.path("f"), fs.path("h"), noreplace)
        renameat2(fs.path("h"), fs.path("g"), exchange)
        assert (fs.read("h"), fs.read("g")) == (b"g", b"f")
    else:  # and nothing is replaced or lost by doing half of it
        for target, flag in (("h", noreplace), ("g", exchange)):
            with fails(errno.EINVAL):
                renameat2(fs.path("f"), fs.path(target), flag)
        assert (fs.read("f"), fs.read("g")) == (b"f", b"g")
    assert len(fs.ls()) == 2


def test_a_large_directory_listed_while_it_changes(mount: Mount) -> None:
    fs = mount({f"d/f{i:04}": "" for i in range(3000)})
    with os.scandir(fs.path("d")) as entries:
        seen = [next(entries).name for _ in range(10)]
        for i in range(0, 3000, 3):
            os.unlink(fs.path(f"d/f{i:04}"))
        seen += [entry.name for entry in entries]
    assert len(seen) == len(set(seen))
    assert set(seen) >= {f"f{i:04}" for i in range(3000) if i % 3}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(mount: Mount, number: signal.Signals) -> None:
    fs = mount({"f": "x"})
    assert fs.daemon is not None
    fs.daemon.process.send_signal(number)
    wait_until(lambda: not is_mounted(fs.mnt), "the unmount")
    assert fs.daemon.process.wait(20) == 0
    fs.daemon = None


def test_what_libfuse_says_is_the_reason(base: Path) -> None:
    for name in ("l", "m"):
        os.mkdir(base / name)
    code = (
        "import sys; from unionfs.union import Config, Union; from unionfs import fusepy_front\n"
        "try: fusepy_front.serve(Union(Config(lower=[sys.argv[1].encode()])), b'/nowhere/at/all')\n"
        "except fusepy_front.FrontError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(base / "l")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "/nowhere/at/all" in done.stdout
    assert done.stderr == ""
