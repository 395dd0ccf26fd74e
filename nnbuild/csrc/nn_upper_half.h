/* SPDX-License-Identifier: 0BSD */

/* The upper 32 bits of a * b + added. */
static inline int32_t nn_upper_half(int32_t a, int32_t b, uint32_t added)
{
    const int64_t product = (int64_t)a * b + (int64_t)added;
    return (int32_t)(uint32_t)((uint64_t)product >> 32);
}
