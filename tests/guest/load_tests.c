/*
 * Everything at once, against a model, for as many rounds as are wanted: what is
 * carried out twice, not at all or on another value is noticed by the model, or
 * by the device's own counters, which are compared at the end of each round.
 *
 * Meanwhile the device's process may be killed and succeeded. Then alone an
 * interrupt may come once more than it was raised.
 */
#include "device.h"

enum { ACCESSES = 40, LARGEST = 12000, GUARD = 32, REPORT_MS = 250 };
enum { ENTRIES = 16, PIECE = 128 };
enum { DONE = 1 << BIT_DMA_DONE, RING_IS_DONE = 1 << BIT_RING_DONE, RUNG = 1 << BIT_DOORBELL };
enum { TEST_BIT = 1 << BIT_TEST };

/* Plain registers; ECHO is the second CPU's if there is one. */
static const struct {
    u16 offset, width;
} plain[] = { { SCRATCH, 4 }, { SCRATCH64, 8 }, { ECHO, 8 } };

static struct {
    u8 bytes[COUNT(plain)][8];
    u32 status, rings, value, errors;
    u32 reads, writes; /* of the device's registers, as it counts them */
    u32 fence, tail;
    u32 sent[VECTORS]; /* interrupts */
    u64 time;
} model;

static u32 state; /* of the random numbers */
static bool wide;
static u8 source[LARGEST + GUARD] __attribute__((aligned(4096)));
static u8 destination[LARGEST + 2 * GUARD + 4] __attribute__((aligned(4096)));
static volatile u32 fence __attribute__((aligned(64)));

static struct entry {
    u32 opcode, fence;
    u64 source, destination;
    u32 length, flags;
} ring[ENTRIES] __attribute__((aligned(4096)));

/* What the second CPU does and has counted; the first looks when it is idle. */
static struct {
    volatile bool stop;
    u32 state, reads, writes;
    u8 bytes[8];
    u32 line, got, expected; /* of the first wrong value */
} beside;

static u32 below(u32 *random, u32 limit)
{
    return (u32)((u64)next_random(random) * limit >> 32);
}

static u64 read_any(u32 offset, u32 size)
{
    switch (size) {
    case 1:
        return rd8(offset);
    case 2:
        return rd16(offset);
    case 4:
        return rd32(offset);
    default:
        return rd8bytes(offset);
    }
}

static void write_any(u32 offset, u32 size, u64 value)
{
    switch (size) {
    case 1:
        wr8(offset, (u8)value);
        break;
    case 2:
        wr16(offset, (u16)value);
        break;
    case 4:
        wr32(offset, (u32)value);
        break;
    default:
        wr8bytes(offset, value);
    }
}

/* Reads a register, or a part of it. */
static u32 get(u32 offset)
{
    model.reads++;
    return rd32(offset);
}

/* Writes a whole register of 4 bytes. */
static void put(u32 offset, u32 value)
{
    model.writes++;
    wr32(offset, value);
}

/* Writes one of 8 bytes; to write a half of it the device reads it too. */
static void put64(u32 offset, u64 value)
{
    if (wide && below(&state, 2)) {
        model.writes++;
        wr8bytes(offset, value);
        return;
    }
    wr64(offset, value);
    model.reads += 2;
    model.writes += 2;
}

static u64 get64(u32 offset)
{
    u32 high, low;

    if (wide) {
        model.reads++;
        return rd8bytes(offset);
    }
    do {
        high = get(offset + 4);
        low = get(offset);
    } while (get(offset + 4) != high);
    return (u64)high << 32 | low;
}

/* Any part of a plain register, in one access; counts it in *reads and *writes. */
static bool one_access(u32 number, u8 *bytes, u32 *random, u32 *reads, u32 *writes, u64 *got,
                       u64 *expected)
{
    u32 width = plain[number].width, sizes = width == 8 && wide ? 4 : 3;
    u32 size = 1u << below(random, sizes);
    u32 within = below(random, width) & ~(size - 1);
    u64 value = (u64)next_random(random) << 32 | next_random(random);

    if (below(random, 2)) {
        write_any(plain[number].offset + within, size, value);
        memcpy(bytes + within, &value, size);
        *writes += 1;
        *reads += size < width;
        return true;
    }
    *got = read_any(plain[number].offset + within, size);
    *expected = 0;
    memcpy(expected, bytes + within, size);
    *reads += 1;
    return *got == *expected;
}

static bool plain_access(void)
{
    u32 number = below(&state, options.cpus > 1 ? 2 : 3);
    u64 got = 0, expected = 0;

    if (!one_access(number, model.bytes[number], &state, &model.reads, &model.writes, &got,
                    &expected))
        CHECK_WIDE(got, expected);
    return true;
}

