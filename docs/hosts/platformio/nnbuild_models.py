"""Neural networks in a PlatformIO project. In platformio.ini:

    extra_scripts = pre:nnbuild_models.py
    custom_nn_models = models/kws.onnx              ; one or several
    custom_nn_calibration = models/kws_calib.npz    ; any option of env.NNModel, for all models; paths from the project
    custom_nn_path = third_party/nnbuild            ; a checkout; without it, nnbuild in PlatformIO's own Python
    custom_nn_python = .venv/bin/python             ; who has numpy, onnx, ...; without it, PlatformIO's own Python
    custom_nn_cmsis_nn = third_party/CMSIS-NN       ; where there is one
    custom_nn_cpu = cortex-m0                       ; only for compilers that are neither gcc nor clang

What only one of several models has stands in a .toml beside it.
"""

import ast
import os

from SCons.Errors import UserError
from SCons.Script import DefaultEnvironment

Import("env")

OWN = ("models", "path", "python", "cmsis_nn", "cpu")


def value(text):
    """An option of platformio.ini: a number, a list or a dict as Python writes it, otherwise text."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def project_path(text):
    """A path as it stands in platformio.ini, for SCons."""
    return text if os.path.isabs(text) else "#" + text


def tool_folder(checkout):
    """Where the SCons tool is."""
    if checkout:
        folder = os.path.join(env.subst("$PROJECT_DIR"), checkout, "nnbuild", "scons")
        if not os.path.isdir(folder):
            raise UserError(f"platformio.ini: custom_nn_path = {checkout} is no checkout of nnbuild")
        return folder
    try:
        import nnbuild.scons
    except ImportError:
        raise UserError("platformio.ini: custom_nn_path must name a checkout of nnbuild") from None
    return nnbuild.scons.__path__[0]


options = {name[len("custom_nn_") :]: text for name, text in env.GetProjectOptions() if name.startswith("custom_nn_")}
own = {name: options.pop(name, "") for name in OWN}
env.Tool("nn", toolpath=[tool_folder(own["path"])])
# One folder for each environment of platformio.ini; its name is known now, so that libraries find the headers too.
env.Replace(NN_DIR=os.path.join("$BUILD_DIR", "nn"), NN_VARIANT="model", NN_CPU=own["cpu"])
env.Append(CPPPATH=[os.path.join("$BUILD_DIR", "nn", "model")])
if own["cmsis_nn"]:
    env.Replace(CMSIS_NN=project_path(own["cmsis_nn"]))
if own["python"]:
    env.Replace(NNPYTHON=[own["python"]])

from nnbuild import config  # found by the tool

options = {name: value(text) for name, text in options.items()}
for name, option in config.OPTIONS.items():
    if option.path and isinstance(options.get(name), str):
        options[name] = project_path(options[name])
declared = []


def declare(projenv, node):
    """Called for every source file. The first of the project itself knows the compiler and all flags."""
    folders = [os.path.realpath(env.subst(name)) + os.sep for name in ("$PROJECT_SRC_DIR", "$PROJECT_TEST_DIR")]
    if not declared and os.path.realpath(node.srcnode().get_abspath()).startswith(tuple(folders)):
        declared.extend(own["models"].split())
        folders = projenv["CPPPATH"]
        for model in declared:
            objects = projenv.NNModel(project_path(model), **options)
            DefaultEnvironment().Append(PIOBUILDFILES=objects)
        projenv.Replace(CPPPATH=folders)  # the header's folder is there, as text, which PlatformIO wants
    return node


env.AddBuildMiddleware(declare)
