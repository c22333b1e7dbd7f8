"""TensorFlow: GradientTape over tf.nn.conv1d, conv2d, conv3d, depthwise_conv2d and convolution.

Which operation: `depthwise_conv2d` where groups = C in 2-D and it takes the strides, else `convN`,
which takes groups and dilation in float32; `convolution`, which moves space to batch, for dilation
in float64. Padding is TensorFlow's own where it has one that is meant: VALID for none, SAME where
the numbers are SAME's, explicit for conv2d and depthwise_conv2d; else tf.pad goes before VALID.

The variant `native` does without oneDNN; its float32 kernels take what those of float64 take. Other
variants take other ways: `function` traces a graph, `xla` compiles it, `keras` asks Keras' layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from oracles.protocol import Box, Domain
from reference.problem import ConvGrads, ConvProblem, same_padding

distribution = ("tensorflow-cpu", "tensorflow")
preload = ("tensorflow",)


_OTHERS = ("float16", "float64")  # oneDNN's kernels do not take these
# depthwise dW adds up in float16: 2,048 ones and more make 2,048
# (tests/findings/tensorflow_float16_depthwise_filter_gradient.py).
# BiasAddGrad adds up in bfloat16, as do Eigen's kernels
# (tests/findings/tensorflow_bfloat16_*.py).
NARROW = {"float16": "float16", "bfloat16": "bfloat16"}


def _without_onednn(dtypes: tuple[str, ...]) -> tuple[Box, ...]:
    """What Eigen's kernels take.

    "do not yet support dilation rates larger than 1", which `convolution` gets round at stride 1;
    no gradients for groups but depthwise.
    """
    return (
        Box(ranks=(1, 2, 3), dtypes=dtypes, groups=("one",), dilation="one"),
        Box(ranks=(1, 2, 3), dtypes=dtypes, groups=("one",), stride="one"),
        Box(ranks=(2,), dtypes=dtypes, groups=("depthwise",), stride="equal", dilation="one"),
        Box(ranks=(2,), dtypes=dtypes, groups=("depthwise",), stride="one"),
    )


domain = Domain(
    Box(ranks=(1, 2), dtypes=("float32",)),
    # conv3d: "input depth must be divisible by filter depth" for groups
    Box(ranks=(3,), dtypes=("float32",), groups=("one",)),
    *_without_onednn(_OTHERS),
    accumulation=NARROW,
)


@dataclass(frozen=True)
class Variant:
    """TensorFlow asked in one way; oneDNN has kernels of its own for `onednn_dtypes`."""

    onednn_dtypes: tuple[str, ...] = ("float32",)
    distribution: tuple[str, ...] = distribution
    preload: tuple[str, ...] = preload
    domain: Domain = domain
    environment: Mapping[str, str] = field(default_factory=dict)

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """dX, dW, db and y."""
        import tensorflow as tf

        call = self._call(problem)
        x, w = tf.constant(problem.x), tf.constant(problem.w)
        b = None if problem.b is None else tf.constant(problem.b)
        inputs = [tensor for tensor in (x, w, b) if tensor is not None]
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            padded = x if call.pads is None else tf.pad(x, call.pads)
            shaped = w if call.shape is None else tf.reshape(w, call.shape)
            y = getattr(tf.nn, call.name)(padded, shaped, **call.arguments)
            if b is not None:
                y = tf.nn.bias_add(y, b)
        gradients = tape.gradient(y, inputs, output_gradients=tf.constant(problem.dy))
        if None in gradients:
            raise NotImplementedError(f"GradientTape gives no gradient for dtype {problem.dtype}")
        dx, dw, *db = (gradient.numpy() for gradient in gradients)
        return ConvGrads(dx, dw, db[0] if db else None, y.numpy())

    def script(self, problem: ConvProblem) -> str:
        """The same as source."""
        call = self._call(problem)
        arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
        x, w = "inputs[0]", "inputs[1]"
        if call.pads is not None:
            x = f"tf.pad({x}, {call.pads})"
        if call.shape is not None:
            w = f"tf.reshape({w}, {call.shape})"
        y = f"tf.nn.{call.name}({x}, {w}, {arguments})"
        if problem.b is not None:
            y = f"tf.nn.bias_add({y}, inputs[2])"
        return (
            "import tensorflow as tf\n"
            "inputs = [tf.constant(a) for a in (x, w, b) if a is not None]\n"
            "with tf.GradientTape() as tape:\n"
            "    tape.watch(inputs)\n"
            f"    y = {y}\n"
            "gradients = tape.gradient(y, inputs, output_gradients=tf.constant(dy))\n"
            "dx, dw, db = [*(g.numpy() for g in gradients), None][:3]\n"
            "y = y.numpy()"
        )

    def _call(self, problem: ConvProblem) -> _Call:
        params = problem.params
        stride, dilation = list(params.stride), list(params.dilation)
        depthwise = _is_depthwise_conv2d(problem)
        # conv2d: "Gradients for grouped convolutions are not supported" with explicit padding
        takes_explicit = depthwise or (params.rank == 2 and params.groups == 1)
        kind = _padding(problem, takes_explicit=takes_explicit)
        pads = [[0, 0], *map(list, params.padding), [0, 0]]
        name, shape = f"conv{params.rank}d", None
        if depthwise:
            name = "depthwise_conv2d"
            shape = [*problem.kernel, params.groups, problem.w.shape[-1] // params.groups]
            stride = [1, *stride, 1]
        elif _is_dilated(problem) and problem.dtype.name not in self.onednn_dtypes:
            name = "convolution"
        elif params.rank > 1:
            stride, dilation = [1, *stride, 1], [1, *dilation, 1]
        arguments = {
            "stride" if name == "conv1d" else "strides": stride,
            "padding": {"EXPLICIT": pads, "tf.pad": "VALID"}.get(kind, kind),
            "dilations": dilation,
        }
        return _Call(name, arguments, pads if kind == "tf.pad" else None, shape)


_GRAPHS = (
    Box(ranks=(1, 2), dtypes=("float32",)),
    # conv3d: "Negative dimension size", as if the dilation of one axis were that of another
    Box(ranks=(3,), dtypes=("float32",), groups=("one",), dilation="one"),
)
_OF_GRAPHS = Domain(*_GRAPHS, *_without_onednn(_OTHERS), accumulation=NARROW)


@dataclass(frozen=True)
class Graph:
    """The same in a tf.function, gradients included, compiled by XLA if `compiled`."""

    compiled: bool = False
    distribution: tuple[str, ...] = distribution
    preload: tuple[str, ...] = preload
    domain: Domain = _OF_GRAPHS
    environment: Mapping[str, str] = field(default_factory=dict)

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """dX, dW, db and y."""
        import tensorflow as tf

        call = Variant()._call(problem)

        def forward(x: Any, w: Any, b: Any = None) -> Any:
            padded = x if call.pads is None else tf.pad(x, call.pads)
            shaped = w if call.shape is None else tf.reshape(w, call.shape)
            y = getattr(tf.nn, call.name)(padded, shaped, **call.arguments)
            return y if b is None else tf.nn.bias_add(y, b)

        def compute(dy: Any, *inputs: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = forward(*inputs)
            return y, tape.gradient(y, inputs, output_gradients=dy)

        inputs = [tf.constant(a) for a in (problem.x, problem.w, problem.b) if a is not None]
        traced = tf.function(compute, jit_compile=self.compiled, autograph=False)
        y, gradients = traced(tf.constant(problem.dy), *inputs)
        dx, dw, *db = (gradient.numpy() for gradient in gradients)
        return ConvGrads(dx, dw, db[0] if db else None, y.numpy())


_OF_KERAS = Domain(
    # "`strides > 1` not supported in conjunction with `dilation_rate > 1`"
    Box(ranks=(1, 2), dtypes=("float32",), stride="equal", dilation="one"),
    Box(ranks=(1, 2), dtypes=("float32",), stride="one"),
    Box(ranks=(3,), dtypes=("float32",), groups=("one",), stride="equal", dilation="one"),
    Box(ranks=(3,), dtypes=("float32",), groups=("one",), stride="one"),
)


@dataclass(frozen=True)
class Keras:
    """Keras' Conv1D, Conv2D and Conv3D, on what is padded before."""

    distribution: tuple[str, ...] = distribution  # whose defects it has
    preload: tuple[str, ...] = ("tensorflow", "keras")
    domain: Domain = _OF_KERAS
    environment: Mapping[str, str] = field(default_factory=lambda: {"KERAS_BACKEND": "tensorflow"})

    def grads(self, problem: ConvProblem) -> ConvGrads:
        """dX, dW, db and y."""
        import keras
        import tensorflow as tf

        params = problem.params
        pads = [[0, 0], *map(list, params.padding), [0, 0]]
        layer = getattr(keras.layers, f"Conv{params.rank}D")(
            problem.w.shape[-1],
            problem.kernel,
            strides=params.stride,
            dilation_rate=params.dilation,
            groups=params.groups,
            use_bias=problem.b is not None,
            dtype=problem.dtype.name,
        )
        x = tf.constant(problem.x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            padded = tf.pad(x, pads)
            layer.build(padded.shape)
            layer.set_weights([a for a in (problem.w, problem.b) if a is not None])
            y = layer(padded)
        sources = [x, *(weight.value for weight in layer.trainable_weights)]
        gradients = tape.gradient(y, sources, output_gradients=tf.constant(problem.dy))
        dx, dw, *db = (gradient.numpy() for gradient in gradients)
        return ConvGrads(dx, dw, db[0] if db else None, y.numpy())


@dataclass(frozen=True)
class _Call:
    """How to compute y: pad x by `pads` if any, reshape w to `shape` if any, call tf.nn.`name`."""

    name: str
    arguments: dict[str, Any]
    pads: list[list[int]] | None
    shape: list[int] | None


def _padding(problem: ConvProblem, *, takes_explicit: bool) -> str:
    """VALID, SAME, EXPLICIT or tf.pad: the first of them that means the problem's numbers."""
    params = problem.params
    if not any(map(any, params.padding)):
        return "VALID"
    if params.padding == same_padding(
        problem.spatial, problem.kernel, params.stride, params.dilation
    ):
        return "SAME"
    # "explicit padding with dilation is not supported"
    return "EXPLICIT" if takes_explicit and not _is_dilated(problem) else "tf.pad"


def _is_depthwise_conv2d(problem: ConvProblem) -> bool:
    """Whether tf.nn.depthwise_conv2d takes the problem.

    It refuses unequal strides, and takes dilation with strides but computes something else then.
    """
    params = problem.params
    return (
        params.rank == 2
        and params.groups == problem.x.shape[-1] > 1
        and len(set(params.stride)) == 1
        and (not _is_dilated(problem) or set(params.stride) == {1})
    )


def _is_dilated(problem: ConvProblem) -> bool:
    return set(problem.params.dilation) != {1}


grads = Variant().grads
script = Variant().script
native = Variant(
    onednn_dtypes=(),
    domain=Domain(*_without_onednn(("float32", "bfloat16", *_OTHERS)), accumulation=NARROW),
    environment={"TF_ENABLE_ONEDNN_OPTS": "0"},
)
function = Graph()
xla = Graph(
    compiled=True,
    # not float16: dX can be what lay in memory (tests/findings/tensorflow_xla_float16_dx.py)
    domain=Domain(*_GRAPHS, *_without_onednn(("float64",))),
    # LLVM's -O3 takes minutes for some float64 (tests/findings/jax_float64_compile_time.py)
    environment={"XLA_FLAGS": "--xla_backend_optimization_level=2"},
)
keras = Keras()
