/*
 * vgpu-stub: a PCI device that another process emulates (vfio-user client)
 *
 * Quoted names are sections of the "vfio-user Protocol Specification"
 * (docs/interop/vfio-user.rst in QEMU 10.1).  All of this runs under the big
 * QEMU lock.  The server is not trusted: it can cost the guest its device and
 * QEMU one msg-timeout, nothing else.  After its first fault the device is
 * broken: reads give all-ones, writes are dropped, without a system call.
 *
 * This work is licensed under the terms of the GNU GPL, version 2 or later.
 * See the COPYING file in the top-level directory.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <glib-unix.h>
#include <linux/vfio.h>
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/event_notifier.h"
#include "qemu/main-loop.h"
#include "qemu/memfd.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "trace.h"
#include "vgpu-stub-shm.h"

/* What differs between QEMU 4.2, 5.2 and 10.0 */
#if QEMU_VERSION_MAJOR >= 8
#include "hw/pci/pci_device.h"
#endif
#if QEMU_VERSION_MAJOR >= 10
#include "exec/ramblock.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#define vgpu_fd_offset(block)   ((block)->fd_offset)
#define VGPU_CONST              const
#else
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qjson.h"
#define vgpu_fd_offset(block)   0
#define VGPU_CONST
#define device_class_set_legacy_reset(dc, fn) ((dc)->reset = (fn))
#endif
#if QEMU_VERSION_MAJOR < 5
#define device_class_set_props(dc, properties) ((dc)->props = (properties))
#endif

#define TYPE_VGPU_STUB "vgpu-stub"
#define VGPU_STUB(obj) OBJECT_CHECK(VgpuStub, (obj), TYPE_VGPU_STUB)

/* "Commands" */
enum {
    VFIO_USER_VERSION = 1, VFIO_USER_DMA_MAP, VFIO_USER_DMA_UNMAP,
    VFIO_USER_DEVICE_GET_INFO, VFIO_USER_DEVICE_GET_REGION_INFO,
    VFIO_USER_DEVICE_GET_REGION_IO_FDS, VFIO_USER_DEVICE_GET_IRQ_INFO,
    VFIO_USER_DEVICE_SET_IRQS, VFIO_USER_REGION_READ, VFIO_USER_REGION_WRITE,
    VFIO_USER_DMA_READ, VFIO_USER_DMA_WRITE, VFIO_USER_DEVICE_RESET,
};

/* "Header" */
#define VFIO_USER_TYPE          0xf
#define VFIO_USER_REPLY         0x1
#define VFIO_USER_NO_REPLY      0x10
#define VFIO_USER_ERROR         0x20

#define VGPU_BARS       6
#define VGPU_CAP_READ_ONLY 0xff00       /* an extension, as sparse mmap is */
#define VGPU_CONFIG     VFIO_PCI_CONFIG_REGION_INDEX
#define VGPU_MAX_DATA   (16 * KiB)      /* that we take in a DMA message */
#define VGPU_MAX_FDS    16              /* that we take in a message */
#define VGPU_MAX_AREAS  16              /* mapped, of all BARs */
#define VGPU_RX_SIZE    (VGPU_MAX_DATA + 64)

typedef struct VgpuHeader {
    uint16_t id, command;
    uint32_t size, flags, error;
} VgpuHeader;

typedef struct VgpuDma {
    uint64_t address, count;
    uint8_t data[];
} VgpuDma;

/* "Sub-Region IO FD info format", and libvfio-user's longer one of type 2 */
enum { VGPU_IOEVENTFD = 0, VGPU_SHADOW = 2 };

typedef struct VgpuIoFd {
    uint64_t offset, size;
    uint32_t fd_index, type, flags, shadow_fd_index;
    uint64_t shadow_offset;     /* only in the longer one */
    uint64_t datamatch;
} VgpuIoFd;

/* "VFIO_USER_REGION_READ", "VFIO_USER_REGION_WRITE" */
typedef struct VgpuAccess {
    uint64_t offset;
    uint32_t region, count;
} VgpuAccess;

/* What follows the header of a command, and then of its reply */
typedef union VgpuBody {
    struct {
        uint16_t major, minor;
        char json[1024];
    } version;
    struct {                    /* also the number of regions and of irqs */
        uint32_t argsz, flags, index, count;
        uint8_t io[VGPU_MAX_FDS * sizeof(VgpuIoFd)];
    } info;
    struct {
        VgpuAccess is;
        uint8_t data[PCI_CONFIG_SPACE_SIZE];
    } access;
    struct vfio_region_info region;
    uint8_t bytes[1024];
} VgpuBody;

#define VGPU_INFO       offsetof(VgpuBody, info.io)
#define VGPU_ACCESS     sizeof(VgpuAccess)
#define VGPU_POSTED     SIZE_MAX        /* instead of a reply's size */

/* What a server that comes back must describe again, bit by bit */
typedef struct VgpuLayout {
    uint8_t header[PCI_CONFIG_HEADER_SIZE];
    uint8_t msix[MSIX_CAP_LENGTH];
    unsigned msix_at, msi_at, exp_at; /* in config space, or 0 */
    uint32_t irqs[VFIO_PCI_MSIX_IRQ_INDEX + 1];
    uint64_t sizes[VGPU_CONFIG + 1];
    unsigned n_areas;
    struct {
        uint64_t bar, offset, size, fd_offset, read_only;
    } areas[VGPU_MAX_AREAS];
} VgpuLayout;

typedef struct VgpuStub VgpuStub;

typedef struct VgpuBar {
    VgpuStub *s;
    MemoryRegion mr;
    int fd;                     /* of what may be mapped, until it is */
    bool shows;                 /* what a write changes can be read unseen */
} VgpuBar;

typedef struct VgpuArea {
    MemoryRegion mr;
    VgpuBar *bar;
    hwaddr offset;
    void *at;
    bool mapped;                /* of the server that there is */
} VgpuArea;

typedef struct VgpuBell {
    VgpuBar *bar;
    VgpuIoFd is;
    MemoryRegion *mr;           /* whose writes there are trapped */
    hwaddr at;                  /* in it */
    EventNotifier event;
    void *shadow;               /* where the value goes, or NULL */
} VgpuBell;

typedef struct VgpuVector {
    VgpuStub *s;
    EventNotifier event;
} VgpuVector;

struct VgpuStub {
    PCIDevice parent_obj;

    /* properties */
    char *path;
    int32_t fd;
    uint32_t connect_timeout, msg_timeout, reconnect;
    bool posted_writes, shared_mmio;

    char *name;                 /* of the socket, for messages */
    int sock;                   /* -1 without a connection */
    bool live;                  /* the guest's accesses go to the server */
    bool realized;
    bool busy;                  /* waiting for a reply or serving DMA */
    bool reentered;             /* while busy, someone read from the device */
    bool clean;                 /* nothing is left of the last connection */
    char *why;                  /* it ended */
    int64_t deadline;           /* of all messages of a handshake, or 0 */
    int64_t until;              /* of the message under way */
    QEMUTimer *timer;           /* cleans up after a fault, and reconnects */

    uint32_t max_fds, max_dma_maps; /* "VFIO_USER_VERSION" */
    bool state_survived;
    uint16_t id;                /* of the last command */
    int tx_fds[VGPU_MAX_FDS], n_tx_fds; /* go with the next command */
    int rx_fds[VGPU_MAX_FDS], n_rx_fds; /* came since the last command */
    uint8_t *rx;                /* received and not yet dealt with */
    size_t n_rx;
    VgpuDma *dma;               /* the reply to a DMA_READ */
    VgpuShm shm;                /* for accesses, if the server offers it */
    bool unacknowledged;        /* what shared memory might overtake was sent */

    VgpuLayout layout;
    bool resettable;
    VgpuBar bars[VGPU_BARS];
    VgpuArea areas[VGPU_MAX_AREAS]; /* of BARs, that are the server's memory */
    VgpuBell bells[VGPU_MAX_FDS]; /* writes that are an eventfd's signal */
    unsigned n_bells;
    VgpuVector *vectors;        /* of MSI-X, or the first of INTx */
    unsigned n_vectors, n_irqs; /* that there are, that are on */
    int irq_index;              /* VFIO_PCI_..._IRQ_INDEX */
    bool intx_pending;
    MemoryListener listener;
    unsigned n_maps;
};

