/* Runs the tests that the multiboot command line names, in its order. */
#include "device.h"

enum { MULTIBOOT_LOADED = 0x2badb002 };
enum { MULTIBOOT_HAS_MEMORY = 1 << 0, MULTIBOOT_HAS_COMMAND_LINE = 1 << 2 };

struct multiboot {
    u32 flags, memory_lower, memory_upper, boot_device, command_line;
};

static const struct test {
    const char *name;
    bool (*run)(void);
} tests[] = {
    { "identity", test_identity },
    { "registers", test_registers },
    { "posted-writes", test_posted_writes },
    { "random", test_random },
    { "irq-intx", test_irq_intx },
    { "irq-ioapic", test_irq_ioapic },
    { "irq-msi", test_irq_msi },
    { "irq-msix", test_irq_msix },
    { "wide", test_wide },
    { "rep", test_rep },
    { "bar-games", test_bar_games },
    { "dma-nonram", test_dma_nonram },
    { "pair", test_pair },
    { "smp", test_smp },
    { "bar-race", test_bar_race },
    { "load", test_load },
    { "dma-copy", test_dma_copy },
    { "dma-fill", test_dma_fill },
    { "dma-fence", test_dma_fence },
    { "dma-bad-address", test_dma_bad_address },
    { "ring", test_ring },
    { "ring-error", test_ring_error },
    { "dirty", test_dirty },
    { "leave-mark", test_leave_mark },
    { "reset", test_reset },
    { "wait-reset", test_wait_reset },
    { "flr", test_flr },
    { "wait-unplug", test_wait_unplug },
    { "wait-loss", test_wait_loss },
    { "bell", test_bell },
    { "latency", test_latency },
};

/* CMOS bytes that neither SeaBIOS nor QEMU uses. */
enum { CMOS_MARK = 0x50, CMOS_NEXT, CMOS_PASSED, CMOS_FAILED, CMOS_CHECK };
enum { MARK = 0xa6 };

struct options options = { .seed = 0x1af41111, .linger = 500, .device = DEVICE_ID };
static const char *current = "none";
static u8 position, passed, failed;
static bool after_reset;

void guest_main(u32 magic, const struct multiboot *info);

bool check(const char *file, u32 line, u32 got, u32 expected)
{
    if (got == expected)
        return true;
    print("test %s: FAIL line %u: expected %x got %x (%s)\n", current, line, expected,
          got, file);
    return false;
}

void save_progress(bool same_test)
{
    u8 next = same_test ? position : position + 1;
    u8 done = same_test ? passed : passed + 1;

    cmos_write(CMOS_NEXT, next);
    cmos_write(CMOS_PASSED, done);
    cmos_write(CMOS_FAILED, failed);
    cmos_write(CMOS_CHECK, next ^ done ^ failed);
    cmos_write(CMOS_MARK, MARK);
}

static void load_progress(void)
{
    u8 next = cmos_read(CMOS_NEXT);

    if (cmos_read(CMOS_MARK) != MARK)
        return;
    cmos_write(CMOS_MARK, 0);
    passed = cmos_read(CMOS_PASSED);
    failed = cmos_read(CMOS_FAILED);
    if (cmos_read(CMOS_CHECK) == (u8)(next ^ passed ^ failed)) {
        position = next;
        after_reset = true;
    } else {
        passed = failed = 0;
    }
}

bool resumed(void)
{
    bool was = after_reset;

    after_reset = false;
    return was;
}

static u32 number(const char *text)
{
    u32 value = 0, base = 10;

    if (text[0] == '0' && text[1] == 'x') {
        base = 16;
        text += 2;
    }
    for (; *text; text++) {
        u32 digit = *text <= '9' ? (u32)(*text - '0') : (u32)((*text | 0x20) - 'a' + 10);
        value = value * base + digit;
    }
    return value;
}

static bool option(const char *word)
{
    static const struct {
        const char *name;
        u32 *value;
    } all[] = { { "seed=", &options.seed },
              { "count=", &options.count },
              { "device=", &options.device },
              { "slot=", &options.slot },
              { "cpus=", &options.cpus },
              { "linger=", &options.linger },
              { "patience=", &patience } };

    for (u32 i = 0; i < COUNT(all); i++) {
        const char *name = all[i].name, *at = word;
        while (*name && *name == *at)
            name++, at++;
        if (!*name) {
            *all[i].value = number(at);
            return true;
        }
    }
    return false;
}

static void run(const char *name)
{
    const struct test *test = 0;
    bool ok;

    for (u32 i = 0; i < COUNT(tests); i++)
        if (same(tests[i].name, name))
            test = &tests[i];
    current = name;
    if (device.id != options.device || (options.slot && device.slot >> 3 != options.slot)) {
        device_find();
        device_enable();
    }
    if (!test) {
        print("test %s: FAIL line %u: expected a known test\n", name, __LINE__);
        ok = false;
    } else if (device.bar == 0) {
        print("test %s: FAIL line %u: expected a device with BAR 0\n", name, __LINE__);
        ok = false;
    } else {
        if (!after_reset)
            device_quiet();
        ok = test->run();
        after_reset = false;
        if (ok)
            print("test %s: ok\n", name);
    }
    if (ok)
        passed++;
    else
        failed++;
}

/* Words of the command line after the first, which names the image. */
static void run_all(char *line)
{
    u8 index = 0, start = position;
    bool image = true;

    while (*line) {
        char *word = line;

        while (*line && *line != ' ')
            line++;
        if (*line)
            *line++ = 0;
        if (image) {
            image = false;
        } else if (*word && !option(word)) {
            if (index >= start) {
                position = index;
                run(word);
            }
            index++;
        }
    }
}

void guest_main(u32 magic, const struct multiboot *info)
{
    serial_init();
    time_init();
    load_progress();
    irq_init();
    print("guest=vgpu-stub boot=%u tsc-khz=%u\n", after_reset ? 2 : 1, time_khz());
    if (magic != MULTIBOOT_LOADED || !(info->flags & MULTIBOOT_HAS_COMMAND_LINE)) {
        print("error=no-command-line\n");
        leave(EXIT_FAILED);
    }
    if (info->flags & MULTIBOOT_HAS_MEMORY)
        options.ram_end = (1024 + info->memory_upper) << 10;
    if (device_find())
        print("device=%x bar0=%x line=%u msix=%x\n", device.slot, device.bar, device.line,
              device.msix);
    else
        print("device=none\n");
    device_enable();
    run_all((char *)info->command_line);
    print("done passed=%u failed=%u\n", passed, failed);
    leave(failed ? EXIT_FAILED : EXIT_PASSED);
}
