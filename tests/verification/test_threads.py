"""Parts of a convolution side by side: in order, and the same whatever the threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from reference import ConvParams, conv_backward, conv_forward, depthwise, threads
from reference.problem import Array, Size
from reference.threads import in_order, thread_count, total
from tests.support.layers import Layer
from tests.support.prepared import forget
from tests.support.prepared import nothing_prepared as nothing_prepared

pytestmark = pytest.mark.usefixtures("nothing_prepared")
each_count = pytest.mark.parametrize("count", [1, 2, 3, 8])


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A process with threads is not safe to fork."""
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "4"}, 1),
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OPENBLAS_NUM_THREADS": "0", "MKL_NUM_THREADS": "2"}, 2),
        ({"OPENBLAS_NUM_THREADS": "no", "OMP_NUM_THREADS": "2,3", "MKL_NUM_THREADS": "64"}, 8),
    ],
)
def test_as_many_as_blas_has(environment: dict[str, str], count: int) -> None:
    """What it is told, where that is a number; a few at most."""
    assert thread_count(environment) == count


def test_as_many_as_there_are_cores() -> None:
    """Where BLAS is told nothing."""
    assert 1 <= thread_count({}) <= 8


@each_count
def test_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results come in the order of the parts, though later ones take less time."""
    monkeypatch.setattr(threads, "THREADS", count)

    def square(number: int) -> int:
        time.sleep(0.001 * (number % 3))
        return number**2

    assert list(in_order(square, range(30))) == [number**2 for number in range(30)]


@each_count
def test_total_is_of_the_parts_in_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real numbers, of which another order of sums would be seen; the first is added to."""
    monkeypatch.setattr(threads, "THREADS", count)
    parts = np.random.default_rng(0).standard_normal((30, 4))
    want = parts[0].copy()
    for part in parts[1:]:
        want += part
    made = []

    def copy(part: Array) -> Array:
        time.sleep(0.001 * (len(made) % 3))
        made.append(part.copy())
        return made[-1]

    found = total(copy, parts, share=True)
    assert found.tobytes() == want.tobytes()
    assert any(found is part for part in made)


def test_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three parts that wait for each other: each has a thread, one of them the one that asks."""
    monkeypatch.setattr(threads, "THREADS", 3)
    barrier = threading.Barrier(3, timeout=60)

    def who(part: int) -> int:
        barrier.wait()
        return threading.get_ident()

    found = set(in_order(who, range(3)))
    assert len(found) == 3
    assert threading.get_ident() in found


@pytest.mark.parametrize(("count", "share", "parts"), [(1, True, 9), (4, False, 9), (4, True, 1)])
def test_alone(count: int, share: bool, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, no wish to share, or one part only: all is done here, when it is asked for."""
    monkeypatch.setattr(threads, "THREADS", count)
    results = in_order(lambda _: threading.get_ident(), range(parts), share)
    assert set(results) == {threading.get_ident()}


