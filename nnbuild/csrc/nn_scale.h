/* SPDX-License-Identifier: 0BSD */

/* above * m / 2^low, where `factors` is (m / 2^low) * 2^16 + m % 2^low; no product leaves 32 bits. */
static inline uint32_t nn_scale(int32_t above, int32_t factors, int32_t low)
{
    const uint32_t upper = (uint32_t)above * ((uint32_t)factors >> 16);
    return upper + (((uint32_t)above * ((uint32_t)factors & 0xFFFFu)) >> (uint32_t)low);
}