static int64_t vgpu_now(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

/* Faults */

static void vgpu_close_fds(int *fds, int n)
{
    while (n-- > 0) {
        if (fds[n] >= 0) {
            close(fds[n]);
        }
        fds[n] = -1;
    }
}

static void vgpu_disconnect(VgpuStub *s)
{
    unsigned i;

    if (s->sock >= 0) {
        qemu_set_fd_handler(s->sock, NULL, NULL, NULL);
        close(s->sock);
        s->sock = -1;
    }
    vgpu_shm_close(&s->shm);
    s->unacknowledged = false;
    for (i = 0; i < VGPU_BARS; i++) {
        vgpu_close_fds(&s->bars[i].fd, 1);
    }
    vgpu_close_fds(s->rx_fds, s->n_rx_fds);
    s->n_rx_fds = 0;
    s->n_rx = 0;
    s->live = false;
    if (s->intx_pending) {
        s->intx_pending = false;
        pci_irq_deassert(PCI_DEVICE(s));
    }
}

/*
 * The server cannot be used any more.  What must not be done in the middle of
 * an access or of a change of the memory map is left to the timer.
 */
static void G_GNUC_PRINTF(2, 3) vgpu_fail(VgpuStub *s, const char *fmt, ...)
{
    g_autofree char *why = NULL;
    va_list ap;

    if (s->sock < 0) {
        return;
    }
    va_start(ap, fmt);
    why = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    trace_vgpu_stub_broken(s->name, why);
    /* Attempts to reconnect that fail in the same way are reported once */
    if (s->realized && (s->live || g_strcmp0(why, s->why))) {
        warn_report("vgpu-stub: the device at %s is broken: %s", s->name, why);
    }
    g_free(s->why);
    s->why = g_steal_pointer(&why);
    vgpu_disconnect(s);
    if (s->realized) {
        s->clean = false;
        timer_mod(s->timer, vgpu_now());
    }
}

/* Messages */

/*
 * Sends one message.  The socket takes those of our sizes whole or not at all,
 * and waits for as long as SO_SNDTIMEO: one system call unless it is full.
 */
static bool vgpu_send(VgpuStub *s, VgpuHeader header, const void *body,
                      size_t size)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(VGPU_MAX_FDS * sizeof(int))];
    } fds;
    struct iovec iov[] = {
        { &header, sizeof(header) }, { (void *)body, size },
    };
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = ARRAY_SIZE(iov) };
    ssize_t sent;

    header.size = sizeof(header) + size;
    if (s->n_tx_fds) {
        fds.head.cmsg_level = SOL_SOCKET;
        fds.head.cmsg_type = SCM_RIGHTS;
        fds.head.cmsg_len = CMSG_LEN(s->n_tx_fds * sizeof(int));
        memcpy(CMSG_DATA(&fds.head), s->tx_fds, s->n_tx_fds * sizeof(int));
        msg.msg_control = &fds;
        msg.msg_controllen = CMSG_SPACE(s->n_tx_fds * sizeof(int));
        s->n_tx_fds = 0;
    }
    do {
        sent = sendmsg(s->sock, &msg, MSG_NOSIGNAL);
    } while (sent < 0 && (errno == EINTR || errno == EAGAIN) &&
             vgpu_now() < s->until);
    if (sent != header.size) {
        vgpu_fail(s, "the server takes no messages: %s",
                  sent < 0 ? strerror(errno) : "one was cut");
    }
    return sent == header.size;
}

/* Receives what there is, which may be nothing. */
static void vgpu_receive(VgpuStub *s, int flags)
{
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(VGPU_MAX_FDS * sizeof(int))];
    } fds;
    struct iovec iov = { s->rx + s->n_rx, VGPU_RX_SIZE - s->n_rx };
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1,
        .msg_control = &fds, .msg_controllen = sizeof(fds),
    };
    ssize_t got = recvmsg(s->sock, &msg, flags | MSG_CMSG_CLOEXEC);
    struct cmsghdr *cmsg = got > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

    s->n_rx += MAX(got, 0);
    for (; cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
        if (cmsg->cmsg_type == SCM_RIGHTS) {
            vgpu_close_fds(s->rx_fds, s->n_rx_fds);
            s->n_rx_fds = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(s->rx_fds, CMSG_DATA(cmsg), s->n_rx_fds * sizeof(int));
        }
    }
    if (got == 0) {
        vgpu_fail(s, "the server closed the connection");
    } else if (got < 0 && errno != EAGAIN && errno != EINTR) {
        vgpu_fail(s, "cannot receive: %s", strerror(errno));
    }
}

/* The first message received, if it is whole. */
static VgpuHeader *vgpu_front(VgpuStub *s)
{
    VgpuHeader *header = (VgpuHeader *)s->rx;

    if (s->n_rx < sizeof(*header)) {
        return NULL;
    }
    if (header->size < sizeof(*header) || header->size > VGPU_RX_SIZE ||
        (header->flags & VFIO_USER_TYPE) > VFIO_USER_REPLY) {
        vgpu_fail(s, "the server sent a message of %u bytes with flags 0x%x",
                  header->size, header->flags);
        return NULL;
    }
    return s->n_rx >= header->size ? header : NULL;
}

static void vgpu_consume(VgpuStub *s)
{
    size_t size = s->n_rx ? ((VgpuHeader *)s->rx)->size : 0;

    s->n_rx -= size;
    if (s->n_rx) {
        memmove(s->rx, s->rx + size, s->n_rx);
    }
}

/*
 * "VFIO_USER_DMA_READ", "VFIO_USER_DMA_WRITE": guest memory for a server that
 * could not map it.  Without bus mastering the address space is empty.
 */
static void vgpu_serve(VgpuStub *s, const VgpuHeader *header)
{
    const VgpuDma *is = (const VgpuDma *)(header + 1);
    bool write = header->command == VFIO_USER_DMA_WRITE;
    size_t size = header->size - sizeof(*header);
    VgpuHeader reply = *header;

    reply.flags = VFIO_USER_REPLY;
    reply.error = 0;
    if (!write && header->command != VFIO_USER_DMA_READ) {
        reply.error = ENOTSUP;
    } else if (size < sizeof(*is) || is->count > VGPU_MAX_DATA ||
               size != sizeof(*is) + (write ? is->count : 0)) {
        reply.error = EINVAL;
    } else {
        *s->dma = *is;
        s->reentered = false;
        if (address_space_rw(pci_get_address_space(PCI_DEVICE(s)), is->address,
                             MEMTXATTRS_UNSPECIFIED,
                             write ? (uint8_t *)is->data : s->dma->data,
                             is->count, write) || s->reentered) {
            reply.error = EFAULT;
        }
        size = sizeof(*is) + (write ? 0 : s->dma->count);
        trace_vgpu_stub_dma(s->name, write, s->dma->address, s->dma->count,
                            reply.error);
    }
    if (reply.error) {
        reply.flags |= VFIO_USER_ERROR;
        size = 0;
    }
    /* What the DMA led to may have met a fault */
    if (s->sock >= 0 && !(header->flags & VFIO_USER_NO_REPLY)) {
        vgpu_send(s, reply, s->dma, size);
    }
}

/* Serves what was received.  Returns the reply that follows, if any. */
static VgpuHeader *vgpu_serve_all(VgpuStub *s)
{
    VgpuHeader *header;

    while ((header = vgpu_front(s)) && !(header->flags & VFIO_USER_REPLY)) {
        vgpu_serve(s, header);
        vgpu_consume(s);
        if (vgpu_now() >= s->until) {
            vgpu_fail(s, "the server sends commands without end");
        }
    }
    return header;
}

/* Between two of our commands: the server's, or its end. */
static void vgpu_readable(void *opaque)
{
    VgpuStub *s = opaque;

    s->busy = true;
    s->until = vgpu_now() + s->msg_timeout;
    vgpu_receive(s, MSG_DONTWAIT);
    if (vgpu_serve_all(s)) {
        vgpu_fail(s, "the server sent a reply to nothing");
    }
    s->busy = false;
}

/*
 * Waits for the reply to the last command and serves the server's commands in
 * the meantime ("Command Concurrency").  Returns the size of the reply's body
 * or -errno.  The first attempt is a single system call, for as long as
 * SO_RCVTIMEO.
 */
static int vgpu_wait(VgpuStub *s, uint16_t command, void *body, size_t least,
                     size_t most)
{
    bool first = true;
    VgpuHeader *reply;
    size_t size;
    int result;

    while (!(reply = vgpu_serve_all(s)) && s->sock >= 0) {
        struct pollfd pfd = { .fd = s->sock, .events = POLLIN };
        int64_t left = first ? 0 : s->until - vgpu_now();

        if (!first && left <= 0) {
            vgpu_fail(s, "the server did not answer in time");
        } else if (first || poll(&pfd, 1, MIN(left, 1000)) > 0) {
            vgpu_receive(s, first ? 0 : MSG_DONTWAIT);
        }
        first = false;
    }
    if (!reply) {
        return -EPIPE;
    }
    size = reply->size - sizeof(*reply);
    result = -(int)MIN(reply->error, 4095);
    if (reply->id != s->id || reply->command != command ||
        (!(reply->flags & VFIO_USER_ERROR) && (size < least || size > most))) {
        vgpu_fail(s, "the server replied to command %u with %u and %zu bytes",
                  command, reply->command, size);
        return -EPROTO;
    }
    if (reply->flags & VFIO_USER_ERROR) {
        vgpu_consume(s);
        return result ? result : -EIO;  /* "Header": it is optional */
    }
    memcpy(body, reply + 1, size);
    vgpu_consume(s);
    return size;
}

/*
 * Sends a command and puts its reply's body, of least to most bytes, in its
 * place.  Returns the size or -errno; after a fault, sock is -1.
 */
static int vgpu_call(VgpuStub *s, uint16_t command, void *body, size_t size,
                     size_t least, size_t most)
{
    VgpuHeader header = { .command = command };
    int result = -EPIPE;

    if (s->busy && least && least != VGPU_POSTED) {
        /* DMA led back to us, and the server waits for its end */
        s->reentered = true;
        return -EDEADLK;
    }
    if (s->sock < 0) {
        return -EPIPE;
    }
    if (!s->busy) {
        s->until = s->deadline ? s->deadline : vgpu_now() + s->msg_timeout;
        vgpu_close_fds(s->rx_fds, s->n_rx_fds);
        s->n_rx_fds = 0;
    }
    if (s->busy || least == VGPU_POSTED) {
        header.flags = VFIO_USER_NO_REPLY;
        s->unacknowledged = s->shm.at;
        return vgpu_send(s, header, body, size) ? 0 : -EPIPE;
    }
    s->unacknowledged = false;
    s->busy = true;
    header.id = ++s->id;
    if (vgpu_send(s, header, body, size)) {
        result = vgpu_wait(s, command, body, least, most);
        if (vgpu_serve_all(s)) {
            vgpu_fail(s, "the server sent a reply to nothing");
        }
    }
    s->busy = false;
    return result;
}

/* Asks about one of something; a refusal is a fault. */
static int vgpu_ask(VgpuStub *s, uint16_t command, uint32_t index, VgpuBody *b,
                    size_t size, size_t most)
{
    int result;

    memset(b, 0, size);
    b->info.argsz = most;
    b->info.index = index;
    result = vgpu_call(s, command, b, size, size, most);
    if (result < 0) {
        vgpu_fail(s, "the server refused command %u: %s", command,
                  strerror(-result));
    }
    return result;
}

/*
 * An access through the slot of the shared memory; the server's commands still
 * come by the socket.  Returns 0 or -errno.
 */
static int vgpu_exchange(VgpuStub *s, bool write, uint32_t region,
                         uint64_t offset, uint64_t *value, uint32_t count)
{
    VgpuShm *m = &s->shm;
    uint64_t answer;

    s->busy = true;
    vgpu_shm_begin(m, write, region, offset, *value, count);
    if (!vgpu_shm_spin(m, &answer)) {
        s->until = s->deadline ? s->deadline : vgpu_now() + s->msg_timeout;
    }
    while (s->sock >= 0 && !vgpu_shm_answered(m, &answer)) {
        struct pollfd pfds[] = {
            { .fd = s->sock, .events = POLLIN },
            { .fd = m->wake_us, .events = POLLIN },
        };
        int64_t left = s->until - vgpu_now();
        bool late = left <= 0;

        if (!late && vgpu_shm_falls_asleep(m, &answer)) {
            late = !poll(pfds, ARRAY_SIZE(pfds), MIN(left, INT_MAX));
        }
        if (late || !vgpu_shm_wakes_up(m, pfds[1].revents)) {
            /* Or did, and woke nobody: the next access would wait again */
            vgpu_fail(s, "the server did not answer in time");
        } else if (pfds[0].revents) {
            vgpu_receive(s, MSG_DONTWAIT);
            if (vgpu_serve_all(s)) {
                vgpu_fail(s, "the server sent a reply to nothing");
            }
        }
    }
    s->busy = false;
    if (s->sock < 0) {
        return -EPIPE;
    }
    if ((uint32_t)answer != m->sequence) {
        vgpu_fail(s, "the server answered access %u instead of %u",
                  (uint32_t)answer, m->sequence);
        return -EPROTO;
    }
    *value = vgpu_shm_result(m);
    return -(int)MIN(answer >> 32, 4095);
}

/* Reads 1 to 8 bytes.  Returns a negative value if there are none. */
static int vgpu_read(VgpuStub *s, uint32_t region, uint64_t offset,
                     uint64_t *value, uint32_t count)
{
    struct {
        VgpuAccess is;
        uint8_t data[8];
    } b = { .is = { offset, region, count } };
    int result;

    if (s->shm.at && !s->unacknowledged && !s->busy) {
        result = vgpu_exchange(s, false, region, offset, value, count);
        *value &= MAKE_64BIT_MASK(0, 8 * count);
        return result;
    }
    result = vgpu_call(s, VFIO_USER_REGION_READ, &b, VGPU_ACCESS,
                       VGPU_ACCESS + count, VGPU_ACCESS + count);
    *value = ldn_le_p(b.data, count);
    return result;
}

/*
 * Writes 1 to 8 bytes.  Shared memory must not overtake what was sent without
 * a wish for a reply: the next access then asks for one, by the socket.
 */
static void vgpu_write(VgpuStub *s, uint32_t region, uint64_t offset,
                       uint64_t value, uint32_t count, bool posted)
{
    struct {
        VgpuAccess is;
        uint8_t data[8];
    } b = { .is = { offset, region, count } };

    if (s->shm.at && !s->unacknowledged) {
        int result = !posted && !s->busy ? -ENOSPC :
                     vgpu_shm_post(&s->shm, region, offset, value, count);

        if (result == -EPROTO) {
            vgpu_fail(s, "the server took writes that there were not");
        } else if (result && !s->busy) {
            result = vgpu_exchange(s, true, region, offset, &value, count);
        }
        if (result != -ENOSPC || !s->busy) {
            return;
        }
    }
    stn_le_p(b.data, count, value);
    vgpu_call(s, VFIO_USER_REGION_WRITE, &b, VGPU_ACCESS + count,
              posted && !s->unacknowledged ? VGPU_POSTED : 0, VGPU_ACCESS);
}

/* Connecting */

/* Takes the fd or connects.  A listener that would make us wait is no use. */
static bool vgpu_connect(VgpuStub *s)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    const struct timeval tv = { .tv_usec = 100000 };
    bool good = true;

    s->sock = s->path ? qemu_socket(AF_UNIX, SOCK_STREAM, 0) : s->fd;
    if (s->path) {
        pstrcpy(address.sun_path, sizeof(address.sun_path), s->path);
        good = g_unix_set_fd_nonblocking(s->sock, true, NULL) &&
               !connect(s->sock, (struct sockaddr *)&address, sizeof(address));
    }
    if (!good || !g_unix_set_fd_nonblocking(s->sock, false, NULL) ||
        setsockopt(s->sock, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv)) ||
        setsockopt(s->sock, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv))) {
        vgpu_fail(s, "cannot connect: %s", strerror(errno));
        return false;
    }
    qemu_set_cloexec(s->sock);
    return true;
}

/* "VFIO_USER_VERSION": proposes. */
static bool vgpu_greet(VgpuStub *s)
{
    VgpuHeader header = { .id = ++s->id, .command = VFIO_USER_VERSION };
    VgpuBody b = { { 0 } };
    int n = snprintf(b.version.json, sizeof(b.version.json),
                     "{\"capabilities\":{\"max_msg_fds\":%d,\"pgsizes\":4096,"
                     "\"max_data_xfer_size\":%d,\"max_dma_maps\":65535,"
                     "\"read_only_areas\":true,\"shadow_doorbells\":true%s}}",
                     VGPU_MAX_FDS, (int)VGPU_MAX_DATA, s->shared_mmio ?
                     ",\"shared_mmio\":{\"version\":1,\"slots\":1}" : "");

    s->until = vgpu_now() + s->connect_timeout;
    return vgpu_send(s, header, &b, offsetof(VgpuBody, version.json) + n + 1);
}

