/* Accesses of 8 bytes and more: by MMX and SSE registers, inside and across registers. */
#include "device.h"

static u8 sse[16] __attribute__((aligned(16)));

static void load16bytes(u32 offset)
{
    __asm__ volatile("movdqu (%0), %%xmm0; movdqa %%xmm0, (%1)"
                     :
                     : "r"(device.bar + offset), "r"(sse)
                     : "memory");
}

static void store16bytes(u32 offset)
{
    __asm__ volatile("movdqa (%0), %%xmm0; movdqu %%xmm0, (%1)"
                     :
                     : "r"(sse), "r"(device.bar + offset)
                     : "memory");
}

static bool patterns(u32 offset)
{
    static const u64 values[] = { 0, ~0ull, 0x0123456789abcdefull, 0xfedcba9876543210ull };

    for (u32 i = 0; i < COUNT(values); i++) {
        wr8bytes(offset, values[i]);
        CHECK_WIDE(rd8bytes(offset), values[i]);
        CHECK(rd32(offset), (u32)values[i]);
        CHECK(rd32(offset + 4), (u32)(values[i] >> 32));
    }
    wr8(offset + 5, 0xa5);
    CHECK_WIDE(rd8bytes(offset), 0xfedca59876543210ull);
    return true;
}

/* One access that covers several registers reaches each of them, once. */
static bool across(void)
{
    u32 rings = rd32(DOORBELL_COUNT), writes = rd32(WRITES), reads;

    wr8bytes(FEATURES, 0x600df00d00000000ull); /* FEATURES takes nothing */
    CHECK_WIDE(rd8bytes(FEATURES), 0x600df00d00000000ull | VECTORS << 16 | 7);
    wr8bytes(IRQ_RAISE, 0x0badcafe00000000ull | VECTORS); /* no such vector */
    CHECK_WIDE(rd8bytes(DOORBELL_COUNT), 0x0badcafe00000000ull | (rings + 1));
    CHECK(rd32(WRITES) - writes, 3);
    CHECK(rd32(STATUS), 1 << BIT_DOORBELL);
    wr8bytes(STATUS, STATUS_ALL); /* and disables all */
    CHECK_WIDE(rd8bytes(STATUS), 0);

    reads = rd32(READS);
    (void)rd8bytes(SCRATCH64);
    (void)rd8bytes(DOORBELL_COUNT);
    (void)rd8bytes(0x100); /* of no register: not counted */
    CHECK(rd32(READS) - reads, 1 + 2 + 1);
    CHECK_WIDE(rd8bytes(0x100), ~0ull);
    CHECK_WIDE(rd8bytes(DEVICE_BAR_SIZE - 8), ~0ull);
    CHECK_WIDE(rd8bytes(ERRORS), 0xffffffff00000000ull | rd32(ERRORS));
    return true;
}

/* At any byte: SCRATCH and SCRATCH64 are side by side. */
static bool unaligned(void)
{
    u8 model[12];
    u64 value, expected;

    for (u32 i = 0; i < sizeof(model); i++)
        wr8(SCRATCH + i, model[i] = (u8)(0x10 + i));
    for (u32 at = 0; at <= 4; at++) {
        memcpy(&expected, model + at, 8);
        CHECK_WIDE(rd8bytes(SCRATCH + at), expected);
        value = 0x8070605040302010ull + at;
        wr8bytes(SCRATCH + at, value);
        memcpy(model + at, &value, 8);
        for (u32 i = 0; i < sizeof(model); i++)
            CHECK(rd8(SCRATCH + i), model[i]);
    }
    memcpy(&expected, model + 3, 4);
    CHECK(rd32(SCRATCH + 3), (u32)expected);
    wr16(SCRATCH + 3, 0xbeef);
    CHECK(rd8(SCRATCH + 3), 0xef);
    CHECK(rd8(SCRATCH + 4), 0xbe);
    return true;
}

static bool sixteen(void)
{
    for (u32 i = 0; i < sizeof(sse); i++)
        sse[i] = (u8)(0xf0 - i);
    store16bytes(DMA_SOURCE); /* and DMA_DESTINATION */
    for (u32 i = 0; i < sizeof(sse); i++)
        CHECK(rd8(DMA_SOURCE + i), 0xf0 - i);
    memset(sse, 0, sizeof(sse));
    load16bytes(DMA_SOURCE);
    for (u32 i = 0; i < sizeof(sse); i++)
        CHECK(sse[i], 0xf0 - i);
    return true;
}

/* What reads, changes and writes in one instruction. */
static bool read_and_write(void)
{
    wr32(SCRATCH, 0x00ff00ff);
    __asm__ volatile("addl $0x01000001, (%0)" : : "r"(reg(SCRATCH)) : "memory", "cc");
    CHECK(rd32(SCRATCH), 0x01ff0100);
    __asm__ volatile("orb $0x80, (%0)" : : "r"(reg(SCRATCH)) : "memory", "cc");
    CHECK(rd32(SCRATCH), 0x01ff0180);
    __asm__ volatile("notw (%0)" : : "r"(reg(SCRATCH)) : "memory", "cc");
    CHECK(rd32(SCRATCH), 0x01fffe7f);
    return true;
}

/* The table of the MSI-X vectors takes 4 and 8 bytes (PCI 3.0, 6.8.2). */
static bool vector_table(void)
{
    msix_program(true);
    wr8bytes(MSIX_VECTORS + 16, 0x00000000fee12340ull);
    CHECK(rd32(MSIX_VECTORS + 16), 0xfee12340);
    CHECK(rd32(MSIX_VECTORS + 20), 0);
    CHECK_WIDE(rd8bytes(MSIX_VECTORS + 24), 0x100000000ull | (MSIX_FIRST_VECTOR + 1));
    CHECK_WIDE(rd8bytes(MSIX_PENDING), 0);
    return true;
}

bool test_wide(void)
{
    CHECK_TRUE(cpu_features() & CPU_MMX);
    cpu_allow_sse();
    TRY(patterns(SCRATCH64));
    TRY(patterns(ECHO));
    TRY(across());
    TRY(unaligned());
    TRY(read_and_write());
    TRY(vector_table());
    if (cpu_features() & CPU_SSE2)
        TRY(sixteen());
    return true;
}
