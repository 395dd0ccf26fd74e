/* SPDX-License-Identifier: 0BSD */

/* The weight of `channel` for input `tap` in a block of `block` channels: a halfword holds those of two channels, the
   lower one plus 128, and a word the halfwords for taps 0 and 2, or 1 and 3, of four. */
static inline int32_t nn_paired_weight(const int32_t *words, int32_t tap, int32_t channel, int32_t block)
{
    const int32_t at = tap / 4 * block + tap % 2 * (block / 2) + channel / 2;
    const int32_t bits = tap % 4 / 2 * 16 + channel % 2 * 8;
    const uint32_t byte = ((uint32_t)words[at] >> (uint32_t)bits) & 0xFFu;
    const int32_t value = (int32_t)byte;
    const int32_t upper = value < 128 ? value : value - 256;
    return channel % 2 == 0 ? value - 128 : upper;
}
