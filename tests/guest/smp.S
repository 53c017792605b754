/* How the second CPU starts: in real mode, below 1 MiB, with nothing set up. */

#define START 0x8000 /* see smp.c */
#define PROTECTED 1

        .text
        .code16
        .globl smp_begin, smp_end
smp_begin:
        cli
        cld
        xorw %ax, %ax
        movw %ax, %ds
        lgdtl START + smp_gdt - smp_begin
        movl %cr0, %eax
        orl $PROTECTED, %eax
        movl %eax, %cr0
        ljmpl $0x08, $1f
        .align 4
smp_gdt:
        .word 3 * 8 - 1
        .long gdt
smp_end:

        .code32
1:      movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %fs
        movw %ax, %gs
        movw %ax, %ss
        movl $1, %eax
        lock xaddl %eax, started
        testl %eax, %eax
        jnz 2f                  /* one is enough */
        movl $smp_stack_top, %esp
        call smp_main
2:      cli
        hlt
        jmp 2b

        .bss
        .align 16
started:
        .skip 16
        .skip 16384
smp_stack_top:

        .section .note.GNU-stack, "", @progbits
