"""nnbuild: neural networks as ordinary source files of microcontroller firmware.

For a training loop there are two functions: `check` (does the exported model fit?) and `run` (what does the int8 model
answer?). Importing this package imports nothing heavy: the SCons tool lives inside it and must load in milliseconds.
"""

from __future__ import annotations

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:  # as typing.TYPE_CHECKING, without typing
    import os
    from collections.abc import Mapping, Sequence

    from nnbuild.estimate.verdict import Check
    from nnbuild.network import Array


def check(
    path: str | os.PathLike[str],
    *,
    cpu: str,
    flash: int | str | None = None,
    ram: int | str | None = None,
    latency: str | None = None,
    latency_strict: bool = False,
    mul_cycles: int = 1,
    input_shape: Mapping[str, Sequence[int]] | None = None,
    states: str | Mapping[str, str] | None = None,
    stream_axis: int | None = None,
    stream_frames: int | None = None,
    input_layout: str = "",
    fully_connected: str = "per_channel",
    int16: str | Sequence[str] | None = None,
    cmsis_nn: str | os.PathLike[str] | None = None,
    backend: str = "auto",
    optimize: str = "balanced",
    io: str = "caller",
    stream_rows: str = "auto",
    push_rows: bool = False,
    advise: bool = True,
) -> Check:
    """Whether the .onnx file at `path`, float or int8 QDQ, fits `cpu`, judged by its shapes in well under a second.

    Limits as in an SConstruct: `flash="100K"`, `ram="12K"` (bytes, or text where K is 1024) and
    `latency="2ms @ 48MHz, 1ws"`; None is no limit. `mul_cycles` is 1 or 32 (MULS on ARMv6-M). The other options mean
    what they mean in a build. Where a limit is missed, the smallest changes that would fit are looked for, which
    takes some seconds, unless `advise` is False.

        answer = nnbuild.check("kws.onnx", cpu="cortex-m0", flash="100K", ram="12K")
        if not answer.fits: print(answer)

    On known networks flash and RAM are within 10 % of the linked image. Raises nnbuild.errors.ModelError with
    everything that stands against the model, ConfigError for an option that is wrong.
    """
    from nnbuild.estimate import api

    return api.check(
        path,
        cpu=cpu,
        flash=flash,
        ram=ram,
        latency=latency,
        latency_strict=latency_strict,
        mul_cycles=mul_cycles,
        input_shape=input_shape,
        states=states,
        stream=(stream_axis, stream_frames),
        input_layout=input_layout,
        fully_connected=fully_connected,
        int16=int16,
        cmsis_nn=cmsis_nn,
        backend=backend,
        optimize=optimize,
        io=io,
        stream_rows=stream_rows,
        push_rows=push_rows,
        advise=advise,
    )


def run(
    int8_path: str | os.PathLike[str], x: Array | Mapping[str, Array], *, single_rounding: bool = False
) -> Array | dict[str, Array]:
    """What the int8 model at `int8_path` answers to `x`, by the integer reference: the bytes of the generated C.

    `x` is one input of the model's shape, batch of 1 included or not, or a batch (N, ...); several inputs are a mapping
    by name. Floats are quantized with the model's scales and the answer is float32; int8 stays int8, as it is in C.
    The answer has the shape (N, ...) of the output, or of one sample where `x` is one; several outputs are a mapping.
    Where recurrent layers keep their states, a batch is one sequence from its start; of a stream (`stream_axis`) one
    input are the new frames of a call, and a batch are calls, one behind the other.

        predicted = nnbuild.run("build/nn/kws.int8.onnx", images).argmax(axis=1)

    Raises nnbuild.errors.ModelError for a model that is no int8 model, ConfigError for an `x` that does not fit.
    """
    from nnbuild.estimate import api

    return api.run(int8_path, x, single_rounding=single_rounding)
