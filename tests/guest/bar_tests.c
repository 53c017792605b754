/* What a driver, or an attacker, may do to the BAR; and config space byte by byte. */
#include "device.h"

enum { PLACE = 0xd0000000u, PAGE = 4096 }; /* nothing is there on any of the machines */
enum { LAPIC = 0xfee00000u, LAPIC_VERSION = 0x30 };
enum { CONFIG_ADDRESS = 0xcf8, CONFIG_DATA = 0xcfc };

static u8 ram[2 * PAGE] __attribute__((aligned(PAGE)));

static u32 at(u32 address)
{
    return *(volatile u32 *)address;
}

static void decode(bool on)
{
    pci_write16(device.slot, PCI_COMMAND, on ? COMMAND_MEMORY | COMMAND_MASTER : COMMAND_MASTER);
}

/* What is read where nobody answers differs; it is not the device. */
static bool absent(u32 address)
{
    u32 value = at(address);

    CHECK_TRUE(value == 0xffffffff || value == 0);
    *(volatile u32 *)(address + SCRATCH) = 0xbad;
    return true;
}

static bool present(u32 address)
{
    CHECK(pci_read32(device.slot, PCI_BAR0), address);
    CHECK(at(address), ID_VALUE);
    CHECK(at(address + SCRATCH), 0x600d600d);
    return true;
}

static bool closed_and_moved(u32 home)
{
    wr32(SCRATCH, 0x600d600d);
    TRY(absent(PLACE));
    decode(false);
    TRY(absent(home));
    decode(true);
    TRY(present(home));

    decode(false); /* as a driver does it */
    pci_write32(device.slot, PCI_BAR0, PLACE);
    TRY(absent(PLACE));
    decode(true);
    TRY(present(PLACE));
    TRY(absent(home));

    pci_write32(device.slot, PCI_BAR0, PLACE + PAGE); /* while it decodes */
    TRY(present(PLACE + PAGE));
    TRY(absent(PLACE));
    pci_write32(device.slot, PCI_BAR0, home);
    TRY(present(home));
    return absent(PLACE + PAGE);
}

/* Sizes are asked for with decoding on, too. */
static bool sized(u32 home)
{
    for (u32 i = 0; i < 5; i++) {
        pci_write32(device.slot, PCI_BAR0, 0xffffffff);
        CHECK(pci_read32(device.slot, PCI_BAR0), ~(DEVICE_BAR_SIZE - 1u));
        pci_write32(device.slot, PCI_BAR0, home);
        TRY(present(home));
    }
    pci_write32(device.slot, PCI_BAR0, home | 0xfff);
    TRY(present(home));
    for (u32 i = 0; i < 20; i++) {
        decode(false);
        decode(true);
        CHECK(rd32(ID), ID_VALUE);
    }
    return true;
}

/* Memory is what answers where there is memory, and nothing of it changes. */
static bool over_ram(u32 home)
{
    u32 page = ((u32)ram + PAGE - 1) & ~(PAGE - 1u);

    memset(ram, 0x5a, sizeof(ram));
    for (u32 i = 0; i < 2; i++) {
        decode(i == 1);
        pci_write32(device.slot, PCI_BAR0, page);
        decode(true);
        CHECK(at(page), 0x5a5a5a5a);
        *(volatile u32 *)(page + SCRATCH) = 0x12345678;
        CHECK(at(page + SCRATCH), 0x12345678);
        *(volatile u32 *)(page + SCRATCH) = 0x5a5a5a5a;
        pci_write32(device.slot, PCI_BAR0, home);
        TRY(present(home));
    }
    for (u32 i = 0; i < PAGE; i++)
        CHECK(ram[i], 0x5a);
    pci_write32(device.slot, PCI_BAR0, 0); /* where no BAR is */
    memset(ram, 0, PAGE);
    pci_write32(device.slot, PCI_BAR0, home);
    return present(home);
}

/* The local APIC is nobody else's. */
static bool over_apic(u32 home)
{
    u32 version = at(LAPIC + LAPIC_VERSION);

    pci_write32(device.slot, PCI_BAR0, LAPIC);
    CHECK(at(LAPIC + LAPIC_VERSION), version);
    pci_write32(device.slot, PCI_BAR0, home);
    return present(home);
}

/* A function of ours or of the machine's that has memory. */
static u32 another(u32 *bar)
{
    for (u32 slot = 0; slot < 256; slot++) {
        if (slot == device.slot || pci_read16(slot, PCI_ID) == 0xffff)
            continue;
        for (*bar = PCI_BAR0; *bar < PCI_BAR0 + 24; *bar += 4) {
            u32 value = pci_read32(slot, *bar);

            if (value & ~0xfu && !(value & 0xf))
                return slot;
        }
    }
    return NO_DEVICE;
}

/* Who answers is not said; afterwards both are what they were. */
static bool over_another(u32 home)
{
    u32 bar, slot = another(&bar), address, before;

    if (slot == NO_DEVICE)
        return true;
    address = pci_read32(slot, bar);
    pci_write16(slot, PCI_COMMAND, pci_read16(slot, PCI_COMMAND) | COMMAND_MEMORY);
    before = at(address);
    print("over=%x at=%x\n", slot, address);
    for (u32 i = 0; i < 3; i++) {
        u32 value;

        pci_write32(device.slot, PCI_BAR0, address);
        value = at(address);
        CHECK_TRUE(value == before || value == ID_VALUE || value == 0xffffffff);
        if (i == 1)
            decode(false);
        pci_write32(device.slot, PCI_BAR0, home);
        decode(true);
        TRY(present(home));
        CHECK(at(address), before);
    }
    return true;
}

/* Config space by bytes, words and longs is the same. */
static bool config_bytes(void)
{
    for (u32 offset = 0; offset < 256; offset += 4) {
        u32 whole = pci_read32(device.slot, offset);

        for (u16 i = 0; i < 4; i++)
            CHECK(in8(CONFIG_DATA + i), whole >> 8 * i & 0xff);
        CHECK(in16(CONFIG_DATA), whole & 0xffff);
        CHECK(in16(CONFIG_DATA + 2), whole >> 16);
    }
    for (u32 i = 0; i < 256; i += 51) {
        (void)pci_read32(device.slot, PCI_INTERRUPT_LINE);
        out8(CONFIG_DATA, (u8)i);
        out8(CONFIG_DATA + 1, 0x77); /* the pin, which is read-only */
        CHECK(pci_read16(device.slot, PCI_INTERRUPT_LINE), 0x100 | i);
    }
    (void)pci_read32(device.slot, PCI_INTERRUPT_LINE);
    out8(CONFIG_DATA, device.line);
    pci_write32(device.slot, PCI_ID, 0);
    CHECK(pci_read32(device.slot, PCI_ID), DEVICE_ID << 16 | DEVICE_VENDOR);
    CHECK(pci_read32(device.slot, PCI_CLASS), 0x12000001);
    out32(CONFIG_ADDRESS, 0); /* off: the port is no config space */
    return true;
}

bool test_bar_games(void)
{
    u32 home = device.bar;

    TRY(closed_and_moved(home));
    TRY(sized(home));
    TRY(over_ram(home));
    TRY(over_apic(home));
    TRY(over_another(home));
    TRY(config_bytes());
    device_enable();
    return device_works();
}
