/* IDT, both 8259s, APICs. Every interrupt is counted by its vector. */
#include "guest.h"

enum { PIC1 = 0x20, PIC2 = 0xa0, PIC_EOI = 0x20, ELCR = 0x4d0 };
enum { PIC_VECTOR = 0x20, STUBS = 0x60, SPURIOUS = 0x5f };
enum { STORM = 1000 }; /* a line that never falls is closed after this many */

#define LAPIC(offset) (*(volatile u32 *)(0xfee00000u + (offset)))
enum { LAPIC_ID = 0x20, LAPIC_TPR = 0x80, LAPIC_EOI = 0xb0, LAPIC_SVR = 0xf0, LAPIC_LINT0 = 0x350 };
enum { SVR_ENABLE = 0x100, DELIVER_EXTINT = 0x700 };

#define IOAPIC(offset) (*(volatile u32 *)(0xfec00000u + (offset)))
enum { IOAPIC_SELECT = 0x00, IOAPIC_WINDOW = 0x10 };
enum { IOAPIC_VERSION = 1, IOAPIC_ENTRIES = 0x10 };
enum { ENTRY_LEVEL = 1 << 15, ENTRY_MASKED = 1 << 16 };

struct frame {
    u32 registers[8];
    u32 vector, error, eip, cs, flags;
};

extern const u32 interrupt_stubs[STUBS];
void interrupt(struct frame *frame);

static u64 idt[STUBS] __attribute__((aligned(8)));
static volatile u32 counts[STUBS];
static volatile u32 took[STUBS];
static struct intx_handler intx;
static u32 open_pin;

static u64 gate(u32 entry)
{
    return (u64)(entry & 0xffff0000u) << 32 | 0x8e0000000000ull | 0x080000u |
           (entry & 0xffffu);
}

static void mask_line(u8 line, bool masked)
{
    u16 port = (line < 8 ? PIC1 : PIC2) + 1;
    u8 bit = (u8)(1u << (line & 7));

    out8(port, (u8)(masked ? in8(port) | bit : in8(port) & ~bit));
}

static void remap_pics(void)
{
    out8(PIC1, 0x11); /* edge unless the ELCR says level, cascade, ICW4 */
    out8(PIC1 + 1, PIC_VECTOR);
    out8(PIC1 + 1, 1 << 2);
    out8(PIC1 + 1, 0x01);
    out8(PIC2, 0x11);
    out8(PIC2 + 1, PIC_VECTOR + 8);
    out8(PIC2 + 1, 2);
    out8(PIC2 + 1, 0x01);
    out8(PIC1 + 1, (u8)~(1 << 2));
    out8(PIC2 + 1, 0xff);
}

static void load_idt(void)
{
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) pointer = { sizeof(idt) - 1, (u32)idt };

    __asm__ volatile("lidt %0" : : "m"(pointer));
    LAPIC(LAPIC_TPR) = 0;
    LAPIC(LAPIC_SVR) = SVR_ENABLE | SPURIOUS;
}

void irq_init(void)
{
    for (u32 i = 0; i < STUBS; i++)
        idt[i] = gate(interrupt_stubs[i]);
    load_idt();
    remap_pics();
    LAPIC(LAPIC_LINT0) = DELIVER_EXTINT; /* the 8259s stay connected */
    __asm__ volatile("sti" : : : "memory");
}

void irq_init_cpu(void)
{
    load_idt();
    __asm__ volatile("sti" : : : "memory");
}

u32 cpu_id(void)
{
    return LAPIC(LAPIC_ID) >> 24;
}

void irq_clear_counts(void)
{
    for (u32 i = 0; i < STUBS; i++)
        counts[i] = 0;
}

u32 irq_count(u32 vector)
{
    return counts[MSIX_FIRST_VECTOR + vector];
}

u32 irq_msix_total(void)
{
    u32 total = 0;

    for (u32 i = 0; i < VECTORS; i++)
        total += irq_count(i);
    return total;
}

