/* Two CPUs use the device at once. */
#include "device.h"

enum { PLACE = 0xd0000000u };

/* What the second CPU has done. */
static struct {
    volatile bool stop;
    volatile u32 rounds;
    u32 wrong; /* the first wrong value's line */
} other;

static u32 rounds;

/* Each CPU writes and reads registers of its own and rings the doorbell. */
static u32 rings_and_stores(u32 offset, u32 count, u32 seed)
{
    for (u32 i = 0; i < count; i++) {
        u32 value = next_random(&seed);

        wr32(offset, value);
        wr16(offset + 6, (u16)value);
        if (rd32(offset) != value)
            return __LINE__;
        wr32(DOORBELL, value);
        if (rd8(offset + 7) != (value >> 8 & 0xff))
            return __LINE__;
        if (rd32(ID) != ID_VALUE)
            return __LINE__;
    }
    return 0;
}

static void others_half(void)
{
    other.wrong = rings_and_stores(ECHO, rounds, 0x1357);
}

static bool both_at_once(void)
{
    u32 rings = rd32(DOORBELL_COUNT), reads, writes;

    rounds = options.count ? options.count : 200;
    wr64(SCRATCH64, 0);
    wr64(ECHO, 0);
    writes = rd32(WRITES);
    reads = rd32(READS);
    smp_run(others_half);
    CHECK(rings_and_stores(SCRATCH64, rounds, 0x2468), 0);
    CHECK_TRUE(WAIT(smp_idle()));
    CHECK(other.wrong, 0);
    CHECK(rd32(DOORBELL_COUNT) - rings, 2 * rounds);
    /* Two narrow writes and three reads in each round; narrow writes read too. */
    CHECK(rd32(READS) - reads, 2 + 2 * rounds * 5);
    CHECK(rd32(WRITES) - writes, 2 * rounds * 3);
    return true;
}

/* A message finds the CPU that the table names. */
static bool interrupts_of_each(void)
{
    u32 ids[2] = { cpu_id(), smp_id() };

    CHECK_TRUE(ids[0] != ids[1]);
    msix_program(false);
    msix_set(MSIX_ENABLE);
    irq_clear_counts();
    for (u32 i = 0; i < 20; i++) {
        u32 vector = i % VECTORS, id = ids[i & 1];

        wr32(MSIX_VECTORS + 16 * vector + 12, 1);
        wr32(MSIX_VECTORS + 16 * vector, MESSAGE_ADDRESS | id << 12);
        wr32(MSIX_VECTORS + 16 * vector + 12, 0);
        wr32(IRQ_RAISE, vector);
        CHECK(WAIT(irq_count(vector) == i / VECTORS + 1), 1);
        CHECK(irq_took(vector), id);
    }
    settle();
    CHECK(irq_msix_total(), 20);
    return true;
}

bool test_smp(void)
{
    CHECK_TRUE(smp_start());
    TRY(both_at_once());
    TRY(interrupts_of_each());
    device_quiet();
    return true;
}

/* Reads the device where it is, where it was and where it may be next. */
static void read_everywhere(void)
{
    u32 at[] = { device.bar, PLACE };

    while (!other.stop && !other.wrong) {
        for (u32 i = 0; i < COUNT(at); i++) {
            u32 value = *(volatile u32 *)at[i];

            /* Nobody there gives all-ones under Xen, and 0 in QEMU. */
            if (value != ID_VALUE && value != 0xffffffff && value != 0)
                other.wrong = value;
            *(volatile u32 *)(at[i] + SCRATCH) = 0x5eed5eed;
        }
        other.rounds++;
    }
}

/* While the second CPU is in the middle of accesses, the BAR is moved and closed. */
bool test_bar_race(void)
{
    u32 count = options.count ? options.count : 50, before = 0, home = device.bar;
    u16 command = pci_read16(device.slot, PCI_COMMAND);

    CHECK_TRUE(smp_start());
    memset(&other, 0, sizeof(other));
    smp_run(read_everywhere);
    for (u32 i = 0; i < count; i++) {
        CHECK(WAIT(other.rounds != before || other.wrong), 1);
        before = other.rounds;
        if (i % 3 == 0)
            pci_write16(device.slot, PCI_COMMAND, command & ~COMMAND_MEMORY);
        if (i % 3 == 1)
            pci_write32(device.slot, PCI_BAR0, i % 2 ? PLACE : home);
        if (i % 3 == 2)
            pci_write16(device.slot, PCI_COMMAND, command);
    }
    other.stop = true;
    CHECK_TRUE(WAIT(smp_idle()));
    pci_write32(device.slot, PCI_BAR0, home);
    pci_write16(device.slot, PCI_COMMAND, command);
    CHECK(other.wrong, 0);
    CHECK(rd32(SCRATCH), 0x5eed5eed);
    return device_works();
}
