# The guest that times its own accesses: 32-bit code without paging, in RAM at
# 1 MiB, and a firmware of a few instructions that jumps there. The host puts
# both in place. No other firmware runs: where KVM has to emulate instructions,
# SeaBIOS takes 10 s.
#
# It finds the device of each row on bus 0 and gives it an address, doubles
# each row's samples until a slice takes the goal time, then takes slices of
# all rows in turn. Each slice is a record in RAM, which the host shares.
# `guest.rs` has the other side of the table, the results and the records.
#
# What has an address is at a constant one: the program that carries this is
# position-independent and could not relocate it. Its labels begin with .L so
# that none is taken for a function of that name.

        .pushsection .rodata.vgpu_stub_bench_guest, "a", @progbits
        .code32

        # The code, and the table that the host writes behind it.
        .set CODE, 0x100000
        .set TABLE, CODE + 0x400
        .set SLICES, TABLE              # slices of each row, at least 1
        .set GOAL, TABLE + 4            # ticks that a slice should take
        .set MOST, TABLE + 8            # samples in a slice, at most
        .set ROWS_END, TABLE + 12       # the end of the rows
        .set HOLD, TABLE + 16           # not 0: wait until it is
        .set ROWS, TABLE + 32

        # A row, relative to %esi.
        .set ID, 0                      # device << 16 | vendor
        .set NTH, 4                     # which of several, from 0
        .set BAR, 8                     # its place in configuration space
        .set OFFSET, 12                 # the register's, in the BAR
        .set OPERATION, 16              # see guest.rs
        .set SAMPLES, 20                # how many it takes in a slice
        .set ADDRESS, 24                # of the register
        .set TAKEN, 28                  # accesses so far, for counts by others
        .set ROW_BITS, 5                # a row has 32 bytes

        # The results, in shared RAM.
        .set STATUS, 0x1000000          # see the end
        .set CULPRIT, STATUS + 4        # the row that cannot be
        .set CALIBRATION, STATUS + 8    # ticks of the counter ...
        .set CALIBRATED, STATUS + 12    # ... in these ticks of the PM timer
        .set RECORD, STATUS + 16        # where the next record goes
        .set RECORDS, STATUS + 64

        # A record: row, samples, counter (8 bytes), value, then the samples.
        .set RECORD_HEADER, 20

        .set CONFIG_ADDRESS, 0xcf8      # PCI 3.0, 3.2.2.3.2
        .set CONFIG_DATA, 0xcfc
        .set BARS, 0xe0000000           # where none of pc's own things are
        .set PM_SLOT, 0x0b              # PIIX4's function 1.3 (82371AB, 7.1)
        .set PM_BASE, 0x40              # I/O ports of power management
        .set PM_ENABLE, 0x80            # bit 0
        .set PM_PORTS, 0x600
        .set PM_TIMER, PM_PORTS + 8     # ACPI 1.0, 4.7.3.3
        .set PM_TIMER_MASK, 0xffffff
        .set PM_TICKS, 71591            # 20 ms at 3.579545 MHz
        .set PM_READS, 1000000          # before it counts as absent
        .set EXIT_PORT, 0xf4            # isa-debug-exit
        .set EXIT_VALUE, 0x2a
        .set STACK, 0x90000             # conventional memory

        .balign 16
        .globl vgpu_stub_bench_guest
vgpu_stub_bench_guest:
        movw $0x10, %ax
        movw %ax, %ds
        movw %ax, %es
        movw %ax, %ss
        movw %ax, %fs
        movw %ax, %gs
        movl $STACK, %esp
        cld
        movl $1, STATUS
        call .Lcalibrate
        call .Lresolve
        movl $RECORDS, RECORD
1:      cmpl $0, HOLD
        jne 1b
        call .Lsize
.Lround: movl $ROWS, %esi
1:      call .Lslice
        movl SAMPLES(%esi), %eax        # keep the record
        leal RECORD_HEADER(,%eax,4), %eax
        addl %eax, RECORD
        addl $1 << ROW_BITS, %esi
        cmpl ROWS_END, %esi
        jb 1b
        decl SLICES
        jnz .Lround
        movl $2, STATUS
.Lexit: movb $EXIT_VALUE, %al
        movw $EXIT_PORT, %dx
        outb %al, %dx
2:      hlt
        jmp 2b

# Compares the counter with the PM timer, for 20 ms. Both results are 0 if
# there is no such timer.
.Lcalibrate:
        movl $PM_SLOT, %ebx
        movl $PM_BASE, %ecx
        call .Lconfig
        movl $PM_PORTS | 1, %eax
        outl %eax, %dx
        movl $PM_ENABLE, %ecx
        call .Lconfig
        orl $1, %eax
        outl %eax, %dx
        movl $PM_READS, %ecx
        movw $PM_TIMER, %dx
        inl %dx, %eax
        movl %eax, %ebx
        rdtsc
        movl %eax, %edi
1:      decl %ecx
        jz 2f
        movw $PM_TIMER, %dx
        inl %dx, %eax
        subl %ebx, %eax
        andl $PM_TIMER_MASK, %eax
        cmpl $PM_TICKS, %eax
        jb 1b
        movl %eax, CALIBRATED
        rdtsc
        subl %edi, %eax
        movl %eax, CALIBRATION
2:      ret

# Gives each row's BAR an address and finds the register's; ends if a row has
# none. A device has 4 MiB, each BAR of it an eighth: edu's 1 MiB is its BAR 0.
.Lresolve:
        movl $ROWS, %esi
1:      cmpl $2, OPERATION(%esi)
        jb 5f                           # the timer and CPUID need none
        movl NTH(%esi), %edi
        xorl %ebx, %ebx                 # function 0 of each device
2:      xorl %ecx, %ecx
        call .Lconfig
        cmpl ID(%esi), %eax
        jne 3f
        subl $1, %edi
        jc 4f
3:      addl $8, %ebx
        cmpl $256, %ebx
        jb 2b
        movl $3, STATUS                 # no such device
        jmp 7f
4:      cmpl $6, OPERATION(%esi)
        je 8f
        movl %ebx, %edi
        shll $19, %edi                  # 22, as %ebx is the number << 3
        movl BAR(%esi), %ecx
        leal -0x10(%ecx), %eax
        shll $17, %eax                  # 19, as it is the number << 2
        leal BARS(%edi,%eax), %edi
        call .Lconfig
        movl %edi, %eax
        outl %eax, %dx
        inl %dx, %eax
        testb $1, %al                   # I/O ports?
        jnz 6f
        andl $~15, %eax
        cmpl %edi, %eax                 # no BAR, or a larger one
        jne 6f
        addl OFFSET(%esi), %edi
        movl %edi, ADDRESS(%esi)
        movl $4, %ecx                   # the command register
        call .Lconfig
        orb $2, %al                     # memory
        outw %ax, %dx
5:      addl $1 << ROW_BITS, %esi
        cmpl ROWS_END, %esi
        jb 1b
        ret
6:      movl $4, STATUS                 # no memory BAR, or a large one
7:      subl $ROWS, %esi
        shrl $ROW_BITS, %esi
        movl %esi, CULPRIT
        jmp .Lexit
8:      shll $8, %ebx                   # no BAR's: configuration space's
        orl OFFSET(%esi), %ebx
        orl $0x80000000, %ebx
        movl %ebx, ADDRESS(%esi)
        jmp 5b

# Reads word %ecx of function %ebx's configuration space into %eax. What is
# then written to port %dx goes there.
.Lconfig: movl %ebx, %eax
        shll $8, %eax
        orl %ecx, %eax
        orl $0x80000000, %eax
        movw $CONFIG_ADDRESS, %dx
        outl %eax, %dx
        movw $CONFIG_DATA, %dx
        inl %dx, %eax
        ret

# Doubles the samples of each row until a slice takes the goal time, and again
# so when repeated: one that was disturbed must not end it. This is the warm-up
# too.
.Lsize: movl $ROWS, %esi
1:      movl $1, SAMPLES(%esi)
2:      call .Lslice
        cmpl GOAL, %eax
        jb 3f
        call .Lslice
        cmpl GOAL, %eax
        jae 4f
3:      movl SAMPLES(%esi), %eax
        addl %eax, %eax
        cmpl MOST, %eax
        ja 4f
        movl %eax, SAMPLES(%esi)
        jmp 2b
4:      addl $1 << ROW_BITS, %esi
        cmpl ROWS_END, %esi
        jb 1b
        ret

        # Reads the word of configuration space that CONFIG_ADDRESS finds at
        # %esi: two accesses, as every read of it takes.
        .macro config_read
        movl %esi, %eax
        movw $CONFIG_ADDRESS, %dx
        outl %eax, %dx
        movw $CONFIG_DATA, %dx
        inl %dx, %eax
        .endm

