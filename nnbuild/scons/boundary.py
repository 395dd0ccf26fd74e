"""Where SCons and SConstructs call nnbuild: what a user got wrong ends in one line that names the user's own line.

SCons prints `File "...", line N` for the deepest frame of an error whose file does not lie in its own package
(`SCons.Script.Main.find_deepest_user_frame`). That would be a line of nnbuild, of no use to anybody but us.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import SCons.Errors
import SCons.Node.FS

from nnbuild.errors import NNBuildError

_SCONS = os.path.dirname(os.path.abspath(SCons.__file__))
_NNBUILD = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


def user_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` with every error as SCons' UserError, raised where only SCons and the user have frames.

    What is wrong with the arguments of the call is such an error too. Anything that nnbuild did not foresee is one line
    as well; the traceback is shown where NNBUILD_DEBUG is set.
    """
    signature = inspect.signature(function)

    def guarded(*arguments: Any, **keywords: Any) -> Any:
        try:
            signature.bind(*arguments, **keywords)
        except TypeError as error:
            raise SCons.Errors.UserError(f"{function.__name__}: {error}") from None
        try:
            return function(*arguments, **keywords)
        except (NNBuildError, SCons.Errors.UserError) as error:
            text = str(error)
        except (SCons.Errors.BuildError, SCons.Errors.StopError):
            raise
        except Exception as error:
            if os.environ.get("NNBUILD_DEBUG"):
                raise
            text = unforeseen(error)
        raise SCons.Errors.UserError(text)

    # SCons looks at the names of files only, and takes this frame for one of its own: see above.
    guarded.__code__ = guarded.__code__.replace(co_filename=os.path.join(_SCONS, "nnbuild", "boundary.py"))
    return functools.update_wrapper(guarded, function)


def unforeseen(error: Exception) -> str:
    """The one line of an error that no check foresaw."""
    # SCons' answer where a folder is named and a file wanted, or the other way round.
    if isinstance(error, TypeError) and "found where" in str(error):
        return str(error)
    fault = f"internal error: {type(error).__name__}: {error}".replace("\n", " ")
    return f"{fault}; hint: this is a fault of nnbuild; NNBUILD_DEBUG=1 shows where, please report it"


def users_line() -> str:
    """The line that is being executed in the user's SConstruct, SConscript or module: `src/SConscript, line 12`."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _ours(frame.f_code.co_filename):
        frame = frame.f_back
    file = os.path.abspath(frame.f_code.co_filename)
    top = SCons.Node.FS.get_default_fs().Top.get_abspath()
    inside = file.startswith(top + os.sep)
    return f"{os.path.relpath(file, top) if inside else file}, line {frame.f_lineno}"


_LINES: dict[Any, str] = {}


def remember_line(*nodes: Any) -> None:
    """Note the user's line as the one that declares `nodes`; the first one counts."""
    line = users_line()
    for node in nodes:
        _LINES.setdefault(node, line)


def line_of(node: Any) -> str:
    """The user's line that declares `node`, "" where nobody noted it."""
    return _LINES.get(node, "")


def _ours(file: str) -> bool:
    return f"{os.sep}SCons{os.sep}" in file or os.path.realpath(file).startswith(_NNBUILD + os.sep)
