/* Output on COM1, polled, and the way out of QEMU. */
#include "guest.h"

enum { COM1 = 0x3f8, LINE_STATUS = COM1 + 5, EMPTY = 0x20, DEBUG_EXIT = 0xf4 };

void serial_init(void)
{
    out8(COM1 + 1, 0x00); /* no interrupts */
    out8(COM1 + 3, 0x80);
    out8(COM1 + 0, 0x01); /* 115200 */
    out8(COM1 + 1, 0x00);
    out8(COM1 + 3, 0x03); /* 8n1 */
    out8(COM1 + 2, 0x07); /* FIFO */
}

static void put(char c)
{
    for (u32 tries = 0; tries < 100000 && !(in8(LINE_STATUS) & EMPTY); tries++)
        pause();
    out8(COM1, (u8)c);
}

static void put_number(u32 value, u32 base)
{
    char digits[10];
    u32 count = 0;

    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    while (count)
        put(digits[--count]);
}

void print(const char *format, ...)
{
    __builtin_va_list arguments;

    __builtin_va_start(arguments, format);
    for (; *format; format++) {
        if (*format != '%') {
            put(*format);
            continue;
        }
        format++;
        if (*format == 's') {
            const char *text = __builtin_va_arg(arguments, const char *);
            while (*text)
                put(*text++);
        } else if (*format == 'x') {
            put('0');
            put('x');
            put_number(__builtin_va_arg(arguments, u32), 16);
        } else if (*format == 'u') {
            put_number(__builtin_va_arg(arguments, u32), 10);
        }
    }
    __builtin_va_end(arguments);
}

_Noreturn void leave(u8 value)
{
    out8(DEBUG_EXIT, value);
    for (;;) /* no isa-debug-exit */
        __asm__ volatile("cli; hlt");
}
