"""Options, Hypothesis profiles and the `oracle` fixture; imports no framework."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from oracles import registry
from oracles.worker import TIME_LIMIT, Connection
from tests.support import drift
from tests.support.budget import ENDLESS, Budget, seconds_of
from tests.support.independent import INDEPENDENT
from tests.support.progress import Progress
from tests.support.report import Report
from tests.support.reporting import RANDOM, Tally, reason_of, write_summary
from tests.support.verification import Verification

REGRESSIONS = Path(__file__).parent / "tests" / "regressions"
BASELINE = Path(__file__).parent / "tests" / "baseline.json"
ENTRIES = pytest.StashKey[list[registry.Entry]]()
VERIFICATION = pytest.StashKey[Verification]()
PROGRESS = pytest.StashKey[Progress]()
REPORT = pytest.StashKey[Report]()
CUT = pytest.StashKey[str]()
FIRST = (
    "test_kept.py",
    "test_ledger.py",
    "test_coverage.py",
    "test_power.py",
    "test_precision.py",
    "test_conformance.py",
)  # what proves most in its time, in this order


def pytest_addoption(parser: pytest.Parser) -> None:
    """What a user can ask for, beside Hypothesis' own options."""
    group = parser.getgroup("convolution gradients")
    group.addoption(
        "--oracle",
        action="append",
        metavar="NAME",
        help="verify only this oracle (repeatable); one that is not installed is then an error",
    )
    group.addoption(
        "--require-oracles",
        action="store_true",
        help="an oracle that is not installed is an error, not a skip",
    )
    group.addoption(
        "--in-process",
        action="store_true",
        help="ask frameworks in pytest's own process, for a debugger; a crash ends the run",
    )
    group.addoption(
        "--replay",
        action="append",
        default=[],
        metavar="FILE",
        help="ask only for this kept counterexample (repeatable)",
    )
    group.addoption(
        "--regressions",
        metavar="DIR",
        help="where counterexamples are kept and read (default: tests/regressions)",
    )
    group.addoption(
        "--no-ledger",
        action="store_true",
        help="ask also where oracles/divergences.py says that an oracle goes wrong",
    )
    group.addoption(
        "--keep-going",
        action="store_true",
        help="after a failure leave out what such failures have in common, and look for others",
    )
    group.addoption(
        "--baseline",
        metavar="FILE",
        help="fail if an oracle has become less exact than FILE says, such as tests/baseline.json",
    )
    group.addoption(
        "--update-baseline",
        action="store_true",
        help="write how exact the oracles are to --baseline, by default tests/baseline.json",
    )
    group.addoption(
        "--problems",
        type=int,
        metavar="N",
        help="random problems per oracle, rank and dtype, instead of the profile's number",
    )
    group.addoption(
        "--minimum-problems",
        type=int,
        metavar="N",
        help="red if an oracle that is required or named was asked fewer problems that can fail",
    )
    group.addoption(
        "--budget",
        metavar="TIME",
        help="most that the run may take, such as 90s, 5m or 1h; random problems are cut first",
    )
    group.addoption(
        "--report",
        metavar="DIR",
        help="write report.html, report.json, summary.md and a folder per finding into DIR",
    )
    group.addoption(
        "--time-limit",
        type=float,
        default=TIME_LIMIT,
        metavar="SECONDS",
        help="most seconds that an oracle may take for one problem (default: %(default)g)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose the oracles and get their processes ready to be started."""
    phases = set(hypothesis.Phase) - {hypothesis.Phase.explain}
    every = hypothesis.settings(
        deadline=None,  # a worker may have to restart
        print_blob=False,
        phases=phases - {hypothesis.Phase.target},
        backend=INDEPENDENT,
    )
    hypothesis.settings.register_profile("dev", every, max_examples=50)
    hypothesis.settings.register_profile("ci", every, max_examples=250, derandomize=True)
    hypothesis.settings.register_profile("nightly", every, max_examples=5000, phases=phases)
    profile = config.getoption("--hypothesis-profile") or "dev"
    try:
        hypothesis.settings.load_profile(profile)
    except hypothesis.errors.InvalidArgument:
        raise pytest.UsageError(
            f"--hypothesis-profile {profile}: must be dev, ci or nightly"
        ) from None
    count = config.getoption("--problems")
    if count is not None:
        if count < 1:
            raise pytest.UsageError(f"--problems {count}: must be at least 1")
        hypothesis.settings.register_profile(  # by the same name: Hypothesis' plugin loads it again
            profile, hypothesis.settings.get_profile(profile), max_examples=count
        )
        hypothesis.settings.load_profile(profile)
    least = config.getoption("--minimum-problems")
    if least is not None and least < 1:
        raise pytest.UsageError(f"--minimum-problems {least}: must be at least 1")
    limit = config.getoption("--time-limit")
    if not 0 < limit <= 86_400:
        raise pytest.UsageError(f"--time-limit {limit}: must be above 0, and at most a day")
    replay = [Path(name) for name in config.getoption("--replay")]
    absent = [str(path) for path in replay if not path.is_file()]
    if absent:
        raise pytest.UsageError(f"--replay {', '.join(absent)}: no such file")
    asked = config.getoption("--oracle")
    try:
        names = dict.fromkeys(asked or registry.names())
        entries = [registry.find(name) for name in names]
    except ValueError as error:
        raise pytest.UsageError(f"--oracle: {error}") from None
    missing = [entry for entry in entries if not entry.installed]
    if not asked:
        required = config.getoption("--require-oracles")
        missing = [entry for entry in missing if required and entry.required]
    if missing:
        raise pytest.UsageError("\n".join(entry.missing for entry in missing))
    config.stash[ENTRIES] = entries
    config.stash[VERIFICATION] = verification = Verification(
        [entry for entry in entries if entry.installed],
        Tally(),
        in_process=config.getoption("--in-process"),
        time_limit=limit,
        regressions=Path(config.getoption("--regressions") or REGRESSIONS),
        replay=replay,
        ledger=not config.getoption("--no-ledger"),
        keep_going=config.getoption("--keep-going"),
        baseline=_baseline(config),
        seed=_seed(config),
        budget=_budget(config),
        chosen=names if asked else (),
        varies=not hypothesis.settings().derandomize
        and config.getoption("--hypothesis-seed") is None,
    )
    config.stash[PROGRESS] = Progress(config, verification)
    config.pluginmanager.register(config.stash[PROGRESS])
    if not hasattr(config, "workerinput"):  # not one of pytest-xdist's workers
        directory = config.getoption("--report")
        into = Path(directory) if directory else None
        wanted = [entry for entry in entries if asked or entry.required]
        config.stash[REPORT] = Report(config, into, entries, verification.tally, wanted)
        config.pluginmanager.register(config.stash[REPORT])


def _baseline(config: pytest.Config) -> drift.Rows | None:
    """The rows that the oracles are held against; None for none.

    A file that is to be updated must be there or not be there, but not be damaged.
    """
    path, update = Path(config.getoption("--baseline") or BASELINE), _updates(config)
    try:
        if config.getoption("--baseline") or update:
            rows = drift.load(path) if path.exists() or not update else {}
            if update:
                return None
            drift.check_machine(path, rows)
            return rows
    except ValueError as error:
        raise pytest.UsageError(f"--baseline {error}") from None
    return None


def _budget(config: pytest.Config) -> Budget:
    """What the run may take, from now on; with pytest-xdist it ends at once for all processes."""
    text = config.getoption("--budget")
    if text is None:
        return ENDLESS
    if shared := getattr(config, "workerinput", None):
        return Budget(text, shared["until"], shared["workercount"])
    try:
        return Budget(text, time.time() + seconds_of(text))
    except ValueError as error:
        raise pytest.UsageError(f"--budget {error}") from None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist when the time is up."""
    node.workerinput["until"] = node.config.stash[VERIFICATION].budget.until


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With a budget tests are handed out in their order, one by one."""
    if not config.getoption("--budget"):
        return None
    from xdist.scheduler import LoadScheduling

    scheduler = LoadScheduling(config, log)
    scheduler.maxschedchunk = 1
    return scheduler


def _seed(config: pytest.Config) -> int:
    """What classes of problems are mixed and drawn with: --hypothesis-seed, or always the same."""
    asked = config.getoption("--hypothesis-seed")
    return 0 if asked is None else random.Random(str(asked)).getrandbits(32)


def _updates(config: pytest.Config) -> bool:
    return bool(config.getoption("--update-baseline"))


def pytest_report_header(config: pytest.Config) -> list[str]:
    """The oracles and their versions, and how to install the others."""
    entries = config.stash[ENTRIES]
    present = [f"{e.name} {e.version}".strip() for e in entries if e.installed]
    return [
        f"oracles: {', '.join(present) or 'none'}",
        *(entry.missing for entry in entries if not entry.installed),
        *(
            f"an earlier run was killed; what it was asking is kept: --replay={path}"
            for path in config.stash[VERIFICATION].recovered
        ),
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per oracle, or per oracle, rank and dtype; skipped where it is not installed."""
    if "oracle" not in metafunc.fixturenames:
        return
    own = {mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")}
    cells = {"rank", "dtype"} <= set(metafunc.fixturenames) - own
    params = []
    for entry in metafunc.config.stash[ENTRIES]:
        marks = [] if entry.installed else [pytest.mark.skip(reason=entry.missing)]
        for rank, dtype in entry.oracle.domain.cells() if cells else [(0, "")]:
            name = f"{entry.name}-{rank}d-{dtype}" if cells else entry.name
            values = (entry.name, rank, dtype) if cells else (entry.name,)
            params.append(pytest.param(*values, marks=marks, id=name))
    names = ("oracle", "rank", "dtype") if cells else ("oracle",)
    metafunc.parametrize(names, params, indirect=["oracle"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Kept counterexamples come first, of tests of oracles random problems last.

    Of tests of a promise only those of oracles that make it; with --replay only what replays.
    """
    items.sort(key=_place)
    promised = [item for item in items if _is_promised(item)]
    if len(promised) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in promised])
        items[:] = promised
    if config.getoption("--replay"):
        others = [item for item in items if item.path.name != "test_kept.py"]
        items[:] = [item for item in items if item.path.name == "test_kept.py"]
        if not items:
            raise pytest.UsageError(
                "--replay needs tests/verification/test_kept.py: give no other path"
            )
        config.hook.pytest_deselected(items=others)


