"""Our mounts against the kernel's, by random operations on random stacks.

UNIONFS_DIFF_EXAMPLES and UNIONFS_DIFF_STEPS make a run longer, UNIONFS_DIFF_SEED another one, UNIONFS_DIFF_SHRINK=1
looks for the smallest failing sequence (minutes). `make test-long` uses them.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import CHOSEN
from tests.differential.machine import Machine, machine
from tests.lib import layers
from tests.lib.userns import in_user_namespace

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
    print(run(machine(one, two)))


def run(compares: type[Machine]) -> str:
    run_state_machine_as_test(seed(SEED)(compares), settings=SETTINGS)
    return f"{EXAMPLES} stacks, {compares.compared} operations compared"


@pytest.mark.long  # the kernel's overlay differs from itself there now and then, which is not understood yet
@pytest.mark.timeout(60 + EXAMPLES * STEPS)
@pytest.mark.engines("overlay", "unionfs", "fusepy")
def test_no_difference_in_a_user_namespace(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user who is root of a namespace: marks in user.overlay., nothing passed through, no devices."""
    if "overlay" not in CHOSEN:
        pytest.skip(f"only {','.join(CHOSEN)} chosen")
    monkeypatch.setattr(layers, "NAMESPACE", "user.overlay.")
    compares = machine(engine, "overlay", namespaced=True)
    print(in_user_namespace(lambda: run(compares)))


def test_what_is_drawn_depends_on_nothing_that_a_mount_says() -> None:
    """A difference that comes only sometimes has to be told, and not as a fault of the strategy."""
    drawing = machine("unionfs", "overlay")()
    try:
        conditions = [condition for rule in drawing.rules for condition in rule.preconditions]
        assert all(condition(SimpleNamespace(flags=True)) for condition in conditions)
    finally:
        drawing.teardown()
