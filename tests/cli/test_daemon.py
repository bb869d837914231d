"""What a daemon keeps of its parent (nothing), and how its success and failure reach whoever started it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import alive
from tests.lib.engines import ROOT, wait_until

COMMAND = [sys.executable, "-bb", "-W", "error", "-m", "tests.cli.bodies"]


class Started:
    def __init__(self, name: str, log: Path, pass_fds: tuple[int, ...] = ()) -> None:
        """Returns when the command has ended and nobody holds its output: a kept stderr would hang here."""
        done = subprocess.run(
            [*COMMAND, name, str(log)], capture_output=True, text=True, timeout=30, check=False,
            cwd=ROOT, pass_fds=pass_fds, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self.code, self.out, self.err, self.log = done.returncode, done.stdout, done.stderr, log

    def logged(self) -> str:
        return self.log.read_text()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def pids() -> Iterator[list[int]]:
    """Processes that the test expects to live; killed at its end."""
    found: list[int] = []
    yield found
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: not alive(pid), "the end of the daemon")  # type: ignore[misc]


def test_a_daemon_keeps_nothing_of_its_parent(log: Path, tmp_path: Path, pids: list[int]) -> None:
    inherited = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inherited, True)
    started = Started("living", log, (inherited,))
    os.close(inherited)
    assert started.code == 0
    state = json.loads(started.err.removeprefix("unionfs: "))
    pids.append(state["pid"])
    assert state["sid"] == state["pid"] != os.getsid(0)
    assert state["umask"] == 0
    links = state["fds"]
    assert [links.pop(fd) for fd in "012"] == ["/dev/null"] * 3
    assert sorted(link.split(":")[0] for link in links.values()) == [str(log), "pipe", "the listing itself"]
    assert alive(state["pid"])
    # the pipe goes when it has reported
    table = f"/proc/{state['pid']}/fd"
    assert sorted(os.readlink(f"{table}/{fd}") for fd in os.listdir(table)) == ["/dev/null"] * 3 + [str(log)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("failing", "unionfs: layer /x: no such directory\n"),
        ("crashing", "unionfs: internal error: ValueError: two lines (--debug shows the traceback)\n"),
        ("dying", "unionfs: the daemon ended before the mount answered (killed by signal 9)\n"),
        ("leaving", "unionfs: the daemon ended before the mount answered (exit code 0)\n"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(name: str, message: str, log: Path) -> None:
    started = Started(name, log)
    assert (started.code, started.out, started.err) == (1, "", message)


def test_an_internal_error_leaves_its_traceback_in_the_log(log: Path) -> None:
    assert "Traceback" in Started("crashing", log).logged()


def test_a_failure_after_ready_goes_to_the_log(log: Path) -> None:
    started = Started("failing_late", log)
    assert (started.code, started.err) == (0, "")
    wait_until(lambda: "RuntimeError: after the mount" in started.logged(), "the traceback in the log")


def test_interrupting_the_command_ends_its_daemon(log: Path) -> None:
    command = subprocess.Popen(
        [*COMMAND, "slow", str(log)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    with command:
        wait_until(lambda: log.exists() and "waiting" in log.read_text(), "the daemon to wait")
        pid = int(log.read_text().split()[-1])
        command.send_signal(signal.SIGINT)
        assert command.wait(20) == 130
    assert not alive(pid)


def test_signals_unmount_then_detach_then_end(log: Path, pids: list[int]) -> None:
    started = Started("watching", log)
    pid = int(started.err.removeprefix("unionfs: "))
    pids.append(pid)
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: "copy_ups=2 lookups=7" in started.logged(), "the counters")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "unmount lazy=True" in started.logged(), "the lazy unmount")
    assert "SIGTERM: Device or resource busy; detached" in started.logged()
    assert alive(pid)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), "the end after a second signal")
