"""Where an engine is known to behave differently, with the reason. A test named here has to fail (strict xfail),
so an entry that is no longer true fails the run.

The key is the test's name without its parameters, the engine first.
"""

from __future__ import annotations

_LOWEST = "the kernel lists a directory of only one layer as it is on disk, whiteouts and all"

DEVIATIONS: dict[tuple[str, str], str] = {
    ("overlay", "test_a_whiteout_in_the_lowest_layer_is_not_seen"): _LOWEST,
    ("overlay", "test_rename_whiteout"): "the kernel's overlayfs refuses RENAME_WHITEOUT from applications (EINVAL)",
}
