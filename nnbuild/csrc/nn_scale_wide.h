/* SPDX-License-Identifier: 0BSD */

/* sum * factors / 2^16 + offset, rounded down, where the result has 32 bits; `factors` is unsigned. */
static inline int32_t nn_scale_wide(int32_t sum, int32_t factors, int32_t offset)
{
    const uint32_t low = (uint32_t)factors & 0xFFFFu;
    const uint32_t upper = (uint32_t)sum * ((uint32_t)factors >> 16) + (uint32_t)nn_shift_right(sum, 16) * low;
    const uint32_t total = upper + ((((uint32_t)sum & 0xFFFFu) * low) >> 16) + (uint32_t)offset;
    return (int32_t)total;
}
