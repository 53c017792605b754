/* Identity, registers, ordering of posted writes, random accesses. */
#include "device.h"

bool test_identity(void)
{
    u32 pcie = pci_capability(device.slot, CAPABILITY_PCIE);

    CHECK(pci_read32(device.slot, PCI_ID), DEVICE_ID << 16 | DEVICE_VENDOR);
    CHECK(pci_read32(device.slot, PCI_CLASS), 0x12000001);
    CHECK(pci_read32(device.slot, PCI_SUBSYSTEM), 0x11001af4);
    CHECK(pci_read8(device.slot, PCI_INTERRUPT_PIN), 1);
    CHECK(pci_read32(device.slot, PCI_BAR0) & 0xf, 0);
    CHECK(pci_bar_size(device.slot, 0), DEVICE_BAR_SIZE);
    for (u32 bar = 1; bar < 6; bar++)
        CHECK(pci_bar_size(device.slot, bar), 0);
    CHECK_TRUE(pci_capability(device.slot, CAPABILITY_PM));
    CHECK_TRUE(pcie);
    CHECK(pci_read16(device.slot, pcie + 2) & 0xf, 2); /* version of the structure */
    CHECK_TRUE(device.msix);
    CHECK((pci_read16(device.slot, device.msix + MSIX_CONTROL) & 0x7ff) + 1, VECTORS);
    CHECK(pci_read32(device.slot, device.msix + MSIX_TABLE), MSIX_VECTORS);
    CHECK(pci_read32(device.slot, device.msix + MSIX_PBA), MSIX_PENDING);
    return true;
}

static bool holds(u32 offset, u32 value)
{
    wr32(offset, value);
    CHECK(rd32(offset), value);
    return true;
}

static bool patterns(u32 offset)
{
    static const u32 values[] = { 0, 0xffffffff, 0x55555555, 0xaaaaaaaa, 0x01234567 };

    for (u32 i = 0; i < COUNT(values); i++)
        TRY(holds(offset, values[i]));
    for (u32 bit = 0; bit < 32; bit++)
        TRY(holds(offset, 1u << bit));
    return true;
}

static bool narrow_accesses(u32 offset)
{
    wr32(offset, 0x44332211);
    for (u32 i = 0; i < 4; i++)
        CHECK(rd8(offset + i), 0x11 * (i + 1));
    CHECK(rd16(offset), 0x2211);
    CHECK(rd16(offset + 2), 0x4433);
    wr8(offset + 1, 0xee);
    CHECK(rd32(offset), 0x4433ee11);
    wr16(offset + 2, 0xabcd);
    CHECK(rd32(offset), 0xabcdee11);
    wr8(offset + 3, 0x01);
    wr8(offset, 0x02);
    CHECK(rd32(offset), 0x01cdee02);
    return true;
}

static bool halves(u32 offset)
{
    wr64(offset, 0x8877665544332211ull);
    CHECK(rd32(offset), 0x44332211);
    CHECK(rd32(offset + 4), 0x88776655);
    wr32(offset + 4, 0xdeadbeef);
    CHECK(rd32(offset), 0x44332211);
    wr32(offset, 0);
    CHECK(rd32(offset + 4), 0xdeadbeef);
    TRY(narrow_accesses(offset));
    TRY(narrow_accesses(offset + 4));
    return true;
}

static bool read_only(void)
{
    static const u16 offsets[] = { ID,         VERSION,       FEATURES,  DOORBELL_COUNT,
                                   DMA_PENDING, DMA_COMPLETED, RING_HEAD, ERRORS };

    for (u32 i = 0; i < COUNT(offsets); i++) {
        u32 before = rd32(offsets[i]);

        wr32(offsets[i], ~before);
        wr8(offsets[i], (u8)~before);
        CHECK(rd32(offsets[i]), before);
    }
    return true;
}

static bool write_one_to_clear(void)
{
    wr32(DOORBELL, 1);
    wr32(IRQ_RAISE, 0);
    CHECK(rd32(STATUS), 1 << BIT_DOORBELL | 1 << BIT_TEST);
    wr32(STATUS, 0);
    CHECK(rd32(STATUS), 1 << BIT_DOORBELL | 1 << BIT_TEST);
    wr32(STATUS, 1 << BIT_DOORBELL);
    CHECK(rd32(STATUS), 1 << BIT_TEST);
    wr32(STATUS, 0xffffffff);
    CHECK(rd32(STATUS), 0);
    wr32(IRQ_RAISE, VECTORS); /* beyond the vectors: dropped */
    CHECK(rd32(STATUS), 0);
    return true;
}

static bool reserved(void)
{
    static const u16 offsets[] = { 0x07c, 0x0b8, 0x0fc, 0x100, 0x7fc, 0x900, 0xbfc, 0xc08, 0xffc };

    for (u32 i = 0; i < COUNT(offsets); i++) {
        wr32(offsets[i], 0x12345678);
        CHECK(rd32(offsets[i]), 0xffffffff);
        CHECK(rd16(offsets[i] + 2), 0xffff);
        CHECK(rd8(offsets[i] + 1), 0xff);
    }
    return true;
}

