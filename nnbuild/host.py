"""The generated C as a program of this machine: the integers of a firmware, fast, without the firmware.

The network is emitted as portable C, whatever its target, since all kernels compute the same bytes; a small main
function (`templates/evaluate.c.j2`) reads inputs and writes outputs. The program carries the id of its network and the
name of its compiler, so nobody takes an old one for a new one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np

from nnbuild.config import DEFAULT_HOSTCC
from nnbuild.errors import ConfigError
from nnbuild.network import Array, Network, Port

_FAST = ("-O2", "-march=native")
"""The program runs where it is made; sums of int8 products in vectors take a third of the time."""

_HINT = "HOSTCC (--host-cc) names the compiler of this machine; HOSTCC='' (--reference) does without"


def compiler(command: str | None) -> list[str] | None:
    """The words of the compiler that `command` names; None for none: it is empty, or nobody named one and there is no
    `cc`. ConfigError for one that is named and not there."""
    given = DEFAULT_HOSTCC if command is None else command
    try:
        words = shlex.split(given)
    except ValueError:
        raise ConfigError("is no command", given, _HINT) from None
    if not words or (command is None and shutil.which(words[0]) is None):
        return None
    if shutil.which(words[0]) is None:
        raise ConfigError("there is no such compiler", words[0], _HINT)
    return words


def observed(network: Network) -> Network:
    """`network` with one more output for each output of indices: the values that they are of, which show noise."""
    shown = {port.tensor for port in network.outputs}
    writers = {layer.output: layer for layer in network.layers}
    more = []
    for port in network.outputs:
        values = writers[port.tensor].inputs[0] if network.tensors[port.tensor].indices else port.tensor
        if values not in shown:
            shown.add(values)
            more.append(Port(f"{port.name}_values", values, network.tensors[values].shape, port.layout))
    return replace(network, outputs=(*network.outputs, *more))


def build(network: Network, name: str, command: Sequence[str], output: str | os.PathLike[str]) -> None:
    """Compile `network`, and what its indices are of, into the program `output`, whole or not at all.

    ConfigError, of one line, where the compiler `command` cannot.
    """
    from nnbuild.emit import EmitOptions, emit  # which who runs a program that is there does not need

    target = Path(output)
    files = emit(observed(network), EmitOptions(name, evaluate=True))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            for file, text in files.items():
                (Path(folder) / file).write_bytes(text.encode())
            sources = [file for file in files if file.endswith(".c")]
            try:
                _compile([command[0], *_FAST, *command[1:]], sources, folder)
            except ConfigError:
                _compile([command[0], "-O2", *command[1:]], sources, folder)  # not every compiler has -march=native
            os.replace(Path(folder) / "made", target)
    except OSError as error:
        raise ConfigError(f"cannot write: {error.strerror or error}", str(target)) from None


def _compile(command: Sequence[str], sources: Sequence[str], folder: str) -> None:
    """Compile to `made`; names are without folders, so that nothing of this machine's paths gets into the program."""
    found = shutil.which(command[0])
    try:
        done = subprocess.run(
            [*command, "-o", "made", *sources],
            executable=os.path.abspath(found) if found else None,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise ConfigError(f"cannot run: {error.strerror or error}", command[0], _HINT) from None
    if done.returncode or not (Path(folder) / "made").is_file():
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        told = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "it does not say why")
        raise ConfigError(f"cannot compile the network for this machine: {told[:200]}", command[0], _HINT)


@dataclass(frozen=True, slots=True)
class Program:
    """A program that `build` made; `by` is its compiler with the version."""

    path: Path
    by: str

    @classmethod
    def of(cls, path: str | os.PathLike[str], network: Network) -> Program:
        """The program at `path`. ConfigError where it does not run, or is not of `network`."""
        file = Path(path).resolve()
        try:
            done = subprocess.run([file, "about"], capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            hint = "is HOSTCC (--host-cc) a compiler of this machine?"
            raise ConfigError(f"does not run here: {error.strerror or error}", str(path), hint) from None
        by, _, model_id = done.stdout.strip().rpartition(" ")
        if done.returncode or model_id != f"0x{observed(network).model_id():08x}":
            raise ConfigError("is no program of this network", str(path), "make it with `python -m nnbuild host`")
        return cls(file, by)

    def start(self, network: Network) -> Process:
        """The program, running; of a network that keeps states it begins a sequence."""
        return Process(self.path, observed(network))


def compiled(words: Sequence[str], name: str, folder: str | os.PathLike[str]) -> Callable[[Network], Program]:
    """What makes the program of a network in `folder`, by the compiler `words`: for `accuracy.measure`."""

    def made(network: Network) -> Program:
        path = Path(folder) / name
        build(network, name, words, path)
        return Program.of(path, network)

    return made


class Process:
    """A network that runs in a process of its own; leaving the `with` ends it."""

    def __init__(self, path: Path, network: Network) -> None:
        self._path = path
        self._outputs = [network.tensors[port.tensor] for port in network.outputs]
        self._running = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def run(self, inputs: Sequence[Array]) -> Mapping[str, Array]:
        """The outputs of one inference by tensor, flat; `inputs` are integers, in the order of the network's.

        The program reads all inputs before it writes, so neither side waits for the other for good.
        """
        stdin, stdout = self._pipes()
        with contextlib.suppress(OSError):  # it has ended, which the missing output says
            stdin.write(b"".join(array.tobytes() for array in inputs))
            stdin.flush()
        found = {}
        for tensor in self._outputs:
            data = stdout.read(tensor.bytes)
            if len(data) != tensor.bytes:
                status = self._running.wait()
                raise ConfigError(f"ended with status {status} in place of an answer", str(self._path), _HINT)
            found[tensor.name] = np.frombuffer(data, tensor.dtype)
        return found

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        return self._running.stdin, self._running.stdout

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in self._pipes():
            with contextlib.suppress(OSError):  # of what nobody reads any more
                pipe.close()
        self._running.kill()
        self._running.wait()
