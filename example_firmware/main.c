/* SPDX-License-Identifier: 0BSD */
/* A firmware that reads digits from a touch grid with two networks.
 *
 * A frame of the grid is 8x8 cells with values 0..16, raw integers as the scanner delivers them. `touch` answers every
 * frame; `touch_cnn` is the second opinion, and only what it is sure of counts as an entry. Here the frames come from
 * flash (samples.c) so that the results can be checked: each output is compared with nnbuild's integer reference.
 */
#include "board.h"
#include "samples.h"
#include "touch.h"
#include "touch_cnn.h"

#include <string.h>

#define SURE TOUCH_CNN_OUTPUT_Q(0.8)

struct statistics {
    uint32_t ticks;   /* in the network, over all frames */
    uint32_t longest; /* of one frame */
    uint32_t right;   /* as labelled */
    uint32_t exact;   /* frames whose output is the reference's, byte for byte */
};

static struct statistics touch_statistics;
static struct statistics cnn_statistics;
static int8_t touch_input[TOUCH_INPUT_SIZE];
static int8_t touch_scores[TOUCH_OUTPUT_SIZE];
static int8_t cnn_input[TOUCH_CNN_INPUT_SIZE];
static int8_t cnn_probabilities[TOUCH_CNN_OUTPUT_SIZE];

static void note(struct statistics *statistics, uint32_t ticks, int right, int exact)
{
    statistics->ticks += ticks;
    if (ticks > statistics->longest) {
        statistics->longest = ticks;
    }
    statistics->right += (uint32_t)right;
    statistics->exact += (uint32_t)exact;
}

static void process(uint32_t frame)
{
    const uint8_t *cells = sample_raw[frame];
    uint32_t start, ticks;
    int digit, second, exact, second_exact;

    start = timer_ticks();
    touch_set_input_u8(cells, touch_input);
    exact = touch_run(touch_input, touch_scores) == 0;
    digit = touch_argmax(touch_scores);
    ticks = timer_ticks() - start;
    exact &= memcmp(touch_scores, sample_touch[frame], sizeof touch_scores) == 0;
    note(&touch_statistics, ticks, digit == sample_label[frame], exact);

    start = timer_ticks();
    touch_cnn_set_input_u8(cells, cnn_input);
    second_exact = touch_cnn_run(cnn_input, cnn_probabilities) == 0;
    second = touch_cnn_argmax(cnn_probabilities);
    ticks = timer_ticks() - start;
    second_exact &= memcmp(cnn_probabilities, sample_touch_cnn[frame], sizeof cnn_probabilities) == 0;
    note(&cnn_statistics, ticks, second == sample_label[frame], second_exact);

    put_text("frame ");
    put_number(frame, 2);
    put_text(": touch ");
    put_number((uint32_t)digit, 0);
    put_text(", touch_cnn ");
    put_number((uint32_t)second, 0);
    put_text(cnn_probabilities[second] >= SURE ? " (sure)  " : " (unsure)");
    put_text(" drawn ");
    put_number(sample_label[frame], 0);
    put_text(exact && second_exact ? "\n" : " DIFFERS FROM THE REFERENCE\n");
}

static void summarize(const char *name, const struct statistics *statistics)
{
    put_text(name);
    put_text(": frames ");
    put_number(SAMPLES, 0);
    put_text(" right ");
    put_number(statistics->right, 0);
    put_text(" exact ");
    put_number(statistics->exact, 0);
    put_text(" ticks ");
    put_number(statistics->ticks, 0);
    put_text(" longest ");
    put_number(statistics->longest, 0);
    put_text("\n");
}

static int self_test(const char *name, uint32_t id, int failed)
{
    put_text(name);
    put_text(": model ");
    put_hex(id);
    put_text(failed ? " self-test FAILED\n" : " self-test passed\n");
    return failed != 0;
}

int main(void)
{
    int failed;

    put_text("Touch grid, micro:bit v1\n");
    failed = self_test("touch", TOUCH_MODEL_ID, touch_selftest());
    failed |= self_test("touch_cnn", TOUCH_CNN_MODEL_ID, touch_cnn_selftest());

    for (uint32_t frame = 0; frame < SAMPLES; frame++) {
        process(frame);
    }
    summarize("touch", &touch_statistics);
    summarize("touch_cnn", &cnn_statistics);
    put_text("stack: ");
    put_number(stack_bytes_used(), 0);
    put_text(" bytes used\n");

    failed |= touch_statistics.exact != SAMPLES || cnn_statistics.exact != SAMPLES;
    put_text(failed ? "FAILED: outputs differ from the integer reference\n" : "all outputs equal the reference\n");
    return failed;
}
