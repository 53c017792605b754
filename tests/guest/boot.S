/* Entry from a multiboot loader, flat segments, interrupt entry stubs. */

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0x00000002 /* memory sizes wanted */
#define STUBS 0x60
#define FLAG_INTERRUPTS 0x200

        .section .multiboot, "a"
        .align 4
        .long MULTIBOOT_MAGIC
        .long MULTIBOOT_FLAGS
        .long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

        .text
        .globl start
start:
        cli
        cld
        movl %eax, %esi
        movl $bss_start, %edi
        movl $bss_end, %ecx
        subl %edi, %ecx
        shrl $2, %ecx
        xorl %eax, %eax
        rep stosl

        lgdt gdt_pointer
        ljmp $0x08, $1f
1:      movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %fs
        movw %ax, %gs
        movw %ax, %ss
        movl $stack_top, %esp
        pushl %ebx              /* multiboot information */
        pushl %esi              /* multiboot magic */
        call guest_main
2:      cli
        hlt
        jmp 2b

/* Exceptions 8, 10-14 and 17 push an error code; the others get a zero. */
        .altmacro
        .macro stub vector
stub_\vector:
        .if (\vector != 8) && (\vector != 17) && ((\vector < 10) || (\vector > 14))
        pushl $0
        .endif
        pushl $\vector
        jmp interrupt_common
        .endm

        .set n, 0
        .rept STUBS
        stub %n
        .set n, n + 1
        .endr

interrupt_common:
        pushal
        cld
        pushl %esp
        call interrupt
        addl $4, %esp
/*
 * No iret: KVM's instruction emulator knows it only in real mode. Flags and
 * eip trade places with cs; sti holds interrupts back until ret is through.
 */
        movl 40(%esp), %eax     /* eip */
        movl 48(%esp), %edx     /* flags */
        andl $~FLAG_INTERRUPTS, %edx
        movl %edx, 44(%esp)
        movl %eax, 48(%esp)
        popal
        addl $12, %esp
        popfl
        sti
        ret

        .section .rodata
        .macro address vector
        .long stub_\vector
        .endm
        .align 4
        .globl interrupt_stubs
interrupt_stubs:
        .set n, 0
        .rept STUBS
        address %n
        .set n, n + 1
        .endr

        .data
        .align 8
        .globl gdt
gdt:    .quad 0
        .quad 0x00cf9a000000ffff        /* 0x08: code, 4 GiB */
        .quad 0x00cf92000000ffff        /* 0x10: data, 4 GiB */
gdt_pointer:
        .word gdt_pointer - gdt - 1
        .long gdt

        .bss
        .align 16
        .skip 16384
stack_top:

        .section .note.GNU-stack, "", @progbits
