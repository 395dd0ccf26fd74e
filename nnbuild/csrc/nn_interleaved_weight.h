/* SPDX-License-Identifier: 0BSD */

/* The weight of `channel` for input `tap` of `taps`: blocks of four channels, sixteen weights of each in turn. */
static inline int32_t nn_interleaved_weight(const int8_t *weights, int32_t taps, int32_t tap, int32_t channel)
{
    const int32_t first = tap / 16 * 16;
    const int32_t lanes = taps - first < 16 ? taps - first : 16;
    return weights[channel / 4 * 4 * taps + first * 4 + channel % 4 * lanes + tap % 16];
}
