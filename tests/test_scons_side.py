"""Parts of the SCons side by themselves: versions, and paths as other systems write them."""

from __future__ import annotations

import ntpath
import shlex
from pathlib import Path

import pytest

from nnbuild import config
from nnbuild.errors import ConfigError
from nnbuild.onnxfile import inside
from nnbuild.scons import cmsis_library, external_data, models, requirement


@pytest.mark.parametrize(
    ("requirement_", "good", "bad"),
    [
        (">=0.3,<0.4", ["0.3", "0.3.0", "0.3.9.1", "0.3.0.dev1"], ["0.2.9", "0.4", "0.4.0.dev1", "1.3"]),
        (" >= 0.3 , != 0.3.1 ", ["0.3", "0.10"], ["0.3.1", "0.3.1.0", "0.2"]),
        ("==0.3", ["0.3", "0.3.0"], ["0.3.1", "0.30"]),
        ("==0.3.*", ["0.3", "0.3.7"], ["0.4", "0.30.0"]),
        ("!=0.3.*", ["0.4"], ["0.3.7", "0.3"]),
        ("~=0.3.1", ["0.3.1", "0.3.9"], ["0.3.0", "0.4.0"]),
        ("~=0.3", ["0.3", "0.9"], ["0.2", "1.0"]),
        (">0.3", ["0.3.0.1", "0.4"], ["0.3", "0.3.0"]),
        ("<=0.3", ["0.3.0", "0.2.99"], ["0.3.1"]),
    ],
)
def test_versions(requirement_: str, good: list[str], bad: list[str]) -> None:
    assert [version for version in good + bad if requirement.satisfied(version, requirement_)] == good


@pytest.mark.parametrize(
    "text", ["0.3", ">=", ">=a", "=>0.3", ">=0.3;<1", ">=0.3,", "", ">=0.3.*", "~=1", "===0.3", ">=٣"]
)
def test_no_versions(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^NN_REQUIRE: '.*' is no condition on a version; hint: such as NN_REQUIRE="):
        requirement.satisfied("0.3", text)


def test_default_name_of_other_systems_paths() -> None:
    for path in (r"C:\firmware\models\kws.onnx", r"models\kws.int8.onnx", r"\\server\share\kws.onnx", "C:/m/kws.onnx"):
        assert config.default_name(path) == "kws"


def test_function_behind_a_drive_letter() -> None:
    r"""`C:\x\calib.py:samples` is a function in a file; a drive letter alone makes none."""
    match = models.FUNCTION.fullmatch(r"C:\my models\calib.py:samples")
    assert match is not None
    assert match.groups() == (r"C:\my models\calib.py", "samples")
    for text in (r"C:\models\calib.npz", r"C:\models\calib.py", "calib.py:", "calib.py:not a name", "C:samples"):
        assert models.FUNCTION.fullmatch(text) is None


@pytest.mark.parametrize(
    "location", [r"C:\x.bin", "C:x.bin", r"..\x.bin", r"a\..\..\x.bin", r"\\server\x.bin", "/x", "\\x"]
)
def test_external_data_outside_on_any_system(location: str, tmp_path: Path) -> None:
    """The scanner and the importer refuse the same, on every system, so that a model means the same everywhere."""
    assert not external_data.is_inside(location)
    assert inside(tmp_path.resolve(), location) is None


def test_compiler_with_backslashes_survives_the_command_line() -> None:
    """What `--compiler` is taken apart by is what it was put together by."""
    words = [r"C:\Program Files\Arm\bin\arm-none-eabi-gcc.exe", "-DX=a b", r"-IC:\inc"]
    assert shlex.split(shlex.join(words)) == words


def test_words_of_a_file_of_arguments() -> None:
    """GNU tools read a backslash there as an escape."""
    assert cmsis_library.in_file(r"build\nn\a.o") == "build/nn/a.o"
    assert cmsis_library.in_file(ntpath.join("my build", "a.o")) == '"my build/a.o"'
