"""`unionfs tour layers`: it runs by itself, with busybox or without, tells the truth, and leaves nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.image import programs

# A tour in a process in which adding makes no layer: it must notice.
BROKEN = """\
import unionfs.image.build.builder as builder
builder._Build._layer = lambda self, stage, step, make: ""
from unionfs.cli import tour
raise SystemExit(tour.run([b"layers"]))
"""


def tour(tmp_path: Path, *command: str, path: str = "") -> subprocess.CompletedProcess[str]:
    if os.geteuid() != 0:
        pytest.skip("RUN without root needs user namespaces and a /dev/fuse for everybody")
    env = {**os.environ, "TMPDIR": str(tmp_path), **({"PATH": path} if path else {})}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=110, env=env)


def nothing_is_left(tmp_path: Path) -> bool:
    return not os.listdir(tmp_path) and str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_the_tour(tmp_path: Path) -> None:
    done = tour(tmp_path, "-m", "unionfs", "tour", "layers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "✘" not in done.stdout
    assert "\x1b" not in done.stdout        # colours are for terminals
    assert done.stdout.count("✔") == 19
    assert nothing_is_left(tmp_path)


def test_without_busybox(tmp_path: Path) -> None:
    programs.need("ldd")
    tools, place = tmp_path / "tools", tmp_path / "tmp"
    tools.mkdir()
    place.mkdir()
    for name in ("sh", "cat", "echo", "rm", "ls", "ldd"):
        (tools / name).symlink_to(Path("/bin", name))
    done = tour(place, "-m", "unionfs", "tour", "layers", path=str(tools))
    assert done.returncode == 0, done.stdout + done.stderr
    assert nothing_is_left(place)


def test_a_false_claim_is_seen(tmp_path: Path) -> None:
    done = tour(tmp_path, "-c", BROKEN)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "✘" in done.stdout or "the tour ended" in done.stderr
