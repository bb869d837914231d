/* The load generator of the benchmarks: one process, one kind of file operation, every call timed.
 *
 *     client OP DIR LIST [start=NS] [repeat=N] [bytes=N] [block=N]
 *
 * LIST is a file of names, one a line, each relative to DIR. Every name costs one operation, `repeat` passes in all, and
 * DIR is opened once, so that a name is looked up by itself and not again with its whole path. `start` is the
 * CLOCK_MONOTONIC time, in ns, at which to begin, so that several clients begin together. Prints one JSON object:
 * operations, errors by kind, the clock at begin and end, the sum and some percentiles of the single calls.
 * pyclient.py is the same in Python for machines without a compiler; keep the two alike. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int root = -1;
static long missing, failed, entries;
static size_t total_bytes = 4096, block = 4096;
static char *buffer;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(2);
}

static void note(long result)
{
    if (result >= 0)
        return;
    if (errno == ENOENT)
        missing++;
    else
        failed++;
}

/* The operations. Each returns the time that it took, so that preparations are left out where they must be. */

static uint64_t op_stat(const char *name)
{
    struct stat st;
    uint64_t t = now();
    int r = fstatat(root, name, &st, AT_SYMLINK_NOFOLLOW);
    t = now() - t;
    note(r);
    return t;
}

static uint64_t op_read(const char *name)
{
    uint64_t t = now();
    int fd = openat(root, name, O_RDONLY);
    ssize_t r = fd < 0 ? -1 : read(fd, buffer, block);
    if (fd >= 0)
        close(fd);
    t = now() - t;
    note(fd < 0 ? fd : r);
    return t;
}

static uint64_t op_pread(const char *name)
{
    int fd = openat(root, name, O_RDONLY);
    uint64_t t = now();
    ssize_t r = fd < 0 ? -1 : pread(fd, buffer, block, 0);
    t = now() - t;
    note(fd < 0 ? fd : r);
    if (fd >= 0)
        close(fd);
    return t;
}

static uint64_t op_create(const char *name)
{
    uint64_t t = now();
    int fd = openat(root, name, O_WRONLY | O_CREAT | O_EXCL, 0644);
    ssize_t r = fd < 0 ? -1 : write(fd, buffer, block);
    if (fd >= 0)
        close(fd);
    t = now() - t;
    note(fd < 0 ? fd : r);
    return t;
}

static uint64_t op_change(const char *name)
{
    uint64_t t = now();
    int fd = openat(root, name, O_WRONLY);
    ssize_t r = fd < 0 ? -1 : pwrite(fd, buffer, 1, 0);
    if (fd >= 0)
        close(fd);
    t = now() - t;
    note(fd < 0 ? fd : r);
    return t;
}

static uint64_t op_unlink(const char *name)
{
    uint64_t t = now();
    int r = unlinkat(root, name, 0);
    t = now() - t;
    note(r);
    return t;
}

static uint64_t op_rename(const char *name)
{
    char to[4096];
    snprintf(to, sizeof to, "%s.renamed", name);
    uint64_t t = now();
    int r = renameat(root, name, root, to);
    t = now() - t;
    note(r);
    return t;
}

static uint64_t op_list(const char *name)
{
    uint64_t t = now();
    int fd = openat(root, name, O_RDONLY | O_DIRECTORY);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir) {
        while (readdir(dir))
            entries++;
        closedir(dir);
    }
    t = now() - t;
    note(dir ? 0 : -1);
    return t;
}

static uint64_t op_stream(const char *name, int flags)
{
    uint64_t t = now();
    int fd = openat(root, name, flags, 0644);
    ssize_t r = fd < 0 ? -1 : 0;
    for (size_t done = 0; r >= 0 && done < total_bytes; done += (size_t)r) {
        r = flags == O_RDONLY ? read(fd, buffer, block) : write(fd, buffer, block);
        if (r == 0)
            break;
    }
    if (fd >= 0)
        close(fd);
    t = now() - t;
    note(r);
    return t;
}

