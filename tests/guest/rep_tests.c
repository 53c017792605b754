/* String instructions on registers: any size, both ways, both directions. */
#include "device.h"

enum { STORAGE = DMA_SOURCE, STORAGE_END = DMA_COMMAND }; /* registers that only keep */
enum { BYTES = STORAGE_END - STORAGE, GUARD = 16, PAGE = 4096 };

/* Across a page's end, so that it is in two pages of the host. */
static u8 pages[2 * PAGE] __attribute__((aligned(PAGE)));
static u8 page[PAGE + 2 * GUARD] __attribute__((aligned(4)));

#define REP(instruction, to, from, count, value)                       \
    __asm__ volatile("rep " instruction                                \
                     : "+D"(to), "+S"(from), "+c"(count)               \
                     : "a"(value)                                      \
                     : "memory", "cc")

/* Down: from the last element to the first, as with the direction flag set. */
static void move(void *to, const void *from, u32 count, u32 size, bool down)
{
    u32 last = down ? (count - 1) * size : 0;
    u8 *a = (u8 *)to + last;
    const u8 *b = (const u8 *)from + last;

    if (down)
        __asm__ volatile("std" : : : "cc");
    if (size == 1)
        REP("movsb", a, b, count, 0);
    else if (size == 2)
        REP("movsw", a, b, count, 0);
    else
        REP("movsl", a, b, count, 0);
    __asm__ volatile("cld" : : : "cc");
}

static void store(void *to, u32 value, u32 count, u32 size, bool down)
{
    u8 *a = (u8 *)to + (down ? (count - 1) * size : 0);
    const u8 *b = 0;

    if (down)
        __asm__ volatile("std" : : : "cc");
    if (size == 1)
        REP("stosb", a, b, count, value);
    else if (size == 2)
        REP("stosw", a, b, count, value);
    else
        REP("stosl", a, b, count, value);
    __asm__ volatile("cld" : : : "cc");
}

static void *at(u32 offset)
{
    return (void *)(device.bar + offset);
}

/* The storage holds these bytes, as single reads see it. */
static bool holds(const u8 *bytes)
{
    for (u32 i = 0; i < BYTES; i += 4) {
        u32 expected;

        memcpy(&expected, bytes + i, 4);
        CHECK(rd32(STORAGE + i), expected);
    }
    return true;
}

static bool moved(u32 size, bool down, u32 *state)
{
    u8 *out = pages + PAGE - BYTES / 2, *in = pages + PAGE - BYTES / 2 - 64;
    u32 writes, reads;

    for (u32 i = 0; i < BYTES; i++)
        out[i] = (u8)next_random(state);
    writes = rd32(WRITES);
    move(at(STORAGE), out, BYTES / size, size, down);
    CHECK(rd32(WRITES) - writes, BYTES / size);
    TRY(holds(out));

    in[-1] = in[BYTES] = 0xee;
    memset(in, 0, BYTES);
    reads = rd32(READS);
    move(in, at(STORAGE), BYTES / size, size, down);
    CHECK(rd32(READS) - reads, BYTES / size + 1);
    CHECK(first_difference(in, out, BYTES), BYTES);
    CHECK(in[-1], 0xee);
    CHECK(in[BYTES], 0xee);
    return true;
}

static bool stored(u32 size, bool down, u32 *state)
{
    u8 expected[BYTES];
    u32 value = next_random(state), writes = rd32(WRITES);

    for (u32 i = 0; i < BYTES; i++)
        expected[i] = (u8)(value >> i % size * 8);
    store(at(STORAGE), value, BYTES / size, size, down);
    CHECK(rd32(WRITES) - writes, BYTES / size);
    return holds(expected);
}

