"""The fixture `site`: a stack below a directory of its own, and everything below it gone at the end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.site import Site


@pytest.fixture
def site() -> Iterator[Site]:
    """In a directory that every user may enter, unlike tmp_path."""
    base = Path(tempfile.mkdtemp(prefix="unionfs-test-"))
    base.chmod(0o755)
    found = Site(base)
    yield found
    found.clean()
    shutil.rmtree(base)
