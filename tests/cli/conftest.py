"""The fixture `site`: a stack below a directory of its own, and everything below it gone at the end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import Site
from unionfs import fusepy_front


@pytest.fixture
def site() -> Iterator[Site]:
    """In a directory that every user may enter, unlike tmp_path."""
    base = Path(tempfile.mkdtemp(prefix="unionfs-test-"))
    base.chmod(0o755)
    found = Site(base)
    yield found
    found.clean()
    shutil.rmtree(base)


@pytest.fixture(params=["kernel", "fusepy"])
def either(request: pytest.FixtureRequest, site: Site) -> Site:
    """A site whose options choose one front end, each in its turn."""
    if request.param == "fusepy":
        try:
            fusepy_front.load()
        except ImportError as error:
            pytest.skip(str(error))
    site.options += f",frontend={request.param}"
    return site
