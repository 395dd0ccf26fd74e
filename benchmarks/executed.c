/* QEMU plugin (API 1): how often each block of code ran, how often its last branch was taken, and reads of constants,
   between one call of a marking function and the next. Arguments: out=FILE,mark=ADDRESS,ram=ADDRESS (reads below count).
   gcc -O2 -shared -fPIC -o executed.so executed.c; the prototypes used are declared here, so no header is needed.

   Output: "MARK n reads" ends each stretch; before it "BLOCK first last times taken" for each block that ran in it. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*udata_cb)(unsigned int vcpu, void *data);
typedef void (*mem_cb)(unsigned int vcpu, uint32_t info, uint64_t address, void *data);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(uint64_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, udata_cb, int flags, void *);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, mem_cb, int flags, int rw, void *);
extern void qemu_plugin_register_atexit_cb(uint64_t, void (*)(uint64_t, void *), void *);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { READ = 1, NO_REGISTERS = 0 };

struct block {
    uint64_t first, last, behind; /* addresses of the first and the last instruction, and behind it */
    uint64_t times, taken;
    struct block *next;
};

static struct block *blocks, *previous;
static uint64_t mark, ram, reads, marks;
static FILE *out;

static void end_stretch(void)
{
    for (struct block *block = blocks; block != NULL; block = block->next) {
        if (block->times != 0) {
            fprintf(out, "BLOCK %llx %llx %llu %llu\n", (unsigned long long)block->first,
                (unsigned long long)block->last, (unsigned long long)block->times, (unsigned long long)block->taken);
        }
        block->times = 0;
        block->taken = 0;
    }
    fprintf(out, "MARK %llu %llu\n", (unsigned long long)marks++, (unsigned long long)reads);
    reads = 0;
}

static void executes(unsigned int vcpu, void *data)
{
    struct block *block = data;

    (void)vcpu;
    if (previous != NULL && block->first != previous->behind) {
        previous->taken++;
    }
    previous = block;
    if (block->first == mark) {
        end_stretch();
    }
    block->times++;
}

static void reads_memory(unsigned int vcpu, uint32_t info, uint64_t address, void *data)
{
    (void)vcpu;
    (void)info;
    (void)data;
    reads += address < ram;
}

static void translates(uint64_t id, struct qemu_plugin_tb *tb)
{
    const size_t count = qemu_plugin_tb_n_insns(tb);
    struct qemu_plugin_insn *last = qemu_plugin_tb_get_insn(tb, count - 1);
    struct block *block = calloc(1, sizeof *block);

    (void)id;
    block->first = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
    block->last = qemu_plugin_insn_vaddr(last);
    block->behind = block->last + qemu_plugin_insn_size(last);
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, executes, NO_REGISTERS, block);
    for (size_t i = 0; i < count; i++) {
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), reads_memory, NO_REGISTERS, READ, NULL);
    }
}

static void leaves(uint64_t id, void *data)
{
    (void)id;
    (void)data;
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        const char *value = strchr(argv[i], '=');
        if (value == NULL) {
            return -1;
        }
        if (strncmp(argv[i], "out=", 4) == 0) {
            out = fopen(value + 1, "w");
        } else if (strncmp(argv[i], "mark=", 5) == 0) {
            mark = strtoull(value + 1, NULL, 0);
        } else if (strncmp(argv[i], "ram=", 4) == 0) {
            ram = strtoull(value + 1, NULL, 0);
        }
    }
    if (out == NULL) {
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, translates);
    qemu_plugin_register_atexit_cb(id, leaves, NULL);
    return 0;
}
