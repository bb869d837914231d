"""The instructions of a Dockerfile, one after the other, each looked up in the cache first.

RUN, COPY and ADD make a layer each, WORKDIR where its directory does not exist yet; the others change the config and
leave an entry without a layer in the history.
"""

from __future__ import annotations

import os

from unionfs.image import commit, sandbox, users, writable
from unionfs.image.build import archives, cache, copying, words
from unionfs.image.build.dockerfile import Instruction, instruction, parse
from unionfs.image.build.ignore import Ignore
from unionfs.image.build.state import Stage
from unionfs.image.build.tree import Tree
from unionfs.image.errors import ImageError, NotFound
from unionfs.image.find import find
from unionfs.image.trees import remove_tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from unionfs.image.store import Image, Layer, Store

    Mounted = Callable[[Store, list[Layer], list[str], str, str, str], AbstractContextManager[None]]
    """mounted(store, layers in use, lowers top first, upper, work, mount point): the mount for a RUN."""

_NOTHING = Ignore("")


class Request:
    """What to build. context: a directory. args: of --build-arg. report: gets a line per step."""

    def __init__(self, dockerfile: str, context: str, ignore: str = "") -> None:
        self.dockerfile = dockerfile
        """The text."""
        self.context = context
        self.ignore = Ignore(ignore)
        self.args: dict[str, str] = {}
        self.target = ""
        self.use_cache = True
        self.names: list[str] = []
        self.report: Callable[[str], None] = lambda _line: None


class Plan:
    """The stages of a Dockerfile: each its FROM and what follows it."""

    def __init__(self, request: Request) -> None:
        instructions, self.escape = parse(request.dockerfile)
        self.globals: dict[str, str] = {}
        self.stages: list[list[Instruction]] = []
        self.names: dict[str, int] = {}
        for each in instructions:
            if each.keyword == "FROM":
                parts = each.text.split()
                if len(parts) not in (1, 3) or (len(parts) == 3 and parts[1].lower() != "as"):
                    raise each.error("it has to be FROM IMAGE [AS NAME]")
                if len(parts) == 3:
                    self.names[parts[2].lower()] = len(self.stages)
                self.stages.append([each])
            elif self.stages:
                _check_trigger(each)
                self.stages[-1].append(each)
            else:
                _declare(each, self.globals, self.globals, request.args, self.escape)

    def base(self, number: int) -> str:
        """The image, or the stage, that a stage is built from."""
        origin = self.stages[number][0]
        try:
            return words.expand(origin.text.split()[0], self.globals, self.escape)
        except words.BadWord as exc:
            raise origin.error(str(exc)) from None

    def stage(self, name: str, before: int) -> int | None:
        """The number of an earlier stage, by its name or number."""
        number = int(name) if name.isdigit() else self.names.get(name.lower(), before)
        return number if number < before else None

    def needed(self, last: int) -> list[int]:
        """The stages that the last one is made of, in order."""
        needed: set[int] = set()
        pending = [last]
        while pending:
            number = pending.pop()
            needed.add(number)
            origins = [self.base(number), *(each.flags["from"] for each in self.stages[number] if "from" in each.flags)]
            pending += [found for name in origins if (found := self.stage(name, number)) is not None]
        return sorted(needed)


def _check_trigger(each: Instruction) -> None:
    """ONBUILD's own instruction has to be one that can be done later."""
    if each.keyword == "ONBUILD":
        inner = instruction(each.line, each.text)
        if inner.keyword in ("ONBUILD", "FROM", "MAINTAINER"):
            raise each.error(f"{inner.keyword} cannot be done later")


def _declare(
    step: Instruction, into: dict[str, str], seen: dict[str, str], given: dict[str, str], escape: str,
    outer: dict[str, str] | None = None,
) -> None:  # fmt: skip
    """ARG: the value given with the build, else its default, else that of an ARG before the first FROM."""
    try:
        for word in words.split(step.text, seen, escape):
            name, equals, default = word.partition("=")
            if name in given:
                into[name] = given[name]
            elif equals:
                into[name] = default
            elif outer is not None and name in outer:
                into[name] = outer[name]
    except words.BadWord as exc:
        raise step.error(str(exc)) from None


def build(store: Store, request: Request, mounted: Mounted) -> Image:
    """Build it. The caller holds the store's lock. Raises ImageError (BuildError names the line), OSError."""
    return _Build(store, request, mounted).run()


