/* The stub's BAR0 and what the tests do with it. */
#ifndef DEVICE_H
#define DEVICE_H

#include "guest.h"

enum { DEVICE_VENDOR = 0x1af4, DEVICE_ID = 0x1111, DEVICE_BAR_SIZE = 4096 };
enum { BELL_DEVICE_ID = 0x1112 };
enum { MSI_CONTROL = 2, MSI_ENABLE = 1 << 0, MSI_CAPABLE = 7 << 1, MSI_WIDE = 1 << 7 };
/* 1af4:1112. BELL_COUNT is mapped: a read of it does not wait for writes. */
enum { BELL_ID = 0x4c4c4542, BELL_RING = 0x0004, BELL_SUBMIT = 0x0008, BELL_SUBMITTED = 0x000c };
enum { BELL_COUNT = 0x1000, BELL_EVERY = 0x1004 };

enum {
    ID = 0x000,
    VERSION = 0x004,
    FEATURES = 0x008,
    SCRATCH = 0x00c,
    SCRATCH64 = 0x010,
    STATUS = 0x018,
    IRQ_ENABLE = 0x01c,
    IRQ_RAISE = 0x020,
    DOORBELL = 0x024,
    DOORBELL_COUNT = 0x028,
    DOORBELL_VALUE = 0x02c,
    DMA_SOURCE = 0x030,
    DMA_DESTINATION = 0x038,
    DMA_LENGTH = 0x040,
    DMA_PATTERN = 0x044,
    DMA_FENCE_ADDRESS = 0x048,
    DMA_FENCE = 0x050,
    DMA_COMMAND = 0x054,
    DMA_COMPLETED = 0x058,
    DMA_PENDING = 0x05c,
    RING_BASE = 0x060,
    RING_SIZE = 0x068,
    RING_HEAD = 0x06c,
    RING_TAIL = 0x070,
    RING_FENCE = 0x074,
    ERRORS = 0x078,
    READS = 0x080,
    WRITES = 0x088,
    DMA_BYTES = 0x090,
    INTERRUPTS = 0x098,
    TIMESTAMP = 0x0a0,
    ECHO = 0x0a8,
    ECHO_TIME = 0x0b0,
    MSIX_VECTORS = 0x800,
    MSIX_PENDING = 0xc00,
};

enum { ID_VALUE = 0x55504756, VERSION_VALUE = 0x00010000 };
enum { COMMAND_COPY = 1, COMMAND_FILL = 2 };
enum { RING_NOP = 0, RING_COPY = 1, RING_FILL = 2, RING_NOTIFY = 1 };

/* STATUS bits; a bit's number is its MSI-X vector. */
enum {
    BIT_DMA_DONE = 0,
    BIT_DMA_ERROR = 1,
    BIT_RING_DONE = 2,
    BIT_RING_ERROR = 3,
    BIT_DOORBELL = 4,
    BIT_TEST = 5,
    STATUS_ALL = 0x3f,
};

/* device.c */
struct device {
    u32 id;
    u32 slot;
    u32 bar;
    u32 msix; /* offset of the capability, 0 if none */
    u8 line;
};
extern struct device device;

bool device_find(void); /* the one of options.device and options.slot */
void device_enable(void);
void device_quiet(void); /* no interrupts, STATUS clear, INTx off */
void msix_program(bool masked);
void msix_set(u16 bits); /* MSIX_ENABLE, MSIX_FUNCTION_MASK */
void msix_mask(u32 vector, bool masked);

static inline volatile u32 *reg(u32 offset)
{
    return (volatile u32 *)(device.bar + offset);
}

static inline u32 rd32(u32 offset)
{
    return *reg(offset);
}

static inline u16 rd16(u32 offset)
{
    return *(volatile u16 *)(device.bar + offset);
}

static inline u8 rd8(u32 offset)
{
    return *(volatile u8 *)(device.bar + offset);
}

static inline void wr32(u32 offset, u32 value)
{
    *reg(offset) = value;
}

static inline void wr16(u32 offset, u16 value)
{
    *(volatile u16 *)(device.bar + offset) = value;
}

static inline void wr8(u32 offset, u8 value)
{
    *(volatile u8 *)(device.bar + offset) = value;
}

static inline void wr64(u32 offset, u64 value)
{
    wr32(offset, (u32)value);
    wr32(offset + 4, (u32)(value >> 32));
}

/* One access of 8 bytes, by an MMX register. */
static inline u64 rd8bytes(u32 offset)
{
    u64 value;

    __asm__ volatile("movq (%1), %%mm0; movq %%mm0, %0"
                     : "=m"(value)
                     : "r"(device.bar + offset)
                     : "memory");
    return value;
}

static inline void wr8bytes(u32 offset, u64 value)
{
    __asm__ volatile("movq %0, %%mm0; movq %%mm0, (%1)"
                     :
                     : "m"(value), "r"(device.bar + offset)
                     : "memory");
}

/* main.c: a failed check prints the test's FAIL line. */
struct options {
    u32 seed;
    u32 device; /* the PCI device id */
    u32 slot;   /* its PCI device number; 0: the first that is found */
    u32 cpus;   /* how many `load` uses */
    u32 ram_end;
    u32 count;  /* 0: the test's own */
    u32 linger; /* milliseconds that wait-unplug goes on after the device went */
};
extern struct options options;
bool check(const char *file, u32 line, u32 got, u32 expected);
void save_progress(bool same_test); /* resume there after a reset */
bool resumed(void); /* true once, in the test that a reset led to */

#define CHECK(got, expected)                                   \
    do {                                                       \
        if (!check(__FILE_NAME__, __LINE__, (got), (expected)))     \
            return false;                                      \
    } while (0)
#define CHECK_WIDE(got, expected)                    \
    do {                                             \
        u64 got_ = (got), expected_ = (expected);    \
        CHECK((u32)got_, (u32)expected_);            \
        CHECK((u32)(got_ >> 32), (u32)(expected_ >> 32)); \
    } while (0)
#define CHECK_TRUE(condition) CHECK(!!(condition), 1)
#define TRY(step)         \
    do {                  \
        if (!(step))      \
            return false; \
    } while (0)

/* The tests; each returns whether it passed. */
bool test_identity(void);
bool test_registers(void);
bool test_posted_writes(void);
bool test_random(void);
bool test_irq_intx(void);
bool test_irq_ioapic(void);
bool test_irq_msi(void);
bool test_irq_msix(void);
bool test_wide(void);
bool test_rep(void);
bool test_bar_games(void);
bool test_dma_nonram(void);
bool test_pair(void);
bool test_smp(void);
bool test_bar_race(void);
bool test_load(void);
bool test_dma_copy(void);
bool test_dma_fill(void);
bool test_dma_fence(void);
bool test_dma_bad_address(void);
bool test_ring(void);
bool test_ring_error(void);
bool test_dirty(void);
bool test_leave_mark(void);
bool test_reset(void);
bool test_wait_reset(void);
bool test_flr(void);
bool test_wait_unplug(void);
bool test_wait_loss(void);
bool test_bell(void);
bool test_latency(void);

/* register_tests.c: the device answers and counts as after power-on. */
bool device_works(void);

#endif