# Takes one slice of row %esi, writes its record, and returns in %eax how many
# ticks it took. The read at its end waits for writes that are still under
# way, so that they are not in the next row's slice; its value is recorded.
.Lslice: movl RECORD, %edi
        movl %esi, %eax
        subl $ROWS, %eax
        shrl $ROW_BITS, %eax
        stosl
        movl SAMPLES(%esi), %ecx
        movl %ecx, %eax
        stosl
        incl %eax                       # the one at its end
        addl %eax, TAKEN(%esi)
        rdtsc
        stosl
        movl %edx, %eax
        stosl
        addl $4, %edi
        pushl %esi
        movl OPERATION(%esi), %eax
        movl ADDRESS(%esi), %esi
        pushl %eax
        call .Lsample
        popl %eax
        cmpl $6, %eax
        je 2f
        movl (%esi), %ebx
        jmp 3f
2:      config_read
        movl %eax, %ebx
3:      rdtsc
        popl %esi
        movl RECORD, %edi
        movl %ebx, 16(%edi)
        subl 8(%edi), %eax
        sbbl 12(%edi), %edx
        jz 1f
        movl $0xffffffff, %eax
1:      ret

# Takes %ecx samples of the register at %esi and stores them at %edi: the
# ticks between two readings of the counter with the accesses between. A
# sample that does not fit is all ones. No fences: in a virtual machine each
# access is an exit, which orders more than they would; and two readings
# alone show what is added.
        .macro sampling access:vararg
1:      rdtsc
        movl %eax, %ebx
        movl %edx, %ebp
        \access
        rdtsc
        subl %ebx, %eax
        sbbl %ebp, %edx
        jz 2f
        movl $0xffffffff, %eax
2:      stosl
        decl %ecx
        jnz 1b
        ret
        .endm

        # To the hypervisor and back: nobody else has a say in CPUID.
        .macro cpuid_exit
        pushl %ebx
        pushl %ecx
        xorl %eax, %eax
        cpuid
        popl %ecx
        popl %ebx
        .endm

        .macro read_batch
        .rept 16
        movl (%esi), %eax
        .endr
        .endm

        .macro write_batch
        .rept 16
        movl %ecx, (%esi)
        .endr
        .endm

.Lsample: decl %eax
        jz .Lexits
        decl %eax
        jz .Lread
        decl %eax
        jz .Lwrite
        decl %eax
        jz .Lreads
        decl %eax
        jz .Lwrites
        decl %eax
        jz .Lconfigs
        sampling
.Lexits: sampling cpuid_exit
.Lread: sampling movl (%esi), %eax
.Lwrite: sampling movl %ecx, (%esi)
.Lreads: sampling read_batch
.Lwrites: sampling write_batch
.Lconfigs: sampling config_read

        .org vgpu_stub_bench_guest + 0x400

        .set GDT, 0x40
        .set GDT_POINTER, 0x58

        # Segments and the pointer to them, GDT bytes behind the base. They are
        # marked as accessed, as some of this cannot be written.
        .macro gdt base
        .quad 0
        .quad 0x00cf9b000000ffff        # 0x08: code, 4 GiB
        .quad 0x00cf93000000ffff        # 0x10: data, 4 GiB
        .word 3 * 8 - 1
        .long \base + GDT
        .endm

# Where a hypervisor enters that starts a processor in flat protected mode, as
# Xen does: its selectors are made good before anything is loaded from them.
        .set ENTRY, CODE + 0x1000       # the table ends before

        .globl vgpu_stub_bench_entry
vgpu_stub_bench_entry:
        cli
        lgdtl ENTRY + GDT_POINTER
        ljmpl $0x08, $CODE
        .org vgpu_stub_bench_entry + GDT
        gdt ENTRY
        .org vgpu_stub_bench_entry + 0x60

# The firmware: the last 256 bytes below 4 GiB. The processor begins 16 bytes
# before the end, in real mode, with the base of %cs at 0xffff0000.
        .set FIRMWARE, 0xffffff00

        .globl vgpu_stub_bench_firmware
vgpu_stub_bench_firmware:
        .code16
        cli
        lgdtl %cs:(FIRMWARE + GDT_POINTER) & 0xffff
        movl %cr0, %eax
        andl $~0x60000000, %eax         # caches on
        orl $1, %eax                    # protected mode
        movl %eax, %cr0
        ljmpl $0x08, $CODE

        .org vgpu_stub_bench_firmware + GDT
        gdt FIRMWARE

        .org vgpu_stub_bench_firmware + 0xf0
        jmp vgpu_stub_bench_firmware
        .org vgpu_stub_bench_firmware + 0x100
        .code64
        .popsection
