/* Resets of the machine and of the function, and hot unplug. */
#include "device.h"

enum { PCIE_DEVICE_CAPABILITIES = 4, PCIE_DEVICE_CONTROL = 8 };
enum { CAN_FLR = 1 << 28, INITIATE_FLR = 1 << 15 };

/* ACPI PCI hotplug of the `pc` machine (QEMU, docs/specs/acpi_pci_hotplug). */
enum { HOTPLUG_DOWN = 0xae04, HOTPLUG_EJECT = 0xae08, HOTPLUG_BUS = 0xae10 };
enum { HOTPLUG_BUSES = 4 };

static void make_dirty(void)
{
    wr32(SCRATCH, 0xdeadbeef);
    wr64(SCRATCH64, 0x0123456789abcdefull);
    wr64(ECHO, ~0ull);
    wr64(DMA_SOURCE, 0x1234);
    wr32(IRQ_ENABLE, 1 << BIT_DMA_ERROR);
    wr32(DOORBELL, 99);
}

static bool is_clean(void)
{
    static const u16 zero[] = { SCRATCH,    SCRATCH64,      SCRATCH64 + 4,  ECHO,
                                ECHO + 4,   STATUS,         IRQ_ENABLE,     DOORBELL_COUNT,
                                DMA_SOURCE, DOORBELL_VALUE, DMA_PENDING,    RING_HEAD,
                                RING_TAIL,  ERRORS };

    for (u32 i = 0; i < COUNT(zero); i++)
        CHECK(rd32(zero[i]), 0);
    return true;
}

bool test_dirty(void)
{
    make_dirty();
    CHECK(rd32(SCRATCH), 0xdeadbeef);
    return true;
}

bool test_leave_mark(void)
{
    TRY(test_dirty());
    save_progress(false);
    print("test leave-mark: ok\n");
    machine_reset();
    CHECK_TRUE(!"reset");
    return true;
}

bool test_reset(void)
{
    if (!resumed()) {
        TRY(test_dirty());
        save_progress(true);
        print("resetting=1\n");
        machine_reset();
        CHECK_TRUE(!"reset");
    }
    TRY(is_clean());
    return device_works();
}

bool test_wait_reset(void)
{
    if (!resumed()) {
        TRY(test_dirty());
        save_progress(true);
        print("waiting=reset\n");
        CHECK(WAIT_MS(false, 30000), 1);
    }
    TRY(is_clean());
    return device_works();
}

bool test_flr(void)
{
    u32 pcie = pci_capability(device.slot, CAPABILITY_PCIE);
    u32 bar = pci_read32(device.slot, PCI_BAR0);
    u16 control;

    CHECK_TRUE(pcie);
    CHECK_TRUE(pci_read32(device.slot, pcie + PCIE_DEVICE_CAPABILITIES) & CAN_FLR);
    TRY(test_dirty());
    control = pci_read16(device.slot, pcie + PCIE_DEVICE_CONTROL);
    pci_write16(device.slot, pcie + PCIE_DEVICE_CONTROL, control | INITIATE_FLR);
    CHECK(WAIT(pci_read32(device.slot, PCI_ID) == (DEVICE_ID << 16 | DEVICE_VENDOR)), 1);
    CHECK(pci_read16(device.slot, pcie + PCIE_DEVICE_CONTROL) & INITIATE_FLR, 0);
    pci_write32(device.slot, PCI_BAR0, bar);
    device_enable();
    TRY(is_clean());
    return device_works();
}

/* What an ACPI method would do: eject the slot that QEMU asks to have back. */
static void eject_if_asked(void)
{
    u32 bit = 1u << (device.slot >> 3);

    for (u32 bus = 0; bus < HOTPLUG_BUSES; bus++) {
        out32(HOTPLUG_BUS, bus);
        if (in32(HOTPLUG_DOWN) & bit)
            out32(HOTPLUG_EJECT, bit);
    }
}

static bool is_gone(void)
{
    eject_if_asked();
    return pci_read32(device.slot, PCI_ID) == 0xffffffff;
}

bool test_wait_unplug(void)
{
    print("waiting=unplug\n");
    CHECK(WAIT_MS(is_gone(), 30000), 1);
    print("gone=1\n");
    /* QEMU lets go of the device, and says so, a little later. */
    WAIT_MS(false, options.linger);
    device.bar = 0; /* the tests that follow have no device */
    return true;
}

/* The device's process dies: reads give all-ones, and nothing hangs. */
bool test_wait_loss(void)
{
    u32 reads = 0;

    CHECK(rd32(ID), ID_VALUE);
    print("waiting=loss\n");
    CHECK(WAIT_MS((reads++, rd32(ID) == 0xffffffff), 30000), 1);
    print("lost-after=%u\n", reads);
    for (u32 i = 0; i < 100; i++) {
        wr32(SCRATCH, i);
        CHECK(rd32(SCRATCH), 0xffffffff);
    }
    device.bar = 0; /* the tests that follow have no device */
    return true;
}
