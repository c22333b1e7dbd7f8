"""`python -m tests.benchmarks.zoo`: each bad oracle's fault, when it was named, and in what words.

Beside each a right oracle is asked for the same random problems, up to the one at which the fault
is named: "other" says whether its verdicts stand. The seconds are from a cold start.
"""

from __future__ import annotations

import sys
import time

from oracles.compare import judge
from oracles.registry import connect, find
from oracles.worker import TIME_LIMIT
from reference import ConvProblem
from tests.benchmarks.harness import draw_problems

FAULTS = {
    "SIGSEGV": "segfaults",
    "SIGABRT": "aborts",
    "SIGFPE": "divides_by_zero",
    "os._exit(0)": "exits",
    "exit during import": "exits_during_import",
    "hang": "hangs",
    "slow start": "slow_start[SLOW_START=3]",
    "unbounded memory": "eats_memory",
    "Python exception": "raises",
    "wrong shape": "answers_another_shape",
    "wrong dtype": "answers_float64",
    "list instead of array": "answers_a_list",
    "NaN": "answers_nan",
    "Inf": "answers_inf",
    "right every second time": "wrong_every_second_time",
    "writes into its inputs": "writes_to_its_inputs",
    "changes an answer later": "changes_its_answer_later",
    "10 MB of output": "chatters",
    "output without end": "prints_without_end",
    "closes its pipe": "closes_its_channel",
    "forks a child that stays": "forks_a_child_that_stays",
    "leaves a daemon": "leaves_a_daemon",
    "crashes 50 problems later": "crashes_50_problems_later",
    "answers the problem before": "answers_the_problem_before",
    "half a message": "sends_half_a_message",
    "an answer without end": "trickles",
}
HANG_LIMIT = 5.0  # seconds, twice, for what never answers


def main(names: list[str]) -> None:
    """Print a line for each fault, or for those named."""
    asked, _ = draw_problems(find("tests.support.zoo:right").oracle.domain)
    print(f"{'fault':<28}{'problem':>8}{'s':>7}  {'other':<8}verdict")
    for fault, name in FAULTS.items():
        if not names or name.partition("[")[0] in names:
            print(f"{fault:<28}{observe(name, asked)}", flush=True)


def observe(name: str, asked: list[ConvProblem]) -> str:
    """At which problem the fault was named, after how many seconds, in what words."""
    limit = HANG_LIMIT if name in ("hangs", "trickles") else TIME_LIMIT
    bad = connect(find(f"tests.support.zoo:{name}"), time_limit=limit)
    other = connect(find("tests.support.zoo:plain_loops"))
    count, seconds, words, stands = 0, 0.0, "", True
    try:
        while not words and count < len(asked):
            problem = asked[count]
            count += 1
            start = time.perf_counter()
            words = judge(bad, problem).message.partition("\n")[0]
            seconds += time.perf_counter() - start
            stands &= judge(other, problem).kind == "agrees"
        return f"{count:>8}{seconds:>7.2f}  {'stands' if stands else 'FALLS':<8}{words or 'agrees'}"
    finally:
        for oracle in (bad, other):
            oracle.close()


if __name__ == "__main__":
    main(sys.argv[1:])
