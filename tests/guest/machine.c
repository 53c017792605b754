/* The CPU's features, CMOS memory, which outlives a reset, and resetting a PC. */
#include "guest.h"

enum { CMOS_INDEX = 0x70, CMOS_DATA = 0x71, NMI_OFF = 0x80 };
enum { RESET_CONTROL = 0xcf9, KEYBOARD = 0x64 };

enum { CR0_MONITOR = 1 << 1, CR0_EMULATE = 1 << 2, CR0_SWITCHED = 1 << 3 };
enum { CR4_SSE = 1 << 9 | 1 << 10 };

u32 cpu_features(void)
{
    u32 a = 1, b, c, d;

    __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
    return d;
}

void cpu_allow_sse(void)
{
    u32 value;

    __asm__ volatile("movl %%cr0, %0" : "=r"(value));
    value = (value & ~(u32)(CR0_EMULATE | CR0_SWITCHED)) | CR0_MONITOR;
    __asm__ volatile("movl %0, %%cr0" : : "r"(value) : "memory");
    __asm__ volatile("movl %%cr4, %0" : "=r"(value));
    __asm__ volatile("movl %0, %%cr4" : : "r"(value | CR4_SSE) : "memory");
}

u8 cmos_read(u8 index)
{
    out8(CMOS_INDEX, index | NMI_OFF);
    return in8(CMOS_DATA);
}

void cmos_write(u8 index, u8 value)
{
    out8(CMOS_INDEX, index | NMI_OFF);
    out8(CMOS_DATA, value);
}

void machine_reset(void)
{
    out8(RESET_CONTROL, 0x02); /* a hard reset is wanted */
    out8(RESET_CONTROL, 0x06); /* now */
    settle();
    out8(KEYBOARD, 0xfe);
    settle();
}
