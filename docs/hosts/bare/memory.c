#include <stddef.h>

/* gcc calls these by itself, so a firmware without a C library has them. */
void *memcpy(void *to, const void *from, size_t count);
void *memmove(void *to, const void *from, size_t count);
void *memset(void *to, int value, size_t count);

void *memcpy(void *to, const void *from, size_t count)
{
    return memmove(to, from, count);
}

void *memmove(void *to, const void *from, size_t count)
{
    unsigned char *target = to;
    const unsigned char *source = from;

    if (target < source) {
        for (size_t i = 0; i < count; i++) {
            target[i] = source[i];
        }
    } else {
        while (count-- > 0) {
            target[count] = source[count];
        }
    }
    return to;
}

void *memset(void *to, int value, size_t count)
{
    unsigned char *target = to;

    for (size_t i = 0; i < count; i++) {
        target[i] = (unsigned char)value;
    }
    return to;
}