/* The second CPU's work, until it is to stop. */
static void beside_work(void)
{
    while (!beside.stop && !beside.line) {
        u64 got = 0, expected = 0;

        if (!one_access(2, beside.bytes, &beside.state, &beside.reads, &beside.writes, &got,
                        &expected)) {
            beside.got = (u32)got;
            beside.expected = (u32)expected;
            beside.line = __LINE__;
        }
        if (rd32(ID) != ID_VALUE)
            beside.line = __LINE__;
        beside.reads++;
    }
}

static bool beside_stops(void)
{
    if (options.cpus < 2)
        return true;
    beside.stop = true;
    CHECK_TRUE(WAIT(smp_idle()));
    if (beside.line) {
        print("cpu=2 line=%u\n", beside.line);
        CHECK(beside.got, beside.expected);
        CHECK(beside.line, 0);
    }
    model.reads += beside.reads;
    model.writes += beside.writes;
    beside.reads = beside.writes = 0;
    return true;
}

static void beside_goes_on(void)
{
    beside.stop = false;
    if (options.cpus > 1)
        smp_run(beside_work);
}

/* One or some that were raised: those at the same time may come as one. */
static bool interrupts_come(u32 vector, u32 raised)
{
    model.sent[vector]++;
    CHECK(WAIT(irq_count(vector) >= model.sent[vector]), 1);
    if (raised > 1) {
        settle();
        model.sent[vector] = irq_count(vector);
    }
    return true;
}

static bool doorbell(void)
{
    u32 value = next_random(&state);

    put(DOORBELL, value);
    model.value = value;
    model.rings++;
    model.status |= RUNG;
    wr8(DOORBELL, 1); /* too narrow: dropped */
    CHECK(get(DOORBELL_VALUE), value);
    CHECK(get(DOORBELL_COUNT), model.rings);
    return true;
}

static bool clear_status(void)
{
    u32 bits = below(&state, STATUS_ALL + 1);

    model.writes++;
    wr8(STATUS, (u8)bits);
    model.status &= ~bits;
    CHECK(get(STATUS), model.status);
    return true;
}

static bool raise(void)
{
    u32 vector = 8 + below(&state, 8);

    put(IRQ_RAISE, vector);
    model.status |= TEST_BIT;
    return interrupts_come(vector, 1);
}

/* It is held back by its mask, and shows as pending. */
static bool raise_masked(void)
{
    u32 vector = 8 + below(&state, 8);

    msix_mask(vector, true);
    put(IRQ_RAISE, vector);
    model.status |= TEST_BIT;
    CHECK(get(STATUS), model.status);
    msix_mask(vector, false);
    return interrupts_come(vector, 1);
}

static bool no_register(void)
{
    u32 offset = 0x100 + (below(&state, 0x600) & ~7u);

    wr32(offset, state);
    CHECK(rd32(offset), 0xffffffff);
    CHECK(rd8(offset + 3), 0xff);
    CHECK(rd32(DOORBELL), 0xffffffff); /* write-only */
    return true;
}

static bool config(void)
{
    u32 value = below(&state, 256);

    CHECK(pci_read32(device.slot, PCI_ID), DEVICE_ID << 16 | DEVICE_VENDOR);
    CHECK(pci_read32(device.slot, PCI_BAR0), device.bar);
    pci_write16(device.slot, PCI_INTERRUPT_LINE, (u16)value);
    CHECK(pci_read8(device.slot, PCI_INTERRUPT_LINE), value);
    CHECK(pci_read16(device.slot, device.msix + MSIX_CONTROL) >> 14, MSIX_ENABLE >> 14);
    return true;
}

static bool time_goes_on(void)
{
    u64 now = get64(TIMESTAMP);

    CHECK_TRUE(now > model.time);
    model.time = now;
    return true;
}

static bool accesses(void)
{
    for (u32 i = 0; i < ACCESSES; i++) {
        switch (below(&state, 16)) {
        case 0:
        case 1:
            TRY(doorbell());
            break;
        case 2:
            TRY(clear_status());
            break;
        case 3:
            TRY(raise());
            break;
        case 4:
            TRY(no_register());
            break;
        default:
            TRY(plain_access());
        }
    }
    TRY(raise_masked());
    TRY(time_goes_on());
    return config();
}

static void start(u32 command, u32 from, u32 to, u32 length)
{
    put64(DMA_SOURCE, from);
    put64(DMA_DESTINATION, to);
    put(DMA_LENGTH, length);
    put(DMA_PATTERN, from);
    put64(DMA_FENCE_ADDRESS, (u32)&fence);
    put(DMA_FENCE, ++model.fence);
    put(DMA_COMMAND, command);
}

static bool dma_finished(void)
{
    CHECK(WAIT(fence == model.fence), 1);
    CHECK(WAIT(get(DMA_PENDING) == 0), 1);
    CHECK(get(DMA_COMPLETED), model.fence);
    model.status |= DONE;
    CHECK(get(STATUS), model.status);
    put(STATUS, DONE);
    model.status &= ~(u32)DONE;
    return true;
}