u32 irq_took(u32 vector)
{
    return took[MSIX_FIRST_VECTOR + vector];
}

u32 irq_line_count(u8 line)
{
    return counts[PIC_VECTOR + (line & 15)];
}

void irq_open_line(u8 line, const struct intx_handler *handler)
{
    u16 port = line < 8 ? ELCR : ELCR + 1;

    intx = *handler;
    out8(port, (u8)(in8(port) | 1u << (line & 7))); /* level-triggered */
    mask_line(line, false);
}

void irq_close_line(u8 line)
{
    mask_line(line, true);
}

/* Intel 82093AA: registers are reached through a select and a window. */
static u32 ioapic_read(u32 number)
{
    IOAPIC(IOAPIC_SELECT) = number;
    return IOAPIC(IOAPIC_WINDOW);
}

static void ioapic_write(u32 number, u32 value)
{
    IOAPIC(IOAPIC_SELECT) = number;
    IOAPIC(IOAPIC_WINDOW) = value;
}

u32 ioapic_pins(void)
{
    return (ioapic_read(IOAPIC_VERSION) >> 16 & 0xff) + 1;
}

static void ioapic_mask(u32 pin)
{
    ioapic_write(IOAPIC_ENTRIES + 2 * pin, IOAPIC_VECTOR | ENTRY_LEVEL | ENTRY_MASKED);
}

void ioapic_prepare(void)
{
    for (u32 pin = 0; pin < ioapic_pins(); pin++)
        ioapic_mask(pin);
}

void ioapic_open(u32 pin, const struct intx_handler *handler)
{
    intx = *handler;
    open_pin = pin;
    ioapic_write(IOAPIC_ENTRIES + 2 * pin + 1, cpu_id() << 24);
    ioapic_write(IOAPIC_ENTRIES + 2 * pin, IOAPIC_VECTOR | ENTRY_LEVEL);
}

void ioapic_close(void)
{
    if (open_pin)
        ioapic_mask(open_pin);
    open_pin = 0;
}

u32 ioapic_count(void)
{
    return counts[IOAPIC_VECTOR];
}

static void acknowledge(void)
{
    if (intx.ignore) {
        intx.ignore--;
    } else if (intx.acknowledge) {
        *intx.acknowledge = intx.bits;
        (void)*intx.acknowledge; /* the write has arrived before the EOI */
    }
}

static void line_interrupt(u8 line)
{
    acknowledge();
    if (counts[PIC_VECTOR + line] >= STORM)
        mask_line(line, true);
    if (line >= 8)
        out8(PIC2, PIC_EOI);
    out8(PIC1, PIC_EOI);
}

static bool spurious_line(u8 line)
{
    u16 port = line < 8 ? PIC1 : PIC2;

    if ((line & 7) != 7)
        return false;
    out8(port, 0x0b); /* in-service register */
    return !(in8(port) & 0x80);
}

void interrupt(struct frame *frame)
{
    if (frame->vector < PIC_VECTOR) {
        print("\nfault vector=%u error=%x eip=%x\n", frame->vector, frame->error,
              frame->eip);
        leave(EXIT_FAULT);
    }
    if (frame->vector < PIC_VECTOR + 16) {
        u8 line = (u8)(frame->vector - PIC_VECTOR);
        if (spurious_line(line))
            return;
        counts[frame->vector]++;
        line_interrupt(line);
        return;
    }
    /* Before the count: who waits for that asks at once. */
    took[frame->vector] = cpu_id();
    counts[frame->vector]++;
    if (frame->vector == IOAPIC_VECTOR) {
        acknowledge();
        if (counts[IOAPIC_VECTOR] >= STORM)
            ioapic_close();
    }
    if (frame->vector != SPURIOUS) /* which takes no EOI (SDM 3, 11.9) */
        LAPIC(LAPIC_EOI) = 0;
}
