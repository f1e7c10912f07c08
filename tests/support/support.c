/* support.c - what several tests need. Tests only; aborts through cmocka or CHECK. */
#include "tests/support/support.h"
#include <ftw.h>
#include <sys/mman.h>
#include <unistd.h>

const char *oracle_path(const char *format, ...)
{
    static char paths[8][1024];
    static unsigned next;
    char *path = paths[next++ % 8];
    const char *full = oracle_full();
    char name[512];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    /* The checked-in file first: --all adds data, it does not replace any. */
    snprintf(path, sizeof paths[0], "%s/oracle/%s", NIBBLE_TESTS_DIR, name);
    if (full && access(path, F_OK) != 0)
        snprintf(path, sizeof paths[0], "%s/%s", full, name);
    return path;
}

const char *oracle_full(void)
{
    const char *folder = getenv("NIBBLE_ORACLE");
    return folder && folder[0] ? folder : NULL;
}

static char temp_path[256];

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static pid_t temp_owner;

static void remove_temp(void)
{
    if (getpid() == temp_owner) /* not in a forked child that exits */
        nftw(temp_path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *temp_dir(void)
{
    if (temp_path[0])
        return temp_path;
    const char *base = getenv("TMPDIR");
    snprintf(temp_path, sizeof temp_path, "%s/nibble-test-XXXXXX", base ? base : "/tmp");
    CHECK(mkdtemp(temp_path) != NULL);
    temp_owner = getpid();
    CHECK(atexit(remove_temp) == 0);
    return temp_path;
}

void write_file(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    CHECK(file != NULL);
    CHECK(fwrite(bytes, 1, size, file) == size);
    CHECK(fclose(file) == 0);
}

static size_t guard_pages(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

void *guard_copy(const void *bytes, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = guard_pages(size);
    char *base =
        mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(base != MAP_FAILED);
    CHECK(mprotect(base + room, page, PROT_NONE) == 0);
    if (size > 0)
        memcpy(base + room - size, bytes, size);
    return base + room - size;
}

void guard_free(void *copy, size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = guard_pages(size);
    CHECK(munmap((char *)copy + size - room, room + page) == 0);
}
