/*
 * What a server of one domain still reaches, if somebody has taken it over:
 * takes its descriptors of Xen's drivers out of it and tries them, on its own
 * domain and on another one.
 *
 *     reach PID OWN OTHER
 *
 * The numbers are those of Xen's public headers and of Linux's include/uapi/xen.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PIDFD_OPEN = 434, PIDFD_GETFD = 438 };
enum { HYPERCALL = 0x305000, DM_OP = 0x105005, MAP = 0x205004, RESOURCE = 0x205007 };
enum { BIND_VIRQ = 0x44500, BIND_INTERDOMAIN = 0x84501 };
enum { OP_CREATE = 1, OP_VCPUS = 20, OP_MSI = 14, PAGE = 4096, XEN_VERSION = 17 };

/* A copy of the process's descriptor of a file. */
static int take(int process, const char *pid, const char *file)
{
    for (int number = 0; number < 256; number++) {
        char link[64], path[64] = "";

        snprintf(link, sizeof(link), "/proc/%s/fd/%d", pid, number);
        if (readlink(link, path, sizeof(path) - 1) > 0 && !strcmp(path, file))
            return (int)syscall(PIDFD_GETFD, process, number, 0);
    }
    fprintf(stderr, "%s has no %s\n", pid, file);
    exit(2);
}

static int operation(int privcmd, unsigned domain, uint32_t number)
{
    uint32_t operation[8] = { number };
    struct {
        void *data;
        size_t size;
    } buffer = { operation, sizeof(operation) };
    struct {
        uint16_t domain, buffers;
        void *list;
    } request = { (uint16_t)domain, 1, &buffer };

    return ioctl(privcmd, DM_OP, &request) < 0 ? errno : 0;
}

static int memory(int privcmd, unsigned domain)
{
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, privcmd, 0);
    uint64_t frame = 0x100;
    int32_t error = 0;
    struct {
        uint32_t count;
        uint16_t domain;
        void *at;
        uint64_t *frames;
        int32_t *errors;
    } request = { 1, (uint16_t)domain, at, &frame, &error };
    int failed = ioctl(privcmd, MAP, &request) < 0 ? errno : -error;

    munmap(at, PAGE);
    return failed;
}

static int requests(int privcmd, unsigned domain)
{
    void *at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, privcmd, 0);
    struct {
        uint16_t domain;
        uint32_t type, id, index;
        uint64_t count;
        void *at;
    } request = { (uint16_t)domain, 0, 0, 1, 1, at };
    int failed = ioctl(privcmd, RESOURCE, &request) < 0 ? errno : 0;

    munmap(at, PAGE);
    return failed;
}

static int channel(int evtchn, unsigned domain)
{
    struct {
        uint32_t domain, port;
    } request = { domain, 1 };

    return ioctl(evtchn, BIND_INTERDOMAIN, &request) < 0 ? errno : 0;
}

int main(int count, char **words)
{
    int process, privcmd, evtchn;
    unsigned own, other;
    uint32_t virq = 0;
    uint64_t call[6] = { XEN_VERSION };

    if (count != 4)
        return 2;
    process = (int)syscall(PIDFD_OPEN, atoi(words[1]), 0);
    privcmd = take(process, words[1], "/dev/xen/privcmd");
    evtchn = take(process, words[1], "/dev/xen/evtchn");
    own = (unsigned)atoi(words[2]);
    other = (unsigned)atoi(words[3]);
    printf("own operation: %d\n", operation(privcmd, own, OP_VCPUS));
    printf("own memory: %d\n", memory(privcmd, own));
    printf("operation: %d\n", operation(privcmd, other, OP_VCPUS));
    printf("server: %d\n", operation(privcmd, other, OP_CREATE));
    printf("interrupt: %d\n", operation(privcmd, other, OP_MSI));
    printf("memory: %d\n", memory(privcmd, other));
    printf("requests: %d\n", requests(privcmd, other));
    printf("hypercall: %d\n", ioctl(privcmd, HYPERCALL, call) < 0 ? errno : 0);
    printf("channel: %d\n", channel(evtchn, other));
    printf("dom0's channel: %d\n", channel(evtchn, 0));
    printf("virtual interrupt: %d\n", ioctl(evtchn, BIND_VIRQ, &virq) < 0 ? errno : 0);
    return 0;
}
