/*
 * vgpu-stub: a PCI device that another process emulates (vfio-user client)
 *
 * Everything that the guest sees of the device is described by a server on a
 * UNIX socket.  Section names in this file are those of the "vfio-user
 * Protocol Specification" (docs/interop/vfio-user.rst in QEMU 10.1).
 *
 * All of it runs under the big QEMU lock.  The server is not trusted: it can
 * cost the guest its device, and QEMU one msg-timeout, but nothing else.  After
 * its first fault the device is broken: reads give all-ones, writes are
 * dropped, and neither costs a system call.
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
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/memfd.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "hw/pci/msi.h"
#include "hw/pci/msix.h"
#include "hw/pci/pci.h"
#include "hw/qdev-properties.h"
#include "migration/vmstate.h"
#include "trace.h"

/* What differs between QEMU 4.2, 5.2 and 10.0 */
#if QEMU_VERSION_MAJOR >= 8
#include "hw/pci/pci_device.h"
#endif
#if QEMU_VERSION_MAJOR >= 10
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "exec/ramblock.h"
#define vgpu_fd_offset(block)   ((block)->fd_offset)
#define VGPU_PROPERTIES_END
#define vgpu_set_reset(dc, fn)  device_class_set_legacy_reset(dc, fn)
#else
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qjson.h"
#define vgpu_fd_offset(block)   0
#define VGPU_PROPERTIES_END     DEFINE_PROP_END_OF_LIST(),
#define vgpu_set_reset(dc, fn)  ((dc)->reset = (fn))
#endif
#if QEMU_VERSION_MAJOR < 5
#define device_class_set_props(dc, properties) ((dc)->props = (properties))
#endif

#define TYPE_VGPU_STUB "vgpu-stub"
#define VGPU_STUB(obj) OBJECT_CHECK(VgpuStub, (obj), TYPE_VGPU_STUB)

/* The specification's "Commands" */
enum {
    VFIO_USER_VERSION = 1,
    VFIO_USER_DMA_MAP = 2,
    VFIO_USER_DMA_UNMAP = 3,
    VFIO_USER_DEVICE_GET_INFO = 4,
    VFIO_USER_DEVICE_GET_REGION_INFO = 5,
    VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6,
    VFIO_USER_DEVICE_GET_IRQ_INFO = 7,
    VFIO_USER_DEVICE_SET_IRQS = 8,
    VFIO_USER_REGION_READ = 9,
    VFIO_USER_REGION_WRITE = 10,
    VFIO_USER_DMA_READ = 11,
    VFIO_USER_DMA_WRITE = 12,
    VFIO_USER_DEVICE_RESET = 13,
};

/* "Header": its flags */
#define VFIO_USER_TYPE          0xf
#define VFIO_USER_REPLY         0x1
#define VFIO_USER_NO_REPLY      0x10
#define VFIO_USER_ERROR         0x20

#define VFIO_USER_DMA_READABLE  0x1
#define VFIO_USER_DMA_WRITEABLE 0x2

#define VFIO_USER_IO_FD_IOEVENTFD       0
#define VFIO_USER_IOEVENTFD_DATAMATCH   0x1

/* The most that we take: data of a DMA message, fds of any message */
#define VGPU_MAX_DATA   (64 * 1024)
#define VGPU_MAX_FDS    16
#define VGPU_RX_SIZE    (VGPU_MAX_DATA + 64)
#define VGPU_MAX_AREAS  16
#define VGPU_BARS       6
#define VGPU_REGIONS    (VFIO_PCI_CONFIG_REGION_INDEX + 1)

typedef struct VgpuHeader {
    uint16_t id;
    uint16_t command;
    uint32_t size;
    uint32_t flags;
    uint32_t error;
} VgpuHeader;

typedef struct VgpuVersion {
    uint16_t major;
    uint16_t minor;
    char json[1024];
} VgpuVersion;

/* DEVICE_GET_INFO, GET_IRQ_INFO and GET_REGION_IO_FDS begin like this */
typedef struct VgpuInfo {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;             /* or the number of regions */
    uint32_t count;             /* or the number of interrupt types */
} VgpuInfo;

typedef struct VgpuIoFd {
    uint64_t offset;
    uint64_t size;
    uint32_t fd_index;
    uint32_t type;
    uint32_t flags;
    uint32_t padding;
    uint64_t datamatch;
} VgpuIoFd;

typedef struct VgpuAccess {
    uint64_t offset;
    uint32_t region;
    uint32_t count;
    uint8_t data[8];            /* only in a read's reply */
} VgpuAccess;

typedef struct VgpuTransfer {
    uint64_t address;
    uint64_t count;
} VgpuTransfer;

typedef struct VgpuDmaMap {
    uint32_t argsz;
    uint32_t flags;
    uint64_t offset;
    uint64_t address;
    uint64_t size;
} VgpuDmaMap;

typedef struct VgpuDmaUnmap {
    uint32_t argsz;
    uint32_t flags;
    uint64_t address;
    uint64_t size;
} VgpuDmaUnmap;

/* A command to the server, and where its reply goes */
typedef struct VgpuCall {
    uint16_t command;
    bool posted;                /* the server does not reply */
    const void *body;
    size_t size;
    const void *data;           /* follows the body */
    size_t data_size;
    const int *fds;
    int n_fds;
    void *reply;                /* its body */
    size_t least;               /* size of a reply that is complete */
    size_t most;                /* room in reply */
    int *reply_fds;             /* room for VGPU_MAX_FDS, or NULL */
    int *n_reply_fds;
} VgpuCall;

/* What a server that comes back must describe again, bit by bit */
typedef struct VgpuLayout {
    uint8_t header[PCI_CONFIG_HEADER_SIZE];
    uint8_t chain[PCI_CONFIG_SPACE_SIZE]; /* capabilities' ids and links */
    uint8_t msi, msix;                    /* where these two are, or 0 */
    uint16_t msi_flags, msix_flags;
    uint32_t msix_table, msix_pba;
    uint32_t irqs[VFIO_PCI_MSIX_IRQ_INDEX + 1];
    struct {
        uint64_t size;
        uint64_t fd_offset;
        uint32_t flags;
        uint32_t n_areas;
        struct vfio_region_sparse_mmap_area areas[VGPU_MAX_AREAS];
    } regions[VGPU_REGIONS];
} VgpuLayout;

/* Part of a BAR that is the server's memory */
typedef struct VgpuMapping {
    MemoryRegion mr;
    unsigned bar;
    uint64_t offset;
    uint64_t size;
    uint64_t fd_offset;
    void *at;
} VgpuMapping;

/* A write to a BAR that is the signal of an eventfd */
typedef struct VgpuDoorbell {
    EventNotifier event;
    unsigned bar;
    VgpuIoFd is;
} VgpuDoorbell;

typedef struct VgpuDmaRange {
    uint64_t address;
    uint64_t size;
    QLIST_ENTRY(VgpuDmaRange) next;
} VgpuDmaRange;

typedef struct VgpuStub VgpuStub;

typedef struct VgpuVector {
    EventNotifier event;
    VgpuStub *s;
} VgpuVector;

typedef struct VgpuBar {
    MemoryRegion mr;
    VgpuStub *s;
} VgpuBar;

struct VgpuStub {
    PCIDevice parent_obj;

    /* properties */
    char *path;
    int32_t fd;
    uint32_t connect_timeout;
    uint32_t msg_timeout;
    uint32_t reconnect;
    bool posted_writes;

    char *name;                 /* the socket, for messages */
    int sock;                   /* -1 without a connection */
    bool live;                  /* the guest's accesses go to the server */
    bool realized;
    bool busy;                  /* waiting for a reply or serving DMA */
    bool reentered;             /* while busy, someone read from a BAR */
    int64_t deadline;           /* of the whole handshake in ms, or 0 */
    char *why;                  /* it broke */
    bool clean;                 /* and nothing is left of it to clear away */
    QEMUTimer *timer;           /* cleans up after a fault and reconnects */

    /* what VERSION agreed on */
    uint32_t max_fds;
    uint32_t max_dma_maps;
    uint64_t page_size;
    bool state_survived;

    uint16_t next_id;
    uint8_t *rx;                /* received, from the first whole message on */
    size_t rx_have;
    int rx_fds[VGPU_MAX_FDS];
    int rx_n_fds;
    size_t rx_fds_end;          /* they came with the bytes before this one */
    uint8_t *dma;               /* data for the reply to a DMA_READ */

    VgpuLayout layout;
    bool resettable;
    VgpuBar bars[VGPU_BARS];
    VgpuMapping *mappings;
    unsigned n_mappings;
    VgpuDoorbell *doorbells;
    unsigned n_doorbells;
    int region_fds[VGPU_REGIONS]; /* between description and use */

    VgpuVector *vectors;        /* of MSI-X, MSI or INTx, whichever is on */
    unsigned n_vectors;
    int irq_index;              /* VFIO_PCI_..._IRQ_INDEX, or -1 */
    unsigned irq_count;
    bool intx_pending;

    MemoryListener listener;
    bool listening;
    QLIST_HEAD(, VgpuDmaRange) ranges;
    unsigned n_ranges;
};