static bool counters_and_time(void)
{
    u32 reads = rd32(READS), writes = rd32(WRITES), time = rd32(TIMESTAMP), echo;

    for (u32 i = 0; i < 10; i++) {
        wr32(ECHO, i);
        CHECK(rd32(ECHO), i);
    }
    CHECK_TRUE(rd32(READS) - reads >= 10);
    CHECK(rd32(WRITES) - writes, 10);
    echo = rd32(ECHO_TIME);
    CHECK_TRUE(echo - time < 0x80000000u); /* not before */
    CHECK_TRUE(rd32(TIMESTAMP) - echo < 0x80000000u);
    return true;
}

bool test_registers(void)
{
    CHECK(rd32(ID), ID_VALUE);
    CHECK(rd32(VERSION), VERSION_VALUE);
    CHECK(rd32(FEATURES), VECTORS << 16 | 7);
    TRY(patterns(SCRATCH));
    TRY(narrow_accesses(SCRATCH));
    TRY(patterns(SCRATCH64));
    TRY(patterns(SCRATCH64 + 4));
    TRY(halves(SCRATCH64));
    TRY(halves(ECHO));
    TRY(holds(IRQ_ENABLE, 0)); /* W1C below must raise nothing */
    TRY(write_one_to_clear());
    TRY(read_only());
    TRY(reserved());
    TRY(counters_and_time());
    CHECK(rd32(ID), ID_VALUE);
    return true;
}

bool test_posted_writes(void)
{
    u32 before = rd32(DOORBELL_COUNT), count = options.count ? options.count : 10000;

    for (u32 i = 1; i <= count; i++)
        wr32(DOORBELL, i * 2654435761u);
    print("posted=%u\n", count);
    CHECK(rd32(DOORBELL_COUNT) - before, count);
    CHECK(rd32(DOORBELL_VALUE), count * 2654435761u);
    return true;
}

/* The teaching device 1af4:1112. */
bool test_bell(void)
{
    u32 before = rd32(BELL_COUNT), count = options.count ? options.count : 100;

    CHECK(rd32(0), BELL_ID);
    for (u32 i = 0; i < count; i++)
        wr32(BELL_RING, i);
    CHECK_TRUE(WAIT(rd32(BELL_COUNT) - before == count));
    wr32(BELL_SUBMIT, 0x12345678);
    CHECK_TRUE(WAIT(rd32(BELL_COUNT) - before == count + 1));
    CHECK(rd32(BELL_SUBMITTED), 0x12345678);
    wr32(BELL_EVERY, 3);
    CHECK(rd32(BELL_EVERY), 3);
    return true;
}

/* The five words below are SCRATCH, SCRATCH64 and ECHO. */
static bool random_plain(u8 *model, u32 *state)
{
    static const u16 offsets[] = { SCRATCH, SCRATCH64, SCRATCH64 + 4, ECHO, ECHO + 4 };
    u32 pick = next_random(state), value = next_random(state);
    u32 word = (pick & 0xff) * COUNT(offsets) >> 8;
    u32 size = 1u << ((pick >> 8 & 0xff) * 3 >> 8);
    u32 within = pick >> 16 & 3 & ~(size - 1);
    u32 at = offsets[word] + within, expected = 0;
    u8 *bytes = model + 4 * word + within;

    if (pick >> 31) {
        memcpy(bytes, &value, size);
        if (size == 1)
            wr8(at, (u8)value);
        else if (size == 2)
            wr16(at, (u16)value);
        else
            wr32(at, value);
    } else {
        memcpy(&expected, bytes, size);
        CHECK(size == 1 ? rd8(at) : size == 2 ? rd16(at) : rd32(at), expected);
    }
    return true;
}

bool test_random(void)
{
    u32 state = options.seed ? options.seed : 1;
    u32 count = options.count ? options.count : 5000;
    u32 status = 0, rings = rd32(DOORBELL_COUNT), value;
    u8 model[20] = { 0 };

    print("seed=%x count=%u\n", state, count);
    wr32(SCRATCH, 0);
    wr64(SCRATCH64, 0);
    wr64(ECHO, 0);
    for (u32 i = 0; i < count; i++) {
        switch (next_random(&state) >> 29) {
        case 0:
            value = next_random(&state);
            wr32(DOORBELL, value);
            status |= 1 << BIT_DOORBELL;
            CHECK(rd32(DOORBELL_VALUE), value);
            CHECK(rd32(DOORBELL_COUNT), ++rings);
            break;
        case 1:
            value = next_random(&state);
            wr32(STATUS, value);
            status &= ~value;
            break;
        case 2:
            CHECK(rd32(STATUS), status);
            break;
        default:
            TRY(random_plain(model, &state));
        }
    }
    return true;
}

bool device_works(void)
{
    u32 rings = rd32(DOORBELL_COUNT);

    CHECK(rd32(ID), ID_VALUE);
    TRY(holds(SCRATCH, 0xc0ffee00));
    wr32(DOORBELL, 7);
    CHECK(rd32(DOORBELL_COUNT), rings + 1);
    CHECK(rd32(STATUS) >> BIT_DOORBELL & 1, 1);
    wr32(STATUS, STATUS_ALL);
    CHECK(rd32(STATUS), 0);
    return true;
}
