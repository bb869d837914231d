"""Our mounts against the kernel's, by random operations on random stacks.

UNIONFS_DIFF_EXAMPLES and UNIONFS_DIFF_STEPS make a run longer, UNIONFS_DIFF_SEED another one, UNIONFS_DIFF_SHRINK=1
looks for the smallest failing sequence (minutes). `make test-long` uses them.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import CHOSEN
from tests.differential.machine import machine

EXAMPLES = int(os.environ.get("UNIONFS_DIFF_EXAMPLES", "15"))
STEPS = int(os.environ.get("UNIONFS_DIFF_STEPS", "40"))
SEED = int(os.environ.get("UNIONFS_DIFF_SEED", "1"))
SHRINK = [Phase.shrink] if os.environ.get("UNIONFS_DIFF_SHRINK") else []

SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    phases=[Phase.generate, *SHRINK],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.timeout(60 + EXAMPLES * STEPS)
@pytest.mark.parametrize(
    ("one", "two"),
    [
        # The machine itself: no difference between two kernels.
        pytest.param("overlay", "overlay", id="overlay-overlay"),
        pytest.param("unionfs", "overlay", id="unionfs-overlay"),
        pytest.param("fusepy", "overlay", id="fusepy-overlay"),
    ],
)
def test_no_difference(one: str, two: str) -> None:
    if one not in CHOSEN or two not in CHOSEN:
        pytest.skip(f"only {','.join(CHOSEN)} chosen")
    compares = machine(one, two)
    run_state_machine_as_test(seed(SEED)(compares), settings=SETTINGS)
    print(f"{EXAMPLES} stacks, {compares.compared} operations compared")
