"""The layers that costs are fitted to: the reference networks, every operator's cases, and layers of usual shapes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.footprint import NETWORKS, quantized
from nnbuild.contract import Case
from nnbuild.lower import lower
from nnbuild.network import Network, QuantParams
from nnbuild.ops import ALL, singles
from nnbuild.ops.history import HistoryParams
from nnbuild.shrink import shrink
from tests import random_layers

RANDOM = 80
IN, OUT = QuantParams(0.05, -20), QuantParams(0.3, 5)
RELU = QuantParams(0.2, -128)
WIDE, WIDE_OUT = QuantParams(0.0002, 0, "int16"), QuantParams(0.0005, 0, "int16")
SECOND, SUM = QuantParams(0.037, 11), QuantParams(0.083, 3)

# name: (channels, height, width), (outputs, height, width of the window), stride, pads
CONVOLUTIONS = {
    "first": ((3, 12, 12), (16, 3, 3), 1, 1),
    "rgb_strided": ((3, 24, 24), (8, 3, 3), 2, 1),
    "body": ((16, 9, 9), (16, 3, 3), 1, 1),
    "wide": ((32, 6, 6), (32, 3, 3), 1, 1),
    "down": ((16, 10, 10), (32, 3, 3), 2, 1),
    "valid": ((24, 7, 7), (20, 3, 3), 1, 0),
    "odd": ((5, 8, 8), (7, 3, 3), 1, 1),
    "pointwise": ((64, 6, 5), (64, 1, 1), 1, 0),
    "pointwise_few": ((8, 20, 20), (16, 1, 1), 1, 0),
    "pointwise_narrow": ((96, 4, 4), (24, 1, 1), 1, 0),
    "shortcut": ((16, 12, 12), (32, 1, 1), 2, 0),
    "five": ((4, 12, 12), (8, 5, 5), 1, 2),
    "spectrogram": ((1, 30, 10), (32, 10, 4), 2, 1),
    "deep": ((64, 5, 5), (12, 3, 3), 1, 1),
    "few_inputs": ((2, 16, 16), (40, 3, 3), 1, 1),
    "low": ((8, 8, 20), (24, 2, 7), 1, 0),
    "high": ((12, 20, 4), (20, 7, 1), 1, 0),
    "square": ((20, 10, 10), (28, 2, 2), 2, 0),
    "time": ((40, 1, 24), (30, 1, 3), 1, 0),
    "time_long": ((24, 1, 40), (24, 1, 9), 1, 0),
    "pixel": ((64, 1, 1), (64, 1, 1), 1, 0),
    "pixel_wide": ((128, 1, 1), (96, 1, 1), 1, 0),
    "pixels": ((48, 1, 3), (64, 1, 1), 1, 0),
    "window": ((40, 1, 3), (32, 1, 3), 1, 0),
}
# name: (channels, height, width), (height, width of the window), stride, pads
DEPTHWISE = {
    "keyword": ((64, 12, 5), (3, 3), 1, 1),
    "early": ((8, 24, 24), (3, 3), 1, 1),
    "strided": ((16, 24, 24), (3, 3), 2, 1),
    "late": ((128, 3, 3), (3, 3), 1, 1),
    "five": ((24, 8, 8), (5, 5), 1, 2),
    "time": ((32, 1, 40), (1, 9), 1, 0),
    "tall": ((48, 20, 1), (5, 1), 1, 0),
    "odd": ((13, 9, 9), (3, 3), 1, 1),
}
# (outer, rows, new, inner)
HISTORIES = (
    (1, 5, 1, 128),
    (1, 15, 1, 64),
    (1, 3, 1, 40),
    (1, 9, 1, 10),
    (1, 9, 1, 20),
    (1, 5, 1, 36),
    (1, 8, 2, 33),
    (1, 7, 2, 48),
    (8, 6, 1, 16),
)
# inputs, outputs
PRODUCTS = ((10, 10), (16, 16), (64, 12), (128, 128), (256, 10), (640, 24), (33, 31), (32, 64))


def networks(shared: Path, folder: Path) -> dict[str, Network]:
    """The reference networks, quantized as users quantize them, and the official int8 ones."""
    models = {name: quantized(shared / "models" / file, folder, shared)[0] for name, file in NETWORKS.items()}
    return {name: shrink(lower(model, name)) for name, model in models.items()}


def cases() -> Iterator[Case]:
    """Single layers: of usual shapes, at random, and those that tests use."""
    yield from _convolutions()
    yield from _depthwise()
    yield from _rows()
    for inputs, outputs in PRODUCTS:
        for name, output, clamp in (("plain", OUT, ()), ("relu", RELU, ("Relu",))):
            label, shapes = f"fc_{inputs}x{outputs}_{name}", ((1, inputs), (outputs, inputs))
            yield singles.weighted(label, "Gemm", *shapes, 0, IN, output, {"transB": 1}, clamp)
            if inputs <= 256:
                yield singles.weighted(f"{label}_int16", "Gemm", *shapes, 0, WIDE, output, {"transB": 1}, clamp)
    yield from _others()
    yield from random_layers.cases(0, RANDOM)
    for operator in ALL:
        yield from operator.cases()


def _convolutions() -> Iterator[Case]:
    for name, (shape, window, stride, pad) in CONVOLUTIONS.items():
        weights = (window[0], shape[0], *window[1:])
        pads = [pad if size > 1 else 0 for size in window[1:]] * 2
        attributes = {"strides": [stride] * 2, "pads": pads}
        yield singles.weighted(f"conv_{name}", "Conv", (1, *shape), weights, 0, IN, RELU, attributes, ("Relu",))
        # Of many inputs with weights of 127 each the sum would not fit.
        for source, output in ((WIDE, WIDE_OUT), (IN, WIDE_OUT)) if name not in ("deep", "few_inputs") else ():
            key = f"conv_{name}_{source.dtype}_{output.dtype}"
            yield singles.weighted(key, "Conv", (1, *shape), weights, 0, source, output, attributes, ("Relu",))


def _depthwise() -> Iterator[Case]:
    for name, (shape, window, stride, pad) in DEPTHWISE.items():
        pads = [pad if size > 1 else 0 for size in window] * 2
        attributes = {"strides": [stride] * 2, "pads": pads, "group": shape[0]}
        weights = (shape[0], 1, *window)
        yield singles.weighted(f"depthwise_{name}", "Conv", (1, *shape), weights, 0, IN, RELU, attributes, ("Relu",))
        for source, output in ((WIDE, WIDE_OUT), (IN, WIDE_OUT)):
            key = f"depthwise_{name}_{source.dtype}_{output.dtype}"
            yield singles.weighted(key, "Conv", (1, *shape), weights, 0, source, output, attributes, ("Relu",))


def _rows() -> Iterator[Case]:
    """One row of windows, as layers are computed row by row (`ram.rows`)."""
    for channels, width, stride in ((64, 5, 1), (16, 48, 1), (32, 24, 2), (60, 12, 2), (30, 6, 1)):
        attributes = {"strides": [1, stride], "pads": [0, 1, 0, 1] if stride == 1 else [0, 0, 0, 1], "group": channels}
        for name, clamp in (("plain", ()), ("relu", ("Relu",))):
            label, output = f"depthwise_row_{channels}x{width}_{name}", RELU if clamp else OUT
            shape, weights = (1, channels, 3, width), (channels, 1, 3, 3)
            yield singles.weighted(label, "Conv", shape, weights, 0, IN, output, attributes, clamp)


def _others() -> Iterator[Case]:
    for shape in ((1, 16, 12, 12), (1, 7, 5, 5), (1, 300)):
        text = "x".join(str(count) for count in shape)
        for kind in ("Add", "Sub", "Mul"):
            yield singles.several(f"{kind}_{text}".lower(), kind, [shape, shape], [IN, SECOND], SUM)
            yield singles.several(f"{kind}_{text}_relu".lower(), kind, [shape, shape], [SECOND, IN], RELU, ("Relu",))
        for kind in ("Min", "Max"):
            yield singles.several(f"{kind}_{text}".lower(), kind, [shape, shape], [IN, IN], IN)
        yield singles.several(f"add_{text}_int16", "Add", [shape, shape], [WIDE, IN], WIDE_OUT)
        yield singles.several(f"add_{text}_to_int16", "Add", [shape, shape], [IN, IN], WIDE_OUT)
        yield singles.requantization(f"rescale_{text}_narrower", shape, WIDE, IN)
        yield singles.requantization(f"rescale_{text}_wider", shape, IN, WIDE)
        yield singles.unary(f"tanh_{text}", "Tanh", shape, IN, QuantParams(1 / 128, 0))
        yield singles.clamp(f"clamp_{text}", ("Clip", -0.5, 1.0), shape, IN, IN)
        yield singles.several(f"concat_{text}", "Concat", [shape, shape], [IN, IN], IN, attributes={"axis": 1})
    for channels, size, window, stride in ((64, 8, 8, 8), (16, 12, 2, 2), (32, 9, 3, 2), (5, 10, 5, 1)):
        attributes = {"kernel_shape": [window] * 2, "strides": [stride] * 2}
        for kind, output in (("MaxPool", IN), ("AveragePool", IN), ("AveragePool", OUT)):
            name = f"{kind}_{channels}_{size}_{window}_{output.zero_point}".lower()
            yield singles.unary(name, kind, (1, channels, size, size), IN, output, attributes)
            if kind == "AveragePool":
                yield singles.unary(f"{name}_int16", kind, (1, channels, size, size), WIDE, output, attributes)
    for sizes in HISTORIES:
        yield singles.history(f"history_{'x'.join(map(str, sizes))}", HistoryParams(*sizes), IN)
    for rows, depth in ((1, 2), (1, 10), (1, 12), (1, 100), (8, 24)):
        for source in (IN, WIDE):
            name = f"softmax_{rows}x{depth}_{source.dtype}"
            yield singles.unary(name, "Softmax", (1, rows, depth), source, QuantParams(1 / 256, -128))
    for channels, size in ((3, 20), (16, 9)):
        shape = (1, channels, size, size)
        yield singles.pad(f"pad_{channels}", shape, [0, 0, 1, 1, 0, 0, 1, 1], 0.0, IN)
        yield singles.transpose(f"transpose_{channels}", shape, [((0, 2, 3, 1), None)])
