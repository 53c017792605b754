/* INTx and MSI-X: each interrupt arrives exactly once, masks hold it back. */
#include "device.h"

enum { DOORBELL_BIT = 1 << BIT_DOORBELL };

static void intx_disable(bool off)
{
    u16 command = COMMAND_MEMORY | COMMAND_MASTER;

    pci_write16(device.slot, PCI_COMMAND, off ? command | COMMAND_INTX_DISABLE : command);
}

static void open_line(u32 ignore)
{
    struct intx_handler handler = { reg(STATUS), DOORBELL_BIT, ignore };

    irq_close_line(device.line);
    irq_clear_counts();
    irq_open_line(device.line, &handler);
}

static bool line_counts(u32 count)
{
    CHECK(WAIT(irq_line_count(device.line) >= count), 1);
    settle();
    CHECK(irq_line_count(device.line), count);
    return true;
}

bool test_irq_intx(void)
{
    intx_disable(false);
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
