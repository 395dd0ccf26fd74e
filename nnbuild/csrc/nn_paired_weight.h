/* SPDX-License-Identifier: 0BSD */

/* The weight of `channel` for input `tap` in a block of `block` channels: a halfword is 256 times that of the upper one
   of two channels plus the lower one's and `offset`, and a word holds those for taps 0 and 2, or 1 and 3, of four. */
static inline int32_t nn_paired_weight(const int32_t *words, int32_t tap, int32_t channel, int32_t block, int32_t offset)
{
    const int32_t at = tap / 4 * block + tap % 2 * (block / 2) + channel / 2;
    const int32_t shift = tap % 4 / 2 * 16;
    const uint32_t bits = ((uint32_t)words[at] >> (uint32_t)shift) & 0xFFFFu;
    const int32_t half = (int32_t)bits;
    const int32_t byte = half % 256 - offset;
    const int32_t lower = byte < 128 ? byte : byte - 256;
    const int32_t upper = (half - lower - offset) / 256;
    return channel % 2 == 0 ? lower : (upper < 128 ? upper : upper - 256);
}
