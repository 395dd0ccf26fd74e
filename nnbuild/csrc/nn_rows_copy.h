/* SPDX-License-Identifier: 0BSD */

/* Copies `count` bytes of rows, the first one first: `from` may lie above `to`, and rows move up. */
static inline void nn_rows_copy(int8_t *to, const int8_t *from, int32_t count)
{
    int32_t i = 0;
    if ((((uintptr_t)to | (uintptr_t)from) & 3u) == 0u) {
        /* Four words at a time: all are read before one is written. */
        for (; i < count - 15; i += 16) {
            const uint32_t *const source = (const uint32_t *)(const void *)&from[i];
            uint32_t *const target = (uint32_t *)(void *)&to[i];
            const uint32_t a = source[0];
            const uint32_t b = source[1];
            const uint32_t c = source[2];
            const uint32_t d = source[3];
            target[0] = a;
            target[1] = b;
            target[2] = c;
            target[3] = d;
        }
    }
    for (; i < count; i++) {
        to[i] = from[i];
    }
}
