"""Other processes, which play a role in a test: they say JSON values, one a line, and hear lines."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATHS = os.pathsep.join((str(ROOT / "src"), str(ROOT)))
DEADLINE_S = 60.0  # for what must come at once, however slow the machine


class Process:
    """Another process that runs a script.

    Args:
        script: The script.
        role: Its arguments.
    """

    def __init__(self, script: Path, *role: object) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, str(script), *map(str, role)], env={**os.environ, "PYTHONPATH": PATHS},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)  # so that nobody waits for a full pipe
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)
        self._lines.put("")

    def tell(self, what: object) -> None:
        """Say something to it."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps(what) + "\n")
        self.popen.stdin.flush()

    def hear(self) -> Any:
        """Wait for what it says next."""
        line = self._lines.get(timeout=DEADLINE_S)
        assert line, f"it ended with {self.popen.wait(DEADLINE_S)} instead of an answer"
        return json.loads(line)

    def ask(self, *what: object) -> Any:
        """Say something, and wait for the answer."""
        self.tell(what)
        return self.hear()

    def stop(self) -> None:
        """Stop it, as a debugger or a full machine would."""
        self.popen.send_signal(signal.SIGSTOP)
        assert os.waitid(os.P_PID, self.popen.pid, os.WSTOPPED | os.WNOWAIT) is not None

    def go_on(self) -> None:
        """Let it go on."""
        self.popen.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Kill it, if it still runs."""
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        for pipe in (self.popen.stdin, self.popen.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue
