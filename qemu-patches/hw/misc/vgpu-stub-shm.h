/*
 * vgpu-stub: accesses through memory that is shared with the server
 *
 * The client's half of shared MMIO, version 1 (docs/shared-mmio.md of the
 * project vgpu-stub), with one slot: the big QEMU lock lets one thread at a
 * time use the device.  Nothing here trusts what the server writes: each
 * field is read once, and what it says selects between a few outcomes, never
 * an address.
 *
 * This work is licensed under the terms of the GNU GPL, version 2 or later.
 * See the COPYING file in the top-level directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef HW_MISC_VGPU_STUB_SHM_H
#define HW_MISC_VGPU_STUB_SHM_H

#include <sys/mman.h>
#include <sys/socket.h>
#include "qemu/mmap-alloc.h"
#include "qemu/processor.h"

#define VGPU_SHM_VERSION    1
#define VGPU_SHM_FDS        3           /* memory, the server's wake, ours */
#define VGPU_SHM_MAX_RING   65536
#define VGPU_SHM_MAX_COUNT  8           /* bytes of an access */
#define VGPU_SHM_SPIN_US    50
#define VGPU_SHM_MAX_MISSES 10

/* Written by the client, but for answer and result. */
typedef struct VgpuShmSlot {
    uint64_t request, offset, value;
    uint32_t client_sleeps, padding;
    uint64_t answer, result;
    uint64_t unused[10];
} VgpuShmSlot;

typedef struct VgpuShmEntry {
    uint64_t offset, value, what, zero;
} VgpuShmEntry;

typedef struct VgpuShmPages {
    uint32_t server_sleeps;
    uint32_t padding_4[31];
    uint32_t tail;              /* the client's */
    uint32_t padding_132[31];
    uint32_t head;              /* the server's */
    uint32_t padding_260[63];
    VgpuShmSlot slot;
    VgpuShmEntry ring[];
} VgpuShmPages;

QEMU_BUILD_BUG_ON(offsetof(VgpuShmPages, tail) != 128);
QEMU_BUILD_BUG_ON(offsetof(VgpuShmPages, head) != 256);
QEMU_BUILD_BUG_ON(offsetof(VgpuShmPages, slot) != 512);
QEMU_BUILD_BUG_ON(offsetof(VgpuShmPages, slot.answer) != 512 + 32);
QEMU_BUILD_BUG_ON(offsetof(VgpuShmPages, ring) != 512 + 128);

typedef struct VgpuShm {
    VgpuShmPages *at;           /* NULL: there is none */
    size_t size;
    int wake_server, wake_us;   /* sockets */
    uint32_t ring;              /* entries */
    uint32_t sequence;          /* of the last request */
    uint32_t tail;              /* entries ever put into the ring */
    unsigned misses, skips;     /* spins in vain; waits not to spin in */
} VgpuShm;

/*
 * Takes VGPU_SHM_FDS descriptors, which are -1 then, and maps the memory.
 * Returns NULL, or what is wrong.
 */
static inline const char *vgpu_shm_open(VgpuShm *m, int *fds, uint64_t ring)
{
    size_t size = offsetof(VgpuShmPages, ring);
    struct stat st;
    void *at;
    int i;

    if (ring > VGPU_SHM_MAX_RING || !is_power_of_2(ring)) {
        return "a ring of no such size";
    }
    for (i = 1; i < VGPU_SHM_FDS; i++) {
        int domain = 0, type = 0;
        socklen_t length = sizeof(int);

        /* MSG_DONTWAIT means what it says there, whoever else has the fd */
        if (getsockopt(fds[i], SOL_SOCKET, SO_DOMAIN, &domain, &length) ||
            getsockopt(fds[i], SOL_SOCKET, SO_TYPE, &type, &length) ||
            domain != AF_UNIX || type != SOCK_STREAM) {
            return "no socket to wake by";
        }
    }
    /* A file that shrinks, or has no huge page left, would be a SIGBUS */
    if (!(MAX(fcntl(fds[0], F_GET_SEALS), 0) & F_SEAL_SHRINK) ||
        qemu_fd_getpagesize(fds[0]) != qemu_fd_getpagesize(-1) ||
        fstat(fds[0], &st)) {
        return "no memory that keeps its size";
    }
    size = QEMU_ALIGN_UP(size + ring * sizeof(VgpuShmEntry), 4096);
    at = st.st_size < size ? MAP_FAILED :
         mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
              fds[0], 0);
    if (at == MAP_FAILED) {
        return "memory that is too small or cannot be mapped";
    }
    *m = (VgpuShm) {
        .at = at, .size = size, .ring = ring,
        .wake_server = fds[1], .wake_us = fds[2],
    };
    close(fds[0]);
    fds[0] = fds[1] = fds[2] = -1;
    return NULL;
}

static inline void vgpu_shm_close(VgpuShm *m)
{
    if (m->at) {
        munmap(m->at, m->size);
        close(m->wake_server);
        close(m->wake_us);
        m->at = NULL;
    }
}

/*
 * What was just published must be seen before the server sleeps: it announces
 * its sleep, and then looks again.  So a fence, and who finds the announcement
 * takes it back.  A socket that is full has woken the server already.
 */
static inline void vgpu_shm_wake(VgpuShm *m)
{
    uint32_t *sleeps = &m->at->server_sleeps;

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(sleeps, __ATOMIC_RELAXED) &&
        __atomic_exchange_n(sleeps, 0, __ATOMIC_ACQ_REL)) {
        send(m->wake_server, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
}

/* The bits that requests and entries share. */
static inline uint64_t vgpu_shm_what(uint32_t region, unsigned count)
{
    return (uint64_t)region << 48 | (uint64_t)count << 40;
}

/* Puts an access into the slot: of 1 to 8 bytes, when none is on its way. */
static inline void vgpu_shm_begin(VgpuShm *m, bool write, uint32_t region,
                                  uint64_t offset, uint64_t value,
                                  unsigned count)
{
    VgpuShmSlot *slot = &m->at->slot;
    uint64_t request = vgpu_shm_what(region, count) |
                       (write ? 2ULL : 1ULL) << 32 | ++m->sequence;

    __atomic_store_n(&slot->offset, offset, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->value, value, __ATOMIC_RELAXED);
    __atomic_store_n(&slot->request, request, __ATOMIC_RELEASE);
    vgpu_shm_wake(m);
}

/*
 * Whether the access was answered; then result may be read.  It has the
 * sequence in its low half, which the caller checks, and an errno in the other.
 */
static inline bool vgpu_shm_answered(VgpuShm *m, uint64_t *answer)
{
    *answer = __atomic_load_n(&m->at->slot.answer, __ATOMIC_ACQUIRE);
    return (uint32_t)*answer != m->sequence - 1;
}

static inline uint64_t vgpu_shm_result(VgpuShm *m)
{
    return __atomic_load_n(&m->at->slot.result, __ATOMIC_RELAXED);
}

/*
 * Looks for the answer for a short while, without a system call.  After a spin
 * in vain the next waits do without, twice as many each time: on one CPU, or
 * with a server that is slow, it does not pay.
 */
static inline bool vgpu_shm_spin(VgpuShm *m, uint64_t *answer)
{
    int64_t now, until = 0;
    unsigned looks = 0;

    if (m->skips) {
        m->skips--;
        return vgpu_shm_answered(m, answer);
    }
    while (!vgpu_shm_answered(m, answer)) {
        cpu_relax();
        if (++looks % 32 == 0) {
            now = g_get_monotonic_time();
            until = until ? until : now + VGPU_SHM_SPIN_US;
            if (now > until) {
                m->misses = MIN(m->misses + 1, VGPU_SHM_MAX_MISSES);
                m->skips = 1u << m->misses;
                return false;
            }
        }
    }
    m->misses = 0;
    return true;
}

/* Announces that we sleep, unless there is an answer.  Then poll wake_us. */
static inline bool vgpu_shm_falls_asleep(VgpuShm *m, uint64_t *answer)
{
    __atomic_store_n(&m->at->slot.client_sleeps, 1, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return !vgpu_shm_answered(m, answer);
}

/* Returns false if the server has closed its end of wake_us. */
static inline bool vgpu_shm_wakes_up(VgpuShm *m, bool readable)
{
    char signals[64];

    __atomic_store_n(&m->at->slot.client_sleeps, 0, __ATOMIC_RELAXED);
    return !readable || recv(m->wake_us, signals, sizeof(signals),
                             MSG_DONTWAIT) != 0;
}

/*
 * Puts a posted write into the ring.  Returns 0, -ENOSPC if that is full, or
 * -EPROTO if the server says that it took what there was not.
 */
static inline int vgpu_shm_post(VgpuShm *m, uint32_t region, uint64_t offset,
                                uint64_t value, unsigned count)
{
    uint32_t used = m->tail - __atomic_load_n(&m->at->head, __ATOMIC_ACQUIRE);
    VgpuShmEntry *entry = &m->at->ring[m->tail & (m->ring - 1)];

    if (used >= m->ring) {
        return used == m->ring ? -ENOSPC : -EPROTO;
    }
    __atomic_store_n(&entry->offset, offset, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->value, value, __ATOMIC_RELAXED);
    __atomic_store_n(&entry->what, vgpu_shm_what(region, count),
                     __ATOMIC_RELAXED);
    __atomic_store_n(&m->at->tail, ++m->tail, __ATOMIC_RELEASE);
    vgpu_shm_wake(m);
    return 0;
}

#endif
