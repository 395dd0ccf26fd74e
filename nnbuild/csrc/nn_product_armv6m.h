/* SPDX-License-Identifier: 0BSD */

/* a * b, all 64 bits of it. ARMv6-M multiplies 32 x 32 -> 32 bits only, so the product is put together from 16-bit
   halves, without the compiler's function for it. */
static inline uint64_t nn_product(uint32_t a, uint32_t b)
{
    const uint32_t a_low = a & 0xFFFFu;
    const uint32_t b_low = b & 0xFFFFu;
    const uint32_t bottom = a_low * b_low;
    const uint32_t middle = (a >> 16) * b_low + (bottom >> 16);
    const uint32_t low = a_low * (b >> 16) + (middle & 0xFFFFu);
    const uint32_t high = (a >> 16) * (b >> 16) + (middle >> 16) + (low >> 16);
    return ((uint64_t)high << 32) | ((low << 16) | (bottom & 0xFFFFu));
}
