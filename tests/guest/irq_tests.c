/* INTx, MSI and MSI-X: each interrupt arrives exactly once, masks hold it back. */
#include "device.h"

enum { DOORBELL_BIT = 1 << BIT_DOORBELL };
enum { XEN_PINS = 48 };

/* INTx's pin at the IOAPIC, or 0 while it goes through the 8259s. */
static u32 pin;

static void intx_disable(bool off)
{
    u16 command = COMMAND_MEMORY | COMMAND_MASTER;

    pci_write16(device.slot, PCI_COMMAND, off ? command | COMMAND_INTX_DISABLE : command);
}

static void open_line(u32 ignore)
{
    struct intx_handler handler = { reg(STATUS), DOORBELL_BIT, ignore };

    irq_close_line(device.line);
    ioapic_close();
    irq_clear_counts();
    if (pin)
        ioapic_open(pin, &handler);
    else
        irq_open_line(device.line, &handler);
}

static u32 line_count(void)
{
    return pin ? ioapic_count() : irq_line_count(device.line);
}

static bool line_counts(u32 count)
{
    CHECK(WAIT(line_count() >= count), 1);
    settle();
    CHECK(line_count(), count);
    return true;
}

static bool line_events(void)
{
    open_line(0);
    TRY(line_counts(0));
    wr32(DOORBELL, 1); /* not enabled: no interrupt */
    TRY(line_counts(0));
    CHECK(rd32(STATUS), DOORBELL_BIT);
    wr32(STATUS, DOORBELL_BIT);

    wr32(IRQ_ENABLE, DOORBELL_BIT);
    wr32(DOORBELL, 2);
    TRY(line_counts(1));
    CHECK(rd32(STATUS), 0);
    wr32(DOORBELL, 3);
    TRY(line_counts(2));

    open_line(2); /* a level: it comes back until somebody clears STATUS */
    wr32(DOORBELL, 4);
    TRY(line_counts(3));
    CHECK(rd32(STATUS), 0);

    open_line(0);
    intx_disable(true);
    wr32(DOORBELL, 5);
    TRY(line_counts(0));
    CHECK(rd32(STATUS), DOORBELL_BIT);
    CHECK_TRUE(pci_read16(device.slot, PCI_STATUS) & STATUS_INTERRUPT);
    intx_disable(false); /* the level is still there and may pass now */
    TRY(line_counts(1));
    CHECK(rd32(STATUS), 0);
    CHECK(pci_read16(device.slot, PCI_STATUS) & STATUS_INTERRUPT, 0);
    device_quiet();
    return true;
}

bool test_irq_intx(void)
{
    pin = 0;
    intx_disable(false);
    return line_events();
}

/* Whether the line, which is high, is at this pin. */
static bool is_at(u32 candidate)
{
    pin = candidate;
    open_line(0);
    return WAIT_MS(ioapic_count() != 0, 200);
}

/*
 * Where the line is depends on the machine: at the pin of its ISA interrupt,
 * at one of those for PCI, or where Xen has it (PCI_INTx to GSI in
 * xen/arch/x86/include/asm/hvm/irq.h).
 */
static bool find_pin(void)
{
    u32 pins = ioapic_pins(), number = device.slot >> 3;

    if (pins == XEN_PINS && is_at(16 + ((number * 4 + number / 8) & 31)))
        return true;
    if (device.line && is_at(device.line))
        return true;
    for (u32 candidate = 16; candidate < pins; candidate++)
        if (is_at(candidate))
            return true;
    return false;
}

bool test_irq_ioapic(void)
{
    bool ok;

    ioapic_prepare();
    intx_disable(false);
    wr32(IRQ_ENABLE, DOORBELL_BIT);
    wr32(DOORBELL, 1);
    CHECK(rd32(STATUS), DOORBELL_BIT);
    ok = find_pin();
    if (ok)
        print("ioapic-pin=%u\n", pin);
    wr32(IRQ_ENABLE, 0);
    ok = ok && rd32(STATUS) == 0 && line_events();
    pin = 0;
    CHECK_TRUE(ok);
    return true;
}

/* Only this vector has arrived, and only once. */
static bool arrives_once(u32 vector)
{
    CHECK(WAIT(irq_count(vector) != 0), 1);
    CHECK(irq_count(vector), 1);
    CHECK(irq_msix_total(), 1);
    return true;
}

/* Nothing arrives while it is held back; the PBA may say so or not. */
static bool held_back(u32 vector)
{
    u32 pending;

    (void)rd32(ID);
    settle();
    CHECK(irq_msix_total(), 0);
    pending = rd32(MSIX_PENDING);
    print("pba-while-masked=%x\n", pending);
    CHECK(pending & ~(1u << vector), 0);
    return true;
}

