/* SPDX-License-Identifier: 0BSD */

/* Bytes 1 and 3 with their signs, as a pair of halves. */
static inline uint32_t nn_odd_bytes(uint32_t bytes)
{
    return nn_even_bytes((bytes >> 8) | (bytes << 24));
}