static int64_t vgpu_now(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

/* Faults */

static void vgpu_close_fds(int *fds, int *n)
{
    while (*n > 0) {
        close(fds[--*n]);
    }
}

static void vgpu_close_region_fds(VgpuStub *s)
{
    unsigned i;

    for (i = 0; i < VGPU_REGIONS; i++) {
        if (s->region_fds[i] >= 0) {
            close(s->region_fds[i]);
            s->region_fds[i] = -1;
        }
    }
}

static void vgpu_disconnect(VgpuStub *s)
{
    if (s->sock >= 0) {
        qemu_set_fd_handler(s->sock, NULL, NULL, NULL);
        close(s->sock);
        s->sock = -1;
    }
    vgpu_close_region_fds(s);
    vgpu_close_fds(s->rx_fds, &s->rx_n_fds);
    s->rx_have = 0;
    s->live = false;
    if (s->intx_pending) {
        s->intx_pending = false;
        pci_irq_deassert(PCI_DEVICE(s));
    }
}

/*
 * The server cannot be used any more.  What cannot be done in the middle of an
 * access or of a change of the memory map is left to the timer.
 */
static void GCC_FMT_ATTR(2, 3) vgpu_fail(VgpuStub *s, const char *fmt, ...)
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
    /* A server that fails again and again at the same is reported once */
    if (s->realized && (s->live || g_strcmp0(why, s->why))) {
        warn_report("vgpu-stub: the device at %s is broken: %s%s", s->name, why,
                    s->reconnect ? ", trying to reconnect" : "");
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

/* Sends one message.  One system call unless the socket is full. */
static bool vgpu_send(VgpuStub *s, VgpuHeader *header, const VgpuCall *call)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(VGPU_MAX_FDS * sizeof(int))];
    } control;
    struct iovec parts[3] = {
        { header, sizeof(*header) },
        { (void *)call->body, call->size },
        { (void *)call->data, call->data_size },
    };
    struct msghdr msg = { .msg_iov = parts, .msg_iovlen = ARRAY_SIZE(parts) };
    size_t left = sizeof(*header) + call->size + call->data_size;
    int64_t deadline = s->deadline ? s->deadline : vgpu_now() + s->msg_timeout;
    ssize_t sent;

    header->size = left;
    if (call->n_fds) {
        struct cmsghdr *cmsg;

        memset(&control, 0, sizeof(control));
        msg.msg_control = &control;
        msg.msg_controllen = CMSG_SPACE(call->n_fds * sizeof(int));
        cmsg = CMSG_FIRSTHDR(&msg);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(call->n_fds * sizeof(int));
        memcpy(CMSG_DATA(cmsg), call->fds, call->n_fds * sizeof(int));
    }
    for (;;) {
        sent = sendmsg(s->sock, &msg, MSG_NOSIGNAL);
        if (sent == left) {
            return true;
        }
        if (sent < 0 && errno != EINTR && errno != EAGAIN) {
            vgpu_fail(s, "cannot send: %s", strerror(errno));
            return false;
        }
        if (vgpu_now() >= deadline) {
            vgpu_fail(s, "the server takes no messages");
            return false;
        }
        if (sent > 0) {
            struct iovec *iov = msg.msg_iov;
            unsigned n = msg.msg_iovlen;

            left -= sent;
            iov_discard_front(&iov, &n, sent);
            msg.msg_iov = iov;
            msg.msg_iovlen = n;
            msg.msg_control = NULL;
            msg.msg_controllen = 0;
        }
    }
}

static bool vgpu_keep_fds(VgpuStub *s, struct msghdr *msg)
{
    struct cmsghdr *cmsg;
    bool fit = !(msg->msg_flags & MSG_CTRUNC);

    for (cmsg = CMSG_FIRSTHDR(msg); cmsg; cmsg = CMSG_NXTHDR(msg, cmsg)) {
        size_t n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        size_t i;

        if (cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        for (i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(int));
            if (s->rx_n_fds < VGPU_MAX_FDS) {
                s->rx_fds[s->rx_n_fds++] = fd;
            } else {
                close(fd);
                fit = false;
            }
        }
        s->rx_fds_end = s->rx_have;
    }
    return fit;
}

/* Receives what there is: false on a fault, true even if it is nothing. */
static bool vgpu_pull(VgpuStub *s, int flags)
{
    union {
        struct cmsghdr align;
        char buf[CMSG_SPACE(VGPU_MAX_FDS * sizeof(int))];
    } control;
    struct iovec iov = { s->rx + s->rx_have, VGPU_RX_SIZE - s->rx_have };
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = sizeof(control),
    };
    ssize_t got = recvmsg(s->sock, &msg, flags | MSG_CMSG_CLOEXEC);

    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR) {
            return true;
        }
        vgpu_fail(s, "cannot receive: %s", strerror(errno));
        return false;
    }
    if (got == 0) {
        vgpu_fail(s, "the server closed the connection");
        return false;
    }
    s->rx_have += got;
    if (!vgpu_keep_fds(s, &msg)) {
        vgpu_fail(s, "the server sent too many file descriptors");
        return false;
    }
    return true;
}

/* The message at the front of rx if it is whole, else NULL. */
static VgpuHeader *vgpu_front(VgpuStub *s)
{
    VgpuHeader *header = (VgpuHeader *)s->rx;

    if (s->rx_have < sizeof(*header)) {
        return NULL;
    }
    if (header->size < sizeof(*header) || header->size > VGPU_RX_SIZE ||
        (header->flags & VFIO_USER_TYPE) > VFIO_USER_REPLY) {
        vgpu_fail(s, "the server sent a message of %u bytes with flags 0x%x",
                  header->size, header->flags);
        return NULL;
    }
    return s->rx_have >= header->size ? header : NULL;
}

/* Drops the message at the front and the fds that nobody took. */
static void vgpu_consume(VgpuStub *s)
{
    size_t size;

    if (s->sock < 0) {
        return;
    }
    size = ((VgpuHeader *)s->rx)->size;
    if (s->rx_fds_end <= size) {
        vgpu_close_fds(s->rx_fds, &s->rx_n_fds);
    }
    s->rx_fds_end -= MIN(size, s->rx_fds_end);
    s->rx_have -= size;
    if (s->rx_have) {
        memmove(s->rx, s->rx + size, s->rx_have);
    }
}

/*
 * Waits for a message.  A first attempt only costs one system call: it ends
 * with the socket's SO_RCVTIMEO, which is msg-timeout.
 */
static VgpuHeader *vgpu_receive(VgpuStub *s, int64_t deadline, bool first)
{
    VgpuHeader *header = vgpu_front(s);

    while (!header && s->sock >= 0) {
        if (!first) {
            struct pollfd pfd = { .fd = s->sock, .events = POLLIN };
            int64_t left = deadline - vgpu_now();

            if (left <= 0) {
                vgpu_fail(s, "the server did not answer in time");
                return NULL;
            }
            poll(&pfd, 1, left);
        }
        if (!vgpu_pull(s, first ? 0 : MSG_DONTWAIT)) {
            return NULL;
        }
        first = false;
        header = vgpu_front(s);
    }
    return header;
}

/*
 * "VFIO_USER_DMA_READ", "VFIO_USER_DMA_WRITE": guest memory for a server that
 * could not map it.  A device that is no bus master has an empty address space.
 */
static int vgpu_dma(VgpuStub *s, const VgpuHeader *header, VgpuTransfer *is)
{
    size_t size = header->size - sizeof(*header);
    bool write = header->command == VFIO_USER_DMA_WRITE;
    uint8_t *data = s->dma;
    MemTxResult result;

    if (header->command != VFIO_USER_DMA_READ && !write) {
        return ENOTSUP;
    }
    if (size < sizeof(*is)) {
        return EINVAL;
    }
    memcpy(is, header + 1, sizeof(*is));
    if (is->count > VGPU_MAX_DATA ||
        size != sizeof(*is) + (write ? is->count : 0)) {
        return EINVAL;
    }
    if (write) {
        data = (uint8_t *)(header + 1) + sizeof(*is);
    }
    s->reentered = false;
    result = address_space_rw(pci_get_address_space(PCI_DEVICE(s)),
                              is->address, MEMTXATTRS_UNSPECIFIED, data,
                              is->count, write);
    return result != MEMTX_OK || s->reentered ? EFAULT : 0;
}

/* Carries out the server's command at the front. */
static void vgpu_serve(VgpuStub *s, const VgpuHeader *header)
{
    VgpuTransfer is = { 0 };
    VgpuHeader reply = {
        .id = header->id,
        .command = header->command,
        .flags = VFIO_USER_REPLY,
    };
    VgpuCall call = { .body = &is, .size = sizeof(is) };
    bool no_reply = header->flags & VFIO_USER_NO_REPLY;

    reply.error = vgpu_dma(s, header, &is);
    trace_vgpu_stub_dma(s->name, header->command, is.address, is.count,
                        reply.error);
    if (reply.error) {
        reply.flags |= VFIO_USER_ERROR;
        call.size = 0;
    } else if (header->command == VFIO_USER_DMA_READ) {
        call.data = s->dma;
        call.data_size = is.count;
    }
    /* A write of the guest's that the DMA caused may have met a fault */
    if (!no_reply && s->sock >= 0) {
        vgpu_send(s, &reply, &call);
    }
}

/*
 * Serves all whole commands that were received.  Returns the reply in front,
 * if one comes first.
 */