/* Takes the server's offer of shared memory, if it is what we asked for. */
static void vgpu_share(VgpuStub *s, const QDict *is)
{
    const char *why = "no such version, slots or descriptors";
    uint64_t at = is ? qdict_get_try_int(is, "fd_index", -1) : -1;

    if (at < VGPU_MAX_FDS && at + VGPU_SHM_FDS <= s->n_rx_fds &&
        qdict_get_try_int(is, "version", 0) == VGPU_SHM_VERSION &&
        qdict_get_try_int(is, "slots", 0) == 1) {
        why = vgpu_shm_open(&s->shm, s->rx_fds + at,
                            qdict_get_try_int(is, "ring", 0));
    }
    if (why) {
        vgpu_fail(s, "the server offers to share memory, but has %s", why);
    } else {
        trace_vgpu_stub_shared(s->name, s->shm.ring);
    }
}

/* "VFIO_USER_VERSION": takes the answer, of which all is optional. */
static bool vgpu_agree(VgpuStub *s)
{
    VgpuBody b;
    int head = offsetof(VgpuBody, version.json);
    int size = vgpu_wait(s, VFIO_USER_VERSION, &b, head, sizeof(b) - 1);
    QObject *data = NULL;
    QDict *caps = NULL, *ours;

    s->max_fds = 1;
    s->max_dma_maps = 65535;
    s->state_survived = false;
    if (size > head + 1) {
        b.bytes[size] = 0;
        data = qobject_from_json(b.version.json, NULL);
        size = qobject_to(QDict, data) ? size : -1;
    }
    if (size < 0 || b.version.major != 0) {
        qobject_unref(data);
        vgpu_fail(s, "the server does not agree on version 0.0");
        return false;
    }
    caps = data ? qdict_get_qdict(qobject_to(QDict, data), "capabilities") :
           NULL;
    if (caps) {
        s->max_fds = MIN((uint64_t)qdict_get_try_int(caps, "max_msg_fds", 1),
                         VGPU_MAX_FDS);
        s->max_dma_maps = qdict_get_try_int(caps, "max_dma_maps", 65535);
        /* An extension: a server that kept the state needs no reset */
        ours = qdict_get_qdict(caps, "vgpu_stub");
        s->state_survived = ours &&
                            qdict_get_try_bool(ours, "state_survived", false);
        /* An extension, offered to who asks for it */
        if (s->shared_mmio && qdict_haskey(caps, "shared_mmio")) {
            vgpu_share(s, qdict_get_qdict(caps, "shared_mmio"));
        }
    }
    qobject_unref(data);
    return s->sock >= 0;
}

/* What the device is */

static void vgpu_take_area(VgpuLayout *to, const struct vfio_region_info *is,
                           uint64_t offset, uint64_t size, bool read_only)
{
    if (to->n_areas < VGPU_MAX_AREAS) {
        to->areas[to->n_areas].bar = is->index;
        to->areas[to->n_areas].offset = offset;
        to->areas[to->n_areas].size = size;
        to->areas[to->n_areas].read_only = read_only;
        to->areas[to->n_areas++].fd_offset = is->offset + offset;
    }
}

/*
 * "Sparse Regions": all of a BAR may be mapped, or what a capability lists.
 * Another one lists what may be mapped for reading.  Each lies behind the one
 * before, so that there is an end.
 */
static bool vgpu_take_areas(VgpuLayout *to, const VgpuBody *b, uint32_t size,
                            bool writable)
{
    struct vfio_region_info_cap_sparse_mmap cap;
    struct vfio_region_sparse_mmap_area area;
    bool list = b->region.flags & VFIO_REGION_INFO_FLAG_CAPS, whole = true;
    uint32_t at = b->region.cap_offset, least = sizeof(b->region), i;

    for (; list; list = at) {
        bool read_only;

        if (at < least || at > size - sizeof(cap.header)) {
            return false;
        }
        memcpy(&cap.header, b->bytes + at, sizeof(cap.header));
        least = at + sizeof(cap.header);
        read_only = cap.header.id == VGPU_CAP_READ_ONLY;
        if (read_only || cap.header.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
            whole = whole && read_only;
            if (at > size - sizeof(cap)) {
                return false;
            }
            memcpy(&cap, b->bytes + at, sizeof(cap));
            at += sizeof(cap);
            if (cap.nr_areas > (size - at) / sizeof(area)) {
                return false;
            }
            for (i = 0; i < cap.nr_areas; i++, at += sizeof(area)) {
                memcpy(&area, b->bytes + at, sizeof(area));
                if (read_only || writable) {
                    vgpu_take_area(to, &b->region, area.offset, area.size,
                                   read_only);
                }
            }
        }
        at = cap.header.next;
    }
    if (whole && writable) {
        vgpu_take_area(to, &b->region, 0, b->region.size, false);
    }
    return true;
}

/* "VFIO_USER_DEVICE_GET_REGION_INFO" */
static bool vgpu_describe_region(VgpuStub *s, unsigned region, VgpuLayout *to)
{
    const uint32_t mapped = VFIO_REGION_INFO_FLAG_READ |
                            VFIO_REGION_INFO_FLAG_WRITE |
                            VFIO_REGION_INFO_FLAG_MMAP;
    VgpuBody b;
    int size = vgpu_ask(s, VFIO_USER_DEVICE_GET_REGION_INFO, region, &b,
                        sizeof(b.region), sizeof(b));

    if (size < 0) {
        return false;
    }
    to->sizes[region] = b.region.size;
    if (region >= VGPU_BARS || !s->n_rx_fds) {
        return true;
    }
    b.region.index = region;
    if (!vgpu_take_areas(to, &b, size, (b.region.flags & mapped) == mapped)) {
        vgpu_fail(s, "the capabilities of region %u make no sense", region);
        return false;
    }
    s->bars[region].fd = s->rx_fds[--s->n_rx_fds];
    return true;
}

/* Takes from config space what never changes. */
static bool vgpu_take_config(VgpuLayout *to, const uint8_t *config)
{
    static const uint8_t constant[PCI_CONFIG_HEADER_SIZE] = {
        [PCI_VENDOR_ID ... PCI_COMMAND - 1] = 0xff,
        [PCI_STATUS] = 0xb0, [PCI_STATUS + 1] = 0x06, /* what it is, no event */
        [PCI_REVISION_ID ... PCI_CACHE_LINE_SIZE - 1] = 0xff,
        [PCI_HEADER_TYPE] = 0x7f,
        [PCI_CARDBUS_CIS ... PCI_ROM_ADDRESS - 1] = 0xff,
        [PCI_CAPABILITY_LIST] = 0xfc,
        [PCI_INTERRUPT_PIN] = 0xff,
    };
    unsigned at, i, left = 48;

    for (i = 0; i < PCI_CONFIG_HEADER_SIZE; i++) {
        to->header[i] = config[i] & constant[i];
    }
    for (i = 0; i < VGPU_BARS; i++) {
        at = PCI_BASE_ADDRESS_0 + 4 * i;
        /* The upper half of a 64 bit BAR is no region */
        to->header[at] = !to->sizes[i] ? 0 : config[at] &
                         (config[at] & PCI_BASE_ADDRESS_SPACE_IO ? 1 : 0xc);
    }
    at = to->header[PCI_STATUS] & PCI_STATUS_CAP_LIST ?
         to->header[PCI_CAPABILITY_LIST] : 0;
    for (; at; at = config[at + PCI_CAP_LIST_NEXT] & ~3) {
        if (at < PCI_CONFIG_HEADER_SIZE || !left--) {
            return false;
        }
        if (config[at] == PCI_CAP_ID_MSI) {
            to->msi_at = at;
        } else if (config[at] == PCI_CAP_ID_EXP) {
            to->exp_at = at;
        } else if (config[at] == PCI_CAP_ID_MSIX &&
                   at <= PCI_CONFIG_SPACE_SIZE - MSIX_CAP_LENGTH) {
            to->msix_at = at;
            memcpy(to->msix, config + at, MSIX_CAP_LENGTH);
            to->msix[PCI_MSIX_FLAGS + 1] &= PCI_MSIX_FLAGS_QSIZE >> 8;
        }
    }
    return !to->header[PCI_HEADER_TYPE] && to->header[PCI_INTERRUPT_PIN] <= 4;
}

