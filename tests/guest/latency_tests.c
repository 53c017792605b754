/* What one access costs, beside an empty loop and a device inside QEMU. */
#include "device.h"

enum { SAMPLES = 4096, EDU_VENDOR = 0x1234, EDU_DEVICE = 0x11e8, EDU_CHECK = 4 };

static u32 samples[SAMPLES];

static void sort(u32 *values, u32 count)
{
    for (u32 gap = count / 2; gap; gap /= 2)
        for (u32 i = gap; i < count; i++) {
            u32 value = values[i], at = i;
            for (; at >= gap && values[at - gap] > value; at -= gap)
                values[at] = values[at - gap];
            values[at] = value;
        }
}

static void report(const char *name, u32 count)
{
    sort(samples, count);
    print("latency-%s count=%u min-ns=%u p50-ns=%u p99-ns=%u max-ns=%u\n", name, count,
          cycles_to_ns(samples[0]), cycles_to_ns(samples[count / 2]),
          cycles_to_ns(samples[count - 1 - count / 100]), cycles_to_ns(samples[count - 1]));
}

#define MEASURE(name, count, access)                 \
    do {                                             \
        for (u32 i = 0; i < (count); i++) {          \
            u64 start_ = tsc();                      \
            access;                                  \
            samples[i] = (u32)(tsc() - start_);      \
        }                                            \
        report(name, count);                         \
    } while (0)

static void measure_edu(u32 count)
{
    u32 slot = pci_find(EDU_VENDOR, EDU_DEVICE);
    volatile u32 *edu;

    if (slot == NO_DEVICE)
        return;
    pci_write16(slot, PCI_COMMAND, COMMAND_MEMORY);
    edu = (volatile u32 *)((pci_read32(slot, PCI_BAR0) & ~0xfu) + EDU_CHECK);
    MEASURE("edu-read", count, (void)*edu);
    MEASURE("edu-write", count, *edu = i);
}

bool test_latency(void)
{
    u32 count = options.count ? options.count : 1000;

    if (count > SAMPLES)
        count = SAMPLES;
    MEASURE("floor", count, pause());
    measure_edu(count);
    MEASURE("scratch-read", count, (void)rd32(SCRATCH));
    MEASURE("scratch-write", count, wr32(SCRATCH, i));
    CHECK(rd32(SCRATCH), count - 1);
    MEASURE("echo-read", count, (void)rd32(ECHO));
    MEASURE("echo-write", count, wr32(ECHO, i));
    CHECK(rd32(ECHO), count - 1);
    MEASURE("echo-round-trip", count, wr32(ECHO, i); (void)rd32(ECHO));
    return true;
}