static VgpuHeader *vgpu_serve_all(VgpuStub *s, int64_t deadline)
{
    VgpuHeader *header;

    while ((header = vgpu_front(s)) && !(header->flags & VFIO_USER_REPLY)) {
        vgpu_serve(s, header);
        vgpu_consume(s);
        if (vgpu_now() >= deadline) {
            vgpu_fail(s, "the server sends commands without end");
        }
    }
    return header;
}

/* Between two of our commands: the server's, or its end. */
static void vgpu_readable(void *opaque)
{
    VgpuStub *s = opaque;

    if (s->sock < 0 || !vgpu_pull(s, MSG_DONTWAIT)) {
        return;
    }
    s->busy = true;
    if (vgpu_serve_all(s, vgpu_now() + s->msg_timeout)) {
        vgpu_fail(s, "the server sent a reply to nothing");
    }
    s->busy = false;
}

/* Takes the reply in front.  Returns the size of its body or -errno. */
static int vgpu_take(VgpuStub *s, const VgpuHeader *header,
                     const VgpuCall *call, uint16_t id)
{
    size_t size = header->size - sizeof(*header);

    if (header->id != id || header->command != call->command) {
        vgpu_fail(s, "the server replied to command %u (id %u), not to %u (%u)",
                  header->command, header->id, call->command, id);
        return -EPROTO;
    }
    if (header->flags & VFIO_USER_ERROR) {
        int error = header->error;

        trace_vgpu_stub_refused(s->name, call->command, error);
        /* "Header": the errno may be absent */
        return error > 0 && error < 4096 ? -error : -EIO;
    }
    if (size < call->least || size > call->most) {
        vgpu_fail(s, "the server's reply to command %u has %zu bytes",
                  call->command, size);
        return -EPROTO;
    }
    if (size) {
        memcpy(call->reply, header + 1, size);
    }
    if (call->reply_fds && s->rx_fds_end <= header->size) {
        memcpy(call->reply_fds, s->rx_fds, s->rx_n_fds * sizeof(int));
        *call->n_reply_fds = s->rx_n_fds;
        s->rx_n_fds = 0;
    }
    return size;
}

/*
 * Sends a command and waits for its reply, serving the server's commands in
 * the meantime ("Command Concurrency").  Returns the size of the reply's body,
 * or the -errno of a server that refuses; after a fault, sock is -1.
 */
static int vgpu_call(VgpuStub *s, const VgpuCall *call)
{
    int64_t deadline = s->deadline ? s->deadline : vgpu_now() + s->msg_timeout;
    VgpuHeader header = { .id = s->next_id++, .command = call->command };
    VgpuHeader *reply;
    int result = -EPIPE;

    if (s->sock < 0) {
        return -EPIPE;
    }
    if (s->busy && call->least) {
        /* DMA led back to us: its sender waits for us, not for this. */
        s->reentered = true;
        return -EDEADLK;
    }
    if (s->busy || call->posted) {
        header.flags = VFIO_USER_NO_REPLY;
        return vgpu_send(s, &header, call) ? 0 : -EPIPE;
    }
    s->busy = true;
    if (vgpu_send(s, &header, call)) {
        reply = vgpu_receive(s, deadline, !s->deadline);
        while (reply && !(reply = vgpu_serve_all(s, deadline))) {
            reply = vgpu_receive(s, deadline, false);
        }
        if (reply) {
            result = vgpu_take(s, reply, call, header.id);
            vgpu_consume(s);
            if (vgpu_serve_all(s, deadline)) {
                vgpu_fail(s, "the server sent a reply to nothing");
            }
        }
    }
    s->busy = false;
    return result;
}

/* Connecting */

static bool vgpu_set_timeout(VgpuStub *s, int option, int64_t ms)
{
    struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

    return !setsockopt(s->sock, SOL_SOCKET, option, &tv, sizeof(tv));
}

/*
 * Connects to the path or takes the fd.  A server that listens but does not
 * accept is waited for, if at all, until SO_SNDTIMEO.
 */
static bool vgpu_connect(VgpuStub *s, bool wait)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int type = 0;
    socklen_t size = sizeof(type);

    s->rx_fds_end = 0;
    if (!s->path) {
        s->sock = s->fd;
        if (getsockopt(s->sock, SOL_SOCKET, SO_DOMAIN, &type, &size) ||
            type != AF_UNIX ||
            getsockopt(s->sock, SOL_SOCKET, SO_TYPE, &type, &size) ||
            type != SOCK_STREAM) {
            s->sock = -1;
            s->why = g_strdup("it is not a UNIX stream socket");
            return false;
        }
        qemu_set_cloexec(s->sock);
        if (!g_unix_set_fd_nonblocking(s->sock, false, NULL)) {
            vgpu_fail(s, "cannot make it blocking: %s", strerror(errno));
            return false;
        }
    } else {
        s->sock = qemu_socket(AF_UNIX, SOCK_STREAM, 0);
        if (s->sock < 0) {
            g_free(s->why);
            s->why = g_strdup_printf("no socket: %s", strerror(errno));
            return false;
        }
    }
    if (!vgpu_set_timeout(s, SO_RCVTIMEO, s->msg_timeout) ||
        !vgpu_set_timeout(s, SO_SNDTIMEO, wait ? s->connect_timeout : 1)) {
        vgpu_fail(s, "cannot set timeouts: %s", strerror(errno));
        return false;
    }
    if (s->path) {
        pstrcpy(address.sun_path, sizeof(address.sun_path), s->path);
        if (connect(s->sock, (struct sockaddr *)&address, sizeof(address))) {
            vgpu_fail(s, "cannot connect: %s", strerror(errno));
            return false;
        }
    }
    return vgpu_set_timeout(s, SO_SNDTIMEO, s->msg_timeout);
}

/* "VFIO_USER_VERSION" */

static bool vgpu_send_version(VgpuStub *s)
{
    VgpuVersion version = { .major = 0, .minor = 0 };
    VgpuHeader header = { .command = VFIO_USER_VERSION };
    VgpuCall call = { .body = &version };
    int n = snprintf(version.json, sizeof(version.json),
                     "{\"capabilities\":{\"max_msg_fds\":%d,"
                     "\"max_data_xfer_size\":%d,\"max_dma_maps\":65535,"
                     "\"pgsizes\":4096}}", VGPU_MAX_FDS, VGPU_MAX_DATA);

    call.size = offsetof(VgpuVersion, json) + n + 1;
    header.id = s->next_id++;
    return vgpu_send(s, &header, &call);
}

/* A number among the server's capabilities; what is wrong is a fault. */
static bool vgpu_capability(VgpuStub *s, QDict *capabilities, const char *key,
                            uint64_t least, uint64_t absent, uint64_t *value)
{
    *value = absent;
    if (capabilities && qdict_haskey(capabilities, key)) {
        int64_t number = qdict_get_try_int(capabilities, key, -1);

        if (number < 0 || number < least) {
            vgpu_fail(s, "the server's capability %s is wrong", key);
            return false;
        }
        *value = number;
    }
    return true;
}

static bool vgpu_understand(VgpuStub *s, QDict *data)
{
    QDict *capabilities = data ? qdict_get_qdict(data, "capabilities") : NULL;
    QDict *ours = NULL;
    uint64_t fds, maps, page, most;

    if (!vgpu_capability(s, capabilities, "max_msg_fds", 0, 1, &fds) ||
        !vgpu_capability(s, capabilities, "max_dma_maps", 1, 65535, &maps) ||
        !vgpu_capability(s, capabilities, "pgsizes", 1, 4096, &page) ||
        !vgpu_capability(s, capabilities, "max_data_xfer_size", 8, 1 << 20,
                         &most)) {
        return false;
    }
    if (capabilities) {
        ours = qdict_get_qdict(capabilities, "vgpu_stub");
    }
    s->max_fds = MIN(fds, VGPU_MAX_FDS);
    s->max_dma_maps = MIN(maps, 65535);
    s->page_size = page & -page;
    /* An extension: a server that kept its state needs no reset */
    s->state_survived = ours && qdict_get_try_bool(ours, "state_survived",
                                                   false);
    return true;
}

/* Waits for the reply to vgpu_send_version(). */
static bool vgpu_receive_version(VgpuStub *s)
{
    VgpuVersion version;
    VgpuCall call = {
        .command = VFIO_USER_VERSION,
        .reply = &version,
        .least = offsetof(VgpuVersion, json),
        .most = sizeof(version),
    };
    VgpuHeader *reply = vgpu_receive(s, s->deadline, false);
    QObject *data = NULL;
    bool good;
    int size;

    if (!reply) {
        return false;
    }
    if (!(reply->flags & VFIO_USER_REPLY)) {
        vgpu_fail(s, "the server sent a command before VERSION");
        return false;
    }
    size = vgpu_take(s, reply, &call, s->next_id - 1);
    vgpu_consume(s);
    if (size < 0) {
        vgpu_fail(s, "the server refused VERSION: %s", strerror(-size));
        return false;
    }
    if (version.major != 0) {
        vgpu_fail(s, "the server has version %u.%u, not 0.0", version.major,
                  version.minor);
        return false;
    }
    size -= call.least;
    if (size > 1 && !version.json[size - 1]) {
        data = qobject_from_json(version.json, NULL);
    }
    if (size > 1 && !qobject_to(QDict, data)) {
        vgpu_fail(s, "the server's version data is no JSON object");
        good = false;
    } else {
        good = vgpu_understand(s, qobject_to(QDict, data));
    }
    qobject_unref(data);
    trace_vgpu_stub_connected(s->name, version.minor);
    return good;
}

