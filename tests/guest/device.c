/* The device under test: where it is, and its interrupts' plumbing. */
#include "device.h"

struct device device;

bool device_find(void)
{
    device.id = options.device;
    device.bar = 0;
    device.slot = options.slot << 3;
    if (!options.slot)
        device.slot = pci_find(DEVICE_VENDOR, (u16)device.id);
    else if (pci_read32(device.slot, PCI_ID) != (device.id << 16 | DEVICE_VENDOR))
        device.slot = NO_DEVICE;
    if (device.slot == NO_DEVICE)
        return false;
    device.bar = pci_read32(device.slot, PCI_BAR0) & ~0xfu;
    device.line = pci_read8(device.slot, PCI_INTERRUPT_LINE) & 15;
    device.msix = pci_capability(device.slot, CAPABILITY_MSIX);
    return device.bar != 0;
}

void device_enable(void)
{
    pci_write16(device.slot, PCI_COMMAND,
                COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE);
}

void device_quiet(void)
{
    device_enable();
    irq_close_line(device.line);
    ioapic_close();
    if (device.id != DEVICE_ID)
        return;
    if (device.msix)
        msix_set(0);
    wr32(IRQ_ENABLE, 0);
    wr32(STATUS, STATUS_ALL);
    (void)rd32(STATUS);
    irq_clear_counts();
}

void msix_program(bool masked)
{
    for (u32 i = 0; i < VECTORS; i++) {
        u32 entry = MSIX_VECTORS + 16 * i;

        wr32(entry + 12, 1);
        wr32(entry + 0, 0xfee00000u);
        wr32(entry + 4, 0);
        wr32(entry + 8, MSIX_FIRST_VECTOR + i);
        wr32(entry + 12, masked);
    }
}

void msix_set(u16 bits)
{
    u32 offset = device.msix + MSIX_CONTROL;
    u16 others = pci_read16(device.slot, offset) & ~(MSIX_ENABLE | MSIX_FUNCTION_MASK);

    pci_write16(device.slot, offset, others | bits);
}

void msix_mask(u32 vector, bool masked)
{
    wr32(MSIX_VECTORS + 16 * vector + 12, masked);
}
