/* SPDX-License-Identifier: 0BSD */

/* Sigmoid of x / 12288 in Q0.15: from the table of 256 values, 24 to a unit, lines between them. */
static inline int32_t nn_sigmoid(int32_t x, const uint16_t *table)
{
    const uint32_t size = x < 0 ? 0u - (uint32_t)x : (uint32_t)x;
    const uint32_t entry = size >> 9;
    uint32_t value = 32767u << 10;
    if (entry < 255u) {
        value = ((uint32_t)table[entry] << 9) + (size & 511u) * ((uint32_t)table[entry + 1u] - table[entry]);
    }
    return (int32_t)((x < 0 ? (1u << 25) + 511u - value : value + 512u) >> 10);
}