/* Some commands at once, one behind the other: copies, the last one a fill. */
static bool dma(u32 commands)
{
    u32 length = 1 + below(&state, LARGEST / commands), total = length * commands;
    u32 pattern = next_random(&state), shift = below(&state, 4);
    u8 *to = destination + GUARD + shift, *last;

    for (u32 i = 0; i < 16; i++)
        source[below(&state, LARGEST)] = (u8)state;
    memset(destination, 0xee, sizeof(destination));
    for (u32 i = 0; i + 1 < commands; i++)
        start(COMMAND_COPY, (u32)source + i * length, (u32)to + i * length, length);
    last = to + (commands - 1) * length;
    start(COMMAND_FILL, pattern, (u32)last, length);
    TRY(dma_finished());
    TRY(interrupts_come(BIT_DMA_DONE, commands));
    CHECK(first_difference(source, to, total - length), total - length);
    for (u32 i = 0; i < length && i < 4; i++)
        CHECK(last[i], pattern >> 8 * i & 0xff);
    if (length > 4)
        CHECK(first_difference(last, last + 4, length - 4), length - 4);
    for (u32 i = 1; i <= GUARD; i++) {
        CHECK(to[-(int)i], 0xee);
        CHECK(to[total - 1 + i], 0xee);
    }
    return true;
}

/* Some entries of the ring, of which the last one notifies. */
static bool entries(u32 count)
{
    memset(destination, 0xee, count * PIECE + GUARD);
    for (u32 i = 0; i < count; i++) {
        struct entry *entry = &ring[model.tail % ENTRIES];

        entry->opcode = RING_COPY;
        entry->fence = ++model.tail;
        entry->source = (u32)source + i * PIECE;
        entry->destination = (u32)destination + i * PIECE;
        entry->length = PIECE;
        entry->flags = i + 1 == count ? RING_NOTIFY : 0;
    }
    put(RING_TAIL, model.tail);
    CHECK(WAIT(get(RING_FENCE) == model.tail), 1);
    CHECK(WAIT(get(RING_HEAD) == model.tail), 1);
    TRY(interrupts_come(BIT_RING_DONE, 1));
    model.status |= RING_IS_DONE;
    CHECK(get(STATUS), model.status);
    CHECK(first_difference(source, destination, count * PIECE), count * PIECE);
    CHECK(destination[count * PIECE], 0xee);
    return true;
}

/* What the device has counted is what was done. */
static bool counts(void)
{
    u32 reads;

    TRY(beside_stops());
    reads = get(READS); /* this one included */
    CHECK(reads, model.reads);
    CHECK(get(WRITES), model.writes);
    CHECK(get(DOORBELL_COUNT), model.rings);
    CHECK(get(ERRORS), model.errors);
    beside_goes_on();
    return true;
}

static bool prepare(void)
{
    msix_program(false);
    msix_set(MSIX_ENABLE);
    irq_clear_counts();
    memset(&model, 0, sizeof(model));
    state = options.seed | 1;
    wide = cpu_features() & CPU_MMX;
    for (u32 i = 0; i < sizeof(source); i++)
        source[i] = (u8)next_random(&state);

    put(SCRATCH, 0);
    put64(SCRATCH64, 0);
    put64(ECHO, 0);
    put64(RING_BASE, (u32)ring);
    put(RING_SIZE, ENTRIES);
    model.tail = get(RING_HEAD);
    put(STATUS, STATUS_ALL);
    put(IRQ_ENABLE, DONE | RING_IS_DONE);
    model.value = get(DOORBELL_VALUE);
    model.rings = get(DOORBELL_COUNT);
    model.errors = get(ERRORS);
    model.reads = rd32(READS);
    model.writes = rd32(WRITES);
    model.reads++;

    memset(&beside, 0, sizeof(beside));
    beside.state = options.seed | 2;
    if (options.cpus > 1)
        CHECK_TRUE(smp_start());
    beside_goes_on();
    return true;
}

static u32 more_interrupts(void)
{
    u32 total = irq_msix_total();

    for (u32 i = 0; i < VECTORS; i++)
        total -= model.sent[i];
    return total;
}

bool test_load(void)
{
    u32 rounds = options.count ? options.count : 20, commands = 0;
    u64 next = 0;

    TRY(prepare());
    print("load seed=%x cpus=%u\n", state, options.cpus ? options.cpus : 1);
    for (u32 round = 0; round < rounds; round++) {
        u32 several = round % 4 == 3 ? 4 : 1;

        TRY(accesses());
        TRY(dma(several));
        commands += several;
        if (round % 2)
            TRY(entries(1 + below(&state, 8)));
        TRY(counts());
        if (tsc() >= next) {
            print("load rounds=%u\n", round + 1);
            next = deadline(REPORT_MS);
        }
    }
    TRY(beside_stops());
    settle();
    print("load rounds=%u reads=%u writes=%u rings=%u commands=%u more-interrupts=%u\n", rounds,
          model.reads, model.writes, model.rings, commands, more_interrupts());
    device_quiet();
    return true;
}
