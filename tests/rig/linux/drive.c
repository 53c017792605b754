/*
 * Drives the stub as a driver in user space does: its BAR by sysfs, its INTx by
 * uio_pci_generic, its DMA with memory of its own. Each part says so when it is
 * done; the first wrong value ends it.
 *
 *   drive 0000:00:0c.0
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SIZE = 4096, PAGE = 4096, ROUNDS = 30, ALONE = 200 };
enum {
    ID = 0x00,
    SCRATCH = 0x0c,
    SCRATCH64 = 0x10,
    STATUS = 0x18,
    IRQ_ENABLE = 0x1c,
    IRQ_RAISE = 0x20,
    DOORBELL = 0x24,
    DOORBELL_COUNT = 0x28,
    DMA_SOURCE = 0x30,
    DMA_DESTINATION = 0x38,
    DMA_LENGTH = 0x40,
    DMA_FENCE_ADDRESS = 0x48,
    DMA_FENCE = 0x50,
    DMA_COMMAND = 0x54,
    DMA_PENDING = 0x5c,
    READS = 0x80,
    WRITES = 0x88,
    ECHO = 0xa8,
};
enum { DMA_DONE = 1 << 0, RUNG = 1 << 4, COPY = 1 };
enum { COMMAND = 4, MASTER = 1 << 2, INTX_DISABLE = 1 << 10 };

static volatile uint8_t *bar;
static int config, uio;

#define REG(type, offset) (*(volatile type *)(bar + (offset)))
#define CHECK(got, expected) check(__LINE__, (got), (expected))

static void die(const char *what)
{
    printf("drive: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void check(int line, uint64_t got, uint64_t expected)
{
    if (got == expected)
        return;
    printf("drive: line %d: expected 0x%" PRIx64 " got 0x%" PRIx64 "\n", line, expected, got);
    exit(1);
}

static int open_of(const char *function, const char *name)
{
    char path[128];
    int fd;

    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/%s", function, name);
    fd = open(path, O_RDWR | O_SYNC);
    if (fd < 0)
        die(path);
    return fd;
}

static void set_command(uint16_t set, uint16_t clear)
{
    uint16_t value;

    if (pread(config, &value, 2, COMMAND) != 2)
        die("config");
    value = (value | set) & ~clear;
    if (pwrite(config, &value, 2, COMMAND) != 2)
        die("config");
}

static void widths(void)
{
    uint64_t value = 0x8877665544332211, reads, writes;

    REG(uint64_t, SCRATCH64) = value;
    CHECK(REG(uint64_t, SCRATCH64), value);
    for (int i = 0; i < 8; i++)
        CHECK(REG(uint8_t, SCRATCH64 + i), 0x11 * (i + 1));
    for (int i = 0; i < 8; i += 2)
        CHECK(REG(uint16_t, SCRATCH64 + i), value >> 8 * i & 0xffff);
    CHECK(REG(uint32_t, SCRATCH64 + 4), value >> 32);
    REG(uint8_t, SCRATCH64 + 7) = 1;
    REG(uint16_t, SCRATCH64 + 4) = 0xabcd;
    REG(uint32_t, SCRATCH64) = 0;
    CHECK(REG(uint64_t, SCRATCH64), 0x0177abcd00000000);

    reads = REG(uint64_t, READS);
    writes = REG(uint64_t, WRITES);
    for (unsigned i = 0; i < ALONE; i++) {
        REG(uint64_t, ECHO) = i * 0x100000001;
        CHECK(REG(uint64_t, ECHO), i * 0x100000001);
    }
    CHECK(REG(uint64_t, READS) - reads, ALONE + 2);
    CHECK(REG(uint64_t, WRITES) - writes, ALONE);
}

/* One string instruction: the last element first if it goes down. */
static void move(volatile void *to, const volatile void *from, long count, int size, int down)
{
    long last = down ? (count - 1) * size : 0;

    to = (volatile char *)to + last;
    from = (const volatile char *)from + last;
    if (down)
        __asm__ volatile("std" : : : "cc");
    switch (size) {
    case 1:
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
        break;
    case 2:
        __asm__ volatile("rep movsw" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
        break;
    case 4:
        __asm__ volatile("rep movsl" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
        break;
    default:
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    }
    __asm__ volatile("cld" : : : "cc");
}

/* Both ways, over two pages that are side by side only for this program. */
static void strings(uint8_t *pages)
{
    enum { BYTES = 32 }; /* DMA_SOURCE up to DMA_FENCE */
    uint8_t *out = pages + PAGE - 12, *in = pages + PAGE - 20 - BYTES;
    uint64_t writes, quad = 0x0123456789abcdef;
    volatile void *to = bar + DMA_SOURCE;
    long count = BYTES / 8;

    for (int size = 1; size <= 8; size *= 2)
        for (int down = 0; down < 2; down++) {
            for (int i = 0; i < BYTES; i++)
                out[i] = i * 7 + size * 16 + down;
            writes = REG(uint64_t, WRITES);
            move(bar + DMA_SOURCE, out, BYTES / size, size, down);
            for (int i = 0; i < BYTES; i++)
                CHECK(REG(uint8_t, DMA_SOURCE + i), out[i]);
            /* An access of 8 bytes to two registers of 4 writes both. */
            CHECK(REG(uint64_t, WRITES) - writes, size == 8 ? 5 : BYTES / size);
            memset(in, 0, BYTES);
            move(in, bar + DMA_SOURCE, BYTES / size, size, down);
            CHECK(memcmp(in, out, BYTES), 0);
        }
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(quad) : "memory");
    for (int i = 0; i < BYTES; i += 8)
        CHECK(REG(uint64_t, DMA_SOURCE + i), quad);
}

static uint64_t physical(const void *page)
{
    int fd = open("/proc/self/pagemap", O_RDONLY);
    uint64_t entry;

    if (fd < 0 || pread(fd, &entry, 8, (uintptr_t)page / PAGE * 8) != 8)
        die("pagemap");
    close(fd);
    CHECK(entry >> 63, 1);
    return (entry & ((1ull << 55) - 1)) * PAGE;
}

static void dma(uint8_t *pages)
{
    uint8_t *from = pages, *to = pages + PAGE;
    volatile uint32_t *fence = (volatile uint32_t *)(pages + 2 * PAGE);
    enum { LENGTH = 3001, FROM = 5, TO = 77 };

    set_command(MASTER, 0);
    for (uint32_t round = 1; round <= ROUNDS; round++) {
        for (int i = 0; i < PAGE; i++)
            from[i] = i * round + round;
        memset(to, 0xee, PAGE);
        *fence = 0;
        REG(uint64_t, DMA_SOURCE) = physical(from) + FROM;
        REG(uint64_t, DMA_DESTINATION) = physical(to) + TO;
        REG(uint32_t, DMA_LENGTH) = LENGTH;
        REG(uint64_t, DMA_FENCE_ADDRESS) = physical((void *)fence);
        REG(uint32_t, DMA_FENCE) = round;
        REG(uint32_t, DMA_COMMAND) = COPY;
        for (int tries = 0; *fence != round && tries < 60000; tries++)
            usleep(1000);
        CHECK(*fence, round);
        while (REG(uint32_t, DMA_PENDING))
            sched_yield();
        CHECK(REG(uint32_t, STATUS), DMA_DONE);
        REG(uint32_t, STATUS) = DMA_DONE;
        CHECK(memcmp(to + TO, from + FROM, LENGTH), 0);
        CHECK(to[TO - 1], 0xee);
        CHECK(to[TO + LENGTH], 0xee);
    }
}

/* Waits for the interrupt; gives how many there were. */
static uint32_t interrupt(int milliseconds)
{
    struct pollfd wait = { .fd = uio, .events = POLLIN };
    uint32_t count = 0;

    if (poll(&wait, 1, milliseconds) == 1 && read(uio, &count, 4) != 4)
        die("uio");
    return count;
}

/* The kernel's handler sets INTx Disable; it is ours to clear it. */
static void interrupts(void)
{
    uint32_t before, count;

    REG(uint32_t, IRQ_ENABLE) = RUNG;
    REG(uint32_t, DOORBELL) = 0;
    set_command(0, INTX_DISABLE);
    before = interrupt(60000);
    CHECK(before != 0, 1);
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        CHECK(REG(uint32_t, STATUS), RUNG);
        set_command(0, INTX_DISABLE); /* nobody has acknowledged: it comes again */
        CHECK(interrupt(60000), before + 2 * i - 1);
        REG(uint32_t, STATUS) = RUNG;
        set_command(0, INTX_DISABLE);
        REG(uint32_t, DOORBELL) = i;
        CHECK(interrupt(60000), before + 2 * i);
    }
    REG(uint32_t, STATUS) = RUNG;
    set_command(0, INTX_DISABLE);
    count = interrupt(200);
    CHECK(count, 0);
    REG(uint32_t, IRQ_ENABLE) = 0;
}

