/* SPDX-License-Identifier: 0BSD */

/* Two values side by side, the first in the lower half: one load where the core allows it at any address. */
static inline uint32_t nn_pair(const int16_t *values)
{
    return (uint32_t)(uint16_t)values[0] | ((uint32_t)(uint16_t)values[1] << 16);
}