static uint64_t op_readall(const char *name) { return op_stream(name, O_RDONLY); }
static uint64_t op_writeall(const char *name) { return op_stream(name, O_WRONLY | O_CREAT | O_TRUNC); }

static uint64_t op_random(const char *name, int flags)
{
    uint64_t state = 88172645463325252u, blocks = total_bytes / block;
    int fd = openat(root, name, flags);
    ssize_t r = fd < 0 ? -1 : 0;
    uint64_t t = now();
    for (size_t i = 0; r >= 0 && i < blocks; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        off_t at = (off_t)(state % blocks * block);
        r = flags == O_RDONLY ? pread(fd, buffer, block, at) : pwrite(fd, buffer, block, at);
    }
    t = now() - t;
    note(r);
    if (fd >= 0)
        close(fd);
    return t;
}

static uint64_t op_randread(const char *name) { return op_random(name, O_RDONLY); }
static uint64_t op_randwrite(const char *name) { return op_random(name, O_WRONLY); }

static const struct { const char *name; uint64_t (*run)(const char *); } operations[] = {
    {"stat", op_stat}, {"read", op_read}, {"pread", op_pread}, {"create", op_create}, {"change", op_change},
    {"unlink", op_unlink}, {"rename", op_rename}, {"list", op_list}, {"readall", op_readall},
    {"writeall", op_writeall}, {"randread", op_randread}, {"randwrite", op_randwrite},
};

static char **read_names(const char *path, size_t *count)
{
    FILE *file = fopen(path, "r");
    char *line = NULL, **names = NULL;
    size_t room = 0, size = 0;
    ssize_t length;
    if (!file)
        die(path);
    for (*count = 0; (length = getline(&line, &size, file)) > 0; (*count)++) {
        if (line[length - 1] == '\n')
            line[length - 1] = 0;
        if (*count == room)
            names = realloc(names, (room = room * 2 + 64) * sizeof *names);
        names[*count] = strdup(line);
    }
    fclose(file);
    return names;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void wait_until(uint64_t start)
{
    struct timespec t = {.tv_sec = (time_t)(start / 1000000000u), .tv_nsec = (long)(start % 1000000000u)};
    if (start)
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

int main(int argc, char **argv)
{
    uint64_t (*run)(const char *) = NULL;
    uint64_t start = 0, sum = 0;
    size_t count = 0, repeat = 1, n = 0;
    if (argc < 4)
        return fprintf(stderr, "usage: client OP DIR LIST [start=NS] [repeat=N] [bytes=N] [block=N]\n"), 2;
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++)
        if (!strcmp(argv[1], operations[i].name))
            run = operations[i].run;
    for (int i = 4; i < argc; i++)
        if (sscanf(argv[i], "start=%lu", &start) + sscanf(argv[i], "repeat=%zu", &repeat)
            + sscanf(argv[i], "bytes=%zu", &total_bytes) + sscanf(argv[i], "block=%zu", &block) < 1)
            run = NULL;
    if (!run)
        return fprintf(stderr, "client: unknown operation or option\n"), 2;
    char **names = read_names(argv[3], &count);
    uint64_t *times = calloc(count * repeat + 1, sizeof *times);
    buffer = malloc(block);
    memset(buffer, 'x', block);
    if ((root = open(argv[2], O_RDONLY | O_DIRECTORY)) < 0)
        die(argv[2]);
    wait_until(start);
    uint64_t begin = now();
    for (size_t pass = 0; pass < repeat; pass++)
        for (size_t i = 0; i < count; i++)
            sum += times[n++] = run(names[i]);
    uint64_t end = now();
    qsort(times, n, sizeof *times, ascending);
    printf("{\"n\": %zu, \"missing\": %ld, \"failed\": %ld, \"entries\": %ld, \"begin\": %lu, \"end\": %lu, "
           "\"sum\": %lu, \"p50\": %lu, \"p99\": %lu}\n",
           n, missing, failed, entries, begin, end, sum, n ? times[n / 2] : 0, n ? times[n * 99 / 100] : 0);
    return 0;
}
