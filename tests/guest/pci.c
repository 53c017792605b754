/* Configuration space of bus 0 through mechanism #1 (PCI 3.0, 3.2.2.3.2). */
#include "guest.h"

enum { ADDRESS = 0xcf8, DATA = 0xcfc };

u32 pci_read32(u32 slot, u32 offset)
{
    out32(ADDRESS, 0x80000000u | slot << 8 | (offset & 0xfc));
    return in32(DATA);
}

u16 pci_read16(u32 slot, u32 offset)
{
    return (u16)(pci_read32(slot, offset) >> (offset & 2) * 8);
}

u8 pci_read8(u32 slot, u32 offset)
{
    return (u8)(pci_read32(slot, offset) >> (offset & 3) * 8);
}

void pci_write32(u32 slot, u32 offset, u32 value)
{
    out32(ADDRESS, 0x80000000u | slot << 8 | (offset & 0xfc));
    out32(DATA, value);
}

/* Only two bytes go out: the other half may hold write-1-to-clear bits. */
void pci_write16(u32 slot, u32 offset, u16 value)
{
    out32(ADDRESS, 0x80000000u | slot << 8 | (offset & 0xfc));
    __asm__ volatile("outw %0, %1"
                     :
                     : "a"(value), "d"((u16)(DATA + (offset & 2)))
                     : "memory");
}

u32 pci_find(u16 vendor, u16 device)
{
    u32 wanted = (u32)device << 16 | vendor;

    for (u32 slot = 0; slot < 256; slot++)
        if (pci_read32(slot, PCI_ID) == wanted)
            return slot;
    return NO_DEVICE;
}

u32 pci_capability(u32 slot, u8 id)
{
    u32 at;

    if (!(pci_read16(slot, PCI_STATUS) & STATUS_CAPABILITIES))
        return 0;
    at = pci_read8(slot, PCI_CAPABILITIES) & 0xfc;
    for (u32 steps = 0; at >= 0x40 && steps < 48; steps++) {
        if (pci_read8(slot, at) == id)
            return at;
        at = pci_read8(slot, at + 1) & 0xfc;
    }
    return 0;
}

/* PCI 3.0, 6.2.5.1: write all-ones with decoding off, read back the mask. */
u32 pci_bar_size(u32 slot, u32 bar)
{
    u32 offset = PCI_BAR0 + 4 * bar;
    u16 command = pci_read16(slot, PCI_COMMAND);
    u32 address = pci_read32(slot, offset);
    u32 mask;

    pci_write16(slot, PCI_COMMAND, command & ~COMMAND_MEMORY);
    pci_write32(slot, offset, 0xffffffffu);
    mask = pci_read32(slot, offset);
    pci_write32(slot, offset, address);
    pci_write16(slot, PCI_COMMAND, command);
    return mask ? ~(mask & ~0xfu) + 1 : 0;
}