/* What the device is */

/* A command whose refusal is a fault. */
static int vgpu_must(VgpuStub *s, const char *what, const VgpuCall *call)
{
    int result = vgpu_call(s, call);

    if (result < 0) {
        vgpu_fail(s, "the server refused %s: %s", what, strerror(-result));
    }
    return result;
}

/* Reads from config space, or fills with all-ones. */
static int vgpu_config_load(VgpuStub *s, uint32_t at, void *data, size_t size)
{
    uint8_t reply[offsetof(VgpuAccess, data) + PCI_CONFIG_SPACE_SIZE];
    VgpuAccess is = {
        .offset = at,
        .region = VFIO_PCI_CONFIG_REGION_INDEX,
        .count = size,
    };
    VgpuCall call = {
        .command = VFIO_USER_REGION_READ,
        .body = &is,
        .size = offsetof(VgpuAccess, data),
        .reply = reply,
        .least = offsetof(VgpuAccess, data) + size,
        .most = offsetof(VgpuAccess, data) + size,
    };
    int result = vgpu_call(s, &call);

    if (result < 0) {
        memset(data, 0xff, size);
        return result;
    }
    memcpy(data, reply + offsetof(VgpuAccess, data), size);
    return 0;
}

static void vgpu_config_store(VgpuStub *s, uint32_t at, uint32_t value,
                              unsigned size)
{
    uint8_t echo[sizeof(VgpuAccess)];
    uint8_t data[4];
    VgpuAccess is = {
        .offset = at,
        .region = VFIO_PCI_CONFIG_REGION_INDEX,
        .count = size,
    };
    VgpuCall call = {
        .command = VFIO_USER_REGION_WRITE,
        .body = &is,
        .size = offsetof(VgpuAccess, data),
        .data = data,
        .data_size = size,
        .reply = echo,
        .most = sizeof(echo),
    };

    stl_le_p(data, value);
    vgpu_call(s, &call);
}

/* The parts of a region that may be mapped: all of it if there is no list. */
static bool vgpu_take_areas(VgpuStub *s, VgpuLayout *layout, unsigned index,
                            const uint8_t *info, size_t size)
{
    const struct vfio_region_info *is = (const void *)info;
    uint32_t at = is->flags & VFIO_REGION_INFO_FLAG_CAPS ? is->cap_offset : 0;
    unsigned left = 16;

    layout->regions[index].n_areas = 1;
    layout->regions[index].areas[0].offset = 0;
    layout->regions[index].areas[0].size = is->size;
    while (at) {
        struct vfio_region_info_cap_sparse_mmap cap = { };

        /* A list that leaves the reply, or never ends */
        if (at < sizeof(*is) || at > size - sizeof(cap.header) || !left--) {
            return false;
        }
        memcpy(&cap, info + at, MIN(sizeof(cap), size - at));
        if (cap.header.id == VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
            if (size - at < sizeof(cap) ||
                cap.nr_areas > (size - at - sizeof(cap)) /
                               sizeof(cap.areas[0]) ||
                cap.nr_areas > VGPU_MAX_AREAS) {
                return false;
            }
            layout->regions[index].n_areas = cap.nr_areas;
            memcpy(layout->regions[index].areas, info + at + sizeof(cap),
                   cap.nr_areas * sizeof(cap.areas[0]));
        }
        at = cap.header.next;
    }
    return true;
}

/* "VFIO_USER_DEVICE_GET_REGION_INFO" */
static bool vgpu_describe_region(VgpuStub *s, unsigned index,
                                 VgpuLayout *layout)
{
    union {
        struct vfio_region_info is;
        uint8_t bytes[1024];
    } reply;
    struct vfio_region_info query = { .argsz = sizeof(query), .index = index };
    int fds[VGPU_MAX_FDS];
    int n_fds = 0, size;
    VgpuCall call = {
        .command = VFIO_USER_DEVICE_GET_REGION_INFO,
        .body = &query,
        .size = sizeof(query),
        .reply = &reply,
        .least = sizeof(reply.is),
        .most = sizeof(reply),
        .reply_fds = fds,
        .n_reply_fds = &n_fds,
    };

    size = vgpu_must(s, "GET_REGION_INFO", &call);
    if (size >= 0 && reply.is.argsz > query.argsz) {
        vgpu_close_fds(fds, &n_fds);
        query.argsz = MIN(reply.is.argsz, sizeof(reply));
        size = vgpu_must(s, "GET_REGION_INFO", &call);
    }
    if (size < 0) {
        return false;
    }
    trace_vgpu_stub_region(s->name, index, reply.is.size, reply.is.flags);
    layout->regions[index].size = reply.is.size;
    layout->regions[index].flags = reply.is.flags;
    layout->regions[index].fd_offset = reply.is.offset;
    if (n_fds && reply.is.flags & VFIO_REGION_INFO_FLAG_MMAP) {
        if (!vgpu_take_areas(s, layout, index, reply.bytes, size)) {
            vgpu_fail(s, "the capabilities of region %u make no sense", index);
        }
        s->region_fds[index] = fds[--n_fds];
    }
    vgpu_close_fds(fds, &n_fds);
    return s->sock >= 0;
}

/* Follows the capabilities, which the guest reads from the server. */
static bool vgpu_walk(const uint8_t *config, VgpuLayout *layout)
{
    unsigned at = config[PCI_CAPABILITY_LIST] & ~3;
    unsigned left = (PCI_CONFIG_SPACE_SIZE - PCI_CONFIG_HEADER_SIZE) / 4;
    unsigned room;

    if (!(pci_get_word(config + PCI_STATUS) & PCI_STATUS_CAP_LIST)) {
        at = 0;
    }
    layout->header[PCI_CAPABILITY_LIST] = at;
    while (at) {
        if (at < PCI_CONFIG_HEADER_SIZE || !left--) {
            return false;
        }
        room = PCI_CONFIG_SPACE_SIZE - at;
        layout->chain[at] = config[at];
        layout->chain[at + PCI_CAP_LIST_NEXT] =
            config[at + PCI_CAP_LIST_NEXT] & ~3;
        if (config[at] == PCI_CAP_ID_MSIX && !layout->msix && room >= 12) {
            layout->msix = at;
            layout->msix_flags = pci_get_word(config + at + PCI_MSIX_FLAGS) &
                                 PCI_MSIX_FLAGS_QSIZE;
            layout->msix_table = pci_get_long(config + at + PCI_MSIX_TABLE);
            layout->msix_pba = pci_get_long(config + at + PCI_MSIX_PBA);
        } else if (config[at] == PCI_CAP_ID_MSI && !layout->msi && room >= 24) {
            layout->msi = at;
            layout->msi_flags = pci_get_word(config + at + PCI_MSI_FLAGS) &
                                (PCI_MSI_FLAGS_QMASK | PCI_MSI_FLAGS_64BIT |
                                 PCI_MSI_FLAGS_MASKBIT);
        }
        at = config[at + PCI_CAP_LIST_NEXT] & ~3;
    }
    return true;
}

/* What never changes in a header: not what the guest writes, nor errors. */
static void vgpu_take_header(const uint8_t *config, VgpuLayout *layout)
{
    uint8_t *header = layout->header;
    unsigned i;

    memcpy(header, config, PCI_CONFIG_HEADER_SIZE);
    pci_set_word(header + PCI_COMMAND, 0);
    pci_set_word(header + PCI_STATUS, pci_get_word(header + PCI_STATUS) &
                 (PCI_STATUS_CAP_LIST | PCI_STATUS_66MHZ |
                  PCI_STATUS_FAST_BACK | PCI_STATUS_DEVSEL_MASK));
    header[PCI_CACHE_LINE_SIZE] = 0;
    header[PCI_LATENCY_TIMER] = 0;
    header[PCI_BIST] = 0;
    header[PCI_INTERRUPT_LINE] = 0;
    pci_set_long(header + PCI_ROM_ADDRESS, 0);
    for (i = 0; i < VGPU_BARS; i++) {
        uint8_t *bar = header + PCI_BASE_ADDRESS_0 + 4 * i;
        uint32_t is = pci_get_long(bar);

        /* The upper half of a 64 bit BAR has no flags, and no region. */
        pci_set_long(bar, !layout->regions[i].size ? 0 :
                     is & PCI_BASE_ADDRESS_SPACE_IO ? is & 3 : is & 0xf);
    }
}

static bool vgpu_describe_config(VgpuStub *s, VgpuLayout *layout)
{
    uint64_t size = layout->regions[VFIO_PCI_CONFIG_REGION_INDEX].size;
    uint8_t config[PCI_CONFIG_SPACE_SIZE] = { 0 };
    int result;

    if (size < PCI_CONFIG_HEADER_SIZE) {
        vgpu_fail(s, "the server's config space has %" PRIu64 " bytes", size);
        return false;
    }
    result = vgpu_config_load(s, 0, config, MIN(size, sizeof(config)));
    if (result < 0) {
        vgpu_fail(s, "the server refused to read config space: %s",
                  strerror(-result));
        return false;
    }
    vgpu_take_header(config, layout);
    if (config[PCI_HEADER_TYPE] & 0x7f || config[PCI_INTERRUPT_PIN] > 4) {
        vgpu_fail(s, "the server's config space is not a device's");
        return false;
    }
    if (!vgpu_walk(config, layout)) {
        vgpu_fail(s, "the server's list of capabilities makes no sense");
        return false;
    }
    return true;
}

