"""The process an oracle runs in: imports the framework once, then forks the child that computes.

`python -m oracles.zygote NAME FD` is started by `oracles.process`; FD is the control socket. The
zygote itself never computes, so the framework starts no threads in it and every fork is clean. It
answers each socket that it is sent with a child that serves problems on it, reports how children
end, and goes when its control socket closes. When it goes, so does its child, and whatever that has
started, in a session of its own too: the zygote is the parent of all that lose theirs.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from oracles import registry
from oracles.protocol import MEMORY_LIMIT, Box, Caller, Domain, Malformed, Oracle
from oracles.wire import Inbox, decode_problem, encode_grads, encode_problem, frame
from reference.problem import ConvGrads, ConvParams, ConvProblem

END_LIMIT = 1.0  # seconds for what a killed process leaves to end

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def main(name: str, control_fd: int) -> None:
    """Import what oracle `name` needs, then fork a child for each socket sent over `control_fd`."""
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    _die_with_parent()  # the control socket is not watched during an import that hangs
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        oracle = registry.load(name)
        for module in getattr(oracle, "preload", ()):
            importlib.import_module(module)
        getattr(oracle, "prepare", lambda: None)()
    except BaseException as error:
        _tell(control, event="failed", message=_words(error))
        raise
    _warm_up()
    gc.collect()
    gc.freeze()  # what the import made is not looked at again, nor copied, in every child
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, 0)  # from here on the control socket tells, and there is time to end
    helpers = _own_processes()  # which the import has started
    _tell(control, event="ready")
    wake, wake_end = os.pipe()
    os.set_blocking(wake_end, False)
    signal.set_wakeup_fd(wake_end)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    watched: list[Any] = [control, wake]
    children: set[int] = set()
    while True:
        readable = select.select(watched, [], [])[0]
        if wake in readable:
            os.read(wake, 4096)
            _report_ended(control, children, helpers)
        if control in readable:
            data, fds, _, _ = socket.recv_fds(control, 1, 1)
            if not data:
                _end(children)
                return
            children.add(_fork_child(control, socket.socket(fileno=fds[0]), oracle))


class _Zeros:
    """Answers with zeros."""

    distribution: str | tuple[str, ...] | None = None
    domain = Domain(Box(ranks=(1,), dtypes=("float64",)))

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """All zero."""
        return ConvGrads(0 * problem.x, 0 * problem.w, None, 0 * problem.dy)


def _warm_up() -> None:
    """Import here, once, what our own code imports when it first answers; no framework computes."""
    one = np.ones((1, 1, 1))
    inbox = Inbox(limit=1 << 20)
    inbox.feed(encode_problem(ConvProblem(one, one, None, one, ConvParams((1,), ((0, 0),), (1,)))))
    while message := inbox.message():
        _answer(Caller(_Zeros()), *message)


def serve(channel: socket.socket, oracle: Oracle) -> None:
    """Answer problems from `channel` until it closes."""
    inbox = Inbox(limit=1 << 40)
    ask = Caller(oracle)
    while inbox.receive(channel):
        while message := inbox.message():
            channel.sendall(_answer(ask, *message))


def _answer(ask: Caller, header: dict[str, Any], body: bytearray) -> bytes:
    failure = {"number": header["number"], "status": "raised"}
    try:
        return encode_grads(ask(decode_problem(header, body)), header["number"])
    except Malformed as error:
        return frame({**failure, "status": "malformed", "message": str(error)})
    except BaseException as error:
        trace = traceback.format_exc()[-10_000:]
        return frame({**failure, "message": _words(error), "traceback": trace})


def _words(error: BaseException) -> str:
    """Type and message in one line, even of an exception that cannot be printed."""
    try:
        return " ".join(f"{type(error).__name__}: {error}"[:10_000].split())
    except Exception:
        return type(error).__name__


def _fork_child(control: socket.socket, channel: socket.socket, oracle: Oracle) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            _die_with_parent()
            _limit_memory(getattr(oracle, "memory_limit", MEMORY_LIMIT))
            faulthandler.enable()
            serve(channel, oracle)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(0)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # whatever the child forks itself ends with it
    channel.close()
    _tell(control, event="forked", pid=pid)
    return pid


def _report_ended(control: socket.socket, children: set[int], helpers: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in children:
                _kill_group(pid)
                children.remove(pid)
                _kill(_own_processes() - children - helpers)
                _tell(control, event="ended", pid=pid, status=os.waitstatus_to_exitcode(status))


def _end(children: set[int]) -> None:
    """Kill `children` and all that they have started."""
    for child in children:
        _kill_group(child)
    deadline = time.monotonic() + END_LIMIT
    with contextlib.suppress(ChildProcessError):  # none is left
        while time.monotonic() < deadline:
            _kill(_own_processes())
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)


def _own_processes() -> set[int]:
    """The processes whose parent this one is, those included that have lost theirs."""
    pids: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # of a thread that has ended meanwhile
            pids.update(map(int, path.read_text().split()))
    return pids


def _kill(pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _die_with_parent() -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _limit_memory(limit: int | None) -> None:
    """Let this process map `limit` bytes more than it has; who asks for more gets a MemoryError."""
    statm = Path("/proc/self/statm")
    if limit is not None and statm.exists():
        mapped = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + limit, mapped + limit))


def _tell(control: socket.socket, **event: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        control.sendall(json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
