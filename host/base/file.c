/* file.c - regular files, mapped or read whole.
 *
 * Invariant: a file_map is either zero, a live mapping, or somebody else's memory; unmap is right
 * for all three. Opens with O_NONBLOCK, so that a FIFO without a writer cannot hang the start. */
#include "host/base/file.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISFIFO(mode) ? "a FIFO"
           : S_ISSOCK(mode) ? "a socket"
                            : "a device";
}

static bool open_regular(const char *path, int *fd, size_t *size, struct err *err)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (*fd < 0) {
        int why = errno;
        char reason[128];
        return err_set(err, why == ENOENT || why == ENOTDIR ? ERR_NOT_FOUND : ERR_IO, "%s: %s",
                       path, strerror_r(why, reason, sizeof reason));
    }
    if (fstat(*fd, &st) != 0) {
        char reason[128];
        err_set(err, ERR_IO, "%s: %s", path, strerror_r(errno, reason, sizeof reason));
        goto fail;
    }
    if (!S_ISREG(st.st_mode)) {
        err_set(err, ERR_FORMAT, "%s: want a regular file, found %s", path, kind_of(st.st_mode));
        goto fail;
    }
    *size = (size_t)st.st_size;
    return true;
fail:
    close(*fd);
    *fd = -1;
    return false;
}

bool file_map(struct file_map *map, const char *path, struct err *err)
{
    int fd;
    size_t size = 0;
    *map = (struct file_map){ 0 };
    if (!open_regular(path, &fd, &size, err))
        return false;
    if (size == 0) {
        close(fd);
        return err_set(err, ERR_FORMAT, "%s: the file is empty", path);
    }
    void *bytes = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    int why = errno;
    close(fd);
    if (bytes == MAP_FAILED) {
        char reason[128];
        return err_set(err, why == ENOMEM ? ERR_MEMORY : ERR_IO, "%s: cannot map %zu bytes: %s",
                       path, size, strerror_r(why, reason, sizeof reason));
    }
    *map = (struct file_map){ .bytes = bytes, .size = size, .mapped = true };
    return true;
}

void file_map_memory(struct file_map *map, const void *bytes, size_t size)
{
    *map = (struct file_map){ .bytes = bytes, .size = size, .mapped = false };
}

void file_unmap(struct file_map *map)
{
    if (map->mapped)
        munmap((void *)(uintptr_t)map->bytes, map->size);
    *map = (struct file_map){ 0 };
}

void file_map_drop(const struct file_map *map, const void *from, size_t bytes)
{
    if (!map->mapped)
        return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = (uintptr_t)from, base = (uintptr_t)map->bytes;
    CHECK(start >= base && start - base <= map->size && bytes <= map->size - (start - base));
    /* Only pages that lie wholly inside: the neighbours belong to other tensors. */
    uintptr_t low = (start + page - 1) / page * page, high = (start + bytes) / page * page;
    if (low < high)
        madvise((void *)low, high - low, MADV_DONTNEED); /* advice: failing changes nothing */
}

bool file_read(const char *path, size_t size_max, char **bytes, size_t *size, struct err *err)
{
    int fd;
    size_t length = 0, n = 0;
    *bytes = NULL;
    *size = 0;
    if (!open_regular(path, &fd, &length, err))
        return false;
    char *text = NULL;
    if (length > size_max || length == SIZE_MAX) {
        err_set(err, ERR_TOO_LARGE, "%s: %zu bytes, want at most %zu", path, length, size_max);
        goto fail;
    }
    text = malloc(length + 1);
    if (!text) {
        err_set(err, ERR_MEMORY, "%s: no memory for %zu bytes", path, length);
        goto fail;
    }
    while (n < length) {
        ssize_t got = read(fd, text + n, length - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            char reason[128];
            err_set(err, ERR_IO, "%s: %s", path, strerror_r(errno, reason, sizeof reason));
            goto fail;
        }
        if (got == 0)
            break; /* it shrank meanwhile: what is there is what it is */
        n += (size_t)got;
    }
    close(fd);
    text[n] = 0;
    *bytes = text;
    *size = n;
    return true;
fail:
    free(text);
    close(fd);
    return false;
}

bool file_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}
