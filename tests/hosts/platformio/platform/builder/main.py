"""How platforms for Arm build, in short: the compiler and its flags are set here, which is after every pre: script."""

from SCons.Script import Default, DefaultEnvironment

env = DefaultEnvironment()
env.Replace(
    AR="arm-none-eabi-gcc-ar",
    AS="arm-none-eabi-gcc",
    CC="arm-none-eabi-gcc",
    CXX="arm-none-eabi-g++",
    LINK="arm-none-eabi-gcc",
    RANLIB="arm-none-eabi-gcc-ranlib",
    PROGSUFFIX=".elf",
)
core = ["-mthumb", "-mcpu=" + env.BoardConfig().get("build.cpu")]
env.Append(
    ASFLAGS=[*core, "-x", "assembler-with-cpp"],
    CCFLAGS=["-Os", "-ffunction-sections", "-fdata-sections", *core],
    LINKFLAGS=[*core, "-Wl,--gc-sections", "--specs=nosys.specs"],
)
Default(env.BuildProgram())
