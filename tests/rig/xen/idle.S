/* A kernel that never runs: what Xen's tools need to make a PV or a PVH domain
 * of it, paused. The numbers are those of xen/include/public/elfnote.h. */
.macro note type, value:vararg
    .long 2f - 1f, 4f - 3f, \type
1:  .asciz "Xen"
2:  .balign 4
3:  \value
4:  .balign 4
.endm
    .section .note.Xen, "a", @note
    note 1, .quad _start        /* ENTRY */
    note 3, .quad 0             /* VIRT_BASE */
    note 4, .quad 0             /* PADDR_OFFSET */
    note 5, .asciz "xen-3.0"    /* XEN_VERSION */
    note 8, .asciz "generic"    /* LOADER */
    note 18, .long _start       /* PHYS32_ENTRY */
    .text
    .globl _start
_start:
    hlt
    jmp _start
