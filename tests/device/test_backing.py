"""Backing files and notifications on a mount whose requests the test answers itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import EBADF, ENOENT, EPERM
from pathlib import Path

import pytest

from tests.lib.asuser import in_child
from unionfs import libc
from unionfs.device import mount, unmount
from unionfs.device.backing import Backings
from unionfs.device.channel import buffer_size, notify, receive, send
from unionfs.wire import encode, kernel, negotiate, table

pytestmark = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/fuse"), reason="needs root and /dev/fuse")


def shake_hands(fd: int, wanted: int) -> negotiate.Agreement:
    buf = bytearray(buffer_size(negotiate.MAX_WRITE))
    _opcode, unique, _nodeid, values = table.request(buf, receive(fd, [buf]))
    major, minor, readahead, offered = values
    assert isinstance(major, int)
    assert isinstance(minor, int)
    assert isinstance(readahead, int)
    assert isinstance(offered, int)
    agreement = negotiate.negotiate(major, minor, readahead, offered, wanted)
    assert agreement is not None
    reply = negotiate.init_reply(agreement)
    encode.put_unique(reply, encode.UNIQUE_AT, unique)
    send(fd, reply)
    return agreement


@pytest.fixture
def device(base: Path) -> Iterator[int]:
    """The descriptor of a mount with passthrough agreed on."""
    (base / "target").mkdir()
    target = os.fsencode(base / "target")
    fd = mount(target)
    if not shake_hands(fd, negotiate.WANTED | kernel.FUSE_PASSTHROUGH).has(kernel.FUSE_PASSTHROUGH):
        pytest.skip("this kernel has no passthrough")
    yield fd
    unmount(target, lazy=True)
    os.close(fd)


@pytest.fixture
def file(base: Path) -> Iterator[int]:
    (base / "file").write_bytes(b"content")
    fd = os.open(base / "file", os.O_RDONLY)
    yield fd
    os.close(fd)


def test_ids_are_given_out_and_taken_back(device: int, file: int) -> None:
    backings = Backings(device)
    assert backings.permitted
    first, second = backings.open(file), backings.open(file)
    assert 0 < first != second > 0
    backings.close(first)
    with pytest.raises(OSError, match="No such file") as caught:
        backings.close(first)
    assert caught.value.errno == ENOENT
    backings.close(second)


def test_the_capabilities_are_as_before(device: int, file: int) -> None:
    before = list(libc.capget())
    backings = Backings(device)
    backings.open(file)
    with pytest.raises(OSError, match="Bad file") as caught:
        backings.open(999_999)
    assert caught.value.errno == EBADF
    assert list(libc.capget()) == before


def test_without_the_capability_nothing_is_tried(device: int, file: int) -> None:
    def work() -> int:
        sets = libc.capget()
        sets[0] &= ~(1 << libc.CAP_SYS_ADMIN)
        libc.capset(sets)
        backings = Backings(device)
        assert not backings.permitted
        try:
            backings.open(file)
        except OSError as error:
            return error.errno or 0
        return 0

    assert in_child(work) == EPERM


def test_notifications_about_what_the_kernel_does_not_know(device: int) -> None:
    assert not notify(device, encode.inval_inode(4711))
    assert not notify(device, encode.inval_entry(4711, b"name"))
    assert not notify(device, encode.delete(4711, 4712, b"name"))


def test_the_kernel_takes_notifications(device: int) -> None:
    assert notify(device, encode.inval_inode(kernel.FUSE_ROOT_ID))
    assert notify(device, encode.inval_inode(kernel.FUSE_ROOT_ID, 0, 0))
    assert notify(device, encode.resend())


def test_a_resent_request_is_marked(device: int, base: Path) -> None:
    """A request that was read and not answered comes again when asked for, with bit 63 set in `unique`."""
    pid = os.fork()
    if pid == 0:
        try:
            os.stat(base / "target" / "name")
        finally:
            os._exit(0)
    buf = bytearray(buffer_size(negotiate.MAX_WRITE))
    first = table.request(buf, receive(device, [buf]))
    assert not first[1] & kernel.FUSE_UNIQUE_RESEND
    notify(device, encode.resend())
    again = table.request(buf, receive(device, [buf]))
    assert again == (first[0], first[1] | kernel.FUSE_UNIQUE_RESEND, *first[2:])
    reply = encode.status_reply(5)
    encode.put_unique(reply, encode.UNIQUE_AT, again[1])
    send(device, reply)
    assert os.waitpid(pid, 0)[1] == 0
