"""A stand-in for RT-Thread's tools/building.py, written for nnbuild's tests: it is not RT-Thread's code.

It does what a SConscript can tell: groups with their own flags, compiled by objects of their own, sources in any order,
flags as text, include folders made absolute text. RT-Thread itself is taken where RTT_ROOT names it.
"""

import os

from SCons.Script import *

Env = None
Projects = []
_LOCAL = ("LOCAL_CFLAGS", "LOCAL_CCFLAGS", "LOCAL_CPPPATH", "LOCAL_CPPDEFINES", "LOCAL_ASFLAGS")


def PrepareBuilding(env, root_directory, has_libcpu=False):
    global Env
    Env = env
    AddOption("--target", dest="target", type="string", help="make a project file for an IDE")
    DefineGroup("Kernel", [], [], CPPPATH=[Dir("#").abspath])
    objs = SConscript("SConscript", variant_dir="build", duplicate=0)
    for folder in ("src", "libcpu", "components"):
        script = os.path.join(os.path.abspath(root_directory), folder, "SConscript")
        objs.extend(SConscript(script, variant_dir="build/kernel/" + folder, duplicate=0))
    return objs


def GetCurrentDir():
    return os.path.dirname(File("SConscript").rfile().abspath)


def GetDepend(depend):
    return all(name == "" for name in ([depend] if isinstance(depend, str) else depend))


def DefineGroup(name, src, depend, **parameters):
    if not GetDepend(depend):
        return []
    group = {**parameters, "name": name, "src": File(list(set(src)))}
    Env.AppendUnique(CPPPATH=[os.path.abspath(folder) for folder in group.get("CPPPATH", [])])
    Env.AppendUnique(CPPDEFINES=group.get("CPPDEFINES", []))
    Projects.append(group)
    return group["src"]


def _flat(nodes):
    return [leaf for node in nodes for leaf in (_flat(node) if isinstance(node, list) else [node])]


def DoBuilding(target, objects):
    objects = _flat(objects)
    own = []
    for group in Projects:
        if any(name in group for name in _LOCAL):
            objects = [node for node in objects if node not in group["src"]]
            names = ("CFLAGS", "CCFLAGS", "ASFLAGS")
            flags = {flag: Env.get(flag, "") + group.get("LOCAL_" + flag, "") for flag in names}
            own += [Env.Object(source, **flags) for source in group["src"]]
    program = Env.Program(target, [*sorted(objects), sorted(own)])
    import rtconfig

    Env.AddPostAction(target, rtconfig.POST_ACTION)
    if GetOption("target"):
        SetOption("no_exec", 1)
        for group in Projects:
            print("GROUP", group["name"], *sorted(node.name for node in group["src"]))
    return program
