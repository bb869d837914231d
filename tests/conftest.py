"""What all tests share: the `mount` fixture, the engines, and the check that nothing is left behind.

A test that takes `engine` or `mount` runs once for each engine; `@pytest.mark.engines("overlay", "unionfs")`
narrows that. UNIONFS_TEST_ENGINES=plain,overlay restricts the run from outside.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest

from tests.deviations import DEVIATIONS
from tests.lib import engines
from tests.lib.engines import Mounted
from tests.lib.layers import Layer

CHOSEN = os.environ.get("UNIONFS_TEST_ENGINES", ",".join(engines.ALL)).split(",")


class Mount(Protocol):
    """mount(top, …, bottom, upper=…, …): a Mounted of this test's engine; unmounted and checked at its end."""

    def __call__(self, *lowers: Layer, **options: object) -> Mounted: ...


def pytest_configure(config: pytest.Config) -> None:
    for number in (signal.SIGINT, signal.SIGQUIT):
        # A shell starts what it runs in the background with these ignored, and so would be all that the tests start.
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    config.addinivalue_line("markers", "engines(*names): the engines that this test is for; default all")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("engines")
    names = marker.args if marker else engines.ALL
    metafunc.parametrize("engine", [name for name in names if name in CHOSEN])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            callspec = getattr(item, "callspec", None)
            engine = str(callspec.params.get("engine")) if callspec else ""
            reason = DEVIATIONS.get((engine, item.originalname))
            if reason:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    """Every test begins with the usual umask and ends without having moved the process."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory on a real disk, that everybody may enter (pytest's own are for one user), removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="unionfs-test-", dir=os.environ.get("UNIONFS_TEST_DIR", "/var/tmp")))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def mount(engine: str, base: Path, request: pytest.FixtureRequest) -> Iterator[Mount]:
    stacks: list[Mounted] = []

    def make(*lowers: Layer, **options: object) -> Mounted:
        stack = Mounted(engine, base / f"s{len(stacks)}", lowers, **options)  # type: ignore[arg-type]
        stacks.append(stack)
        return stack

    yield make
    engines.close_all(stacks)
