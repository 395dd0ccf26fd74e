#include <stdint.h>

int main(void);
void reset(void);
static void stop(int status);

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[], stack_top[];

static void fault(void)
{
    stop(1);
}

/* Stack, reset, NMI, hard fault: enough for a firmware without interrupts. */
__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    stack_top, (const void *)reset, (const void *)fault, (const void *)fault,
};

void reset(void)
{
    const uint32_t *from = data_load;

    for (uint32_t *to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    stop(main());
}

/* Tells an emulator or a debugger (semihosting, SYS_EXIT: success is 0x20026) that the firmware has ended. */
static void stop(int status)
{
    register uint32_t operation __asm__("r0") = 0x18;
    register uint32_t reason __asm__("r1") = status == 0 ? 0x20026u : 0x20023u;

    __asm__ volatile("bkpt 0xab" : : "r"(operation), "r"(reason) : "memory");
    for (;;) {
    }
}
