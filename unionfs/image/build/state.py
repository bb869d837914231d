"""A stage in the making: the image as the instructions so far have left it, and the variables they see."""

from __future__ import annotations

import os
import re

from unionfs.image.build import health, words
from unionfs.image.commit import Draft
from unionfs.image.store import chain_ids
from unionfs.image.users import PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unionfs.image.build.dockerfile import Instruction
    from unionfs.image.store import Image, Layer, Store

_SHELL = ["/bin/sh", "-c"]
_PORT = re.compile(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?")


class Stage:
    """base None: FROM scratch. escape: the Dockerfile's escape character."""

    def __init__(self, base: Image | Draft | None, escape: str) -> None:
        self.draft = Draft(base)
        self.args: dict[str, str] = {}
        """ARGs declared so far in this stage."""
        self._escape = escape
        self._cmd_given = False
        if "PATH" not in self.env:
            self.config["Env"] = [*(self.config.get("Env") or []), f"PATH={PATH}"]  # as Docker does

    @property
    def config(self) -> dict[str, Any]:
        """The container config."""
        found: dict[str, Any] = self.draft.config["config"]
        return found

    @property
    def env(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.config.get("Env") or [] if "=" in pair)

    @property
    def shell(self) -> list[str]:
        return list(self.config.get("Shell") or _SHELL)

    def layers(self, store: Store) -> list[Layer]:
        """Bottom first."""
        return [store.layer(chain_id) for chain_id in chain_ids(self.draft.diff_ids)]

    def parent(self) -> list[object]:
        """What a step is made on, for its name in the cache."""
        return [self.draft.diff_ids, self.config, self.draft.config.get("architecture", "")]

    def expand(self, text: str) -> str:
        """One word of an instruction. Raises BadWord."""
        return words.expand(text, self._variables(), self._escape)

    def list_of(self, instruction: Instruction) -> list[str]:
        """The words of an instruction that takes several: its JSON form, or parted by blanks."""
        if instruction.words is not None:
            return [self.expand(word) for word in instruction.words]
        return words.split(instruction.text, self._variables(), self._escape)

    def pairs_of(self, instruction: Instruction) -> list[tuple[str, str]]:
        return words.pairs(instruction.text, self._variables(), self._escape)

    def _variables(self) -> dict[str, str]:
        return {**self.args, **self.env}

    def path(self, text: str) -> str:
        """A path of the image, made absolute by WORKDIR; a slash at its end stays."""
        full = os.path.join(self.config.get("WorkingDir") or "/", text)
        slash = "/" if text.endswith(("/", "/.")) or text in ("", ".") else ""
        return os.path.normpath(full).replace("//", "/") + slash

    # instructions that change the config alone; all raise BadWord

    def change(self, instruction: Instruction) -> None:
        _CHANGES[instruction.keyword](self, instruction)

    def _env(self, instruction: Instruction) -> None:
        self.config["Env"] = [f"{k}={v}" for k, v in {**self.env, **dict(self.pairs_of(instruction))}.items()]

    def _label(self, instruction: Instruction) -> None:
        self.config["Labels"] = {**(self.config.get("Labels") or {}), **dict(self.pairs_of(instruction))}

    def _cmd(self, instruction: Instruction) -> None:
        self.config["Cmd"] = self.command(instruction)
        self._cmd_given = True

    def _entrypoint(self, instruction: Instruction) -> None:
        self.config["Entrypoint"] = self.command(instruction)
        if not self._cmd_given:
            self.config.pop("Cmd", None)  # the base's CMD was meant for the base's entrypoint

    def command(self, instruction: Instruction) -> list[str]:
        """The command of RUN, CMD, ENTRYPOINT, whose variables are left to the shell."""
        return instruction.words if instruction.words is not None else [*self.shell, instruction.text]

    def _expose(self, instruction: Instruction) -> None:
        ports = dict(self.config.get("ExposedPorts") or {})
        for word in self.list_of(instruction):
            match = _PORT.fullmatch(word)
            if match is None:
                raise words.BadWord(f"{word} is no port: PORT[-PORT][/tcp|/udp]")
            for port in range(int(match[1]), int(match[2] or match[1]) + 1):
                ports[f"{port}/{match[3] or 'tcp'}"] = {}
        self.config["ExposedPorts"] = ports

    def _volume(self, instruction: Instruction) -> None:
        added = {word: {} for word in self.list_of(instruction)}  # type: dict[str, dict[str, str]]
        self.config["Volumes"] = {**(self.config.get("Volumes") or {}), **added}

    def _workdir(self, instruction: Instruction) -> None:
        self.config["WorkingDir"] = self.path(self.expand(instruction.text)).rstrip("/") or "/"

    def _user(self, instruction: Instruction) -> None:
        self.config["User"] = self.expand(instruction.text)

    def _stopsignal(self, instruction: Instruction) -> None:
        self.config["StopSignal"] = self.expand(instruction.text)

    def _shell(self, instruction: Instruction) -> None:
        if not instruction.words:
            raise words.BadWord('the shell has to be in JSON form: SHELL ["/bin/sh", "-c"]')
        self.config["Shell"] = instruction.words


    def _healthcheck(self, instruction: Instruction) -> None:
        self.config["Healthcheck"] = health.config(instruction)

    def _maintainer(self, instruction: Instruction) -> None:
        self.draft.config["author"] = instruction.text

    def _onbuild(self, instruction: Instruction) -> None:
        self.config["OnBuild"] = [*(self.config.get("OnBuild") or []), instruction.text]

    def take_triggers(self) -> list[str]:
        """The ONBUILD instructions of the image that this stage is built from; they are done once."""
        return list(self.config.pop("OnBuild", None) or [])


_CHANGES = {
    "ENV": Stage._env, "LABEL": Stage._label, "CMD": Stage._cmd, "ENTRYPOINT": Stage._entrypoint,
    "EXPOSE": Stage._expose, "VOLUME": Stage._volume, "WORKDIR": Stage._workdir, "USER": Stage._user,
    "STOPSIGNAL": Stage._stopsignal, "SHELL": Stage._shell, "HEALTHCHECK": Stage._healthcheck,
    "MAINTAINER": Stage._maintainer, "ONBUILD": Stage._onbuild,
}  # fmt: skip
