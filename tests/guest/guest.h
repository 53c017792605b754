/* What every file of the guest uses: types, ports, output, time, PCI, interrupts. */
#ifndef GUEST_H
#define GUEST_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef _Bool bool;
#define true 1
#define false 0

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Values for isa-debug-exit; QEMU exits with (value << 1) | 1. */
enum { EXIT_PASSED = 0x10, EXIT_FAILED = 0x11, EXIT_FAULT = 0x12 };

static inline void out8(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void out32(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline u32 in32(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void out16(u16 port, u16 value)
{
    __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline u16 in16(u16 port)
{
    u16 value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline u64 tsc(void)
{
    u64 value;
    __asm__ volatile("rdtsc" : "=A"(value) : : "memory");
    return value;
}

static inline void pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

/* serial.c */
void serial_init(void);
void print(const char *format, ...); /* %s string, %x hexadecimal, %u decimal */
_Noreturn void leave(u8 value);

/* memory.c */
void *memset(void *to, int value, __SIZE_TYPE__ count);
void *memcpy(void *to, const void *from, __SIZE_TYPE__ count);
bool same(const char *a, const char *b);
u32 first_difference(const u8 *a, const u8 *b, u32 count); /* count: none */
u32 next_random(u32 *state);

/* time.c */
void time_init(void);
u32 time_khz(void);
u64 deadline(u32 milliseconds);
void settle(void); /* long enough for a wrong interrupt to arrive */
u32 cycles_to_ns(u32 cycles);
extern u32 patience; /* milliseconds that the device may take */

/* Polls for a condition for at most some milliseconds; says whether it holds. */
#define WAIT_MS(condition, milliseconds)                 \
    ({                                                   \
        u64 end_ = deadline(milliseconds);               \
        bool holds_;                                     \
        while (!(holds_ = (condition)) && tsc() < end_)  \
            pause();                                     \
        holds_ || (condition);                           \
    })
#define WAIT(condition) WAIT_MS(condition, patience)

/* pci.c */
enum {
    PCI_ID = 0x00,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_CLASS = 0x08,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM = 0x2c,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};
enum {
    COMMAND_MEMORY = 1 << 1,
    COMMAND_MASTER = 1 << 2,
    COMMAND_INTX_DISABLE = 1 << 10,
    STATUS_INTERRUPT = 1 << 3,
    STATUS_CAPABILITIES = 1 << 4,
};
enum {
    CAPABILITY_PM = 0x01,
    CAPABILITY_MSI = 0x05,
    CAPABILITY_PCIE = 0x10,
    CAPABILITY_MSIX = 0x11,
};
enum { MSIX_CONTROL = 2, MSIX_TABLE = 4, MSIX_PBA = 8 };
enum { MSIX_ENABLE = 1 << 15, MSIX_FUNCTION_MASK = 1 << 14 };

#define NO_DEVICE 0xffffffffu
u32 pci_find(u16 vendor, u16 device); /* NO_DEVICE, or its slot: device << 3 | function */
u32 pci_read32(u32 slot, u32 offset);
u16 pci_read16(u32 slot, u32 offset);
u8 pci_read8(u32 slot, u32 offset);
void pci_write32(u32 slot, u32 offset, u32 value);
void pci_write16(u32 slot, u32 offset, u16 value);
u32 pci_capability(u32 slot, u8 id); /* its offset, or 0 */
u32 pci_bar_size(u32 slot, u32 bar);

/* irq.c */
#define VECTORS 16
#define MSIX_FIRST_VECTOR 0x40
#define IOAPIC_VECTOR 0x50
#define MESSAGE_ADDRESS 0xfee00000u /* | APIC id << 12 */
struct intx_handler {
    volatile u32 *acknowledge; /* register to write the bits to, then read */
    u32 bits;
    u32 ignore; /* this many interrupts are left unacknowledged */
};
void irq_init(void);
void irq_init_cpu(void); /* of another CPU, which has no 8259s */
u32 cpu_id(void);        /* this CPU's APIC id */
void irq_clear_counts(void);
u32 irq_count(u32 vector);
u32 irq_msix_total(void);
void irq_open_line(u8 line, const struct intx_handler *handler);
void irq_close_line(u8 line);
u32 irq_line_count(u8 line);
u32 irq_took(u32 vector); /* the APIC id of the CPU that it came to last */

/* The same line at the IOAPIC: level-triggered, active high. One at a time. */
u32 ioapic_pins(void);
void ioapic_prepare(void); /* before the line rises: a pin for edges keeps no level */
void ioapic_open(u32 pin, const struct intx_handler *handler);
void ioapic_close(void);
u32 ioapic_count(void);

/* smp.c: one other CPU, if there is one. */
bool smp_start(void);               /* whether it runs; starts it if need be */
u32 smp_id(void);                   /* its APIC id */
void smp_run(void (*work)(void));   /* when it is idle; returns at once */
bool smp_idle(void);

/* machine.c */
#define CPU_MMX (1u << 23)
#define CPU_SSE2 (1u << 26)
u32 cpu_features(void); /* CPUID 1, EDX */
void cpu_allow_sse(void);
u8 cmos_read(u8 index);
void cmos_write(u8 index, u8 value);
void machine_reset(void); /* returns only if nothing reset the machine */

#endif
