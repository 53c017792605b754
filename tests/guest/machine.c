/* CMOS memory, which outlives a reset, and the ways to reset a PC. */
#include "guest.h"

enum { CMOS_INDEX = 0x70, CMOS_DATA = 0x71, NMI_OFF = 0x80 };
enum { RESET_CONTROL = 0xcf9, KEYBOARD = 0x64 };

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
