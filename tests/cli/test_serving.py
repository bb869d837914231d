"""The daemon of a real mount: what it keeps, how it ends, what it tells, how fast it comes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.site import Site, alive, assert_works, unmount, user_mounts
from tests.lib.engines import ROOT, is_mounted, wait_until


def test_the_daemon_keeps_nothing_of_its_parent(either: Site) -> None:
    pid = either.mount("-o", either.options, either.mnt)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    assert os.getsid(pid) == pid
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [link for link in links if link.startswith("pipe:") or link == str(either.mnt)]
    assert "Umask:\t0000" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(either: Site, number: signal.Signals) -> None:
    pid = either.mount("-o", either.options, either.mnt)
    (either.mnt / "n").write_text("new")
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    assert not is_mounted(str(either.mnt))
    assert (either.base / "upper/n").read_text() == "new"


def test_a_signal_lets_open_files_be_finished_with(either: Site) -> None:
    pid = either.mount("-o", either.options, either.mnt)
    with open(either.mnt / "b", "r+") as file:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_mounted(str(either.mnt)), "the detached mount")
        assert file.read() == "bottom"
        file.write(" and more")
        assert alive(pid)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    assert (either.base / "upper/b").read_text() == "bottom and more"


def test_counters_on_request(either: Site) -> None:
    pid = either.mount("-o", either.options, either.mnt)
    with open(either.mnt / "b", "a") as file:
        file.write("!")
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: "copy_ups=" in either.log.read_text(), "the counters in the log")
    assert re.search(r" copy_ups=1\b", either.log.read_text())


def test_unmounting_waits_so_that_the_upper_is_free(either: Site) -> None:
    for _ in range(5):
        either.mount("-o", either.options, either.mnt)
        unmount(either)


def test_a_busy_mount_stays_unless_lazy(either: Site) -> None:
    pid = either.mount("-o", either.options, either.mnt)
    with open(either.mnt / "b") as file:
        done = either.run("umount", either.mnt)
        assert done.returncode == 1
        assert "busy" in done.stderr
        assert "--lazy" in done.stderr
        assert is_mounted(str(either.mnt))
        assert either.run("umount", "--lazy", either.mnt).returncode == 0
        assert not is_mounted(str(either.mnt))
        assert file.read() == "bottom"
    wait_until(lambda: not alive(pid), "the end of the daemon")


@user_mounts
def test_root_waits_for_the_daemon_of_an_ordinary_user_too(site: Site) -> None:
    site.give_to_user()
    assert site.run_as_user("mount", "-o", site.options, site.mnt).stderr == ""
    unmount(site)


def test_a_daemon_that_hangs_cannot_hang_its_unmount(either: Site) -> None:
    """Nothing asks it anything; and who has asked gets an error."""
    pid = either.mount("-o", either.options + ",timeout=0", either.mnt)
    os.kill(pid, signal.SIGSTOP)
    try:
        with subprocess.Popen(["cat", either.mnt / "b"], stderr=subprocess.PIPE, text=True) as asking:
            wait_until(lambda: "request_wait_answer" in Path(f"/proc/{asking.pid}/wchan").read_text(), "the question")
            either.run("umount", "--force", either.mnt)  # busy, perhaps, until the asking process has seen the error
            assert "b:" in asking.communicate(timeout=20)[1]
        if is_mounted(str(either.mnt)):
            unmounted = either.run("umount", "--force", either.mnt)
            assert (unmounted.returncode, unmounted.stderr) == (0, "")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    assert not is_mounted(str(either.mnt))


def test_a_dead_mount_is_explained_and_taken_away(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    done = site.run("mount", "-o", site.options, site.mnt)
    assert done.returncode == 1
    assert "a mount whose daemon died is there; unionfs umount" in done.stderr
    unmount(site)
    site.mount("-o", site.options, site.mnt)
    assert_works(site)


def test_in_the_foreground(either: Site) -> None:
    process = either.foreground("-f", "-o", either.options, either.mnt)
    assert_works(either)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert not is_mounted(str(either.mnt))


def test_debug_shows_requests_and_replies(site: Site) -> None:
    process = site.foreground("-d", "-o", site.options, site.mnt)
    assert (site.mnt / "b").read_text() == "bottom"
    assert not (site.mnt / "missing").exists()
    unmount(site)
    assert process.wait(20) == 0
    lines = site.log.read_text().splitlines()
    assert [line for line in lines if "LOOKUP" in line and "missing" in line]
    assert [line for line in lines if "OPEN" in line]


BARE = 0.015  # s: an interpreter that does nothing, on a machine that does nothing else


def test_mounted_within_150_ms(site: Site) -> None:
    """From the start of the command to its success; the best of some, with compiled modules as installed ones have.
    On a busy machine the limit grows with the time that a bare interpreter takes in the same minute.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(site.base / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def seconds(*words: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], env=environment, check=True)
        return time.perf_counter() - start

    bare, mounted = [], []
    for _ in range(10):
        bare.append(seconds("-c", "pass"))
        mounted.append(seconds("-m", "unionfs", "mount", "-o", site.options, str(site.mnt)))
        unmount(site)
    assert min(mounted) < 0.150 * max(1, min(bare) / BARE)
