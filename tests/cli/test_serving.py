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

from tests.cli.site import Site, alive, assert_works, unmount
from tests.lib.engines import ROOT, is_mounted, wait_until


def test_the_daemon_keeps_nothing_of_its_parent(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in range(3)] == ["/dev/null"] * 3
    assert os.getsid(pid) == pid
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert not [link for link in links if link.startswith("pipe:") or link == str(site.mnt)]
    assert "Umask:\t0000" in Path(f"/proc/{pid}/status").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts(site: Site, number: signal.Signals) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    (site.mnt / "n").write_text("new")
    os.kill(pid, number)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    assert not is_mounted(str(site.mnt))
    assert (site.base / "upper/n").read_text() == "new"


def test_a_signal_lets_open_files_be_finished_with(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    with open(site.mnt / "b", "r+") as file:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_mounted(str(site.mnt)), "the detached mount")
        assert file.read() == "bottom"
        file.write(" and more")
        assert alive(pid)
    wait_until(lambda: not alive(pid), "the end of the daemon")
    assert (site.base / "upper/b").read_text() == "bottom and more"


def test_counters_on_request(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    with open(site.mnt / "b", "a") as file:
        file.write("!")
    os.kill(pid, signal.SIGUSR1)
    wait_until(lambda: "copy_ups=" in site.log.read_text(), "the counters in the log")
    assert re.search(r" copy_ups=1\b", site.log.read_text())


def test_unmounting_waits_so_that_the_upper_is_free(site: Site) -> None:
    for _ in range(5):
        site.mount("-o", site.options, site.mnt)
        unmount(site)


def test_a_busy_mount_stays_unless_lazy(site: Site) -> None:
    pid = site.mount("-o", site.options, site.mnt)
    with open(site.mnt / "b") as file:
        done = site.run("umount", site.mnt)
        assert done.returncode == 1
        assert "busy" in done.stderr
        assert "--lazy" in done.stderr
        assert is_mounted(str(site.mnt))
        assert site.run("umount", "--lazy", site.mnt).returncode == 0
        assert not is_mounted(str(site.mnt))
        assert file.read() == "bottom"
    wait_until(lambda: not alive(pid), "the end of the daemon")


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


def test_in_the_foreground(site: Site) -> None:
    process = site.foreground("-f", "-o", site.options, site.mnt)
    assert_works(site)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert not is_mounted(str(site.mnt))


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
