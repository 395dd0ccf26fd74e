/* SPDX-License-Identifier: 0BSD */

/* above * factors / 2^16, rounded down, for 0 <= above and a result of at most 32 bits. */
static inline uint32_t nn_scale_wide(int32_t above, int32_t factors)
{
    const uint32_t value = (uint32_t)above;
    const uint32_t low = (uint32_t)factors & 0xFFFFu;
    return value * ((uint32_t)factors >> 16) + (value >> 16) * low + (((value & 0xFFFFu) * low) >> 16);
}
