/* SPDX-License-Identifier: 0BSD */

/* a * b, all 64 bits of it. */
static inline uint64_t nn_product(uint32_t a, uint32_t b)
{
    return (uint64_t)a * b;
}
