/* SPDX-License-Identifier: 0BSD */

/* Four bytes at any address, the first in the lowest bits: one load where the core allows it. */
static inline uint32_t nn_word(const int8_t *bytes)
{
    return (uint32_t)(uint8_t)bytes[0] | ((uint32_t)(uint8_t)bytes[1] << 8) | ((uint32_t)(uint8_t)bytes[2] << 16)
         | ((uint32_t)(uint8_t)bytes[3] << 24);
}
