"""A mount namespace without /proc: said at mount time, not met later."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.lib.engines import ROOT


def test_no_proc(base: Path) -> None:
    for name in ("l", "m"):
        (base / name).mkdir()
    command = f"umount -l /proc && exec {sys.executable} -m unionfs mount -o lowerdir={base}/l {base}/m"
    said = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert said.returncode == 1
    assert said.stderr.startswith("unionfs: /proc is not mounted here")
    assert len(said.stderr.splitlines()) == 1
