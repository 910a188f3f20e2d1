/* Preloaded into a server: writes the monotonic second of each fsync and fdatasync, one a line, to $COUNT_SYNCS_IN. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int count_and_call(const char *name, int fd) {
    static int log = -1;
    struct timespec now;
    int (*call)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (log < 0)
        log = open(getenv("COUNT_SYNCS_IN"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    clock_gettime(CLOCK_MONOTONIC, &now);
    dprintf(log, "%ld.%09ld\n", (long)now.tv_sec, now.tv_nsec);
    return call(fd);
}

int fsync(int fd) { return count_and_call("fsync", fd); }
int fdatasync(int fd) { return count_and_call("fdatasync", fd); }