/* Asks for all that the guest may see. */
static bool vgpu_describe(VgpuStub *s, VgpuLayout *to)
{
    VgpuBody b;
    uint64_t size;
    unsigned i, n_irqs;

    memset(to, 0, sizeof(*to));
    if (!vgpu_agree(s) || vgpu_ask(s, VFIO_USER_DEVICE_GET_INFO, 0, &b,
                                   VGPU_INFO, VGPU_INFO) < 0) {
        return false;
    }
    s->resettable = b.info.flags & VFIO_DEVICE_FLAGS_RESET;
    n_irqs = MIN(b.info.count, ARRAY_SIZE(to->irqs));
    if (!(b.info.flags & VFIO_DEVICE_FLAGS_PCI) ||
        b.info.index <= VGPU_CONFIG) {
        vgpu_fail(s, "the server has no PCI device");
    }
    for (i = 0; i <= VGPU_CONFIG; i++) {
        if (!vgpu_describe_region(s, i, to)) {
            return false;
        }
    }
    for (i = 0; i < n_irqs; i++) {
        if (vgpu_ask(s, VFIO_USER_DEVICE_GET_IRQ_INFO, i, &b, VGPU_INFO,
                     VGPU_INFO) < 0) {
            return false;
        }
        to->irqs[i] = b.info.count;
    }
    size = MIN(to->sizes[VGPU_CONFIG], PCI_CONFIG_SPACE_SIZE);
    memset(&b, 0, sizeof(b));
    b.access.is = (VgpuAccess) { 0, VGPU_CONFIG, size };
    if (size < PCI_CONFIG_HEADER_SIZE ||
        vgpu_call(s, VFIO_USER_REGION_READ, &b, VGPU_ACCESS,
                  VGPU_ACCESS + size, VGPU_ACCESS + size) < 0 ||
        !vgpu_take_config(to, b.access.data)) {
        vgpu_fail(s, "the server's config space makes no sense");
    }
    return s->sock >= 0;
}

/* Mapped BARs and doorbells */

static const MemoryRegionOps vgpu_area_ops;

/*
 * Maps a part of the server's file.  One that shrinks under a mapping would be
 * a SIGBUS in QEMU.
 */
static void *vgpu_map_file(int fd, uint64_t start, uint64_t size, int prot,
                           void *old)
{
    struct stat st;

    if (fd < 0) {
        return MAP_FAILED;
    }
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);
    if (!(MAX(fcntl(fd, F_GET_SEALS), 0) & F_SEAL_SHRINK) || fstat(fd, &st) ||
        size > st.st_size || start > st.st_size - size) {
        return MAP_FAILED;
    }
    return mmap(old, size, prot, old ? MAP_SHARED | MAP_FIXED : MAP_SHARED, fd,
                start);
}

/*
 * An area of which only writes are seen by us.  QEMU's ROM devices have memory
 * of QEMU's own, which under Xen would be the guest's; so this one is made of
 * RAM that is where the server's memory is.
 */
static void vgpu_init_rom(VgpuStub *s, VgpuArea *area, uint64_t size)
{
    memory_region_init_ram_ptr(&area->mr, OBJECT(s), "vgpu-stub-shown", size,
                               area->at);
    area->mr.ram = false;
    area->mr.rom_device = true;
    area->mr.ops = &vgpu_area_ops;
    area->mr.opaque = area;
}

/* Maps what the server offers.  What cannot be mapped is trapped. */
static void vgpu_map(VgpuStub *s)
{
    unsigned i;

    for (i = 0; i < s->layout.n_areas; i++) {
        VgpuArea *area = &s->areas[i];
        VgpuBar *bar = &s->bars[s->layout.areas[i].bar];
        bool read_only = s->layout.areas[i].read_only;
        uint64_t offset = s->layout.areas[i].offset;
        uint64_t size = s->layout.areas[i].size;
        uint64_t start = s->layout.areas[i].fd_offset;
        uint64_t room = s->layout.sizes[s->layout.areas[i].bar];
        void *at;

        if (!size || size > room || offset > room - size ||
            !QEMU_IS_ALIGNED(offset | size | start, 4 * KiB)) {
            continue;
        }
        at = vgpu_map_file(bar->fd, start, size, read_only ? PROT_READ :
                           PROT_READ | PROT_WRITE, area->at);
        if (at == MAP_FAILED) {
            continue;
        }
        if (!area->at) {
            area->at = at;
            area->bar = bar;
            area->offset = offset;
            if (read_only) {
                vgpu_init_rom(s, area, size);
            } else {
                memory_region_init_ram_device_ptr(&area->mr, OBJECT(s),
                                                  "vgpu-stub-area", size, at);
            }
            /* Below the MSI-X table, should they overlap */
            memory_region_add_subregion_overlap(&bar->mr, offset, &area->mr,
                                                -1);
        }
        bar->shows |= read_only;
        area->mapped = true;
        memory_region_set_enabled(&area->mr, true);
        trace_vgpu_stub_mapped(s->name, s->layout.areas[i].bar, offset, size,
                               read_only);
    }
}

static void vgpu_show_areas(VgpuStub *s, bool visible)
{
    unsigned i;

    for (i = 0; i < s->layout.n_areas; i++) {
        if (s->areas[i].mapped) {
            memory_region_set_enabled(&s->areas[i].mr, visible);
        }
    }
}

/* Finds whose writes there are trapped: the BAR's, or an area's of it. */
static void vgpu_place_bell(VgpuStub *s, VgpuBell *bell)
{
    unsigned i;

    bell->mr = &bell->bar->mr;
    bell->at = bell->is.offset;
    for (i = 0; i < s->layout.n_areas; i++) {
        VgpuArea *area = &s->areas[i];

        if (area->mapped && s->layout.areas[i].read_only &&
            area->bar == bell->bar && bell->is.offset >= area->offset &&
            bell->is.offset - area->offset < s->layout.areas[i].size) {
            bell->mr = &area->mr;
            bell->at = bell->is.offset - area->offset;
        }
    }
}

/* Where a doorbell's value goes, or NULL. */
static void *vgpu_map_shadow(VgpuStub *s, const VgpuIoFd *is)
{
    const uint64_t page = 4 * KiB;
    void *at = MAP_FAILED;

    if (is->shadow_fd_index < s->n_rx_fds &&
        QEMU_IS_ALIGNED(is->shadow_offset, 8)) {
        at = vgpu_map_file(s->rx_fds[is->shadow_fd_index],
                           QEMU_ALIGN_DOWN(is->shadow_offset, page), page,
                           PROT_READ | PROT_WRITE, NULL);
    }
    return at == MAP_FAILED ? NULL : (uint8_t *)at + is->shadow_offset % page;
}

/*
 * A doorbell.  One that KVM, and so QEMU, would not survive (what is no
 * eventfd, or is there already) is trapped; writing shows what an fd is.
 */
static void vgpu_add_bell(VgpuStub *s, unsigned bar, const VgpuIoFd *is)
{
    const uint64_t zero = 0, size = s->layout.sizes[bar];
    int fd = is->fd_index < s->n_rx_fds ? s->rx_fds[is->fd_index] : -1;
    VgpuBell *bell = &s->bells[s->n_bells];
    unsigned i;

    if (s->n_bells == ARRAY_SIZE(s->bells) || is->flags > 1 ||
        (is->type != VGPU_IOEVENTFD && is->type != VGPU_SHADOW) ||
        !is_power_of_2(is->size) || is->size > MIN(size, 8) ||
        is->offset > size - is->size ||
        !g_unix_set_fd_nonblocking(fd, true, NULL) ||
        write(fd, &zero, 4) >= 0 || errno != EINVAL ||
        write(fd, &zero, 8) != 8) {
        return;
    }
    for (i = 0; i < s->n_bells; i++) {
        if (s->bells[i].bar == &s->bars[bar] &&
            s->bells[i].is.offset == is->offset) {
            return;
        }
    }
    bell->bar = &s->bars[bar];
    bell->is = *is;
    vgpu_place_bell(s, bell);
    bell->shadow = is->type == VGPU_SHADOW ? vgpu_map_shadow(s, is) : NULL;
    if (is->type == VGPU_SHADOW && !bell->shadow) {
        return;
    }
    event_notifier_init_fd(&bell->event, qemu_dup(fd));
    if (!bell->shadow) {
        memory_region_add_eventfd(bell->mr, bell->at, is->size, is->flags,
                                  is->datamatch, &bell->event);
    }
    s->n_bells++;
    trace_vgpu_stub_doorbell(s->name, bar, is->offset, is->size, is->type);
}

