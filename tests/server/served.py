"""A session with a fake core on a real mount, in a process of its own (a test that maps a file must not wait
for a thread of itself)."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Self

from tests.lib.engines import is_mounted, wait_until
from tests.server.fake import FakeUnion
from unionfs import server
from unionfs.server import Options, Session


class Served:
    """Serves `tree` at `target` until the with block ends. `log` is what the session logged."""

    def __init__(
        self,
        tree: Path,
        target: Path,
        options: Options | None = None,
        *,
        prepare: Callable[[FakeUnion], None] = lambda _union: None,
        ready: Callable[[Session], None] = lambda _session: None,
        readonly: bool = False,
        **mount: object,
    ) -> None:
        """`prepare` and `ready` run in the serving process: before mounting, and when the mount answers."""
        self.tree, self.target = tree, target
        self._log = target.parent / "log"
        self._log.touch()
        receiving, sending = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(receiving)
            code = 1
            try:
                self._serve(options or Options(), sending, prepare, ready, readonly, mount)
                code = 0
            except BaseException:
                traceback.print_exc(file=sys.stderr)
            finally:
                os._exit(code)
        os.close(sending)
        with open(receiving, "rb") as pipe:
            self.started = pipe.read() == b"ready"

    def _serve(
        self,
        options: Options,
        pipe: int,
        prepare: Callable[[FakeUnion], None],
        ready: Callable[[Session], None],
        readonly: bool,
        mount: dict[str, object],
    ) -> None:
        log = self._log.open("a", buffering=1)
        options.log = lambda line: print(line, file=log)
        union = FakeUnion(os.fsencode(self.tree), readonly)
        prepare(union)
        session = server.mount(union, os.fsencode(self.target), options, **mount)  # type: ignore[arg-type]

        def report() -> None:
            ready(session)
            os.write(pipe, b"ready")
            os.close(pipe)

        session.run(report)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def mounted(self) -> bool:
        return is_mounted(str(self.target))

    def ended(self) -> int:
        """The exit code of the process, which must end within the deadline."""
        found = [(0, 0)]

        def has_ended() -> bool:
            found[0] = os.waitpid(self.pid, os.WNOHANG)
            return found[0][0] != 0

        wait_until(has_ended, "the serving process to end")
        self.pid = 0
        return os.waitstatus_to_exitcode(found[0][1])

    def __enter__(self) -> Self:
        assert self.started, self.log
        return self

    def __exit__(self, *_error: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGTERM)
            assert self.ended() == 0, self.log
        assert not self.mounted
