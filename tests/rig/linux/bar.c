/*
 * Reads and writes the registers of a PCI function's memory BAR, each with a
 * single access of the width asked for.
 *
 *   bar 0000:00:02.0 0 r32 0x0 w32 0xc 0x1234
 *
 * Without accesses on the command line they are read from standard input.
 * Each access is printed as "r32 0x0 = 0x1" once it is done.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct bar {
    volatile uint8_t *base;
    uint64_t size;
};

/* Gives the next word of the accesses, or NULL. */
struct words {
    char **left; /* NULL: standard input */
    char word[64];
};

static void die(const char *format, ...)
{
    va_list arguments;

    fflush(stdout);
    fputs("bar: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static const char *next(struct words *words)
{
    if (words->left)
        return *words->left ? *words->left++ : NULL;
    return scanf("%63s", words->word) == 1 ? words->word : NULL;
}

static uint64_t number(struct words *words, const char *what)
{
    const char *word = next(words);
    char *end;
    uint64_t value;

    if (!word)
        die("%s is missing", what);
    errno = 0;
    value = strtoull(word, &end, 0);
    if (errno || end == word || *end)
        die("%s %s is not a number", what, word);
    return value;
}

static uint64_t load(volatile void *at, unsigned width)
{
    switch (width) {
    case 8:
        return *(volatile uint8_t *)at;
    case 16:
        return *(volatile uint16_t *)at;
    case 32:
        return *(volatile uint32_t *)at;
    default:
        return *(volatile uint64_t *)at;
    }
}

static void store(volatile void *at, unsigned width, uint64_t value)
{
    switch (width) {
    case 8:
        *(volatile uint8_t *)at = value;
        break;
    case 16:
        *(volatile uint16_t *)at = value;
        break;
    case 32:
        *(volatile uint32_t *)at = value;
        break;
    default:
        *(volatile uint64_t *)at = value;
    }
}

static void perform(const struct bar *bar, const char *access, struct words *words)
{
    char kind = access[0];
    unsigned width = atoi(access + 1);
    uint64_t offset, value;
    char name[8];

    if ((kind != 'r' && kind != 'w') ||
        (width != 8 && width != 16 && width != 32 && width != 64))
        die("%s is none of r8 r16 r32 r64 w8 w16 w32 w64", access);
    snprintf(name, sizeof name, "%c%u", kind, width);
    offset = number(words, "offset");
    if (offset > bar->size || bar->size - offset < width / 8)
        die("offset 0x%" PRIx64 " is beyond the BAR's 0x%" PRIx64, offset, bar->size);
    if (kind == 'w') {
        value = number(words, "value");
        store(bar->base + offset, width, value);
    } else {
        value = load(bar->base + offset, width);
    }
    printf("%s 0x%" PRIx64 " = 0x%" PRIx64 "\n", name, offset, value);
}

/* Switches the function on: nobody else has, there is no driver. */
static void enable(const char *function)
{
    char path[128];
    int fd;

    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/enable", function);
    fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, "1", 1) != 1)
        die("%s: %s", path, strerror(errno));
    close(fd);
}

static struct bar map(const char *function, const char *index)
{
    char path[128];
    struct stat stat;
    struct bar bar;
    int fd;

    snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/resource%s", function, index);
    fd = open(path, O_RDWR);
    if (fd < 0 || fstat(fd, &stat))
        die("%s: %s", path, strerror(errno));
    bar.size = stat.st_size;
    bar.base = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (bar.base == MAP_FAILED)
        die("%s: %s", path, strerror(errno));
    close(fd);
    return bar;
}

int main(int argc, char **argv)
{
    struct words words = {0};
    const char *access;
    struct bar bar;

    if (argc < 3)
        die("usage: bar FUNCTION BAR [ACCESS...]");
    enable(argv[1]);
    bar = map(argv[1], argv[2]);
    if (argc > 3)
        words.left = argv + 3;
    while ((access = next(&words)))
        perform(&bar, access, &words);
    return 0;
}
