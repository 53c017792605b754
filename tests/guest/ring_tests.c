/* The command ring: entries in memory, head and tail in registers. */
#include "device.h"

enum { ENTRIES = 64, PIECE = 100 };
enum { DONE = 1 << BIT_RING_DONE, FAILED = 1 << BIT_RING_ERROR };

static struct entry {
    u32 opcode, fence;
    u64 source, destination;
    u32 length, flags;
} ring[ENTRIES] __attribute__((aligned(4096)));
static u8 from[ENTRIES * PIECE], to[ENTRIES * PIECE];

static void setup(void)
{
    u32 state = options.seed | 1;

    for (u32 i = 0; i < sizeof(from); i++)
        from[i] = (u8)next_random(&state);
    wr64(RING_BASE, (u32)ring);
    wr32(RING_SIZE, ENTRIES);
}

/* Every fourth entry fills, every eighth does nothing, the others copy. */
static void produce(u32 index, u32 fence, u32 flags)
{
    struct entry *entry = &ring[index % ENTRIES];
    u32 piece = index % ENTRIES * PIECE;

    entry->opcode = index % 8 == 7 ? RING_NOP : index % 4 == 1 ? RING_FILL : RING_COPY;
    entry->fence = fence;
    entry->source = entry->opcode == RING_FILL ? 0x5a5a5a5a : (u32)&from[piece];
    entry->destination = (u32)&to[piece];
    entry->length = PIECE;
    entry->flags = flags;
}

static bool consumed(u32 tail, u32 fence)
{
    CHECK(WAIT(rd32(RING_FENCE) == fence), 1);
    CHECK(WAIT(rd32(RING_HEAD) == tail), 1);
    CHECK(rd32(RING_TAIL), tail);
    return true;
}

static bool moved(u32 index)
{
    u32 opcode = ring[index % ENTRIES].opcode, piece = index % ENTRIES * PIECE;

    if (opcode == RING_COPY)
        CHECK(first_difference(from + piece, to + piece, PIECE), PIECE);
    else
        for (u32 i = 0; i < PIECE; i++)
            CHECK(to[piece + i], opcode == RING_FILL ? 0x5a : 0);
    return true;
}

bool test_ring(void)
{
    u32 tail, first, errors = rd32(ERRORS);

    setup();
    msix_program(false);
    msix_set(MSIX_ENABLE);
    wr32(IRQ_ENABLE, DONE | FAILED);
    first = tail = rd32(RING_HEAD);
    wr32(RING_TAIL, tail);

    memset(to, 0, sizeof(to));
    for (u32 i = 0; i < ENTRIES; i++)
        produce(tail++, 0x100 + i, i == ENTRIES - 1 ? RING_NOTIFY : 0);
    wr32(RING_TAIL, tail); /* a full ring at once */
    TRY(consumed(tail, 0x100 + ENTRIES - 1));
    for (u32 i = first; i != tail; i++)
        TRY(moved(i));
    CHECK(WAIT(irq_count(BIT_RING_DONE) == 1), 1);
    CHECK(rd32(STATUS) & (DONE | FAILED), DONE);
    wr32(STATUS, DONE);

    memset(to, 0, sizeof(to));
    for (u32 i = 0; i < 10; i++) { /* one by one, over the ring's end */
        produce(tail, 0x200 + i, 0);
        wr32(RING_TAIL, tail + 1);
        TRY(consumed(tail + 1, 0x200 + i));
        TRY(moved(tail++));
    }
    settle();
    CHECK(irq_msix_total(), 1); /* nobody asked for another */
    CHECK(rd32(STATUS) & (DONE | FAILED), 0);
    CHECK(rd32(ERRORS), errors);
    device_quiet();
    return true;
}

bool test_ring_error(void)
{
    u32 tail, errors = rd32(ERRORS);

    setup();
    tail = rd32(RING_HEAD);
    wr32(RING_TAIL, tail);
    produce(tail, 0x300, 0);
    ring[tail % ENTRIES].opcode = 99;
    wr32(RING_TAIL, tail + 1);
    CHECK(WAIT(rd32(STATUS) & FAILED), 1);
    CHECK(WAIT(rd32(ERRORS) == errors + 1), 1);
    wr32(STATUS, FAILED);
    CHECK(rd32(STATUS) & FAILED, 0);

    wr64(RING_BASE, 0x3f0000000000ull); /* entries that cannot be read */
    tail = rd32(RING_HEAD);
    wr32(RING_TAIL, tail + 1);
    CHECK(WAIT(rd32(STATUS) & FAILED), 1);
    wr32(STATUS, FAILED);
    return device_works();
}