/* All that is in the BAR, to memory that begins at no page's start. */
static bool whole_bar(bool down)
{
    u8 *to = page + GUARD;

    memset(page, 0xee, sizeof(page));
    move(to, at(0), DEVICE_BAR_SIZE / 4, 4, down);
    CHECK(*(u32 *)to, ID_VALUE);
    CHECK(*(u32 *)(to + VERSION), VERSION_VALUE);
    CHECK(*(u32 *)(to + SCRATCH), rd32(SCRATCH));
    for (u32 i = 0x100; i < MSIX_VECTORS; i += 4)
        CHECK(*(u32 *)(to + i), 0xffffffff);
    for (u32 i = 0xd00; i < DEVICE_BAR_SIZE; i += 4)
        CHECK(*(u32 *)(to + i), 0xffffffff);
    for (u32 i = 0; i < GUARD; i++) {
        CHECK(page[i], 0xee);
        CHECK(page[PAGE + GUARD + i], 0xee);
    }
    return true;
}

/* Each register that a move passes is written once, and none beyond. */
static bool effects(void)
{
    static const u32 four[] = { VECTORS, 0x1badd00d, 1, 2 }; /* no such vector */
    u32 rings = rd32(DOORBELL_COUNT);

    move(at(IRQ_RAISE), four, 4, 4, false); /* to DOORBELL_VALUE */
    CHECK(rd32(DOORBELL_COUNT), ++rings);
    CHECK(rd32(DOORBELL_VALUE), 0x1badd00d);
    move(at(IRQ_RAISE), four, 4, 4, true);
    CHECK(rd32(DOORBELL_COUNT), ++rings);
    store(at(DOORBELL), 0x77, 4, 1, false); /* too narrow for it */
    CHECK(rd32(DOORBELL_COUNT), rings);
    store(at(DOORBELL), 5, 0, 4, false); /* no element at all */
    CHECK(rd32(DOORBELL_COUNT), rings);
    CHECK(rd32(STATUS), 1 << BIT_DOORBELL);
    wr32(STATUS, STATUS_ALL);
    return true;
}

/* Where both sides are registers, or the values are only looked at. */
static bool others(void)
{
    const u32 *from = at(SCRATCH64);
    u32 count = 2, value;
    u8 *to = 0;

    wr64(SCRATCH64, 0x0706050403020100ull);
    move(at(ECHO), at(SCRATCH64), 2, 4, false);
    CHECK(rd32(ECHO), 0x03020100);
    CHECK(rd32(ECHO + 4), 0x07060504);
    move(at(ECHO), at(SCRATCH64 + 4), 4, 1, true);
    CHECK(rd32(ECHO), 0x07060504);

    __asm__ volatile("rep lodsl" : "+S"(from), "+c"(count), "=a"(value) : : "memory");
    CHECK(value, 0x07060504);
    CHECK((u32)from - device.bar, SCRATCH64 + 8);
    to = at(0x100);
    count = 20;
    __asm__ volatile("repe scasl"
                     : "+D"(to), "+c"(count)
                     : "a"(0xffffffff)
                     : "memory", "cc");
    CHECK(count, 0);
    CHECK(first_difference(at(SCRATCH64), at(ECHO + 8 - 4), 4), 0); /* by cmps */
    return true;
}

/* The vectors are programmed by one instruction. */
static bool vector_table(u32 *state)
{
    u8 *out = page, *in = page + 16 * VECTORS;

    for (u32 i = 0; i < 16 * VECTORS; i += 4)
        *(u32 *)(out + i) = i % 16 == 12 ? 1 : i % 16 == 4 ? 0 : next_random(state) & ~3u;
    move(at(MSIX_VECTORS), out, 4 * VECTORS, 4, false);
    move(in, at(MSIX_VECTORS), 4 * VECTORS, 4, true);
    CHECK(first_difference(in, out, 16 * VECTORS), 16 * VECTORS);
    return true;
}

bool test_rep(void)
{
    u32 state = options.seed | 1;

    for (u32 size = 1; size <= 4; size *= 2) {
        TRY(moved(size, false, &state));
        TRY(moved(size, true, &state));
        TRY(stored(size, false, &state));
        TRY(stored(size, true, &state));
    }
    TRY(whole_bar(false));
    TRY(whole_bar(true));
    TRY(effects());
    TRY(others());
    return vector_table(&state);
}
