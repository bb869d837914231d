"""`unionfs image ls, inspect, history, layers, diff, explain`: what images are made of."""

from __future__ import annotations

import json
import time

from unionfs.cli.errors import shown
from unionfs.cli.image_args import Arguments, plain, size, table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from unionfs.image.compare import Change
    from unionfs.image.store import Store

_JSON = {b"--json": ("json", False)}
_WIDE = {b"--no-trunc": ("wide", False)}


def ls(argv: list[bytes]) -> int:
    """Name, ID, age, size of each image, and how much of the size no other image shares.

    --json, --no-trunc, --store DIR
    """
    from unionfs.image.describe import ago, parse_time, short
    from unionfs.image.usage import usage

    arguments = Arguments(argv, {**_JSON, **_WIDE}, 0, 1, "ls [NAME]")
    with arguments.store() as store:
        found = usage(store, arguments.words[0] if arguments.words else "")
    if arguments.has("json"):
        print(json.dumps([row.as_json() for row in found], indent=1))
        return 0
    rows = [["NAME", "IMAGE ID", "CREATED", "SIZE", "SHARED", "OWN"]]
    for row in found:
        image_id = row.image.config_digest if arguments.has("wide") else short(row.image.config_digest)
        created = parse_time(row.image.config.get("created") or "")
        sizes = [size(row.size), size(row.shared), size(row.own)]
        rows += [[name, image_id, ago(time.time() - created), *sizes] for name in row.tags or ["<none>"]]
    table(rows)
    return 0


def inspect(argv: list[bytes]) -> int:
    """Prints what docker inspect prints of an image: configuration, layers, digests, sizes, directories."""
    from unionfs.image.describe import inspect as describe
    from unionfs.image.find import find

    arguments = Arguments(argv, {}, 1, None, "inspect NAME…")
    with arguments.store() as store:
        found = [describe(store, find(store, name)) for name in arguments.words]
    print(json.dumps(found, indent=4, ensure_ascii=False))
    return 0


def history(argv: list[bytes]) -> int:
    """Shows the steps that made an image, the last one first, as docker history does. Steps without a layer have 0B.

    --json, --no-trunc, --store DIR
    """
    from unionfs.image import describe
    from unionfs.image.find import find

    arguments = Arguments(argv, {**_JSON, **_WIDE}, 1, 1, "history NAME")
    wide = arguments.has("wide")
    with arguments.store() as store:
        image = find(store, arguments.words[0])
        if arguments.has("json"):
            print(json.dumps(describe.history_json(store, image), indent=1, ensure_ascii=False))
            return 0
        steps = describe.history(image)
    rows = [["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"]]
    for index, step in enumerate(steps):
        image_id = (
            "<missing>" if index else image.config_digest if wide else describe.short(image.config_digest)
        )
        by = step.created_by.replace("\t", " ")
        by = by if wide or len(by) <= 45 else by[:44] + "…"
        rows.append([image_id, describe.ago(time.time() - step.created), by, size(step.size), step.comment])
    table(rows)
    return 0


