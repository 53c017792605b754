/* Time from the TSC, measured once against channel 2 of the interval timer. */
#include "guest.h"

enum { PIT_CHANNEL2 = 0x42, PIT_MODE = 0x43, PORT_B = 0x61 };
enum { GATE = 1, SPEAKER = 2, OUTPUT = 0x20 };
enum { PIT_TICKS_10MS = 11932, FALLBACK_KHZ = 3000000 };

static u32 khz = FALLBACK_KHZ;
u32 patience = 5000;

/* Two 32-bit halves by 32 bits; the caller keeps the quotient in 32 bits. */
static u32 divide(u64 value, u32 by)
{
    u32 quotient, rest;

    __asm__("divl %4"
            : "=a"(quotient), "=d"(rest)
            : "a"((u32)value), "d"((u32)(value >> 32)), "r"(by)
            : "cc");
    return quotient;
}

static u32 cycles_in_10ms(void)
{
    u64 start;

    out8(PORT_B, (u8)((in8(PORT_B) & ~SPEAKER) | GATE));
    out8(PIT_MODE, 0xb0); /* channel 2, both bytes, one shot */
    out8(PIT_CHANNEL2, PIT_TICKS_10MS & 0xff);
    out8(PIT_CHANNEL2, PIT_TICKS_10MS >> 8);
    start = tsc();
    for (u32 tries = 0; !(in8(PORT_B) & OUTPUT); tries++)
        if (tries == 10000000)
            return 10u * FALLBACK_KHZ;
    return (u32)(tsc() - start);
}

/* The shortest of three: the host may take the processor away meanwhile. */
void time_init(void)
{
    u32 shortest = 0xffffffffu;

    for (u32 i = 0; i < 3; i++) {
        u32 cycles = cycles_in_10ms();
        if (cycles < shortest)
            shortest = cycles;
    }
    if (shortest >= 10000)
        khz = shortest / 10;
}

u32 time_khz(void)
{
    return khz;
}

u64 deadline(u32 milliseconds)
{
    return tsc() + (u64)khz * milliseconds;
}

void settle(void)
{
    u64 end = deadline(20);

    while (tsc() < end)
        pause();
}

u32 cycles_to_ns(u32 cycles)
{
    u64 product = (u64)cycles * 1000000;

    return (u32)(product >> 32) >= khz ? 0xffffffffu : divide(product, khz);
}
