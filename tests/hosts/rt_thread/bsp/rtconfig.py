import os
import shutil

CROSS_TOOL = "gcc"
PLATFORM = "gcc"
EXEC_PATH = os.path.dirname(shutil.which("arm-none-eabi-gcc") or "/usr/bin/gcc")
PREFIX = "arm-none-eabi-"
CC = PREFIX + "gcc"
AS = PREFIX + "gcc"
AR = PREFIX + "ar"
CXX = PREFIX + "g++"
LINK = PREFIX + "gcc"
TARGET_EXT = "elf"
SIZE = PREFIX + "size"
OBJDUMP = PREFIX + "objdump"
OBJCPY = PREFIX + "objcopy"
DEVICE = " -mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard -ffunction-sections -fdata-sections"
CFLAGS = DEVICE + " -O0 -gdwarf-2 -g"
CXXFLAGS = CFLAGS
AFLAGS = " -c" + DEVICE + " -x assembler-with-cpp -Wa,-mimplicit-it=thumb -gdwarf-2"
LFLAGS = DEVICE + " -Wl,--gc-sections,-Map=rt-thread.map --specs=nosys.specs"
POST_ACTION = OBJCPY + " -O binary $TARGET rtthread.bin\n" + SIZE + " $TARGET \n"
