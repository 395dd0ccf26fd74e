"""Growth since the accepted build, and the stack of the inference: over, put back, over again, limit raised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.scons_project import HOST, MAIN, Project

BASED = HOST.replace('"nn"], ', '"nn"], NN_BASELINE="size-baseline.json", ')
IMAGE = (
    BASED + 'kws = env.NNModel("models/kws.onnx")\nfw = env.Program("build/fw.elf", ["main.c", kws])\n'
    "env.NNBudget(fw, growth={growth})\n"
)


def model(weights: int) -> dict[str, str | bytes]:
    return {"models/kws.onnx": f"weights={weights} arena=100"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "my firmware")
    made.write({"main.c": MAIN, **model(2000), "SConstruct": IMAGE.format(growth='"+1K"')})
    return made


def accepted(project: Project) -> bytes:
    return (project.folder / "size-baseline.json").read_bytes()


def over(project: Project) -> str:
    output = project.scons(status=2)
    assert not (project.folder / "build/fw.elf").exists()
    assert (project.folder / "build/fw.elf.overbudget").exists()
    return output


def good(project: Project, *arguments: str) -> str:
    output = project.scons(*arguments)
    assert (project.folder / "build/fw.elf").exists()
    assert not (project.folder / "build/fw.elf.overbudget").exists()
    return output


def test_growth_that_comes_and_goes(project: Project) -> None:
    output = over(project)
    assert "size-baseline.json: does not exist, so nobody knows the growth of build/fw.elf" in output
    assert "hint: `scons nn-baseline` accepts this build and writes it" in output
    assert "ACCEPT build/fw.elf" in good(project, "nn-baseline")
    first = accepted(project)
    good(project)
    assert not project.built(project.scons())
    project.write(model(4000))
    output = over(project)
    assert "build/fw.elf: growth FLASH is " in output
    assert "kws_l00_conv2d weights +2,000, from 2,000 to 4,000" in output
    over(project)  # again: not 'up to date'
    project.write(model(2000))
    good(project)  # put back
    project.write(model(4000))
    over(project)
    project.write({"SConstruct": IMAGE.format(growth='"+3K"')})
    good(project)  # the limit is raised
    project.write({"SConstruct": IMAGE.format(growth='"+1K"')})
    over(project)
    assert accepted(project) == first
    good(project, "nn-baseline")  # accepted
    assert accepted(project) != first
    good(project)
    assert not project.built(project.scons())
    (project.folder / "size-baseline.json").write_bytes(first)
    over(project)  # an older baseline, as after a checkout
    project.write(model(2000))
    good(project)


def test_an_accepted_build_is_not_one_that_was_checked(project: Project) -> None:
    """What nn-baseline links has not been held against the baseline; nothing may take it for good where it fails."""
    good(project, "nn-baseline")
    project.write({**model(4000), "SConstruct": IMAGE.format(growth='"+1K"') + 'env["NNBASELINECOM"] = "false"\n'})
    project.scons("nn-baseline", status=2)
    assert (project.folder / "build/fw.elf").exists()
    over(project)


def test_the_baseline_is_the_same_everywhere(project: Project, tmp_path: Path) -> None:
    good(project, "nn-baseline")
    other = Project(tmp_path / "elsewhere")
    other.write({"main.c": MAIN, **model(2000), "SConstruct": IMAGE.format(growth='"+1K"')})
    good(other, "nn-baseline")
    assert accepted(other) == accepted(project)
    kept = json.loads(accepted(project))
    assert list(kept["images"]) == ["build/fw.elf"]
    assert kept["images"]["build/fw.elf"]["layers"]["bytes"]["kws_l00_conv2d weights"] == 2000
    good(project, "nn-baseline")
    assert accepted(other) == accepted(project)


def test_two_images_share_a_baseline(project: Project) -> None:
    more = 'other = env.Program("other.elf", ["main.c", kws])\nenv.NNBudget(other, growth="1%")\n'
    project.write({"SConstruct": IMAGE.format(growth='{"FLASH": 0, "RAM": "10%"}') + more})
    good(project, "nn-baseline", "-j2")
    assert list(json.loads(accepted(project))["images"]) == ["build/fw.elf", "other.elf"]
    project.scons("-j2")
    project.write(model(2200))
    assert "other.elf: growth FLASH is " in project.scons("other.elf", status=2)


def test_reports_show_the_difference(project: Project) -> None:
    good(project, "nn-baseline")
    project.write(model(2100))
    good(project, "nn-report")
    assert "+100" in (project.folder / "build/fw.size.md").read_text(encoding="utf-8")
    report = json.loads((project.folder / "build/fw.size.json").read_text())
    assert report["baseline"]["layers"]["bytes"]["kws_l00_conv2d weights"] == 2000
    (growth,) = [budget for budget in report["budgets"] if budget["what"] == "growth FLASH"]
    assert growth["ok"]
    assert growth["limit"] == 1024


def test_without_growth_a_baseline_never_fails(project: Project) -> None:
    project.write({"SConstruct": IMAGE.replace(", growth={growth}", "")})
    good(project)
    good(project, "nn-baseline")
    project.write(model(90000))
    good(project)


@pytest.mark.parametrize(
    ("growth", "message"),
    [
        ('"much"', "build/fw.elf: growth must be bytes or a share, such as '+1K' or '2%', not 'much'"),
        ('{"RAM": -1}', "build/fw.elf: growth must be bytes or a share, such as '+1K' or '2%', not -1"),
    ],
)
def test_what_growth_takes(project: Project, growth: str, message: str) -> None:
    project.write({"SConstruct": IMAGE.format(growth=growth)})
    assert message in project.scons(status=2)


def test_growth_needs_a_baseline(project: Project) -> None:
    text = IMAGE.format(growth='"+1K"')
    project.write({"SConstruct": text.replace('NN_BASELINE="size-baseline.json", ', "")})
    output = project.scons(status=2)
    assert "build/fw.elf: growth is held against NN_BASELINE, which is not set" in output
    project.write({"SConstruct": text.replace('"size-baseline.json"', "5")})
    assert "NN_BASELINE must be one file, not 5" in project.scons(status=2)
    project.write({"SConstruct": text, "size-baseline.json": "nonsense"})
    assert "size-baseline.json: is no baseline; hint: take it from version control, or delete it" in over(project)


# --- stack -------------------------------------------------------------------------------------------------------

CORTEX = HOST.replace(
    '"nn"], ',
    '"nn"], CC="arm-none-eabi-gcc", CCFLAGS=["-mcpu=cortex-m0", "-mthumb"], '
    'LINKFLAGS=["-mcpu=cortex-m0", "-mthumb", "-nostdlib", "-Wl,-emain"], ',
)
STACK = CORTEX + 'kws = env.NNModel("models/kws.onnx", stack="{limit}")\nfw = env.Program("fw.elf", ["main.c", kws])\n'
BUDGET = "env.NNBudget(fw)\n"


@pytest.fixture
def cortex(project: Project) -> Project:
    if shutil.which("arm-none-eabi-gcc") is None:
        pytest.skip("arm-none-eabi-gcc is not installed")
    return project


def room(size: int) -> dict[str, str | bytes]:
    """A model whose inference has a local array."""
    return {"models/kws.onnx": f"weights=200 arena=100 room={size}"}


def test_stack_that_comes_and_goes(cortex: Project) -> None:
    cortex.write({"SConstruct": STACK.format(limit="128") + BUDGET, **room(64)})
    cortex.scons()
    assert not cortex.built(cortex.scons())
    cortex.write(room(400))
    for _ in range(2):
        output = cortex.scons(status=2)
        assert "fw.elf: kws stack is " in output
        assert "of 128 bytes; hint: deepest: kws_run" in output
        assert not (cortex.folder / "fw.elf").exists()
    cortex.write(room(64))
    cortex.scons()  # put back
    cortex.write(room(400))
    cortex.scons(status=2)
    cortex.write({"SConstruct": STACK.format(limit="1K") + BUDGET})
    cortex.scons()  # the limit is raised
    report = json.loads((cortex.folder / "fw.size.json").read_text())
    assert report["models"][0]["stack"]["path"] == ["kws_run"]
    assert 400 <= report["models"][0]["stack"]["bytes"] <= 416
    cortex.write({"SConstruct": STACK.format(limit="300") + BUDGET})
    assert "fw.elf: kws stack is " in cortex.scons(status=2)


def test_stack_needs_an_image_with_a_budget(cortex: Project) -> None:
    """A limit that nothing is held against is an error, also where the objects are up to date already."""
    text = STACK.format(limit="1K")
    for _ in range(2):
        cortex.write({"SConstruct": text, **room(64)})
        output = cortex.scons(status=2)
        assert (
            "kws: option 'stack' is judged on a linked image, and none has a budget; hint: call env.NNBudget" in output
        )
        assert "declared in SConstruct, line 2" in output
        cortex.write({"SConstruct": text + BUDGET})
        cortex.scons()
    library = text.replace('["main.c", kws]', '"main.c", LIBS=["kws"], LIBPATH="."') + 'env.StaticLibrary("kws", kws)\n'
    cortex.write({"SConstruct": library + BUDGET})
    cortex.scons()


def test_a_stack_that_cannot_be_told_is_over(project: Project) -> None:
    """On this machine's processor nothing is computed: then the limit is not held to be met."""
    project.write({"SConstruct": HOST + STACK.partition("\n")[2].format(limit="1K") + BUDGET})
    output = project.scons(status=2)
    assert "fw.elf: kws stack is unknown, and its limit is 1,024 bytes; hint: not computed for this core" in output