/* Asks for all that the guest may see and leaves fds in region_fds. */
static bool vgpu_describe(VgpuStub *s, VgpuLayout *layout)
{
    VgpuInfo query = { .argsz = sizeof(query) };
    VgpuInfo info, irq;
    VgpuCall call = {
        .command = VFIO_USER_DEVICE_GET_INFO,
        .body = &query,
        .size = sizeof(query),
        .reply = &info,
        .least = sizeof(info),
        .most = sizeof(info),
    };
    unsigned i;

    memset(layout, 0, sizeof(*layout));
    if (vgpu_must(s, "GET_INFO", &call) < 0) {
        return false;
    }
    if (!(info.flags & VFIO_DEVICE_FLAGS_PCI) || info.index < VGPU_REGIONS) {
        vgpu_fail(s, "the server has no PCI device");
        return false;
    }
    s->resettable = info.flags & VFIO_DEVICE_FLAGS_RESET;
    for (i = 0; i < VGPU_REGIONS; i++) {
        if (!vgpu_describe_region(s, i, layout)) {
            return false;
        }
    }
    call.command = VFIO_USER_DEVICE_GET_IRQ_INFO;
    call.reply = &irq;
    for (i = 0; i < MIN(info.count, ARRAY_SIZE(layout->irqs)); i++) {
        query.index = i;
        if (vgpu_must(s, "GET_IRQ_INFO", &call) < 0) {
            return false;
        }
        layout->irqs[i] = irq.flags & VFIO_IRQ_INFO_EVENTFD ? irq.count : 0;
    }
    return vgpu_describe_config(s, layout);
}

/* From a socket to a description, before the deadline. */
static bool vgpu_handshake(VgpuStub *s, VgpuLayout *layout)
{
    return vgpu_receive_version(s) && vgpu_describe(s, layout);
}

/* BARs */

static void vgpu_set_irqs(VgpuStub *s, uint32_t index, uint32_t flags,
                          uint32_t start, uint32_t count, const int *fds,
                          unsigned n_fds, bool posted);
static void vgpu_show_mappings(VgpuStub *s, bool visible);

/*
 * The guest may have done with an INTx what it wanted.  If the device still
 * has a reason it will say so again: it was masked, and now is no more.
 */
static void vgpu_end_intx(VgpuStub *s)
{
    s->intx_pending = false;
    pci_irq_deassert(PCI_DEVICE(s));
    trace_vgpu_stub_intx(s->name, 0);
    vgpu_set_irqs(s, VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_DATA_NONE |
                  VFIO_IRQ_SET_ACTION_UNMASK, 0, 1, NULL, 0, true);
    vgpu_show_mappings(s, s->live);
}

static uint64_t vgpu_bar_read(void *opaque, hwaddr offset, unsigned size)
{
    VgpuBar *bar = opaque;
    VgpuStub *s = bar->s;
    VgpuAccess is = {
        .offset = offset,
        .region = bar - s->bars,
        .count = size,
    };
    VgpuAccess reply;
    VgpuCall call = {
        .command = VFIO_USER_REGION_READ,
        .body = &is,
        .size = offsetof(VgpuAccess, data),
        .reply = &reply,
        .least = offsetof(VgpuAccess, data) + size,
        .most = offsetof(VgpuAccess, data) + size,
    };
    uint64_t value = UINT64_MAX;

    if (s->live && vgpu_call(s, &call) >= 0) {
        if (memcmp(&is, &reply, offsetof(VgpuAccess, data))) {
            vgpu_fail(s, "the server replied to another read");
        } else {
            value = ldn_le_p(reply.data, size);
        }
        if (s->intx_pending) {
            vgpu_end_intx(s);
        }
    }
    trace_vgpu_stub_read(s->name, is.region, offset, size, value);
    return value;
}

static void vgpu_bar_write(void *opaque, hwaddr offset, uint64_t value,
                           unsigned size)
{
    VgpuBar *bar = opaque;
    VgpuStub *s = bar->s;
    VgpuAccess echo;
    VgpuAccess is = {
        .offset = offset,
        .region = bar - s->bars,
        .count = size,
    };
    VgpuCall call = {
        .command = VFIO_USER_REGION_WRITE,
        .posted = s->posted_writes,
        .body = &is,
        .size = offsetof(VgpuAccess, data) + size,
        .reply = &echo,
        .most = sizeof(echo),
    };

    trace_vgpu_stub_write(s->name, is.region, offset, size, value);
    if (s->live) {
        stn_le_p(is.data, size, value);
        vgpu_call(s, &call);
        if (s->intx_pending) {
            vgpu_end_intx(s);
        }
    }
}

static const MemoryRegionOps vgpu_bar_ops = {
    .read = vgpu_bar_read,
    .write = vgpu_bar_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = {
        .min_access_size = 1,
        .max_access_size = 8,
    },
    .impl = {
        .min_access_size = 1,
        .max_access_size = 8,
    },
};

/* A file that shrinks under a mapping would be a SIGBUS in QEMU. */
static bool vgpu_may_map(int fd, uint64_t end)
{
    struct stat st;
    int seals;

    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK);      /* fails if it is sealed */
    seals = fcntl(fd, F_GET_SEALS);
    return seals >= 0 && seals & F_SEAL_SHRINK && !fstat(fd, &st) &&
           end <= st.st_size;
}

/* Puts the server's memory, or ours for no fd, where the guest finds it. */
static bool vgpu_map(VgpuMapping *mapping, int fd)
{
    int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
    void *at;

    if (fd >= 0 && !vgpu_may_map(fd, mapping->fd_offset + mapping->size)) {
        return false;
    }
    if (mapping->at) {
        flags |= MAP_FIXED;
    }
    at = mmap(mapping->at, mapping->size, PROT_READ | PROT_WRITE, flags, fd,
              fd < 0 ? 0 : mapping->fd_offset);
    if (at == MAP_FAILED) {
        return false;
    }
    mapping->at = at;
    return true;
}

static void vgpu_show_mappings(VgpuStub *s, bool visible)
{
    unsigned i;

    for (i = 0; i < s->n_mappings; i++) {
        memory_region_set_enabled(&s->mappings[i].mr, visible);
    }
}

/* "Sparse Regions": an area that cannot be mapped is trapped. */
static void vgpu_add_mapping(VgpuStub *s, unsigned bar,
                             const struct vfio_region_sparse_mmap_area *area)
{
    uint64_t size = s->layout.regions[bar].size;
    VgpuMapping *mapping = &s->mappings[s->n_mappings];
    g_autofree char *name = NULL;

    mapping->bar = bar;
    mapping->offset = area->offset;
    mapping->size = area->size;
    mapping->fd_offset = s->layout.regions[bar].fd_offset + area->offset;
    if (!area->size || area->size > size || area->offset > size - area->size ||
        mapping->fd_offset + area->size > INT64_MAX ||
        (area->offset | area->size | mapping->fd_offset) &
        (getpagesize() - 1) || !vgpu_map(mapping, s->region_fds[bar])) {
        return;
    }
    name = g_strdup_printf("vgpu-stub-bar%u-%u", bar, s->n_mappings);
    memory_region_init_ram_device_ptr(&mapping->mr, OBJECT(s), name,
                                      mapping->size, mapping->at);
    /* Below the MSI-X table, if they overlap */
    memory_region_add_subregion_overlap(&s->bars[bar].mr, mapping->offset,
                                        &mapping->mr, -1);
    s->n_mappings++;
    trace_vgpu_stub_mapped(s->name, bar, mapping->offset, mapping->size);
}

static void vgpu_add_mappings(VgpuStub *s)
{
    const uint32_t both = VFIO_REGION_INFO_FLAG_READ |
                          VFIO_REGION_INFO_FLAG_WRITE;
    unsigned i, j;

    s->mappings = g_new0(VgpuMapping, VGPU_BARS * VGPU_MAX_AREAS);
    for (i = 0; i < VGPU_BARS; i++) {
        if (s->region_fds[i] < 0 ||
            (s->layout.regions[i].flags & both) != both) {
            continue;
        }
        for (j = 0; j < s->layout.regions[i].n_areas; j++) {
            vgpu_add_mapping(s, i, &s->layout.regions[i].areas[j]);
        }
    }
}

/* A server that came back has new memory, or none: then accesses trap. */
static void vgpu_renew_mappings(VgpuStub *s, bool live)
{
    unsigned i;

    vgpu_show_mappings(s, false);
    for (i = 0; i < s->n_mappings; i++) {
        VgpuMapping *mapping = &s->mappings[i];
        int fd = live ? s->region_fds[mapping->bar] : -1;

        if (vgpu_map(mapping, fd) && live && fd >= 0) {
            memory_region_set_enabled(&mapping->mr, true);
        }
    }
}

/* Doorbells */

