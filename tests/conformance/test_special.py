"""FIFOs, sockets, devices, names, times, statfs: what else a file system does."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading

import pytest

from tests.conftest import Mount
from tests.lib import kernel, layers
from tests.lib.errors import fails
from tests.lib.layers import Dir, File, Special, Symlink

LONG = "n" * 255


@pytest.mark.parametrize("where", ["lower", "upper"])
def test_fifo_carries_data(mount: Mount, where: str) -> None:
    fs = mount({"p": Special(stat.S_IFIFO, mode=0o600)} if where == "lower" else {})
    if where == "upper":
        os.mkfifo(fs.path("p"))

    def writer() -> None:
        fd = os.open(fs.path("p"), os.O_WRONLY)
        os.write(fd, b"through the pipe")
        os.close(fd)

    thread = threading.Thread(target=writer)
    thread.start()
    fd = os.open(fs.path("p"), os.O_RDONLY)
    assert os.read(fd, 100) == b"through the pipe"
    thread.join()
    os.close(fd)


def test_socket_is_bound_and_answers(mount: Mount) -> None:
    fs = mount({"d": Dir()})
    here = os.open(".", os.O_RDONLY)
    os.chdir(fs.path("d"))
    try:
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
            server.bind("sock")
            server.listen()
            client.connect("sock")
            peer, _ = server.accept()
            with peer:
                client.send(b"hello")
                assert peer.recv(10) == b"hello"
    finally:
        os.fchdir(here)
        os.close(here)
    assert stat.S_ISSOCK(fs.stat("d/sock").st_mode)
    fs.remount()
    assert stat.S_ISSOCK(fs.stat("d/sock").st_mode)


def test_mknod_of_every_kind(mount: Mount) -> None:
    fs = mount({"d": Dir()})
    for name, kind, rdev in [
        ("reg", stat.S_IFREG, 0),
        ("chr", stat.S_IFCHR, os.makedev(300, 70000)),
        ("blk", stat.S_IFBLK, os.makedev(7, 3)),
        ("fifo", stat.S_IFIFO, 0),
        ("sock", stat.S_IFSOCK, 0),
    ]:
        os.mknod(fs.path("d/" + name), kind | 0o640, rdev)
    fs.remount()
    seen = {name: fs.stat("d/" + name) for name in fs.ls("d")}
    assert {name: kernel.type_names[st.st_mode >> 12] for name, st in seen.items()} == {
        "reg": "reg", "chr": "chr", "blk": "blk", "fifo": "fifo", "sock": "sock",
    }  # fmt: skip
    assert (os.major(seen["chr"].st_rdev), os.minor(seen["chr"].st_rdev)) == (300, 70000)


@pytest.mark.engines("overlay", "unionfs", "fusepy")
def test_making_the_device_0_0_is_refused(mount: Mount) -> None:
    """It would be a whiteout."""
    fs = mount({"d": Dir()})
    with fails(errno.EPERM, errno.EIO):
        os.mknod(fs.path("d/w"), stat.S_IFCHR | 0o600, 0)
    assert fs.ls("d") == []


def test_devices_work(mount: Mount) -> None:
    fs = mount({})
    os.mknod(fs.path("zero"), stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with open(fs.path("zero"), "rb", buffering=0) as device:
        assert device.read(5) == b"\0" * 5


def test_names_of_255_bytes(mount: Mount) -> None:
    fs = mount({LONG: "x", f"d/{LONG}": "y"})
    fs.append(LONG, b"z")
    os.rename(fs.path(f"d/{LONG}"), fs.path("d/" + "m" * 255))
    os.unlink(fs.path(LONG))
    fs.write("k" * 255, b"k")
    with fails(errno.ENAMETOOLONG):
        fs.write("k" * 256, b"")
    with fails(errno.ENAMETOOLONG):
        fs.stat("k" * 256)
    fs.remount()
    assert fs.ls() == ["d", "k" * 255]
    assert fs.ls("d") == ["m" * 255]


def test_names_of_any_bytes(mount: Mount) -> None:
    odd = [bytes([i]) for i in range(1, 256) if i not in b"./"] + ["ünï".encode(), b"\xff\xfe", b"-n", b"...", b" "]
    fs = mount({b"low/" + name: name for name in odd})
    assert sorted(os.listdir(os.fsencode(fs.path("low")))) == sorted(set(odd))
    for name in odd:
        assert fs.read(b"low/" + name) == name
        fs.write(b"new" + name, name)
    os.unlink(fs.path(b"low/\xff\xfe"))
    fs.remount()
    assert fs.read(b"new\xff\xfe") == b"\xff\xfe"
    assert b"\xff\xfe" not in os.listdir(os.fsencode(fs.path("low")))


def test_names_that_look_like_marks(mount: Mount) -> None:
    """Names that other programs use for themselves are just names."""
    fs = mount({"#1": "a", ".fuse_hidden0001": "b", "work": "c", "index": "d"})
    assert fs.ls() == ["#1", ".fuse_hidden0001", "index", "work"]


def test_paths_at_path_max(mount: Mount) -> None:
    """A path of 4,095 bytes below the working directory."""
    part = "d" * 200
    depth = 20
    fs = mount({})
    here = os.open(".", os.O_RDONLY)
    os.chdir(fs.mnt)
    try:
        fd = os.open(".", os.O_RDONLY)
        for _ in range(depth):
            os.mkdir(part, dir_fd=fd)
            deeper = os.open(part, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(fd)
        path = "/".join([part] * depth)
        path += "/" + "f" * (4095 - len(path) - 1)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        assert os.stat(path).st_size == 0
        with fails(errno.ENAMETOOLONG):
            os.stat(path + "f")
        os.unlink(path)
    finally:
        os.fchdir(here)
        os.close(here)


def test_deep_lower_tree_is_copied_up(mount: Mount) -> None:
    path = "/".join(f"{i:03}" + "x" * 40 for i in range(60))
    fs = mount({path + "/f": "deep"})
    fs.append(path + "/f", b"er")
    assert fs.read(path + "/f") == b"deeper"
    fs.assert_copied_up(path + "/f")


def test_nanosecond_times(mount: Mount) -> None:
    fs = mount({"f": File("x", mtime=1_111_111_111_222_333_444), "d": Dir(mtime=999_999_999)})
    assert fs.stat("f").st_mtime_ns == 1_111_111_111_222_333_444
    for name in ("f", "d"):
        os.utime(fs.path(name), ns=(123_456_789_987_654_321, 1_700_000_000_000_000_001))
        st = fs.stat(name)
        assert (st.st_atime_ns, st.st_mtime_ns) == (123_456_789_987_654_321, 1_700_000_000_000_000_001)


def test_times_before_1970_and_far_ahead(mount: Mount) -> None:
    fs = mount({"f": "x"})
    os.utime(fs.path("f"), ns=(-1_000_000_000, -5_500_000_000))
    assert fs.stat("f").st_mtime_ns == -5_500_000_000
    os.utime(fs.path("f"), ns=(-1, -1))  # a time like any other, and not "now"
    assert (fs.stat("f").st_atime_ns, fs.stat("f").st_mtime_ns) == (-1, -1)
    far = 10_000_000_000 * 10**9
    os.utime(fs.path("f"), ns=(far, far))
    assert fs.stat("f").st_mtime_ns == far


def test_birth_time(mount: Mount) -> None:
    fs = mount({"f": "x"})
    fs.write("new", b"")
    lower, new = kernel.birth_time(fs.path("f")), kernel.birth_time(fs.path("new"))
    assert lower is not None
    assert new is not None
    assert new >= lower
    assert abs(new - fs.stat("new").st_ctime_ns) < 10**9


def test_statfs_is_that_of_upper(mount: Mount) -> None:
    fs = mount({"f": "x"})
    shown, real = os.statvfs(fs.path("f")), os.statvfs(fs.base)
    assert (shown.f_bsize, shown.f_blocks, shown.f_namemax) == (real.f_bsize, real.f_blocks, real.f_namemax)
    assert abs(shown.f_bfree - real.f_bfree) < real.f_blocks // 100
    assert shown.f_files == real.f_files


def test_symlinks_of_any_length(mount: Mount) -> None:
    target = "/".join(["t" * 100] * 40)
    fs = mount({"low": Symlink(target)})
    os.symlink(target + "x", fs.path("new"))
    assert os.readlink(fs.path("low")) == target
    assert os.readlink(fs.path("new")) == target + "x"
    assert fs.stat("new").st_size == len(target) + 1
    with fails(errno.ENAMETOOLONG):
        os.symlink("x" * 4096, fs.path("too-long"))


def test_links_are_resolved_by_the_user_not_the_layer(mount: Mount) -> None:
    """An absolute link in a layer leads where it leads for whoever follows it: never out of the layer for us."""
    fs = mount({"abs": Symlink("/"), "up": Symlink(".."), "d/rel": Symlink("../f"), "f": "x"})
    assert fs.read("d/rel") == b"x"
    assert os.stat(fs.path("abs")).st_ino == os.stat("/").st_ino
    assert os.stat(fs.path("up")).st_ino == os.stat(fs.base).st_ino


def test_root_directory(mount: Mount) -> None:
    fs = mount({"f": ""})
    os.chmod(fs.mnt, 0o751)
    os.setxattr(fs.mnt, "user.root", b"1")
    fs.remount()
    assert stat.S_IMODE(fs.stat().st_mode) == 0o751
    assert os.getxattr(fs.mnt, "user.root") == b"1"
    with fails(errno.ENOTEMPTY if fs.engine == "plain" else errno.EBUSY):
        os.rmdir(fs.mnt)


def test_one_device_number(mount: Mount) -> None:
    fs = mount({"d/f": "x", "l": Symlink("x")}, {"g": ""}, upper={"u": ""})
    assert {fs.stat(name).st_dev for name in ("", "d", "d/f", "g", "u", "l")} == {fs.stat().st_dev}


def test_many_open_files(mount: Mount) -> None:
    fs = mount({f"f{i}": str(i) for i in range(300)})
    fds = [os.open(fs.path(f"f{i}"), os.O_RDONLY if i % 2 else os.O_RDWR) for i in range(300)]
    try:
        for i in range(0, 300, 7):
            assert os.pread(fds[i], 10, 0) == b"%d" % i
    finally:
        for fd in fds:
            os.close(fd)


def test_socket_in_a_lower(mount: Mount) -> None:
    fs = mount({"d": Dir()}, mounted=False)
    if fs.engine == "plain":
        layers.make_socket(fs.path("d/s"))
    else:
        layers.make_socket(fs.lowers[0] + "/d/s")
        fs.remember_lowers()
        fs.mount()
    assert stat.S_ISSOCK(fs.stat("d/s").st_mode)
    os.rename(fs.path("d/s"), fs.path("s"))
    assert stat.S_ISSOCK(fs.stat("s").st_mode)