/* "VFIO_USER_DEVICE_GET_REGION_IO_FDS" is optional: a refusal is no fault. */
static void vgpu_add_bells(VgpuStub *s)
{
    const size_t shorter = offsetof(VgpuIoFd, datamatch);
    unsigned bar, i;

    for (bar = 0; bar < VGPU_BARS; bar++) {
        VgpuBody b = { .info = { .argsz = sizeof(b.info), .index = bar } };
        int size = -1;
        size_t each;

        if (s->layout.sizes[bar]) {
            size = vgpu_call(s, VFIO_USER_DEVICE_GET_REGION_IO_FDS, &b,
                             VGPU_INFO, VGPU_INFO, sizeof(b.info));
        }
        if (size < 0 || !b.info.count) {
            continue;
        }
        each = (size - VGPU_INFO) / b.info.count;
        for (i = 0; i < b.info.count && each >= shorter; i++) {
            VgpuIoFd is;

            memcpy(&is, b.info.io + i * each, MIN(each, sizeof(is)));
            if (each < sizeof(is)) {
                is.datamatch = is.shadow_offset;
                is.type = is.type == VGPU_SHADOW ? UINT32_MAX : is.type;
            }
            vgpu_add_bell(s, bar, &is);
        }
    }
}

/* A doorbell with a value; the others are QEMU's. */
static bool vgpu_ring(VgpuBar *bar, hwaddr offset, uint64_t value,
                      unsigned size)
{
    unsigned i;

    for (i = 0; i < bar->s->n_bells; i++) {
        VgpuBell *bell = &bar->s->bells[i];

        if (!bell->shadow || bell->bar != bar || bell->is.offset != offset ||
            bell->is.size != size ||
            (bell->is.flags && bell->is.datamatch != value)) {
            continue;
        }
        if (size == 8) {
            __atomic_store_n((uint64_t *)bell->shadow, value, __ATOMIC_RELEASE);
        } else if (size == 4) {
            __atomic_store_n((uint32_t *)bell->shadow, value, __ATOMIC_RELEASE);
        } else if (size == 2) {
            __atomic_store_n((uint16_t *)bell->shadow, value, __ATOMIC_RELEASE);
        } else {
            __atomic_store_n((uint8_t *)bell->shadow, value, __ATOMIC_RELEASE);
        }
        event_notifier_set(&bell->event);
        return true;
    }
    return false;
}

static void vgpu_remove_bells(VgpuStub *s)
{
    while (s->n_bells) {
        VgpuBell *bell = &s->bells[--s->n_bells];

        if (bell->shadow) {
            munmap((void *)QEMU_ALIGN_DOWN((uintptr_t)bell->shadow, 4 * KiB),
                   4 * KiB);
        } else {
            memory_region_del_eventfd(bell->mr, bell->at, bell->is.size,
                                      bell->is.flags, bell->is.datamatch,
                                      &bell->event);
        }
        event_notifier_cleanup(&bell->event);
    }
}

/* Interrupts */

/* "VFIO_USER_DEVICE_SET_IRQS" */
static void vgpu_set_irqs(VgpuStub *s, uint32_t index, uint32_t flags,
                          uint32_t start, uint32_t count, size_t least)
{
    struct vfio_irq_set b = {
        .argsz = sizeof(b), .flags = flags, .index = index,
        .start = start, .count = count,
    };
    int result = vgpu_call(s, VFIO_USER_DEVICE_SET_IRQS, &b, sizeof(b), least,
                           0);

    trace_vgpu_stub_irqs(s->name, index, flags, start, count, result);
}

static void vgpu_interrupt(void *opaque)
{
    VgpuVector *vector = opaque;
    VgpuStub *s = vector->s;

    if (!event_notifier_test_and_clear(&vector->event) || !s->live) {
        return;
    }
    if (s->irq_index == VFIO_PCI_MSIX_IRQ_INDEX) {
        msix_notify(PCI_DEVICE(s), vector - s->vectors); /* or: pending */
    } else {
        s->intx_pending = true;
        /* Its end is an access to a BAR, which therefore must be seen */
        vgpu_show_areas(s, false);
        pci_irq_assert(PCI_DEVICE(s));
    }
}

/*
 * The guest may have done what an INTx asked for.  It is automasked: if the
 * device still has a reason, it says so again.
 */
static void vgpu_end_intx(VgpuStub *s)
{
    if (s->intx_pending) {
        s->intx_pending = false;
        pci_irq_deassert(PCI_DEVICE(s));
        vgpu_show_areas(s, s->live);
        vgpu_set_irqs(s, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE |
                      VFIO_IRQ_SET_ACTION_UNMASK, 0, 1, VGPU_POSTED);
    }
}

static void vgpu_stop_irqs(VgpuStub *s)
{
    vgpu_end_intx(s);
    if (s->n_irqs) {
        vgpu_set_irqs(s, s->irq_index, VFIO_IRQ_SET_DATA_NONE |
                      VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, 0);
    }
    while (s->n_irqs) {
        EventNotifier *event = &s->vectors[--s->n_irqs].event;

        qemu_set_fd_handler(event_notifier_get_fd(event), NULL, NULL, NULL);
        event_notifier_test_and_clear(event);
    }
}

/* Gives the server eventfds for the interrupts that the guest has enabled. */
static void vgpu_start_irqs(VgpuStub *s)
{
    PCIDevice *pci = PCI_DEVICE(s);
    bool msix = msix_enabled(pci);
    unsigned count, n;

    s->irq_index = msix ? VFIO_PCI_MSIX_IRQ_INDEX : VFIO_PCI_INTX_IRQ_INDEX;
    count = MIN(msix ? s->n_vectors : 1, s->layout.irqs[s->irq_index]);
    while (s->n_irqs < count && s->max_fds) {
        for (n = 0; n < MIN(count - s->n_irqs, s->max_fds); n++) {
            VgpuVector *vector = &s->vectors[s->n_irqs + n];

            s->tx_fds[n] = event_notifier_get_fd(&vector->event);
            qemu_set_fd_handler(s->tx_fds[n], vgpu_interrupt, NULL, vector);
        }
        s->n_tx_fds = n;
        vgpu_set_irqs(s, s->irq_index, VFIO_IRQ_SET_DATA_EVENTFD |
                      VFIO_IRQ_SET_ACTION_TRIGGER, s->n_irqs, n, 0);
        s->n_irqs += n;
    }
}

/* Trapped BARs and config space */

static uint64_t vgpu_bar_read(void *opaque, hwaddr offset, unsigned size)
{
    VgpuBar *bar = opaque;
    VgpuStub *s = bar->s;
    uint64_t value;

    if (!s->live || vgpu_read(s, bar - s->bars, offset, &value, size) < 0) {
        value = UINT64_MAX;
    }
    trace_vgpu_stub_read(s->name, bar - s->bars, offset, size, value);
    vgpu_end_intx(s);
    return value;
}

static void vgpu_bar_write(void *opaque, hwaddr offset, uint64_t value,
                           unsigned size)
{
    VgpuBar *bar = opaque;
    VgpuStub *s = bar->s;

    trace_vgpu_stub_write(s->name, bar - s->bars, offset, size, value);
    if (s->live && !vgpu_ring(bar, offset, value, size)) {
        /* Where a read is not seen it cannot push writes, so these wait */
        vgpu_write(s, bar - s->bars, offset, value, size,
                   s->posted_writes && !bar->shows);
    }
    vgpu_end_intx(s);
}

static const MemoryRegionOps vgpu_bar_ops = {
    .read = vgpu_bar_read,
    .write = vgpu_bar_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8 },
    .impl = { .min_access_size = 1, .max_access_size = 8 },
};

static uint64_t vgpu_area_read(void *opaque, hwaddr offset, unsigned size)
{
    VgpuArea *area = opaque;

    return vgpu_bar_read(area->bar, area->offset + offset, size);
}

static void vgpu_area_write(void *opaque, hwaddr offset, uint64_t value,
                            unsigned size)
{
    VgpuArea *area = opaque;

    vgpu_bar_write(area->bar, area->offset + offset, value, size);
}

/* Of areas whose reads are the server's memory */
static const MemoryRegionOps vgpu_area_ops = {
    .read = vgpu_area_read,
    .write = vgpu_area_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8 },
    .impl = { .min_access_size = 1, .max_access_size = 8 },
};

/* The header and MSI-X are QEMU's, the rest is the server's. */
static bool vgpu_is_ours(PCIDevice *pci, uint32_t address)
{
    return address < PCI_CONFIG_HEADER_SIZE || pci->used[address];
}