def _place(item: pytest.Item) -> int:
    """Where a test has its place: the more it proves in its time, the earlier."""
    if item.path.name in FIRST:
        return FIRST.index(item.path.name)
    is_random = item.get_closest_marker("random") is not None
    return len(FIRST) + (1 if is_random else 0 if _asks(item) else 2)


def _asks(item: pytest.Item) -> bool:
    """Whether a test is of oracles, or of what a run would catch, and not of the reference."""
    return "verification" in getattr(item, "fixturenames", ())


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have the frameworks imported that tests will ask for, while others begin."""
    config = session.config
    if not config.getoption("collectonly"):
        asked = (getattr(item, "callspec", None) for item in session.items)
        names = {call.params["oracle"] for call in asked if call and "oracle" in call.params}
        for entry in config.stash[ENTRIES]:
            if entry.name in names and entry.installed:
                config.stash[VERIFICATION].connection(entry.name).start()


def _is_promised(item: pytest.Item) -> bool:
    """Whether the oracle of `item` promises in its domain what the test is of, if it is of one."""
    mark = item.get_closest_marker("promise")
    if mark is None:
        return True
    name = item.callspec.params["oracle"]  # type: ignore[attr-defined]  # a pytest.Function
    [domain] = {e.oracle.domain for e in item.config.stash[ENTRIES] if e.name == name}
    return bool(getattr(domain, mark.args[0]))


@pytest.fixture(scope="session")
def verification(request: pytest.FixtureRequest) -> Verification:
    """What asks the chosen oracles and keeps count."""
    return request.config.stash[VERIFICATION]


@pytest.fixture
def oracle(request: pytest.FixtureRequest, verification: Verification) -> Iterator[Connection]:
    """One oracle, ready to be asked; its process is started when it is first asked."""
    yield verification.connection(request.param)
    verification.calm()


@pytest.fixture
def share(request: pytest.FixtureRequest, verification: Verification) -> float:
    """Seconds that a test may take: it and those of its module that still come have the same."""
    items = request.session.items
    left = items[items.index(request.node) :]
    return verification.budget.share(sum(item.path == request.node.path for item in left))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Nothing begins when the budget is spent: that is said, and red if it was to ask an oracle."""
    verification = item.config.stash[VERIFICATION]
    if not verification.budget.is_spent:
        return
    call = getattr(item, "callspec", None)
    oracle = call.params.get("oracle") if call else None
    is_random = item.get_closest_marker("random") is not None
    if is_random:
        wanted = hypothesis.settings().max_examples
        verification.tally.add_cut(oracle, RANDOM, wanted, wanted)
    is_wanted = oracle is None or verification.is_wanted(oracle)
    item.stash[CUT] = "red" if _asks(item) and is_wanted and not is_random else "said"
    pytest.skip(f"the budget of {verification.budget.text} was spent")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[object]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say why a test is red, and what its process has counted so far: for the report."""
    report = yield
    if report.failed:
        mark = item.get_closest_marker("reason")
        error = call.excinfo.value if call.excinfo else None
        report.reason = reason_of(error, mark.args[0] if mark else "test")
    if report.skipped and CUT in item.stash:
        report.cut = item.stash[CUT]
    if report.when == "teardown" and item.config.getoption("--report"):
        report.tally = item.config.stash[VERIFICATION].tally.to_json()
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the oracles' processes; crashes that nobody can explain make the run red."""
    config = session.config
    if VERIFICATION not in config.stash:
        return
    tally = config.stash[VERIFICATION].close()
    if hasattr(config, "workeroutput"):  # pytest-xdist: this is a worker
        config.workeroutput["tally"] = tally.to_json()
        return
    if _updates(config) and tally.drift:
        drift.save(Path(config.getoption("--baseline") or BASELINE), tally.drift)
    if (
        session.exitstatus == pytest.ExitCode.OK
        and config.stash[REPORT].verdict("finished")["reasons"]
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Add up what the workers of pytest-xdist have counted."""
    output = getattr(node, "workeroutput", {})
    if "tally" in output:
        config: pytest.Config = node.config  # type: ignore[attr-defined]  # xdist has no types
        config.stash[VERIFICATION].tally.add_json(output["tally"])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """The agreement table, and what else must be said."""
    config = terminalreporter.config
    write_summary(terminalreporter, config.stash[ENTRIES], config.stash[VERIFICATION].tally)
    report = config.stash[REPORT]
    state = "interrupted" if exitstatus == pytest.ExitCode.INTERRUPTED else "finished"
    report.write(state)
    verdict = report.verdict(state)
    has_asked = config.stash[VERIFICATION].tally.has_asked
    if has_asked or config.getoption("--report") or verdict["reasons"]:
        terminalreporter.section("verdict")
        terminalreporter.write_line(verdict["sentence"], **{verdict["colour"]: True})
        for reason in verdict["reasons"]:
            terminalreporter.write_line(f"  {reason['reason']}: {reason['words']}")
        for line in report.cut_lines:
            terminalreporter.write_line(f"  no time for {line}")
    if directory := config.getoption("--report"):
        where = f"report: {Path(directory) / 'report.html'}"
        if report.problem:
            where = f"the report could not be written: {report.problem}"
        terminalreporter.write_line(where, red=bool(report.problem))
