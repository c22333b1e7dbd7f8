"""Asks the chosen oracles, leaves out what the ledger knows, and keeps count."""

from __future__ import annotations

import time
from collections.abc import Sequence

from oracles import divergences
from oracles.compare import Verdict, judge
from oracles.registry import Entry, connect
from oracles.worker import Connection
from reference.problem import ConvProblem
from tests.support.reporting import Tally


class Verification:
    """One run's oracles, each connected once; `activity` says what is slow just now."""

    def __init__(
        self, entries: Sequence[Entry], tally: Tally, *, in_process: bool, time_limit: float
    ) -> None:
        self.tally = tally
        self.activity = ""
        self._entries = {entry.name: entry for entry in entries}
        self._in_process = in_process
        self._time_limit = time_limit
        self._connections: dict[str, Connection] = {}

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

    def known(self, oracle: str, problem: ConvProblem) -> bool:
        """Whether the ledger says that this version of `oracle` goes wrong on `problem`."""
        return divergences.find(oracle, self._entries[oracle].version or "", problem) is not None

    def close(self) -> Tally:
        """End the oracles' processes; returns the tally, complete with their incidents."""
        for connection in self._connections.values():
            for incident in connection.incidents:
                self.tally.add_incident(incident)
            connection.close()
        self._connections.clear()
        return self.tally