static uint32_t vgpu_config_read(PCIDevice *pci, uint32_t address, int size)
{
    VgpuStub *s = VGPU_STUB(pci);
    uint64_t is;

    if (vgpu_is_ours(pci, address)) {
        uint32_t value = pci_default_read_config(pci, address, size);

        /* An INTx that is disabled stays with the server, but shows here */
        if (s->live && address <= PCI_STATUS && PCI_STATUS < address + size &&
            vgpu_read(s, VGPU_CONFIG, PCI_STATUS, &is, 1) >= 0) {
            value |= (is & PCI_STATUS_INTERRUPT) << 8 * (PCI_STATUS - address);
        }
        return value;
    }
    if (!s->live || vgpu_read(s, VGPU_CONFIG, address, &is, size) < 0) {
        return UINT32_MAX;
    }
    /* MSI is not for us: a null capability */
    return address == s->layout.msi_at ? is & ~0xff : is;
}

/* The server hears of the command register: whether it may access memory. */
static void vgpu_config_write(PCIDevice *pci, uint32_t address, uint32_t value,
                              int size)
{
    VgpuStub *s = VGPU_STUB(pci);
    bool msix = msix_enabled(pci);
    uint64_t wide = (uint64_t)value << (address % 4 * 8);

    if (vgpu_is_ours(pci, address)) {
        pci_default_write_config(pci, address, value, size);
    }
    if (s->live) {
        vgpu_write(s, VGPU_CONFIG, address, value, size, false);
        if (msix != msix_enabled(pci)) {
            vgpu_stop_irqs(s);
            vgpu_start_irqs(s);
        }
    }
    /* What is ours of the device must go along with a function level reset */
    if (s->layout.exp_at && wide & PCI_EXP_DEVCTL_BCR_FLR &&
        (address & ~3) == s->layout.exp_at + PCI_EXP_DEVCTL) {
        pci_device_reset(pci);
    }
}

/* Guest memory */

static bool vgpu_is_guest_memory(const MemoryRegionSection *section)
{
    return memory_region_is_ram(section->mr) &&
           !memory_region_is_ram_device(section->mr) &&
           !((section->offset_within_address_space |
              int128_get64(section->size)) & (4 * KiB - 1));
}

/*
 * "VFIO_USER_DMA_MAP": with an fd if the memory is a file's and shared, which
 * it is not under Xen, and if the guest may write to it.
 */
static void vgpu_region_add(MemoryListener *listener,
                            MemoryRegionSection *section)
{
    VgpuStub *s = container_of(listener, VgpuStub, listener);
    RAMBlock *block = section->mr->ram_block;
    struct vfio_iommu_type1_dma_map b = {
        .argsz = sizeof(b),
        .flags = VFIO_DMA_MAP_FLAG_READ,
        .iova = section->offset_within_address_space,
        .size = int128_get64(section->size),
    };
    int result = -ENOSPC;

    if (s->sock < 0 || !vgpu_is_guest_memory(section)) {
        return;
    }
    if (!section->readonly) {
        b.flags |= VFIO_DMA_MAP_FLAG_WRITE;
        s->tx_fds[0] = memory_region_get_fd(section->mr);
        if (s->max_fds && s->tx_fds[0] >= 0 && qemu_ram_is_shared(block)) {
            /* What vaddr is to the kernel is the file's offset here */
            b.vaddr = section->offset_within_region + vgpu_fd_offset(block);
            s->n_tx_fds = 1;
        }
    }
    trace_vgpu_stub_dma_map(s->name, b.iova, b.size, s->n_tx_fds);
    if (s->n_maps < s->max_dma_maps) {
        result = vgpu_call(s, VFIO_USER_DMA_MAP, &b, sizeof(b), 0, 0);
    }
    s->n_tx_fds = 0;
    if (result >= 0) {
        s->n_maps++;
    } else if (s->sock >= 0) {
        warn_report("vgpu-stub: the server at %s does not take memory: %s",
                    s->name, strerror(-result));
    }
}

/* "VFIO_USER_DMA_UNMAP": what was never mapped is refused, without harm. */
static void vgpu_region_del(MemoryListener *listener,
                            MemoryRegionSection *section)
{
    VgpuStub *s = container_of(listener, VgpuStub, listener);
    struct vfio_iommu_type1_dma_unmap b = {
        .argsz = sizeof(b),
        .iova = section->offset_within_address_space,
        .size = int128_get64(section->size),
    };

    if (s->sock >= 0 && vgpu_is_guest_memory(section) &&
        vgpu_call(s, VFIO_USER_DMA_UNMAP, &b, sizeof(b), 0, sizeof(b)) >= 0) {
        s->n_maps--;
    }
}

/* A connection's beginning, end and renewal */

/* "VFIO_USER_DEVICE_RESET", before the bus resets its part of the device. */
static void vgpu_reset(DeviceState *dev)
{
    VgpuStub *s = VGPU_STUB(dev);

    if (s->live) {
        vgpu_stop_irqs(s);
        if (s->resettable) {
            vgpu_call(s, VFIO_USER_DEVICE_RESET, NULL, 0, 0, 0);
        }
        msix_reset(PCI_DEVICE(s));
        vgpu_start_irqs(s);
    }
}

/* Makes the server's device what the guest left, which is nothing at first. */
static void vgpu_resume(VgpuStub *s)
{
    PCIDevice *pci = PCI_DEVICE(s);
    const uint8_t *config = pci->config;
    unsigned at;

    vgpu_map(s);
    vgpu_add_bells(s);
    if (s->resettable && !s->state_survived) {
        vgpu_call(s, VFIO_USER_DEVICE_RESET, NULL, 0, 0, 0);
    }
    for (at = PCI_BASE_ADDRESS_0; at <= PCI_BASE_ADDRESS_5; at += 4) {
        vgpu_write(s, VGPU_CONFIG, at, pci_get_long(config + at), 4, false);
    }
    at = PCI_COMMAND;
    vgpu_write(s, VGPU_CONFIG, at, pci_get_word(config + at), 2, false);
    if (s->layout.msix_at) {
        at = s->layout.msix_at + PCI_MSIX_FLAGS;
        vgpu_write(s, VGPU_CONFIG, at, pci_get_word(config + at), 2, false);
    }
    s->n_maps = 0;
    s->listener.region_add = vgpu_region_add;
    s->listener.region_del = vgpu_region_del;
    memory_listener_register(&s->listener, pci_device_iommu_address_space(pci));
    vgpu_start_irqs(s);
    s->clean = false;
    s->live = s->sock >= 0;
    if (s->live) {
        qemu_set_fd_handler(s->sock, vgpu_readable, NULL, s);
    }
}

/* Clears away what a connection that is gone has left. */
static void vgpu_clean_up(VgpuStub *s)
{
    unsigned i;

    if (s->listener.region_add) {
        memory_listener_unregister(&s->listener);
        s->listener.region_add = NULL;
    }
    vgpu_stop_irqs(s);
    vgpu_remove_bells(s);
    vgpu_show_areas(s, false);
    for (i = 0; i < s->layout.n_areas; i++) {
        s->areas[i].mapped = false;
    }
    for (i = 0; i < VGPU_BARS; i++) {
        s->bars[i].shows = false;
    }
    s->clean = true;
}

/* The server that came back answers. */
static void vgpu_welcome(void *opaque)
{
    VgpuStub *s = opaque;
    g_autofree VgpuLayout *layout = g_new(VgpuLayout, 1);

    qemu_set_fd_handler(s->sock, NULL, NULL, NULL);
    timer_del(s->timer);
    s->deadline = s->until;
    if (vgpu_describe(s, layout) &&
        memcmp(layout, &s->layout, sizeof(*layout))) {
        vgpu_fail(s, "another device has taken its place");
    }
    if (s->sock >= 0) {
        vgpu_resume(s);
    }
    s->deadline = 0;
    if (s->live) {
        info_report("vgpu-stub: the device at %s is back", s->name);
    }
}

/* After a fault: clears away at once, tries again after a while. */
static void vgpu_tick(void *opaque)
{
    VgpuStub *s = opaque;

    if (s->sock >= 0 && !s->live) {
        vgpu_fail(s, "the server did not answer in time");
    } else if (!s->clean) {
        vgpu_clean_up(s);
        if (s->reconnect) {
            timer_mod(s->timer, vgpu_now() + s->reconnect);
        }
    } else {
        timer_mod(s->timer, vgpu_now() + s->connect_timeout);
        if (vgpu_connect(s) && vgpu_greet(s)) {
            qemu_set_fd_handler(s->sock, vgpu_welcome, NULL, s);
        }
    }
}

/* Making and ending the device */

