/* Preloaded into a server: a disk that fails. Each line of the file $BROKEN_DISK is "CALL PART ERRNO": the call (read,
   write, sync or rename) fails with that number on every file whose name has that text, or ends with it where a "$" follows.
   Failures go, a line each, to $BROKEN_DISK.log. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int means(const char *part, const char *name) {
    size_t part_length = strlen(part), length = strlen(name);
    if (!part_length || part[part_length - 1] != '$')
        return strstr(name, part) != NULL;
    part_length--;
    return length >= part_length && !strncmp(name + length - part_length, part, part_length);
}

static int broken(const char *call, const char *name) {
    char line[512], kind[32], part[256], log[512];
    const char *orders = getenv("BROKEN_DISK");
    FILE *file = orders ? fopen(orders, "re") : NULL;
    int number, found = 0, before = errno;
    while (file && !found && fgets(line, sizeof line, file))
        if (sscanf(line, "%31s %255s %d", kind, part, &number) == 3 && !strcmp(kind, call) && means(part, name))
            found = number;
    if (file)
        fclose(file);
    if (found) {
        snprintf(log, sizeof log, "%s.log", orders);
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        dprintf(fd, "%s %s\n", call, name);
        close(fd);
    }
    errno = found ? found : before;
    return found;
}

static int broken_at(const char *call, int fd) {
    char place[64], name[4096];
    snprintf(place, sizeof place, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(place, name, sizeof name - 1);
    if (length <= 0 || name[0] != '/')
        return 0;
    name[length] = 0;
    return broken(call, name);
}

#define NEXT(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name))

ssize_t write(int fd, const void *from, size_t count) {
    return broken_at("write", fd) ? -1 : NEXT(ssize_t, "write", int, const void *, size_t)(fd, from, count);
}
ssize_t pwrite64(int fd, const void *from, size_t count, off64_t at) {
    return broken_at("write", fd) ? -1 : NEXT(ssize_t, "pwrite64", int, const void *, size_t, off64_t)(fd, from, count, at);
}
ssize_t pread64(int fd, void *to, size_t count, off64_t at) {
    return broken_at("read", fd) ? -1 : NEXT(ssize_t, "pread64", int, void *, size_t, off64_t)(fd, to, count, at);
}
int fsync(int fd) { return broken_at("sync", fd) ? -1 : NEXT(int, "fsync", int)(fd); }
int fdatasync(int fd) { return broken_at("sync", fd) ? -1 : NEXT(int, "fdatasync", int)(fd); }
int rename(const char *from, const char *to) {
    return broken("rename", to) ? -1 : NEXT(int, "rename", const char *, const char *)(from, to);
}
