"""Mounting and unmounting, directly and through fusermount3, and what is said when it does not work."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import shutil
from collections.abc import Iterator
from errno import EBUSY, EINVAL, EPERM
from pathlib import Path

import pytest

from tests.lib.asuser import as_user, in_child
from tests.lib.engines import is_mounted
from unionfs import libc
from unionfs.device import MountError, fusermount, mount, mounting, unmount
from unionfs.device.channel import buffer_size, receive
from unionfs.wire import kernel, table

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")


# The helper serves only users with a name.
USER = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def target(base: Path) -> Iterator[Path]:
    path = base / "target"
    path.mkdir()
    yield path
    while is_mounted(str(path)):
        libc.umount2(os.fsencode(path), libc.MNT_DETACH)


@pytest.fixture
def users_target(target: Path) -> Path:
    os.chown(target, USER, USER)
    return target


def entry(target: Path) -> list[str]:
    """source, type and options in the table of mounts"""
    with open("/proc/mounts") as mounts:
        fields = next(line.split() for line in mounts if line.split()[1] == str(target))
    return [fields[0], fields[2], *sorted(fields[3].split(","))]


def first_message(fd: int) -> str:
    """The name of the first request that comes from a mount."""
    buf = bytearray(buffer_size(1 << 20))
    return table.opname(table.request(buf, receive(fd, [buf]))[0])


def test_a_mount_is_as_asked_for(target: Path) -> None:
    fd = mount(os.fsencode(target), source=b"some,thing", flags=2 | 4, allow_other=True)
    found = entry(target)
    assert found[:2] == ["some,thing", "fuse.unionfs"]
    assert {"nosuid", "nodev", "rw", "user_id=0", "group_id=0", "default_permissions", "allow_other"} <= set(found)
    assert first_message(fd) == "INIT"
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    unmount(os.fsencode(target))
    assert not is_mounted(str(target))
    with pytest.raises(OSError, match="No such device"):
        receive(fd, [bytearray(buffer_size(1 << 20))])
    os.close(fd)


def test_by_default_only_the_mounter_may_enter(target: Path) -> None:
    fd = mount(os.fsencode(target))
    assert "allow_other" not in entry(target)
    os.close(fd)


def test_a_private_mount(target: Path) -> None:
    def propagation() -> str:
        with open("/proc/self/mountinfo") as table_of_mounts:
            line = next(line for line in table_of_mounts if line.split()[4] == str(target))
        return line.split(" - ")[0]

    libc.mount(b"tmpfs", os.fsencode(target), b"tmpfs", 0, None)
    libc.mount(None, os.fsencode(target), None, 1 << 20, None)  # MS_SHARED: what is mounted on it is shared
    (target / "inner").mkdir()
    inner, target = os.fsencode(target / "inner"), target / "inner"
    fd = mount(inner)
    assert "shared:" in propagation()
    unmount(inner, lazy=True)
    os.close(fd)
    fd = mount(inner, private=True)
    assert "shared:" not in propagation()
    unmount(inner, lazy=True)
    os.close(fd)


@pytest.mark.parametrize(
    ("path", "said"),
    [("missing", "missing: no such directory"), ("file/x", "file/x: Not a directory")],
)
def test_no_such_mount_point(base: Path, path: str, said: str) -> None:
    (base / "file").touch()
    with pytest.raises(MountError, match=said):
        mount(os.fsencode(base / path))


def test_refused_options(target: Path) -> None:
    with pytest.raises(MountError, match="the kernel refused the options"):
        mount(os.fsencode(target), labels=[b"no_such_option=1"])
    assert not is_mounted(str(target))


def test_no_device(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounting, "DEVICE", str(target / "fuse"))
    with pytest.raises(MountError, match=r"fuse is missing; load the module with modprobe fuse"):
        mount(os.fsencode(target))


def test_a_mount_whose_daemon_died_is_named_as_such(target: Path) -> None:
    os.close(mount(os.fsencode(target)))
    with pytest.raises(MountError, match="a mount whose daemon died is there; unmount it first"):
        mount(os.fsencode(target))


def test_unmounting_what_is_no_mount(target: Path) -> None:
    with pytest.raises(OSError, match="Invalid argument") as caught:
        unmount(os.fsencode(target))
    assert caught.value.errno == EINVAL


def test_a_busy_mount_is_unmounted_lazily(target: Path) -> None:
    fd = mount(os.fsencode(target))
    held = os.open(target, os.O_PATH)
    with pytest.raises(OSError, match="busy") as caught:
        unmount(os.fsencode(target))
    assert caught.value.errno == EBUSY
    unmount(os.fsencode(target), lazy=True)
    assert not is_mounted(str(target))
    os.close(held)
    os.close(fd)


needs_helper = pytest.mark.skipif(not shutil.which("fusermount3"), reason="needs fusermount3")


@needs_helper
@pytest.mark.skipif(not os.stat("/dev/fuse").st_mode & 2, reason="/dev/fuse is for root alone")
def test_an_ordinary_user_mounts_through_the_helper(users_target: Path) -> None:
    path = os.fsencode(users_target)

    def work() -> tuple[str, list[str], bool]:
        fd = mount(path, source=b"a,b\\c", flags=8)
        try:
            closing = bool(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC)
            return first_message(fd), entry(users_target), closing
        finally:
            unmount(path)

    message, found, closing = as_user(work, USER)
    assert (message, closing) == ("INIT", True)
    assert found[:2] == ["a,b\\134c", "fuse.unionfs"]
    assert {"noexec", "nosuid", "nodev", f"user_id={USER}", "default_permissions"} <= set(found)
    assert not is_mounted(str(users_target))


@needs_helper
def test_the_helpers_reasons_are_passed_on(target: Path, users_target: Path) -> None:
    path = os.fsencode(users_target)

    def failure(**options: object) -> str:
        def work() -> str:
            try:
                os.close(mount(path, **options))  # type: ignore[arg-type]
            except MountError as error:
                return str(error)
            return "no error"

        return as_user(work, USER)

    conf = Path("/etc/fuse.conf")
    if not os.stat("/dev/fuse").st_mode & 2:
        assert failure().startswith("/dev/fuse may not be opened by you")
        return
    if not conf.exists() or not re.search("^user_allow_other", conf.read_text(), re.MULTILINE):
        assert "add the line user_allow_other to /etc/fuse.conf" in failure(allow_other=True)
    os.chown(target, 0, 0)
    assert re.fullmatch(r"mounting at .*target failed: .*fusermount3.*", failure())


@needs_helper
def test_an_ordinary_user_unmounts_only_what_is_his(users_target: Path) -> None:
    path = os.fsencode(users_target)

    def number() -> int:
        try:
            unmount(path)
        except OSError as error:
            return error.errno or 0
        return 0

    assert as_user(number, USER) in (EINVAL, EPERM)
    fd = mount(path)
    assert as_user(number, USER) in (EINVAL, EPERM)
    assert is_mounted(str(users_target))
    os.close(fd)


def test_without_a_helper_an_ordinary_user_is_told_to_install_it(
    users_target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fusermount, "PROGRAMS", (b"no-such-program",))
    path = os.fsencode(users_target)

    def work() -> None:
        with pytest.raises(MountError, match=r"fusermount3 is missing.*install the package fuse3"):
            mount(path)

    as_user(work, USER)


@needs_helper
def test_root_without_the_capability_mounts_through_the_helper(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: mount(2) is refused, the helper may be more privileged than we are."""
    asked: list[bytes] = []

    def ask(mountpoint: bytes, *_rest: object) -> int:
        asked.append(mountpoint)
        return -1

    def work() -> bytes:
        sets = libc.capget()
        sets[0] &= ~(1 << libc.CAP_SYS_ADMIN)
        libc.capset(sets)
        monkeypatch.setattr(mounting, "_mount_by_helper", ask)
        assert mount(os.fsencode(target)) == -1
        return asked[0]

    assert in_child(work) == os.fsencode(target)


def test_the_numbers_of_the_ioctls() -> None:
    """_IOW and _IOR of asm-generic/ioctl.h."""

    def number(direction: int, nr: int, size: int) -> int:
        return direction << 30 | size << 16 | 229 << 8 | nr

    assert number(2, 0, 4) == kernel.FUSE_DEV_IOC_CLONE
    assert number(1, 1, 16) == kernel.FUSE_DEV_IOC_BACKING_OPEN
    assert number(1, 2, 4) == kernel.FUSE_DEV_IOC_BACKING_CLOSE
