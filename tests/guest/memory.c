/* The few memory and string functions there is no C library for. */
#include "guest.h"

/*
 * String instructions by words: where KVM emulates the guest, each step of a
 * loop counts.
 */
void *memset(void *to, int value, __SIZE_TYPE__ count)
{
    void *at = to;
    u32 words = count / 4, rest = count % 4;

    __asm__ volatile("rep stosl"
                     : "+D"(at), "+c"(words)
                     : "a"((u8)value * 0x01010101u)
                     : "memory");
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(value) : "memory");
    return to;
}

void *memcpy(void *to, const void *from, __SIZE_TYPE__ count)
{
    void *at = to;

    __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(count) : : "memory");
    return to;
}

bool same(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

u32 first_difference(const u8 *a, const u8 *b, u32 count)
{
    const u8 *left = a, *right = b;
    u32 words = count / 4, i;

    /* The comparison with itself sets ZF, for a count of 0. */
    __asm__ volatile("cmpl %%eax, %%eax; repe cmpsl"
                     : "+S"(left), "+D"(right), "+c"(words)
                     :
                     : "memory", "cc");
    i = (u32)(left - a);
    if (i >= 4)
        i -= 4; /* the last word compared may be the one that differs */
    while (i < count && a[i] == b[i])
        i++;
    return i;
}

/* Marsaglia's xorshift; the state must not be 0. */
u32 next_random(u32 *state)
{
    u32 x = *state;

    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}