static bool released(u32 vector)
{
    TRY(arrives_once(vector));
    settle();
    TRY(arrives_once(vector));
    CHECK(rd32(MSIX_PENDING), 0);
    return true;
}

static bool every_vector(void)
{
    for (u32 vector = 0; vector < VECTORS; vector++) {
        irq_clear_counts();
        wr32(IRQ_RAISE, vector);
        TRY(arrives_once(vector));
    }
    settle();
    CHECK(irq_msix_total(), 1);
    return true;
}

static bool status_vector(void)
{
    irq_clear_counts();
    wr32(STATUS, STATUS_ALL);
    wr32(IRQ_ENABLE, DOORBELL_BIT);
    wr32(DOORBELL, 1);
    TRY(arrives_once(BIT_DOORBELL));
    wr32(STATUS, DOORBELL_BIT);
    wr32(IRQ_ENABLE, 0);
    return true;
}

static bool function_mask(u32 vector)
{
    irq_clear_counts();
    msix_set(MSIX_ENABLE | MSIX_FUNCTION_MASK);
    wr32(IRQ_RAISE, vector);
    TRY(held_back(vector));
    msix_set(MSIX_ENABLE);
    return released(vector);
}

static bool vector_mask(u32 vector)
{
    irq_clear_counts();
    msix_mask(vector, true);
    wr32(IRQ_RAISE, vector);
    TRY(held_back(vector));
    msix_mask(vector, false);
    return released(vector);
}

/* Masked since MSI-X was enabled: the client has never asked for it. */
static bool never_unmasked(u32 vector)
{
    msix_set(0);
    msix_program(true);
    msix_set(MSIX_ENABLE);
    irq_clear_counts();
    wr32(IRQ_RAISE, vector);
    TRY(held_back(vector));
    msix_mask(vector, false);
    return released(vector);
}

bool test_irq_msix(void)
{
    CHECK_TRUE(device.msix);
    msix_program(false);
    msix_set(MSIX_ENABLE);
    TRY(every_vector());
    TRY(status_vector());
    TRY(function_mask(3));
    TRY(vector_mask(7));
    TRY(every_vector());
    TRY(never_unmasked(9));
    device_quiet();
    return true;
}

/* One ring of the teaching device: how often does it interrupt, as `expected`? */
static bool rings_raise(u32 vector, u32 rings, u32 every)
{
    u32 expected = 0;

    wr32(BELL_EVERY, every);
    irq_clear_counts();
    for (u32 i = 0; i < rings; i++) {
        u32 count = rd32(BELL_COUNT) + 1;

        wr32(BELL_RING, i);
        CHECK(WAIT(rd32(BELL_COUNT) == count), 1);
        expected += every && count % every == 0;
        CHECK(WAIT(irq_count(vector) >= expected), 1);
    }
    settle();
    CHECK(irq_count(vector), expected);
    CHECK(irq_msix_total(), expected);
    return true;
}

bool test_irq_msi(void)
{
    u32 at = pci_capability(device.slot, CAPABILITY_MSI), wide, data;
    u16 control;

    CHECK(device.id, BELL_DEVICE_ID);
    CHECK_TRUE(at);
    control = pci_read16(device.slot, at + MSI_CONTROL);
    CHECK(control & (MSI_ENABLE | MSI_CAPABLE), 0); /* one vector */
    wide = control & MSI_WIDE ? 4 : 0;
    data = at + 8 + wide;
    pci_write32(device.slot, at + 4, MESSAGE_ADDRESS | cpu_id() << 12);
    if (wide)
        pci_write32(device.slot, at + 8, 0);
    pci_write16(device.slot, data, MSIX_FIRST_VECTOR + 1);
    CHECK(pci_read16(device.slot, data), MSIX_FIRST_VECTOR + 1);

    pci_write16(device.slot, at + MSI_CONTROL, control | MSI_ENABLE);
    TRY(rings_raise(1, 10, 1));
    TRY(rings_raise(1, 10, 3));
    TRY(rings_raise(1, 3, 0));
    pci_write16(device.slot, data, MSIX_FIRST_VECTOR + 2);
    TRY(rings_raise(2, 4, 1)); /* the next message has the new vector */

    pci_write16(device.slot, at + MSI_CONTROL, control);
    wr32(BELL_RING, 0); /* goes nowhere, and is not sent later */
    TRY(rings_raise(2, 3, 0));
    pci_write16(device.slot, at + MSI_CONTROL, control | MSI_ENABLE);
    settle();
    CHECK(irq_msix_total(), 0);
    TRY(rings_raise(2, 4, 2));
    pci_write16(device.slot, at + MSI_CONTROL, control);
    return true;
}