static void use(int processor, uint32_t offset)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(processor, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        die("processor");
    for (uint64_t i = 1; i <= ALONE; i++) {
        REG(uint64_t, offset) = i << 32 | (i ^ offset);
        REG(uint32_t, DOORBELL) = i;
        CHECK(REG(uint64_t, offset), i << 32 | (i ^ offset));
        CHECK(REG(uint32_t, ID), 0x55504756);
    }
}

/* Both processors at once, each with a register of its own. */
static void processors(void)
{
    uint32_t rings = REG(uint32_t, DOORBELL_COUNT);
    pid_t child = fork();
    int status;

    if (child < 0)
        die("fork");
    use(child != 0, child ? SCRATCH64 : ECHO);
    if (!child)
        _exit(0);
    if (waitpid(child, &status, 0) != child)
        die("wait");
    CHECK(status, 0);
    CHECK(REG(uint32_t, DOORBELL_COUNT) - rings, 2 * ALONE);
    REG(uint32_t, STATUS) = RUNG;
}

int main(int argc, char **argv)
{
    uint8_t *pages;

    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc != 2)
        return 1;
    config = open_of(argv[1], "config");
    uio = open("/dev/uio0", O_RDWR); /* which switches bus mastering on */
    if (uio < 0)
        die("/dev/uio0");
    bar = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, open_of(argv[1], "resource0"), 0);
    pages = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED | MAP_POPULATE, -1, 0);
    if (bar == MAP_FAILED || pages == MAP_FAILED)
        die("mmap");
    CHECK(REG(uint32_t, ID), 0x55504756);
    REG(uint32_t, STATUS) = ~0u;
    REG(uint32_t, IRQ_ENABLE) = 0;
    widths();
    puts("drive: widths");
    strings(pages);
    puts("drive: strings");
    dma(pages);
    puts("drive: dma");
    interrupts();
    puts("drive: interrupts");
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        processors();
        puts("drive: processors");
    }
    return 0;
}
