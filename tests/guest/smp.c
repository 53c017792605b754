/* The second CPU: started once (SDM 3, 8.4), it waits for work and does it. */
#include "guest.h"

#define LAPIC(offset) (*(volatile u32 *)(0xfee00000u + (offset)))
enum { ICR = 0x300, TO_OTHERS = 3 << 18, ASSERT = 1 << 14, INIT = 5 << 8, STARTUP = 6 << 8 };
enum { START = 0x8000 }; /* of the first MiB, where nothing else is */

extern const u8 smp_begin[], smp_end[];
void smp_main(void);

static volatile bool runs;
static volatile u32 id;
static void (*volatile todo)(void);

void smp_main(void)
{
    irq_init_cpu();
    id = cpu_id();
    runs = true;
    for (;;) {
        while (!todo)
            pause();
        todo();
        todo = 0;
    }
}

bool smp_start(void)
{
    u8 *start;

    if (runs)
        return true;
    __asm__("" : "=r"(start) : "0"(START)); /* GCC takes it for a null pointer */
    memcpy(start, smp_begin, (u32)(smp_end - smp_begin));
    LAPIC(ICR) = TO_OTHERS | ASSERT | INIT;
    settle();
    for (u32 tries = 0; tries < 2; tries++) {
        LAPIC(ICR) = TO_OTHERS | ASSERT | STARTUP | START >> 12;
        if (WAIT_MS(runs, 200))
            return true;
    }
    return WAIT_MS(runs, 5000);
}

u32 smp_id(void)
{
    return id;
}

void smp_run(void (*work)(void))
{
    todo = work;
}

bool smp_idle(void)
{
    return !todo;
}
