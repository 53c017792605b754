/* The DMA engine, checked byte for byte in guest memory. */
#include "device.h"

enum { GUARD = 64, LARGEST = (1 << 20) + 4096 + 5, BUFFER = LARGEST + 2 * GUARD + 19 };
enum { DONE = 1 << BIT_DMA_DONE, ERROR = 1 << BIT_DMA_ERROR };

static u8 source[BUFFER] __attribute__((aligned(4096)));
static u8 destination[BUFFER] __attribute__((aligned(4096)));
static volatile u32 fence __attribute__((aligned(4096)));
static u32 last_fence;

static const struct transfer {
    u32 length, from, to; /* from, to: distance from a page's start */
} transfers[] = {
    { 1, 0, 0 },       { 3, 1, 2 },       { 4, 0, 0 },        { 64, 3, 1 },
    { 4095, 0, 1 },    { 4096, 0, 0 },    { 4097, 5, 7 },     { 65536, 0, 0 },
    { 65549, 11, 13 }, { LARGEST, 1, 15 },
};

static u32 address(const volatile void *memory)
{
    return (u32)memory;
}

static void scramble(u8 *bytes, u32 count, u32 seed)
{
    u32 *words = (u32 *)bytes;

    for (u32 i = 0; i < count / 4; i++)
        words[i] = next_random(&seed);
}

static void start(u32 command, u64 from, u64 to, u32 length)
{
    wr64(DMA_SOURCE, from);
    wr64(DMA_DESTINATION, to);
    wr32(DMA_LENGTH, length);
    wr64(DMA_FENCE_ADDRESS, address(&fence));
    wr32(DMA_FENCE, ++last_fence);
    wr32(DMA_COMMAND, command);
}

static bool finished(void)
{
    CHECK(WAIT(fence == last_fence), 1);
    CHECK(WAIT(rd32(DMA_PENDING) == 0), 1);
    CHECK(rd32(DMA_COMPLETED), last_fence);
    CHECK(rd32(STATUS), DONE);
    wr32(STATUS, DONE);
    return true;
}

/* The bytes on both sides of the destination kept their value. */
static bool guarded(const u8 *to, u32 length)
{
    for (u32 i = 1; i <= GUARD; i++) {
        CHECK(to[-(int)i], 0xee);
        CHECK(to[length - 1 + i], 0xee);
    }
    return true;
}

static bool copy(const struct transfer *transfer)
{
    u8 *from = source + transfer->from;
    u8 *to = destination + GUARD + transfer->to;

    memset(to - GUARD, 0xee, transfer->length + 2 * GUARD);
    start(COMMAND_COPY, address(from), address(to), transfer->length);
    TRY(finished());
    CHECK(first_difference(from, to, transfer->length), transfer->length);
    return guarded(to, transfer->length);
}

bool test_dma_copy(void)
{
    u32 errors = rd32(ERRORS);

    last_fence = 0x1000;
    scramble(source, sizeof(source), options.seed | 1);
    for (u32 i = 0; i < COUNT(transfers); i++)
        TRY(copy(&transfers[i]));
    CHECK(rd32(ERRORS), errors);
    return true;
}

/* A pattern is repeated from the first byte; a last piece is cut short. */
static bool fill(const struct transfer *transfer, u32 pattern)
{
    u8 *to = destination + GUARD + transfer->to;
    u32 length = transfer->length;

    memset(to - GUARD, 0xee, length + 2 * GUARD);
    wr32(DMA_PATTERN, pattern);
    start(COMMAND_FILL, 0, address(to), length);
    TRY(finished());
    for (u32 i = 0; i < length && i < 4; i++)
        CHECK(to[i], pattern >> 8 * i & 0xff);
    if (length > 4)
        CHECK(first_difference(to, to + 4, length - 4), length - 4);
    return guarded(to, length);
}

bool test_dma_fill(void)
{
    last_fence = 0x2000;
    for (u32 i = 0; i < COUNT(transfers); i++)
        TRY(fill(&transfers[i], 0x44332211u + 0x01010101u * i));
    return true;
}

static bool completion_interrupt(u32 count)
{
    CHECK(WAIT(irq_count(BIT_DMA_DONE) >= count), 1);
    settle();
    CHECK(irq_count(BIT_DMA_DONE), count);
    CHECK(irq_msix_total(), count);
    return true;
}