/* KVM, and so QEMU, takes nothing else: writing shows what it is. */
static bool vgpu_is_eventfd(int fd)
{
    const uint64_t zero = 0;

    return g_unix_set_fd_nonblocking(fd, true, NULL) &&
           write(fd, &zero, 4) < 0 && errno == EINVAL &&
           write(fd, &zero, 8) == 8;
}

static void vgpu_ring(VgpuStub *s, VgpuDoorbell *bell, bool add)
{
    (add ? memory_region_add_eventfd : memory_region_del_eventfd)
        (&s->bars[bell->bar].mr, bell->is.offset, bell->is.size,
         bell->is.flags & VFIO_USER_IOEVENTFD_DATAMATCH, bell->is.datamatch,
         &bell->event);
}

static void vgpu_remove_doorbells(VgpuStub *s)
{
    unsigned i;

    memory_region_transaction_begin();
    for (i = 0; i < s->n_doorbells; i++) {
        vgpu_ring(s, &s->doorbells[i], false);
    }
    memory_region_transaction_commit();
    for (i = 0; i < s->n_doorbells; i++) {
        event_notifier_cleanup(&s->doorbells[i].event);
    }
    s->n_doorbells = 0;
}

/* One that KVM would refuse, or that is there already, is trapped instead. */
static void vgpu_add_doorbell(VgpuStub *s, unsigned bar, const VgpuIoFd *is,
                              int fd)
{
    uint64_t size = s->layout.regions[bar].size;
    VgpuDoorbell *bell = &s->doorbells[s->n_doorbells];
    unsigned i;

    if (is->type != VFIO_USER_IO_FD_IOEVENTFD ||
        is->flags & ~VFIO_USER_IOEVENTFD_DATAMATCH ||
        !is_power_of_2(is->size) || is->size > 8 || is->size > size ||
        is->offset > size - is->size || !vgpu_is_eventfd(fd)) {
        return;
    }
    for (i = 0; i < s->n_doorbells; i++) {
        if (s->doorbells[i].bar == bar &&
            s->doorbells[i].is.offset == is->offset) {
            return;
        }
    }
    fd = qemu_dup(fd);
    if (fd < 0) {
        return;
    }
    bell->bar = bar;
    bell->is = *is;
    event_notifier_init_fd(&bell->event, fd);
    vgpu_ring(s, bell, true);
    s->n_doorbells++;
    trace_vgpu_stub_doorbell(s->name, bar, is->offset, is->size);
}

/* "VFIO_USER_DEVICE_GET_REGION_IO_FDS"; optional, so a refusal is no fault. */
static void vgpu_add_doorbells(VgpuStub *s, unsigned bar)
{
    struct {
        VgpuInfo is;
        VgpuIoFd fds[VGPU_MAX_FDS];
    } reply;
    VgpuInfo query = { .argsz = sizeof(reply), .index = bar };
    int fds[VGPU_MAX_FDS];
    int n_fds = 0, size;
    VgpuCall call = {
        .command = VFIO_USER_DEVICE_GET_REGION_IO_FDS,
        .body = &query,
        .size = sizeof(query),
        .reply = &reply,
        .least = sizeof(reply.is),
        .most = sizeof(reply),
        .reply_fds = fds,
        .n_reply_fds = &n_fds,
    };
    unsigned i, n;

    size = vgpu_call(s, &call);
    if (size >= 0) {
        n = MIN(reply.is.count, (size - sizeof(reply.is)) / sizeof(VgpuIoFd));
        for (i = 0; i < n; i++) {
            if (reply.fds[i].fd_index < n_fds) {
                vgpu_add_doorbell(s, bar, &reply.fds[i],
                                  fds[reply.fds[i].fd_index]);
            }
        }
    }
    vgpu_close_fds(fds, &n_fds);
}

/* Interrupts */

/* "VFIO_USER_DEVICE_SET_IRQS" */
static void vgpu_set_irqs(VgpuStub *s, uint32_t index, uint32_t flags,
                          uint32_t start, uint32_t count, const int *fds,
                          unsigned n_fds, bool posted)
{
    struct vfio_irq_set set = {
        .argsz = sizeof(set),
        .flags = flags,
        .index = index,
        .start = start,
        .count = count,
    };
    VgpuCall call = {
        .command = VFIO_USER_DEVICE_SET_IRQS,
        .posted = posted,
        .body = &set,
        .size = sizeof(set),
        .fds = fds,
        .n_fds = n_fds,
    };
    int result = vgpu_call(s, &call);

    if (result < 0 && s->sock >= 0) {
        warn_report("vgpu-stub: the server at %s refuses interrupts: %s",
                    s->name, strerror(-result));
    }
}

static void vgpu_interrupt(void *opaque)
{
    VgpuVector *vector = opaque;
    VgpuStub *s = vector->s;
    PCIDevice *pci = PCI_DEVICE(s);
    unsigned number = vector - s->vectors;

    if (!event_notifier_test_and_clear(&vector->event) || !s->live) {
        return;
    }
    trace_vgpu_stub_vector(s->name, number);
    if (s->irq_index == VFIO_PCI_MSIX_IRQ_INDEX) {
        msix_notify(pci, number);       /* or sets its pending bit */
    } else if (s->irq_index == VFIO_PCI_MSI_IRQ_INDEX) {
        /* The guest may have allowed fewer since */
        if (number < msi_nr_vectors_allocated(pci)) {
            msi_notify(pci, number);
        }
    } else {
        s->intx_pending = true;
        trace_vgpu_stub_intx(s->name, 1);
        /* Its end is an access to a BAR, which therefore must be seen */
        vgpu_show_mappings(s, false);
        pci_irq_assert(pci);
    }
}

/* Stops the interrupts of the type in use; the server may have gone. */
static void vgpu_stop_irqs(VgpuStub *s)
{
    unsigned i;

    for (i = 0; i < s->irq_count; i++) {
        EventNotifier *event = &s->vectors[i].event;

        qemu_set_fd_handler(event_notifier_get_fd(event), NULL, NULL, NULL);
    }
    if (s->irq_count && s->sock >= 0) {
        vgpu_set_irqs(s, s->irq_index, VFIO_IRQ_SET_DATA_NONE |
                      VFIO_IRQ_SET_ACTION_TRIGGER, 0, 0, NULL, 0, false);
    }
    if (s->intx_pending) {
        s->intx_pending = false;
        pci_irq_deassert(PCI_DEVICE(s));
        vgpu_show_mappings(s, s->live);
    }
    s->irq_count = 0;
    s->irq_index = -1;
}

/* Gives the server eventfds for the interrupts that the guest has enabled. */
static void vgpu_start_irqs(VgpuStub *s)
{
    PCIDevice *pci = PCI_DEVICE(s);
    unsigned start, count = 1, i;
    int fds[VGPU_MAX_FDS];

    s->irq_index = VFIO_PCI_INTX_IRQ_INDEX;
    if (msix_enabled(pci)) {
        s->irq_index = VFIO_PCI_MSIX_IRQ_INDEX;
        count = pci->msix_entries_nr;
    } else if (msi_enabled(pci)) {
        s->irq_index = VFIO_PCI_MSI_IRQ_INDEX;
        count = msi_nr_vectors_allocated(pci);
    }
    count = MIN(count, MIN(s->n_vectors, s->layout.irqs[s->irq_index]));
    s->irq_count = s->max_fds ? count : 0;
    trace_vgpu_stub_irqs(s->name, s->irq_index, s->irq_count);
    for (start = 0; start < s->irq_count; start += count) {
        count = MIN(s->irq_count - start, s->max_fds);
        for (i = 0; i < count; i++) {
            VgpuVector *vector = &s->vectors[start + i];

            fds[i] = event_notifier_get_fd(&vector->event);
            event_notifier_test_and_clear(&vector->event);
            qemu_set_fd_handler(fds[i], vgpu_interrupt, NULL, vector);
        }
        vgpu_set_irqs(s, s->irq_index, VFIO_IRQ_SET_DATA_EVENTFD |
                      VFIO_IRQ_SET_ACTION_TRIGGER, start, count, fds, count,
                      false);
    }
}

/* Guest memory */

static bool vgpu_section_is_ram(const MemoryRegionSection *section)
{
    return memory_region_is_ram(section->mr) &&
           !memory_region_is_ram_device(section->mr);
}

/*
 * "VFIO_USER_DMA_MAP".  With an fd if the memory is a file's and everybody's
 * (not with share=off, nor under Xen), and not what the guest cannot write.
 */
