/* Two functions of ours in one machine, whichever faces they have. */
#include "device.h"

enum { ROUNDS = 50, OTHERS_VECTOR = 15 };

static struct device first, second;

static bool find_second(void)
{
    for (u32 slot = 0; slot < 256; slot++) {
        u32 id = pci_read32(slot, PCI_ID);

        if (slot == first.slot || (id & 0xffff) != DEVICE_VENDOR)
            continue;
        if (id >> 16 != DEVICE_ID && id >> 16 != BELL_DEVICE_ID)
            continue;
        second.slot = slot;
        second.id = id >> 16;
        second.bar = pci_read32(slot, PCI_BAR0) & ~0xfu;
        second.msix = pci_capability(slot, CAPABILITY_MSIX);
        return second.bar != 0;
    }
    return false;
}

/* The second one's interrupt is OTHERS_VECTOR. */
static void open_second(void)
{
    u32 message = MSIX_FIRST_VECTOR + OTHERS_VECTOR;

    device = second;
    device_enable();
    if (device.id == DEVICE_ID) {
        device_quiet();
        msix_program(false);
        wr32(MSIX_VECTORS + 8, message);
        msix_set(MSIX_ENABLE);
    } else {
        u32 at = pci_capability(device.slot, CAPABILITY_MSI);
        u16 control = pci_read16(device.slot, at + MSI_CONTROL);

        pci_write32(device.slot, at + 4, MESSAGE_ADDRESS | cpu_id() << 12);
        pci_write32(device.slot, at + 8, 0);
        pci_write16(device.slot, at + (control & MSI_WIDE ? 12 : 8), (u16)message);
        pci_write16(device.slot, at + MSI_CONTROL, control | MSI_ENABLE);
        wr32(BELL_EVERY, 1);
    }
    device = first;
}

/* One event of the second; the value is the first's as well. */
static bool second_event(u32 value)
{
    bool ok = false;

    device = second;
    if (device.id == DEVICE_ID) {
        wr32(SCRATCH, ~value);
        wr32(IRQ_RAISE, 0);
        ok = rd32(SCRATCH) == ~value && rd32(ID) == ID_VALUE;
    } else {
        u32 count = rd32(BELL_COUNT);

        wr32(BELL_SUBMIT, ~value);
        ok = rd32(0) == BELL_ID && WAIT(rd32(BELL_COUNT) == count + 1) &&
             rd32(BELL_SUBMITTED) == ~value;
    }
    device = first;
    CHECK_TRUE(ok);
    return true;
}

static void close_second(void)
{
    device = second;
    if (device.id == DEVICE_ID) {
        device_quiet();
    } else {
        u32 at = pci_capability(device.slot, CAPABILITY_MSI);

        pci_write16(device.slot, at + MSI_CONTROL,
                    pci_read16(device.slot, at + MSI_CONTROL) & ~MSI_ENABLE);
    }
    device = first;
}

/* Each has its own registers and interrupts, whatever the other does meanwhile. */
bool test_pair(void)
{
    u32 state = options.seed | 1;

    first = device;
    CHECK(first.id, DEVICE_ID);
    CHECK_TRUE(find_second());
    print("second=%x id=%x\n", second.slot, second.id);
    open_second();
    msix_program(false);
    msix_set(MSIX_ENABLE);
    irq_clear_counts();
    for (u32 i = 1; i <= ROUNDS; i++) {
        u32 value = next_random(&state), vector = i % OTHERS_VECTOR;

        wr32(SCRATCH, value);
        wr64(ECHO, value);
        TRY(second_event(value));
        wr32(IRQ_RAISE, vector);
        CHECK(rd32(SCRATCH), value);
        CHECK(rd32(ECHO), value);
        CHECK(WAIT(irq_count(OTHERS_VECTOR) == i), 1);
        CHECK(WAIT(irq_count(vector) == (i + OTHERS_VECTOR - 1) / OTHERS_VECTOR), 1);
    }
    settle();
    CHECK(irq_msix_total(), 2 * ROUNDS);
    close_second();
    CHECK(rd32(SCRATCH), state);
    device_quiet();
    return true;
}
