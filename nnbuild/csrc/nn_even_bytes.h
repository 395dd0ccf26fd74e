/* SPDX-License-Identifier: 0BSD */

/* Bytes 0 and 2 with their signs, as a pair of halves. */
static inline uint32_t nn_even_bytes(uint32_t bytes)
{
#if defined(__ARM_FEATURE_SIMD32) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 10))
    return (uint32_t)__builtin_arm_sxtb16((int32_t)bytes);
#else
    const int32_t low = nn_shift_right((int32_t)(bytes << 24), 24);
    const int32_t high = nn_shift_right((int32_t)(bytes << 8), 24);
    return ((uint32_t)low & 0xFFFFu) | ((uint32_t)high << 16);
#endif
}