static void vgpu_region_add(MemoryListener *listener,
                            MemoryRegionSection *section)
{
    VgpuStub *s = container_of(listener, VgpuStub, listener);
    RAMBlock *block = section->mr->ram_block;
    int fd = -1, result;
    VgpuDmaRange *range;
    VgpuDmaMap map = {
        .argsz = sizeof(map),
        .flags = VFIO_USER_DMA_READABLE,
        .address = section->offset_within_address_space,
        .size = int128_get64(section->size),
    };
    VgpuCall call = {
        .command = VFIO_USER_DMA_MAP,
        .body = &map,
        .size = sizeof(map),
        .fds = &fd,
    };

    if (s->sock < 0 || !vgpu_section_is_ram(section) ||
        (map.address | map.size) & (s->page_size - 1)) {
        return;
    }
    if (s->n_ranges >= s->max_dma_maps) {
        warn_report("vgpu-stub: the server at %s takes no more than %u maps",
                    s->name, s->max_dma_maps);
        return;
    }
    if (!section->readonly) {
        map.flags |= VFIO_USER_DMA_WRITEABLE;
        if (s->max_fds && qemu_ram_is_shared(block)) {
            fd = memory_region_get_fd(section->mr);
        }
    }
    if (fd >= 0) {
        map.offset = section->offset_within_region + vgpu_fd_offset(block);
        call.n_fds = 1;
    }
    trace_vgpu_stub_dma_map(s->name, map.address, map.size, fd);
    result = vgpu_call(s, &call);
    if (result < 0) {
        if (s->sock >= 0) {
            warn_report("vgpu-stub: the server at %s refuses memory at 0x%"
                        PRIx64 ": %s", s->name, map.address, strerror(-result));
        }
        return;
    }
    range = g_new(VgpuDmaRange, 1);
    range->address = map.address;
    range->size = map.size;
    QLIST_INSERT_HEAD(&s->ranges, range, next);
    s->n_ranges++;
}

/* "VFIO_USER_DMA_UNMAP": exactly what was mapped. */
static void vgpu_region_del(MemoryListener *listener,
                            MemoryRegionSection *section)
{
    VgpuStub *s = container_of(listener, VgpuStub, listener);
    VgpuDmaUnmap echo;
    VgpuDmaUnmap unmap = {
        .argsz = sizeof(unmap),
        .address = section->offset_within_address_space,
        .size = int128_get64(section->size),
    };
    VgpuCall call = {
        .command = VFIO_USER_DMA_UNMAP,
        .body = &unmap,
        .size = sizeof(unmap),
        .reply = &echo,
        .most = sizeof(echo),
    };
    VgpuDmaRange *range;

    QLIST_FOREACH(range, &s->ranges, next) {
        if (range->address == unmap.address && range->size == unmap.size) {
            break;
        }
    }
    if (range) {
        QLIST_REMOVE(range, next);
        g_free(range);
        s->n_ranges--;
        trace_vgpu_stub_dma_unmap(s->name, unmap.address, unmap.size);
        vgpu_call(s, &call);
    }
}

static void vgpu_unlisten(VgpuStub *s)
{
    VgpuDmaRange *range, *next;

    if (s->listening) {
        memory_listener_unregister(&s->listener);
        s->listening = false;
    }
    /* Older QEMU does not call region_del for what is left */
    QLIST_FOREACH_SAFE(range, &s->ranges, next, next) {
        QLIST_REMOVE(range, next);
        g_free(range);
    }
    s->n_ranges = 0;
}

static void vgpu_listen(VgpuStub *s)
{
    s->listener.region_add = vgpu_region_add;
    s->listener.region_del = vgpu_region_del;
    memory_listener_register(&s->listener,
                             pci_device_iommu_address_space(PCI_DEVICE(s)));
    s->listening = true;
}

/* Config space: the header, MSI and MSI-X are QEMU's, the rest the server's */

static bool vgpu_is_ours(PCIDevice *pci, uint32_t address)
{
    return address < PCI_CONFIG_HEADER_SIZE || pci->used[address];
}

static uint32_t vgpu_config_read(PCIDevice *pci, uint32_t address, int size)
{
    VgpuStub *s = VGPU_STUB(pci);
    uint8_t data[4];

    if (vgpu_is_ours(pci, address)) {
        return pci_default_read_config(pci, address, size);
    }
    memset(data, 0xff, sizeof(data));
    if (s->live) {
        vgpu_config_load(s, address, data, size);
    }
    return ldl_le_p(data);
}

/*
 * The server hears of all writes: of the command register too, which says
 * whether it may access memory.
 */
static void vgpu_config_write(PCIDevice *pci, uint32_t address, uint32_t value,
                              int size)
{
    VgpuStub *s = VGPU_STUB(pci);
    bool msix = msix_enabled(pci), msi = msi_enabled(pci);

    pci_default_write_config(pci, address, value, size);
    if (!s->live) {
        return;
    }
    vgpu_config_store(s, address, value, size);
    if (msix != msix_enabled(pci) || msi != msi_enabled(pci)) {
        vgpu_stop_irqs(s);
        vgpu_start_irqs(s);
    }
}

/* The device as a whole */

/* "VFIO_USER_DEVICE_RESET" */
static void vgpu_reset_server(VgpuStub *s)
{
    VgpuCall call = { .command = VFIO_USER_DEVICE_RESET };

    trace_vgpu_stub_reset(s->name);
    if (s->resettable && vgpu_call(s, &call) < 0 && s->sock >= 0) {
        warn_report("vgpu-stub: the server at %s refuses to reset", s->name);
    }
}

/* Before the bus clears the command register, the BARs, MSI and MSI-X */
static void vgpu_reset(DeviceState *dev)
{
    VgpuStub *s = VGPU_STUB(dev);

    if (s->live) {
        vgpu_stop_irqs(s);
        vgpu_reset_server(s);
        msi_reset(PCI_DEVICE(s));
        msix_reset(PCI_DEVICE(s));
        vgpu_start_irqs(s);
    }
}

/* A server with the right description: all is as the guest left it. */
static void vgpu_resume(VgpuStub *s)
{
    PCIDevice *pci = PCI_DEVICE(s);
    unsigned i;

    if (s->realized && !s->state_survived) {
        vgpu_reset_server(s);
    }
    for (i = 0; i < VGPU_BARS && s->realized; i++) {
        uint32_t at = PCI_BASE_ADDRESS_0 + 4 * i;

        vgpu_config_store(s, at, pci_get_long(pci->config + at), 4);
    }
    vgpu_config_store(s, PCI_COMMAND, pci_get_word(pci->config + PCI_COMMAND),
                      2);
    for (i = 0; i < VGPU_BARS; i++) {
        if (s->layout.regions[i].size) {
            vgpu_add_doorbells(s, i);
        }
    }
    vgpu_listen(s);
    vgpu_start_irqs(s);
    vgpu_close_region_fds(s);
    s->live = s->sock >= 0;
    if (s->live) {
        qemu_set_fd_handler(s->sock, vgpu_readable, NULL, s);
    }
}

/* Reconnecting */

/* The server that came back has answered, or is gone again. */
static void vgpu_greeted(void *opaque)
{
    VgpuStub *s = opaque;
    g_autofree VgpuLayout *layout = g_new(VgpuLayout, 1);

    qemu_set_fd_handler(s->sock, NULL, NULL, NULL);
    timer_del(s->timer);
    s->deadline = vgpu_now() + s->connect_timeout;
    if (vgpu_handshake(s, layout)) {
        if (memcmp(layout, &s->layout, sizeof(*layout))) {
            vgpu_fail(s, "another device has taken its place");
        } else {
            vgpu_renew_mappings(s, true);
            vgpu_resume(s);
        }
    }
    s->deadline = 0;
    if (s->live) {
        info_report("vgpu-stub: the device at %s is back", s->name);
        g_free(s->why);
        s->why = NULL;
    }
}

/* After a fault: clears away at once, tries again after a while. */
static void vgpu_tick(void *opaque)
{
    VgpuStub *s = opaque;

    if (s->live) {
        return;
    }
    if (s->sock >= 0) {
        vgpu_fail(s, "the server did not answer in time");
        return;
    }
    if (!s->clean) {
        vgpu_stop_irqs(s);
        vgpu_unlisten(s);
        vgpu_remove_doorbells(s);
        vgpu_renew_mappings(s, false);
        s->clean = true;
        if (s->reconnect) {
            timer_mod(s->timer, vgpu_now() + s->reconnect);
        }
        return;
    }
    timer_mod(s->timer, vgpu_now() + s->connect_timeout);
    if (vgpu_connect(s, false) && vgpu_send_version(s)) {
        qemu_set_fd_handler(s->sock, vgpu_greeted, NULL, s);
    }
}

/* Making and ending the device */

static bool vgpu_add_bar(VgpuStub *s, unsigned i, Error **errp)
{
    uint64_t size = s->layout.regions[i].size;
    uint8_t flags = s->layout.header[PCI_BASE_ADDRESS_0 + 4 * i];
    bool io = flags & PCI_BASE_ADDRESS_SPACE_IO;
    bool wide = !io && flags & PCI_BASE_ADDRESS_MEM_TYPE_64;
    uint64_t least = io ? 4 : 16;
    uint64_t most = io ? 64 * KiB : wide ? 64 * TiB : 2 * GiB;
    g_autofree char *name = g_strdup_printf("vgpu-stub-bar%u", i);

    if (!is_power_of_2(size) || size < least || size > most ||
        (wide && (i == VGPU_BARS - 1 || s->layout.regions[i + 1].size))) {
        error_setg(errp, "vgpu-stub: the server at %s describes a BAR %u that "
                   "cannot be (0x%" PRIx64 " bytes, flags 0x%x)", s->name, i,
                   size, flags);
        return false;
    }
    s->bars[i].s = s;
    memory_region_init_io(&s->bars[i].mr, OBJECT(s), &vgpu_bar_ops, &s->bars[i],
                          name, size);
    pci_register_bar(PCI_DEVICE(s), i, io ? PCI_BASE_ADDRESS_SPACE_IO :
                     flags & (PCI_BASE_ADDRESS_MEM_TYPE_64 |
                              PCI_BASE_ADDRESS_MEM_PREFETCH), &s->bars[i].mr);
    return true;
}