class _Build:
    def __init__(self, store: Store, request: Request, mounted: Mounted) -> None:
        self._store = store
        self._request = request
        self._mounted = mounted
        self._plan = Plan(request)
        self._done: dict[int, Stage] = {}
        self._number = 0
        self._total = 0
        self._empty = store.temporary_dir()

    def run(self) -> Image:
        plan = self._plan
        target = self._request.target
        last = len(plan.stages) - 1
        if target:
            found = plan.stage(target, len(plan.stages))
            if found is None:
                raise NotFound(f"the Dockerfile has no stage {target}")
            last = found
        needed = plan.needed(last)
        self._total = sum(len(plan.stages[number]) for number in needed)
        try:
            for number in needed:
                self._done[number] = self._stage(number)
        finally:
            remove_tree(self._empty)
        return self._done[last].draft.store(self._store, self._request.names)

    def _stage(self, number: int) -> Stage:
        origin, *steps = self._plan.stages[number]
        self._announce(str(origin))
        base = self._plan.base(number)
        before = self._plan.stage(base, number)
        if before is not None:
            stage = Stage(self._done[before].draft, self._plan.escape)
        else:
            stage = Stage(None if base == "scratch" else self._image(base, origin), self._plan.escape)
        if before is None:
            self._triggers(stage, origin, number)
        for step in steps:
            self._announce(str(step))
            self._step(stage, step, number)
        return stage

    def _triggers(self, stage: Stage, origin: Instruction, number: int) -> None:
        """ONBUILD of the base image: instructions for whoever builds on it."""
        for text in stage.take_triggers():
            trigger = instruction(origin.line, text)
            self._request.report(f"  ONBUILD {trigger}")
            self._step(stage, trigger, number)

    def _announce(self, text: str) -> None:
        self._number += 1
        self._request.report(f"STEP {self._number}/{self._total}: {text}")

    def _image(self, name: str, step: Instruction) -> Image:
        try:
            return find(self._store, name)
        except NotFound:
            raise step.error(f"the store has no image {name}; unionfs image pull {name} fetches it") from None

    def _step(self, stage: Stage, step: Instruction, number: int) -> None:
        try:
            self._do(stage, step, number)
        except words.BadWord as exc:
            raise step.error(str(exc)) from None

    def _do(self, stage: Stage, step: Instruction, number: int) -> None:
        if step.keyword == "ARG":
            seen = {**stage.args, **stage.env}
            _declare(step, stage.args, seen, self._request.args, self._plan.escape, self._plan.globals)
            self._record(stage, step, str(step), [step.text, stage.args], None)
        elif step.keyword == "RUN":
            self._run(stage, step)
        elif step.keyword in ("COPY", "ADD"):
            self._copy(stage, step, number)
        elif step.keyword == "WORKDIR":
            self._workdir(stage, step)
        else:
            before = stage.parent()
            name = cache.key(before, str(step), stage.args)
            stage.change(step)
            self._finish(stage, step, str(step), name, None)

    def _workdir(self, stage: Stage, step: Instruction) -> None:
        name = cache.key(stage.parent(), str(step), stage.args)
        stage.change(step)
        path = os.fsencode(stage.config["WorkingDir"])

        def make(upper: str, work: str, _place: str) -> None:
            with self._tree(self._lowers(stage), upper, work) as tree:
                tree.make_directories(path)

        with self._tree(self._lowers(stage) or [self._empty]) as tree:
            missing = not tree.exists(path)
        self._finish(stage, step, str(step), name, make if missing else None)

    def _record(self, stage: Stage, step: Instruction, by: str, made_from: object, make: _Make | None) -> None:
        self._finish(stage, step, by, cache.key(stage.parent(), step.keyword, made_from), make)

    def _finish(self, stage: Stage, step: Instruction, by: str, name: str, make: _Make | None) -> None:
        """Take the step's result from the cache, or do it; then it is part of the stage."""
        draft, store = stage.draft, self._store
        result = cache.get(store, name, draft.diff_ids) if self._request.use_cache else None
        if result is not None:
            self._request.report("  CACHED")
        else:
            diff_id = self._layer(stage, step, make) if make is not None else ""
            result = cache.Result(commit.now(), diff_id)
            cache.put(store, name, result, draft.diff_ids)
            self._request.report(f"  layer {diff_id[7:19]}" if diff_id else "  no layer")
        draft.step(by, result.created, diff_id=result.diff_id, comment="unionfs image build")

    def _layer(self, stage: Stage, step: Instruction, make: _Make) -> str:
        """Let `make` fill an upper over the stage, and add that as a layer; its diff id."""
        place = self._store.temporary_dir()
        try:
            upper, work = os.path.join(place, "diff"), os.path.join(place, "work")
            writable.fill(upper, work, self._lowers(stage))
            try:
                make(upper, work, place)
            except ImageError as exc:
                raise step.error(str(exc)) from exc
            return commit.add_layer(self._store, upper, stage.draft.diff_ids)
        finally:
            remove_tree(place)

    def _lowers(self, stage: Stage) -> list[str]:
        """Top first."""
        return [layer.diff for layer in reversed(stage.layers(self._store))]

    def _tree(self, lowers: list[str], upper: str = "", work: str = "") -> Tree:
        """Layers of the store as a tree."""
        return Tree(lowers, upper, work, rootless=self._store.rootless)

    # RUN

    def _run(self, stage: Stage, step: Instruction) -> None:
        argv = stage.command(step)
        args = {name: value for name, value in stage.args.items() if name not in stage.env}
        prefix = f"|{len(args)} " + "".join(f"{n}={v} " for n, v in sorted(args.items())) if args else ""
        process = sandbox.Process(
            argv, {**args, **stage.env}, stage.config.get("WorkingDir") or "", stage.config.get("User") or ""
        )

        def make(upper: str, work: str, place: str) -> None:
            self._execute(stage, process, upper, work, place)

        self._record(stage, step, f"RUN {prefix}{' '.join(argv)}", [argv, sorted(args.items())], make)

    def _execute(self, stage: Stage, process: sandbox.Process, upper: str, work: str, place: str) -> None:
        points, mountpoint = os.path.join(place, "points"), os.path.join(place, "mnt")
        os.mkdir(points, 0o755)
        os.mkdir(mountpoint)
        layers = stage.layers(self._store)
        lowers = self._lowers(stage)
        sandbox.mount_points(points, lowers)
        with (
            open(os.devnull, "rb") as nothing,
            self._mounted(self._store, layers, [points, *lowers], upper, work, mountpoint),
        ):
            process.stdin, process.output = nothing.fileno(), 2  # standard output is for the image's ID
            code = sandbox.run(os.fsencode(mountpoint), process)
        if code:
            raise ImageError(f"{' '.join(process.argv)!r} ended with exit code {code}")

    # COPY and ADD

    def _copy(self, stage: Stage, step: Instruction, number: int) -> None:
        *patterns, to = stage.list_of(step)
        if not patterns:
            raise step.error("it needs a source and a destination")
        remote = next((each for each in patterns if "://" in each), "") if step.keyword == "ADD" else ""
        if remote:
            raise step.error(f"{remote}: adding from the network is not supported")
        origin = step.flags.get("from", "")
        lowers, where = self._origin(step, origin, number) if origin else ([self._request.context], "the context")
        ignore = _NOTHING if origin else self._request.ignore
        chown, chmod = (stage.expand(step.flags.get(name, "")) for name in ("chown", "chmod"))
        if chmod and not set(chmod) <= set("01234567"):
            raise step.error(f"--chmod={chmod}: it has to be an octal number")
        target = stage.path(to)
        with self._tree(lowers) if origin else Tree(lowers) as tree:
            try:
                sources = copying.find(tree, patterns, ignore, where)
            except ImageError as exc:
                raise step.error(str(exc)) from None
            if len(sources) > 1 and not target.endswith("/"):
                raise step.error(f"with several sources the destination has to end in '/': {to}/")
            content = copying.digest(sources, ignore, owners=bool(origin))

            def make(upper: str, work: str, place: str) -> None:
                owner = self._owner(stage, chown, keep=bool(origin))
                mode = int(chmod, 8) if chmod else None
                goal = copying.Target(target, owner, mode, directory=len(sources) > 1)
                with self._tree(self._lowers(stage), upper, work) as image:
                    plain = sources
                    if step.keyword == "ADD":
                        plain = archives.unpack_all(image, goal, sources, place)
                    copying.Copier(image, goal, ignore).copy(plain)

            self._record(stage, step, str(step), [target, chown, chmod, content], make)

    def _origin(self, step: Instruction, name: str, number: int) -> tuple[list[str], str]:
        """The layers of --from, top first, and what to call it."""
        before = self._plan.stage(name, number)
        if before is not None and before in self._done:
            lowers = self._lowers(self._done[before])
        else:
            lowers = self._image(name, step).lowerdirs()
        return lowers or [self._empty], f"the {'stage' if before is not None else 'image'} {name}"

    def _owner(self, stage: Stage, chown: str, *, keep: bool) -> tuple[int, int] | None:
        if not chown:
            return None if keep else (0, 0)
        with self._tree(self._lowers(stage) or [self._empty]) as tree:
            return users.ids(chown, lambda path: _text(tree, path))


def _text(tree: Tree, path: str) -> str:
    """A text file of the image; "" where it does not exist."""
    if not tree.exists(os.fsencode(path)):
        return ""
    return b"".join(tree.data(tree.find(os.fsencode(path))[0])).decode("utf-8", "surrogateescape")


if TYPE_CHECKING:
    _Make = Callable[[str, str, str], None]
    """make(upper, work, place): fills the upper; place is a scratch directory beside it."""
