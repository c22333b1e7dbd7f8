"""One line below pytest's own output, on a terminal only: which tests, how many problems so far."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from tests.support.verification import Verification

_PERIOD = 0.5  # seconds


class Progress:
    """A pytest plugin that redraws the line while a test runs and wipes it before pytest prints."""

    def __init__(self, config: pytest.Config, verification: Verification) -> None:
        self._config = config
        self._verification = verification
        self._is_shared = bool(config.getoption("numprocesses", None))  # workers count, not we
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._terminal: int | None = None
        self._running: dict[str, float] = {}  # tests, and since when; several with pytest-xdist

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Begin, if there is a terminal to draw on that is not someone else's."""
        is_worker = hasattr(session.config, "workerinput")  # of pytest-xdist
        if not is_worker and sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
            self._terminal = os.dup(sys.stdout.fileno())  # pytest captures the original
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_logstart(self, nodeid: str) -> object:
        """Let pytest print, then show the test."""
        result = yield
        with self._lock:
            self._running[nodeid] = time.monotonic()
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> object:
        """Wipe the line before pytest prints a result."""
        with self._lock:
            self._wipe()
            if report.when == "teardown":
                self._running.pop(report.nodeid, None)
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self) -> object:
        """End, and give the terminal back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._terminal is not None:
            self._wipe()
            os.close(self._terminal)
            self._terminal = None
        return (yield)

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD):
            with self._lock:
                if self._running:
                    self._draw(self._text())

    def _text(self) -> str:
        verification = self._verification
        problems = verification.tally.problems
        parts = [
            f"{time.monotonic() - min(self._running.values()):.0f} s",
            verification.activity,
            f"{problems:,} problems so far" if not self._is_shared else "",
            *(nodeid.rpartition("::")[2] for nodeid in self._running),
        ]
        return "  " + " · ".join(part for part in parts if part)

    def _wipe(self) -> None:
        self._draw("")

    def _draw(self, text: str) -> None:
        """Write `text` on the line below the cursor, and put the cursor back."""
        if self._terminal is None:
            return
        writer = self._config.get_terminal_writer()
        column = writer.width_of_current_line % writer.fullwidth
        back = f"\x1b[{column}C" if column else ""
        line = f"\n\r\x1b[2K{text[: writer.fullwidth - 1]}\x1b[1A\r{back}"
        os.write(self._terminal, line.encode())
