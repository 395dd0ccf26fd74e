/* SPDX-License-Identifier: 0BSD */
/* A keyword spotter: runs recorded inputs (samples.c) and compares each output with the reference. */
#include "board.h"
#include "kws.h"
#include "samples.h"

#include <string.h>

static int8_t output[KWS_OUTPUT_SIZE];

int main(void)
{
    uint32_t total = 0, longest = 0, right = 0, exact = 0;
    int failed;

    put_text("Keyword spotter\n");
    for (uint32_t sample = 0; sample < SAMPLES; sample++) {
        uint32_t start = timer_ticks(), ticks;
        int same = kws_run(sample_input[sample], output) == 0;
        int word = kws_argmax(output);

        ticks = timer_ticks() - start;
        total += ticks;
        longest = ticks > longest ? ticks : longest;
        same &= memcmp(output, sample_kws[sample], sizeof output) == 0;
        exact += (uint32_t)same;
        right += (uint32_t)(word == sample_label[sample]);
        put_text("sample ");
        put_number(sample, 2);
        put_text(": word ");
        put_number((uint32_t)word, 2);
        put_text(", spoken ");
        put_number(sample_label[sample], 2);
        put_text(same ? "\n" : " DIFFERS FROM THE REFERENCE\n");
    }
    put_text("kws: frames ");
    put_number(SAMPLES, 0);
    put_text(" right ");
    put_number(right, 0);
    put_text(" exact ");
    put_number(exact, 0);
    put_text(" ticks ");
    put_number(total, 0);
    put_text(" longest ");
    put_number(longest, 0);
    put_text("\nkws: model ");
    put_hex(KWS_MODEL_ID);
    failed = kws_selftest() != 0;
    put_text(failed ? " self-test FAILED" : " self-test passed");
    put_text("\nstack: ");
    put_number(stack_bytes_used(), 0);
    put_text(" bytes used\n");

    failed |= exact != SAMPLES;
    put_text(failed ? "FAILED: outputs differ from the integer reference\n" : "all outputs equal the reference\n");
    return failed;
}
