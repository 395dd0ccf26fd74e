"""The layers of the microbenchmark: usual ones of small networks, and the odd shapes that are left after shrinking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnbuild.contract import Case
from nnbuild.network import QuantParams
from nnbuild.ops import singles

IN, OUT, RELU = QuantParams(0.05, -20), QuantParams(0.3, 5), QuantParams(0.2, -128)
SECOND, SUM = QuantParams(0.037, 11), QuantParams(0.083, 3)
UNIT = QuantParams(1 / 128, 0)

# name: (inputs, outputs), whether a ReLU is part of it
FULLY_CONNECTED = {
    "fc 16x16": ((16, 16), True),
    "fc 64x12": ((64, 12), False),
    "fc 128x128": ((128, 128), True),
    "fc 640x128": ((640, 128), True),
    "fc 33x31": ((33, 31), False),
}
# name: (channels, height, width), (outputs, height, width of the window), stride, pads (top, left, bottom, right)
CONVOLUTIONS = {
    "pointwise 64-64 @25x5": ((64, 25, 5), (64, 1, 1), 1, (0, 0, 0, 0)),
    "pointwise 7-13 @12x12": ((7, 12, 12), (13, 1, 1), 1, (0, 0, 0, 0)),
    "pointwise 29-10 @6x6": ((29, 6, 6), (10, 1, 1), 1, (0, 0, 0, 0)),
    "conv 10x4 s2, 1-64 @49x10": ((1, 49, 10), (64, 10, 4), 2, (4, 1, 5, 1)),
    "conv 3x3, 3-16 @32x32": ((3, 32, 32), (16, 3, 3), 1, (1, 1, 1, 1)),
    "conv 3x3, 32-32 @16x16": ((32, 16, 16), (32, 3, 3), 1, (1, 1, 1, 1)),
    "conv 3x3, 5-7 @8x8": ((5, 8, 8), (7, 3, 3), 1, (1, 1, 1, 1)),
    "conv 1x3, 40-24 @24": ((40, 1, 24), (24, 1, 3), 1, (0, 0, 0, 0)),
}
# name: (channels, height, width), (height, width of the window), stride
DEPTHWISE = {
    "depthwise 3x3 c64 @25x5": ((64, 25, 5), (3, 3), 1),
    "depthwise 3x3 s2 c16 @24x24": ((16, 24, 24), (3, 3), 2),
    "depthwise 3x3 c13 @9x9": ((13, 9, 9), (3, 3), 1),
    "depthwise 5x5 c24 @8x8": ((24, 8, 8), (5, 5), 1),
}


def cases() -> Iterator[Case]:
    """Networks of one layer, beside the transposes around it."""
    for name, ((inputs, outputs), relu) in FULLY_CONNECTED.items():
        output, clamp = (RELU, ("Relu",)) if relu else (OUT, ())
        yield singles.weighted(name, "Gemm", (1, inputs), (outputs, inputs), 0, IN, output, {"transB": 1}, clamp)
    for name, (shape, window, stride, pads) in CONVOLUTIONS.items():
        yield _convolution(name, shape, (window[0], shape[0], *window[1:]), stride, pads)
    for name, (shape, size, stride) in DEPTHWISE.items():
        margins = [count // 2 for count in size] * 2
        yield _convolution(name, shape, (shape[0], 1, *size), stride, margins, shape[0])
    yield from _elementwise()
    yield from _pools()
    yield from _others()


def _convolution(
    name: str, shape: Sequence[int], weights: Sequence[int], stride: int, pads: Sequence[int], group: int = 1
) -> Case:
    attributes = {"strides": [stride] * 2, "pads": list(pads), "group": group}
    return singles.weighted(name, "Conv", (1, *shape), weights, 0, IN, RELU, attributes, ("Relu",))


def _elementwise() -> Iterator[Case]:
    for shape in ((1, 16, 12, 12), (1, 7, 5, 5)):
        text = f"{shape[2]}x{shape[3]}x{shape[1]}"
        for kind in ("Add", "Mul"):
            yield singles.several(f"{kind.lower()} {text}", kind, [shape, shape], [IN, SECOND], SUM)
    yield singles.unary("sigmoid 256", "Sigmoid", (1, 256), IN, QuantParams(1 / 256, -128))


def _pools() -> Iterator[Case]:
    two = {"kernel_shape": [2, 2], "strides": [2, 2]}
    three = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
    for text, kind, output in (("average pool", "AveragePool", IN), ("max pool", "MaxPool", IN)):
        yield singles.unary(f"{text} 2x2 c16 @12x12", kind, (1, 16, 12, 12), IN, output, two)
        yield singles.unary(f"{text} 3x3 c5 @9x9", kind, (1, 5, 9, 9), IN, output, three)
    yield singles.unary("average pool 25x5 c64", "GlobalAveragePool", (1, 64, 25, 5), IN, IN)
    yield singles.unary("average pool 8x8 c64, rescaled", "GlobalAveragePool", (1, 64, 8, 8), IN, OUT)


def _others() -> Iterator[Case]:
    for rows, depth in ((1, 12), (8, 24)):
        shape = (rows, depth)
        yield singles.unary(f"softmax {rows}x{depth}", "Softmax", shape, IN, QuantParams(1 / 256, -128), {"axis": 1})
    yield singles.unary("log softmax 1x12", "LogSoftmax", (1, 12), IN, QuantParams(16 / 256, 127), {"axis": 1})
    yield singles.recurrent("lstm 12-16, 5 steps", "LSTM", (5, 1, 12), 16, IN, UNIT, per_gate=True)
    yield singles.recurrent("gru 12-16, 5 steps", "GRU", (5, 1, 12), 16, IN, UNIT)