def layers(argv: list[bytes]) -> int:
    """For each layer, the bottom one first: its digest and size, how many files it adds, changes and removes, and how
    many of its bytes the layers above it hide.

      --json, --store DIR
    """
    from unionfs.image.describe import history as steps_of
    from unionfs.image.describe import short
    from unionfs.image.find import find
    from unionfs.image.merged import Merged

    arguments = Arguments(argv, _JSON, 1, 1, "layers NAME")
    with arguments.store() as store:
        image = find(store, arguments.words[0])
        found = image.layers()
        merged = Merged([layer.diff for layer in found], rootless=store.rootless)
        made_by = {step.layer: step.created_by for step in steps_of(image)}
    total = sum(facts.size for facts in merged.facts)
    wasted = sum(facts.wasted for facts in merged.facts)
    efficiency = 1 - wasted / total if total else 1.0
    if arguments.has("json"):
        rows = [
            {"layer": index + 1, "diff_id": layer.info["diff_id"], "chain_id": layer.chain_id,
             "created_by": made_by.get(index, ""), **merged.facts[index].as_json()}
            for index, layer in enumerate(found)
        ]  # fmt: skip
        print(
            json.dumps({"layers": rows, "size": total, "wasted": wasted, "efficiency": efficiency}, indent=1)
        )
        return 0
    lines = [["LAYER", "DIGEST", "SIZE", "ADDED", "CHANGED", "REMOVED", "WASTED", "CREATED BY"]]
    for index, layer in enumerate(found):
        facts = merged.facts[index]
        by = made_by.get(index, "").replace("\t", " ")
        lines.append([
            str(index + 1), short(layer.info["diff_id"]), size(facts.size), str(facts.added), str(facts.changed),
            str(facts.removed), size(facts.wasted), by if len(by) <= 45 else by[:44] + "…",
        ])  # fmt: skip
    table(lines)
    print(f"\n{size(total)} in {len(found)} layers, {size(wasted)} of it hidden: {efficiency:.1%} efficient")
    return 0


def diff(argv: list[bytes]) -> int:
    """Compares the trees of two images as a mount would show them: A added, C changed (and what about it), D removed.
    With one argument, a writable layer or where it is mounted: what it changes in its image, as docker diff prints it.

      --json, --store DIR
    """
    arguments = Arguments(argv, _JSON, 1, 2, "diff A B | LAYER")
    with arguments.store() as store:
        compare = _images_differ if len(arguments.words) == 2 else _layer_changes
        found = compare(store, *arguments.words)
    if arguments.has("json"):
        print(json.dumps([{"kind": c.kind, "path": shown(c.path), "what": c.what} for c in found], indent=1))
        return 0
    for change in found:
        print(
            f"{change.kind} {shown(change.path)}" + (f"  ({', '.join(change.what)})" if change.what else "")
        )
    return 0


def _images_differ(store: Store, old: str, new: str) -> list[Change]:
    from unionfs.image.compare import Side, changes
    from unionfs.image.find import find
    from unionfs.image.merged import Merged

    sides = []
    for name in (old, new):
        paths = [layer.diff for layer in find(store, name).layers()]
        sides.append(Side(Merged(paths, rootless=store.rootless), paths))
    found = list(changes(sides[0], sides[1]))
    for side in sides:
        side.close()
    return found


def _layer_changes(store: Store, name: str) -> list[Change]:
    from unionfs.image import writable
    from unionfs.image.upper_diff import changes

    layer = writable.find(store, name)
    return changes(layer.diff, layer.base(store).lowerdirs(), rootless=store.rootless)


def explain(argv: list[bytes]) -> int:
    """Tells which layer a path comes from, and which versions and whiteouts of it the layers have, the top one first.
    Exits with 1 where the image does not show the path.

      --json, --store DIR
    """
    from unionfs.image.explain import explain as look
    from unionfs.image.find import find

    arguments = Arguments(argv, _JSON, 2, 2, "explain NAME PATH")
    with arguments.store() as store:
        facts = look(find(store, arguments.words[0]), arguments.words[1])
    if arguments.has("json"):
        print(json.dumps(facts, indent=1))
    elif not facts["layers"]:
        print(f"{plain(facts['path'])}: in no layer of the image")
    else:
        print(f"{plain(facts['path'])}: {'visible' if facts['visible'] else 'not visible'}")
        rows = [["LAYER", "DIGEST", "WHAT", "SIZE", "", "CREATED BY"]]
        for layer in facts["layers"]:
            state = "shown" if layer["shown"] else "hides what is below" if layer["hides"] else "hidden"
            bytes_ = size(layer["size"]) if layer.get("size") is not None else ""
            by = layer["created_by"][:60]
            rows.append([str(layer["layer"]), layer["diff_id"][7:19], layer["what"], bytes_, state, by])
        table(rows)
    return 0 if facts["visible"] else 1