static bool vgpu_add_bar(VgpuStub *s, unsigned i, Error **errp)
{
    uint64_t size = s->layout.sizes[i];
    uint8_t type = s->layout.header[PCI_BASE_ADDRESS_0 + 4 * i];
    bool wide = type & PCI_BASE_ADDRESS_MEM_TYPE_64;
    uint64_t most = type == PCI_BASE_ADDRESS_SPACE_IO ? 64 * KiB :
                    wide ? 64 * TiB : 2 * GiB;

    if (!is_power_of_2(size) || size < 16 || size > most ||
        (wide && (i == VGPU_BARS - 1 || s->layout.sizes[i + 1]))) {
        error_setg(errp, "vgpu-stub: the device at %s has a BAR %u that cannot "
                   "be (0x%" PRIx64 " bytes, type %u)", s->name, i, size, type);
        return false;
    }
    s->bars[i].s = s;
    memory_region_init_io(&s->bars[i].mr, OBJECT(s), &vgpu_bar_ops, &s->bars[i],
                          "vgpu-stub-bar", size);
    pci_register_bar(PCI_DEVICE(s), i, type, &s->bars[i].mr);
    return true;
}

/* Where a part of MSI-X is. */
static VgpuBar *vgpu_msix_bar(VgpuStub *s, unsigned field, uint32_t *offset)
{
    uint32_t at = pci_get_long(s->layout.msix + field);
    unsigned bar = at & PCI_MSIX_FLAGS_BIRMASK;

    *offset = at & ~PCI_MSIX_FLAGS_BIRMASK;
    return bar < VGPU_BARS && *offset < s->layout.sizes[bar] ? &s->bars[bar] :
           NULL;
}

/* Makes a PCI device of the description.  QEMU emulates its MSI-X. */
static bool vgpu_build(VgpuStub *s, Error **errp)
{
    PCIDevice *pci = PCI_DEVICE(s);
    VgpuLayout *is = &s->layout;
    unsigned i, vectors = pci_get_word(is->msix + PCI_MSIX_FLAGS) + 1;
    uint32_t table_at, pba_at;
    VgpuBar *table = vgpu_msix_bar(s, PCI_MSIX_TABLE, &table_at);
    VgpuBar *pba = vgpu_msix_bar(s, PCI_MSIX_PBA, &pba_at);

    memcpy(pci->config, is->header, PCI_CONFIG_HEADER_SIZE);
    for (i = 0; i < VGPU_BARS; i++) {
        if (is->sizes[i] && !vgpu_add_bar(s, i, errp)) {
            return false;
        }
    }
    if (is->msix_at && (!table || !pba)) {
        error_setg(errp, "vgpu-stub: the device at %s has MSI-X outside its "
                   "BARs", s->name);
        return false;
    }
    if (is->msix_at && msix_init(pci, vectors, &table->mr, table - s->bars,
                                 table_at, &pba->mr, pba - s->bars, pba_at,
                                 is->msix_at, errp) < 0) {
        return false;
    }
    /* QEMU put its capability to the front of the server's list */
    pci->config[PCI_CAPABILITY_LIST] = is->header[PCI_CAPABILITY_LIST];
    if (is->msix_at) {
        pci->config[is->msix_at + 1] = is->msix[1];
    }
    s->vectors = g_new0(VgpuVector, vectors);
    for (; s->n_vectors < vectors; s->n_vectors++) {
        s->vectors[s->n_vectors].s = s;
        if (event_notifier_init(&s->vectors[s->n_vectors].event, 0)) {
            error_setg(errp, "vgpu-stub: no eventfd for interrupt %u of the "
                       "device at %s", s->n_vectors, s->name);
            return false;
        }
        if (is->msix_at) {
            msix_vector_use(pci, s->n_vectors);
        }
    }
    return true;
}

static void vgpu_exit(PCIDevice *pci)
{
    VgpuStub *s = VGPU_STUB(pci);
    uint32_t ignored;
    unsigned i;

    s->realized = false;
    vgpu_disconnect(s);
    vgpu_clean_up(s);
    timer_del(s->timer);
    timer_free(s->timer);
    for (i = 0; i < s->layout.n_areas; i++) {
        if (s->areas[i].at) {
            /* Each holds a reference to the device */
            memory_region_del_subregion(&s->bars[s->layout.areas[i].bar].mr,
                                        &s->areas[i].mr);
        }
    }
    while (s->n_vectors) {
        event_notifier_cleanup(&s->vectors[--s->n_vectors].event);
    }
    if (msix_present(pci)) {
        msix_uninit(pci, &vgpu_msix_bar(s, PCI_MSIX_TABLE, &ignored)->mr,
                    &vgpu_msix_bar(s, PCI_MSIX_PBA, &ignored)->mr);
    }
}

/* No view of memory has the mapped areas any more. */
static void vgpu_finalize(Object *obj)
{
    VgpuStub *s = VGPU_STUB(obj);
    unsigned i;

    for (i = 0; i < s->layout.n_areas; i++) {
        if (s->areas[i].at) {
            munmap(s->areas[i].at, s->layout.areas[i].size);
        }
    }
    g_free(s->vectors);
    g_free(s->rx);
    g_free(s->dma);
    g_free(s->name);
    g_free(s->why);
}

static void vgpu_realize(PCIDevice *pci, Error **errp)
{
    VgpuStub *s = VGPU_STUB(pci);
    Error *err = NULL;
    unsigned i;

    if (!s->path == (s->fd < 0) || (s->reconnect && !s->path)) {
        error_setg(errp, "vgpu-stub: give socket=PATH, or fd=NUMBER without "
                   "reconnect");
        return;
    }
    if (s->path && (!*s->path || strlen(s->path) >=
                    sizeof_field(struct sockaddr_un, sun_path))) {
        error_setg(errp, "vgpu-stub: socket must be a short path, not empty");
        return;
    }
    if (!s->connect_timeout || !s->msg_timeout) {
        error_setg(errp, "vgpu-stub: a timeout must be 1 ms or more");
        return;
    }
    s->name = s->path ? g_strdup(s->path) : g_strdup_printf("fd %d", s->fd);
    s->rx = g_malloc(VGPU_RX_SIZE);
    s->dma = g_malloc(sizeof(*s->dma) + VGPU_MAX_DATA);
    s->timer = timer_new_ms(QEMU_CLOCK_REALTIME, vgpu_tick, s);
    for (i = 0; i < VGPU_BARS; i++) {
        s->bars[i].fd = -1;
    }
    s->deadline = vgpu_now() + s->connect_timeout;
    if (vgpu_connect(s) && vgpu_greet(s) && vgpu_describe(s, &s->layout) &&
        vgpu_build(s, &err)) {
        vgpu_resume(s);
    }
    s->deadline = 0;
    s->realized = s->live;
    if (!s->live) {
        if (!err) {
            error_setg(&err, "vgpu-stub: no device at %s: %s", s->name,
                       s->why ? s->why : "no socket");
        }
        error_propagate(errp, err);
        vgpu_exit(pci);
    }
}

static const VMStateDescription vgpu_vmstate = {
    .name = TYPE_VGPU_STUB,
    .unmigratable = 1,
};

static VGPU_CONST Property vgpu_properties[] = {
    DEFINE_PROP_STRING("socket", VgpuStub, path),
    DEFINE_PROP_INT32("fd", VgpuStub, fd, -1),
    DEFINE_PROP_UINT32("connect-timeout", VgpuStub, connect_timeout, 3000),
    DEFINE_PROP_UINT32("msg-timeout", VgpuStub, msg_timeout, 2000),
    DEFINE_PROP_UINT32("reconnect", VgpuStub, reconnect, 0),
    DEFINE_PROP_BOOL("posted-writes", VgpuStub, posted_writes, true),
    DEFINE_PROP_BOOL("shared-mmio", VgpuStub, shared_mmio, true),
#if QEMU_VERSION_MAJOR < 10
    DEFINE_PROP_END_OF_LIST(),
#endif
};

static void vgpu_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    pc->realize = vgpu_realize;
    pc->exit = vgpu_exit;
    pc->config_read = vgpu_config_read;
    pc->config_write = vgpu_config_write;
    dc->desc = "PCI device in another process (vfio-user)";
    dc->vmsd = &vgpu_vmstate;
    device_class_set_legacy_reset(dc, vgpu_reset);
    device_class_set_props(dc, vgpu_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo vgpu_info = {
    .name = TYPE_VGPU_STUB,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(VgpuStub),
    .instance_finalize = vgpu_finalize,
    .class_init = vgpu_class_init,
    .interfaces = (InterfaceInfo[]) {
        { INTERFACE_CONVENTIONAL_PCI_DEVICE },
        { }
    },
};

static void vgpu_register_types(void)
{
    type_register_static(&vgpu_info);
}

type_init(vgpu_register_types)
