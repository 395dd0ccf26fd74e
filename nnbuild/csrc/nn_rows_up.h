/* SPDX-License-Identifier: 0BSD */

/* Moves `count` bytes of the arena up to where `by` bytes went, so that a row is free behind them. */
static inline void nn_rows_up(int8_t *rows, int32_t by, int32_t count)
{
    int32_t i = 0;
    if (by % 4 == 0) {
        /* Four words at a time: all are read before one is written. */
        for (; i < count - 15; i += 16) {
            const uint32_t *const from = (const uint32_t *)(const void *)&rows[i + by];
            uint32_t *const to = (uint32_t *)(void *)&rows[i];
            const uint32_t a = from[0];
            const uint32_t b = from[1];
            const uint32_t c = from[2];
            const uint32_t d = from[3];
            to[0] = a;
            to[1] = b;
            to[2] = c;
            to[3] = d;
        }
    }
    for (; i < count; i++) {
        rows[i] = rows[i + by];
    }
}
