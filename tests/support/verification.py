"""Asks the chosen oracles, leaves out what the ledger knows, and keeps count."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from oracles import divergences
from oracles.compare import Disagreement, Verdict, judge
from oracles.protocol import NotStarted
from oracles.registry import Entry, connect
from oracles.worker import Connection
from reference.problem import ConvProblem
from tests.support.regressions import kept_files, save
from tests.support.reporting import Tally


class Verification:
    """One run's oracles, each connected once.

    `activity` says what is slow just now; `kept` are the counterexamples to begin with, those in
    the directory `regressions`, or `replay`; `must_ask` says that a replay in which the one oracle
    is not asked is no success.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        tally: Tally,
        *,
        in_process: bool,
        time_limit: float,
        regressions: Path,
        replay: Sequence[Path] = (),
    ) -> None:
        self.tally = tally
        self.kept = list(replay) or kept_files(regressions)
        self.must_ask = bool(replay) and len(entries) == 1
        self._regressions = regressions
        self.activity = ""
        self._entries = {entry.name: entry for entry in entries}
        self._in_process = in_process
        self._time_limit = time_limit
        self._connections: dict[str, Connection] = {}

    def entry(self, name: str) -> Entry:
        """What the registry knows of the oracle called `name`."""
        return self._entries[name]

    def connection(self, name: str) -> Connection:
        """The oracle called `name`, which is one of those chosen."""
        if name not in self._connections:
            self._connections[name] = connect(
                self._entries[name],
                in_process=self._in_process,
                time_limit=self._time_limit,
                told=lambda text: setattr(self, "activity", f"{text} {name}" if text else ""),
            )
        return self._connections[name]

    def verify(self, oracle: Connection, problem: ConvProblem) -> Verdict | None:
        """Hold `oracle` against the reference on `problem`.

        Raises Disagreement. Returns None, and asks nobody, where the ledger knows the outcome.
        """
        __tracebackhide__ = True
        if self.known(oracle.name, problem):
            self.tally.add_left_out(oracle.name)
            return None
        start = time.perf_counter()
        witnesses = [
            self.connection(name)
            for name in self._entries
            if name != oracle.name and not self.known(name, problem)
        ]
        verdict = judge(oracle, problem, witnesses)
        self.tally.add_verdict(verdict, time.perf_counter() - start)
        verdict.check()
        return verdict

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep the problems of the Disagreements that leave this block, and say where."""
        try:
            yield
        except BaseException as error:
            for failure in getattr(error, "exceptions", (error,)):
                if isinstance(failure, Disagreement):
                    failure.add_note(self._keep(failure.verdict))
            raise

    def _keep(self, verdict: Verdict) -> str:
        """Keep the problem of `verdict`; returns what to tell the user."""
        if verdict.kind == NotStarted.kind:
            return "not kept: no problem is to blame"
        version = self.entry(verdict.oracle).version or ""
        try:
            path = save(verdict, version, self._regressions)
        except OSError as error:
            return f"could not be kept in {self._regressions}: {error.strerror}"
        return f"kept; to see it again: pytest --oracle={verdict.oracle} --replay={path}"

    def known(self, oracle: str, problem: ConvProblem) -> bool:
        """Whether the ledger says that this version of `oracle` goes wrong on `problem`."""
        entry = self.entry(oracle)
        return divergences.find(entry.base, entry.version or "", problem) is not None

    def close(self) -> Tally:
        """End the oracles' processes; returns the tally, complete with their incidents."""
        for connection in self._connections.values():
            for incident in connection.incidents:
                self.tally.add_incident(incident)
            connection.close()
        self._connections.clear()
        return self.tally