/* The BAR that a part of MSI-X is in, or NULL. */
static MemoryRegion *vgpu_msix_bar(VgpuStub *s, uint32_t place)
{
    unsigned bar = place & PCI_MSIX_FLAGS_BIRMASK;

    if (bar >= VGPU_BARS ||
        s->layout.header[PCI_BASE_ADDRESS_0 + 4 * bar] & 1 ||
        (place & ~PCI_MSIX_FLAGS_BIRMASK) >= s->layout.regions[bar].size) {
        return NULL;
    }
    return &s->bars[bar].mr;
}

/* QEMU emulates MSI and MSI-X, where the server has them. */
static bool vgpu_add_messages(VgpuStub *s, Error **errp)
{
    PCIDevice *pci = PCI_DEVICE(s);
    const VgpuLayout *is = &s->layout;

    if (is->msi) {
        unsigned log = (is->msi_flags & PCI_MSI_FLAGS_QMASK) >> 1;

        if (msi_init(pci, is->msi, 1 << MIN(log, 5),
                     is->msi_flags & PCI_MSI_FLAGS_64BIT,
                     is->msi_flags & PCI_MSI_FLAGS_MASKBIT, errp)) {
            return false;
        }
        s->n_vectors = 1 << MIN(log, 5);
    }
    if (is->msix) {
        unsigned vectors = is->msix_flags + 1;
        MemoryRegion *table = vgpu_msix_bar(s, is->msix_table);
        MemoryRegion *pba = vgpu_msix_bar(s, is->msix_pba);

        if (!table || !pba) {
            error_setg(errp, "vgpu-stub: the server at %s has MSI-X outside "
                       "its BARs", s->name);
            return false;
        }
        if (msix_init(pci, vectors,
                      table, is->msix_table & PCI_MSIX_FLAGS_BIRMASK,
                      is->msix_table & ~PCI_MSIX_FLAGS_BIRMASK,
                      pba, is->msix_pba & PCI_MSIX_FLAGS_BIRMASK,
                      is->msix_pba & ~PCI_MSIX_FLAGS_BIRMASK, is->msix, errp)) {
            return false;
        }
        for (s->n_vectors = MAX(s->n_vectors, vectors); vectors--; ) {
            msix_vector_use(pci, vectors);
        }
    }
    return true;
}

static bool vgpu_add_vectors(VgpuStub *s, Error **errp)
{
    unsigned count = MAX(s->n_vectors, 1);

    s->vectors = g_new0(VgpuVector, count);
    for (s->n_vectors = 0; s->n_vectors < count; s->n_vectors++) {
        VgpuVector *vector = &s->vectors[s->n_vectors];
        int error = event_notifier_init(&vector->event, 0);

        if (error) {
            error_setg_errno(errp, -error, "vgpu-stub: no eventfd for interrupt"
                             " %u of the device at %s", s->n_vectors, s->name);
            return false;
        }
        vector->s = s;
    }
    return true;
}

/* Makes a PCI device of the description. */
static bool vgpu_build(VgpuStub *s, Error **errp)
{
    PCIDevice *pci = PCI_DEVICE(s);
    const VgpuLayout *is = &s->layout;
    unsigned i;

    memcpy(pci->config, is->header, PCI_BASE_ADDRESS_0);
    memcpy(pci->config + PCI_CARDBUS_CIS, is->header + PCI_CARDBUS_CIS,
           PCI_ROM_ADDRESS - PCI_CARDBUS_CIS);
    pci->config[PCI_INTERRUPT_PIN] = is->header[PCI_INTERRUPT_PIN];
    memcpy(pci->config + PCI_CONFIG_HEADER_SIZE,
           is->chain + PCI_CONFIG_HEADER_SIZE,
           PCI_CONFIG_SPACE_SIZE - PCI_CONFIG_HEADER_SIZE);
    /* QEMU follows this chain: the guest must not change it */
    memset(pci->wmask + PCI_CONFIG_HEADER_SIZE, 0,
           PCI_CONFIG_SPACE_SIZE - PCI_CONFIG_HEADER_SIZE);
    for (i = 0; i < VGPU_BARS; i++) {
        if (is->regions[i].size && !vgpu_add_bar(s, i, errp)) {
            return false;
        }
    }
    if (!vgpu_add_messages(s, errp) || !vgpu_add_vectors(s, errp)) {
        return false;
    }
    /* QEMU linked its capabilities to the front of the list */
    pci->config[PCI_CAPABILITY_LIST] = is->header[PCI_CAPABILITY_LIST];
    for (i = PCI_CONFIG_HEADER_SIZE; i < PCI_CONFIG_SPACE_SIZE - 1; i++) {
        if (is->chain[i]) {
            pci->config[i] = is->chain[i];
            pci->config[i + 1] = is->chain[i + 1];
            i++;
        }
    }
    vgpu_add_mappings(s);
    s->doorbells = g_new0(VgpuDoorbell, VGPU_BARS * VGPU_MAX_FDS);
    return true;
}

static void vgpu_exit(PCIDevice *pci)
{
    VgpuStub *s = VGPU_STUB(pci);
    unsigned i;

    s->realized = false;
    vgpu_disconnect(s);
    timer_del(s->timer);
    timer_free(s->timer);
    vgpu_stop_irqs(s);
    vgpu_unlisten(s);
    vgpu_remove_doorbells(s);
    vgpu_show_mappings(s, false);
    for (i = 0; i < s->n_vectors && s->vectors; i++) {
        event_notifier_cleanup(&s->vectors[i].event);
    }
    if (msix_present(pci)) {
        msix_uninit(pci, vgpu_msix_bar(s, s->layout.msix_table),
                    vgpu_msix_bar(s, s->layout.msix_pba));
    }
    msi_uninit(pci);
}

/* No mapping is in use any more: all views of memory without it are gone. */
static void vgpu_finalize(Object *obj)
{
    VgpuStub *s = VGPU_STUB(obj);
    unsigned i;

    for (i = 0; i < s->n_mappings; i++) {
        munmap(s->mappings[i].at, s->mappings[i].size);
    }
    g_free(s->mappings);
    g_free(s->doorbells);
    g_free(s->vectors);
    g_free(s->rx);
    g_free(s->dma);
    g_free(s->name);
    g_free(s->why);
}

static bool vgpu_check_properties(VgpuStub *s, Error **errp)
{
    struct sockaddr_un address;

    if (!s->path == (s->fd < 0)) {
        error_setg(errp, "vgpu-stub: give either socket=PATH or fd=NUMBER");
    } else if (s->path && strlen(s->path) >= sizeof(address.sun_path)) {
        error_setg(errp, "vgpu-stub: the path of the socket is too long");
    } else if (s->reconnect && !s->path) {
        error_setg(errp, "vgpu-stub: reconnect needs socket=PATH");
    } else if (!s->connect_timeout || !s->msg_timeout ||
               s->connect_timeout > INT32_MAX || s->msg_timeout > INT32_MAX) {
        error_setg(errp, "vgpu-stub: a timeout must be at least 1 ms");
    } else {
        return true;
    }
    return false;
}

static void vgpu_realize(PCIDevice *pci, Error **errp)
{
    VgpuStub *s = VGPU_STUB(pci);
    Error *err = NULL;
    unsigned i;

    if (!vgpu_check_properties(s, errp)) {
        return;
    }
    s->sock = -1;
    s->irq_index = -1;
    for (i = 0; i < VGPU_REGIONS; i++) {
        s->region_fds[i] = -1;
    }
    s->name = s->path ? g_strdup(s->path) : g_strdup_printf("fd %d", s->fd);
    s->rx = g_malloc(VGPU_RX_SIZE);
    s->dma = g_malloc(VGPU_MAX_DATA);
    s->timer = timer_new_ms(QEMU_CLOCK_REALTIME, vgpu_tick, s);
    s->deadline = vgpu_now() + s->connect_timeout;
    if (vgpu_connect(s, true) && vgpu_send_version(s) &&
        vgpu_handshake(s, &s->layout) && vgpu_build(s, &err)) {
        vgpu_resume(s);
    }
    s->deadline = 0;
    s->realized = s->live;
    if (!s->live) {
        if (!err) {
            error_setg(&err, "vgpu-stub: no device at %s: %s", s->name, s->why);
        }
        error_propagate(errp, err);
        vgpu_exit(pci);
    }
}

static const VMStateDescription vgpu_vmstate = {
    .name = TYPE_VGPU_STUB,
    .unmigratable = 1,
};

static Property vgpu_properties[] = {
    DEFINE_PROP_STRING("socket", VgpuStub, path),
    DEFINE_PROP_INT32("fd", VgpuStub, fd, -1),
    DEFINE_PROP_UINT32("connect-timeout", VgpuStub, connect_timeout, 3000),
    DEFINE_PROP_UINT32("msg-timeout", VgpuStub, msg_timeout, 2000),
    DEFINE_PROP_UINT32("reconnect", VgpuStub, reconnect, 0),
    DEFINE_PROP_BOOL("posted-writes", VgpuStub, posted_writes, true),
    VGPU_PROPERTIES_END
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
    vgpu_set_reset(dc, vgpu_reset);
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
