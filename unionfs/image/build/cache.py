"""Steps done before: ROOT/steps/HEX.json says what a step made, HEX being a hash of all that it was made from.

An entry counts only while its layer is in the store; gc removes the others.
"""

from __future__ import annotations

import hashlib
import json
import os

from unionfs.image.codec import write_all
from unionfs.image.store import chain_ids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.store import Store


class Result:
    """What a step made: diff_id is empty where that is no layer."""

    __slots__ = ("created", "diff_id")

    def __init__(self, created: str, diff_id: str) -> None:
        self.created = created
        self.diff_id = diff_id


def key(*made_from: object) -> str:
    """The name of a step that is made from these JSON values: parent, instruction, content."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()


def get(store: Store, name: str, below: list[str]) -> Result | None:
    """What the step made, over layers with these diff ids; None where it is not known, or its layer is gone."""
    try:
        with open(store.path("steps", name + ".json"), encoding="ascii") as file:
            found = json.load(file)
    except (FileNotFoundError, ValueError):
        return None  # unknown, or cut short by a crash
    diff_id = found["diff_id"]
    if diff_id and not _present(store, [*below, diff_id]):
        return None
    return Result(found["created"], diff_id)


def _present(store: Store, diff_ids: list[str]) -> bool:
    return store.has_layer(chain_ids(diff_ids)[-1]) and store.has_blob(diff_ids[-1])


def put(store: Store, name: str, result: Result, below: list[str]) -> None:
    """Remember it. The layer is in the store already, and the caller holds the store's lock."""
    os.makedirs(store.path("steps"), 0o700, exist_ok=True)
    chain_id = chain_ids([*below, result.diff_id])[-1] if result.diff_id else ""
    text = json.dumps({"created": result.created, "diff_id": result.diff_id, "chain_id": chain_id})
    fd, path = store.temporary()
    try:
        write_all(fd, text.encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path, store.path("steps", name + ".json"))


def collect(store: Store) -> None:
    """Drop what speaks of layers that are gone. The store's lock is exclusive."""
    try:
        names = os.listdir(store.path("steps"))
    except FileNotFoundError:
        return
    for name in names:
        with open(store.path("steps", name), encoding="ascii") as file:
            found = json.load(file)
        if found["chain_id"] and not (store.has_layer(found["chain_id"]) and store.has_blob(found["diff_id"])):
            os.unlink(store.path("steps", name))