/* Several commands at once: they finish in order, none is lost. */
static bool queued(void)
{
    enum { COMMANDS = 8, PIECE = 5000 };
    u32 first = last_fence + 1;

    memset(destination, 0, COMMANDS * PIECE);
    for (u32 i = 0; i < COMMANDS; i++)
        start(COMMAND_COPY, address(source + i * PIECE), address(destination + i * PIECE), PIECE);
    TRY(finished());
    CHECK(last_fence - first + 1, COMMANDS);
    CHECK(first_difference(source, destination, COMMANDS * PIECE), COMMANDS * PIECE);
    return true;
}

bool test_dma_fence(void)
{
    fence = 0;
    last_fence = 0x3000;
    scramble(source, 65536, options.seed | 1);
    msix_program(false);
    msix_set(MSIX_ENABLE);
    wr32(IRQ_ENABLE, DONE);
    for (u32 i = 1; i <= 3; i++) {
        start(COMMAND_COPY, address(source), address(destination), 4096);
        TRY(completion_interrupt(i)); /* exactly one for each command */
        TRY(finished());
    }
    wr32(IRQ_ENABLE, 0);
    TRY(queued());

    /* Without an address the fence appears in the register only. */
    fence = 0;
    wr64(DMA_FENCE_ADDRESS, 0);
    wr32(DMA_FENCE, 0x3fff);
    wr32(DMA_COMMAND, COMMAND_COPY);
    CHECK(WAIT(rd32(DMA_COMPLETED) == 0x3fff), 1);
    CHECK(fence, 0);
    CHECK(WAIT(rd32(DMA_PENDING) == 0), 1);
    device_quiet();
    return true;
}

static bool refused(u32 command, u64 from, u64 to, u32 length)
{
    u32 errors = rd32(ERRORS);

    start(command, from, to, length);
    CHECK(WAIT(rd32(ERRORS) == errors + 1), 1);
    CHECK(WAIT(rd32(STATUS) & ERROR), 1);
    CHECK(WAIT(rd32(DMA_PENDING) == 0), 1);
    wr32(STATUS, DONE | ERROR);
    CHECK(rd32(STATUS), 0);
    return true;
}

bool test_dma_bad_address(void)
{
    const u64 nowhere = 0x3f0000000000ull; /* beyond any RAM of these guests */
    const u64 edge = 0xfffffffffffff000ull; /* wraps with a longer length */
    const struct transfer after = { 4097, 1, 2 };

    last_fence = 0x4000;
    scramble(source, 8192, options.seed | 1);
    TRY(refused(COMMAND_COPY, nowhere, address(destination), 4096));
    TRY(refused(COMMAND_COPY, address(source), nowhere, 4096));
    TRY(refused(COMMAND_FILL, 0, nowhere, 65536));
    TRY(refused(COMMAND_COPY, edge, address(destination), 8192));
    TRY(refused(COMMAND_FILL, 0, edge, 0xffffffff));
    return copy(&after);
}

/* Addresses at which there is something else than memory, or nothing. */
bool test_dma_nonram(void)
{
    static const u32 fixed[] = { 0xd0000000, 0xfec00000, 0xfed00000, 0xfee00000 };
    const struct transfer after = { 4097, 1, 2 };
    u32 beyond = (options.ram_end + (32u << 20)) & ~0xfffu, errors;

    last_fence = 0x5000;
    scramble(source, 8192, options.seed | 1);
    memset(destination, 0x77, 8192);
    for (u32 i = 0; i < COUNT(fixed); i++) {
        TRY(refused(COMMAND_COPY, fixed[i], address(destination), 64));
        TRY(refused(COMMAND_FILL, 0, fixed[i], 8192));
    }
    TRY(refused(COMMAND_COPY, device.bar, address(destination), 64)); /* itself */
    TRY(refused(COMMAND_FILL, 0, device.bar, 4));
    TRY(refused(COMMAND_COPY, beyond, address(destination), 4));
    TRY(refused(COMMAND_FILL, 0, beyond, 1 << 20));
    CHECK(first_difference(destination, destination + 1, 8191), 8191);

    /* The data is moved, and the fence has no place. */
    errors = rd32(ERRORS);
    start(COMMAND_COPY, address(source), address(destination), 64);
    TRY(finished());
    wr64(DMA_FENCE_ADDRESS, device.bar + SCRATCH);
    wr32(DMA_COMMAND, COMMAND_COPY);
    CHECK(WAIT(rd32(ERRORS) == errors + 1), 1);
    CHECK(WAIT(rd32(DMA_PENDING) == 0), 1);
    wr32(STATUS, DONE | ERROR);
    return copy(&after);
}