@each_count
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_after_an_error_no_part_is_begun(
    count: int, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes to the one who asked; the fixture sees that no thread goes on."""
    monkeypatch.setattr(threads, "THREADS", count)
    begun = []

    def seventh_fails(part: int) -> None:
        begun.append(part)
        if part == 7:
            raise error
        time.sleep(0.001)

    with pytest.raises(error):
        list(in_order(seventh_fails, range(1000)))
    assert len(begun) <= 8 + 2 * count


def test_a_thread_that_the_system_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others do its parts too."""
    monkeypatch.setattr(threads, "THREADS", 4)
    asked = []

    class Scarce(threading.Thread):
        def start(self) -> None:
            asked.append(self)
            if len(asked) > 1:
                raise RuntimeError("can't start new thread")
            super().start()

    monkeypatch.setattr(threads, "Thread", Scarce)
    assert list(in_order(lambda part: part**2, range(30))) == [part**2 for part in range(30)]
    assert len(asked) == 2


def test_control_c_while_threads_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have begun stop after their part; the fixture sees that none goes on."""
    monkeypatch.setattr(threads, "THREADS", 3)
    asked, begun = [], []

    class Interrupted(threading.Thread):
        def start(self) -> None:
            asked.append(self)
            if len(asked) > 1:
                raise KeyboardInterrupt
            super().start()

    def slow(part: int) -> None:
        begun.append(part)
        time.sleep(0.001)

    monkeypatch.setattr(threads, "Thread", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(in_order(slow, range(1000)))
    assert len(begun) < 1000


def test_errors_of_floating_point_are_the_askers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What np.errstate says here holds in every thread."""
    monkeypatch.setattr(threads, "THREADS", 3)
    for mode in ("ignore", "raise"):
        with np.errstate(all=mode):
            found = list(in_order(lambda _: np.geterr()["over"], range(20)))
        assert set(found) == {mode}


SAME = ((1, 1), (1, 1))
ALL, SOME = 1, 2 * 10**6
SHARED = [  # and from how many multiply-adds: of a layer, and of a part of one that is several
    (Layer("depthwise", (9, 24, 23, 40), (3, 3, 1, 80), ConvParams((1, 1), SAME, groups=40)), ALL),
    (Layer("strided", (9, 24, 23, 40), (3, 3, 1, 40), ConvParams((2, 3), SAME, groups=40)), ALL),
    (Layer("narrow", (4, 90, 90, 16), (3, 3, 16, 16), ConvParams(padding=SAME)), ALL),
    (Layer("of one axis", (8, 9000, 16), (3, 16, 16), ConvParams((1,), ((1, 1),), (1,))), ALL),
    (Layer("groups", (4, 24, 23, 40), (3, 3, 5, 48), ConvParams(padding=SAME, groups=8)), SOME),
]


@pytest.mark.parametrize(("layer", "least"), SHARED, ids=str)
def test_bits_do_not_depend_on_threads(
    layer: Layer, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real numbers, of which another order of sums would be seen."""
    for limit in ("_PART", "_LONG_PART"):
        monkeypatch.setattr(depthwise, limit, 1)
    monkeypatch.setattr(threads, "_SHARED", least)
    random = np.random.default_rng(0)
    shapes = (layer.x, layer.w, layer.dy)
    x, w, dy = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    asked = []
    side_by_side = threads._side_by_side
    monkeypatch.setattr(
        threads, "_side_by_side", lambda *args: asked.append(args) or side_by_side(*args)
    )
    found = []
    for count in (1, 2, 5):
        monkeypatch.setattr(threads, "THREADS", count)
        forget()
        grads = conv_backward(x, w, dy, layer.params)
        y = conv_forward(x, w, None, layer.params)
        found.append([array.tobytes() for array in (grads.dx, grads.dw, y)])  # db is BLAS's own
    assert len(asked) == 4  # backward and forward, by two and by five threads
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(
    ("shape", "stride", "parts"),
    [
        ((8, 14, 14, 96), 1, [(8, 14)]),
        ((8, 10, 10, 1536), 1, [(4, 10), (4, 10)]),
        ((8, 19, 19, 728), 1, [(2, 19)] * 4),
        ((7, 19, 19, 728), 1, [(4, 19), (3, 19)]),
        ((1, 112, 112, 96), 1, [(1, 56), (1, 56)]),
        ((1, 224, 224, 96), 1, [(1, 56)] * 4),
        ((3, 75, 75, 288), 1, [(1, 38), (1, 37)] * 3),
        ((8, 56, 56, 144), 2, [(2, 56)] * 4),
        ((1, 112, 112, 512), 2, [(1, 112)]),
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 2])
def test_parts_of_depthwise_layers(
    shape: Size,
    stride: int,
    parts: list[tuple[int, int]],
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As few as two threads can share evenly, of what is worth it; whatever the threads."""
    params = ConvParams((stride, stride), SAME, groups=shape[-1])
    layer = Layer("", shape, (3, 3, 1, shape[-1]), params)
    x, w, dy = (np.zeros(shape, np.float32) for shape in (layer.x, layer.w, layer.dy))
    seen = []

    def counted(function: Callable[[Any], Any], parts: Sequence[Any], *share: bool) -> Any:
        if share:
            seen.append((*share, [x[cells].shape[:2] for cells, *_ in parts]))
        return total(function, parts, *share)

    monkeypatch.setattr(threads, "THREADS", count)
    monkeypatch.setattr(depthwise, "total", counted)
    conv_backward(x, w, dy, params)
    assert seen == [(shape != (8, 14, 14, 96), parts)]
