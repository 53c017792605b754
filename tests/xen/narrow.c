/*
 * Runs a command with less than root has: as a user who is nobody, or with a
 * descriptor of one of Xen's drivers that is restricted to a domain, as Linux's
 * include/uapi/xen says:
 *
 *     narrow nobody COMMAND...
 *     narrow privcmd|evtchn DOMAIN NUMBER COMMAND...
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static char **restrict_one(char **words)
{
    unsigned long request = strcmp(words[1], "evtchn") ? 0x25006 : 0x24506;
    uint16_t domain = (uint16_t)atoi(words[2]);
    char path[32];
    int fd;

    snprintf(path, sizeof(path), "/dev/xen/%s", words[1]);
    fd = open(path, O_RDWR);
    if (fd < 0 || ioctl(fd, request, &domain) < 0 || dup2(fd, atoi(words[3])) < 0) {
        perror(path);
        exit(3);
    }
    return words + 4;
}

int main(int count, char **words)
{
    if (count > 2 && !strcmp(words[1], "nobody")) {
        if (setgid(65534) < 0 || setuid(65534) < 0) {
            perror("nobody");
            return 3;
        }
        words += 2;
    } else if (count > 4) {
        words = restrict_one(words);
    } else {
        return 3;
    }
    execvp(words[0], words);
    perror(words[0]);
    return 3;
}
