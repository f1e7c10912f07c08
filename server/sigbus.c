/* sigbus.c - the handler may run on any thread and at any time: it reads constant tables and calls
 * write and _exit only. */
#include "server/sigbus.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { WATCHED_MAX = 2 };
static const struct tensor_dir *_Atomic watched[WATCHED_MAX];

static const char *file_at(uintptr_t address)
{
    for (int i = 0; i < WATCHED_MAX; i++) {
        const struct tensor_dir *dir = atomic_load(&watched[i]);
        for (int32_t f = 0; dir != NULL && f < dir->n_files; f++) {
            uintptr_t from = (uintptr_t)dir->files[f].bytes;
            if (address >= from && address - from < dir->files[f].size)
                return dir->labels[f];
        }
    }
    return NULL;
}

static void say(const char *text)
{
    ssize_t written = write(STDERR_FILENO, text, strlen(text));
    (void)written;
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
    (void)context;
    const char *label = file_at((uintptr_t)info->si_addr);
    if (label == NULL) {
        /* Not ours: back to the default; the access faults again and the core dump is honest. */
        signal(number, SIG_DFL);
        return;
    }
    say("nibble: ");
    say(label);
    say(": the file has become shorter, or cannot be read any more, while it was in use; "
        "replace model files by rename, never in place\n");
    _exit(1);
}

void sigbus_watch(const struct tensor_dir *dir)
{
    struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO };
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
    for (int i = 0; i < WATCHED_MAX; i++)
        if (atomic_load(&watched[i]) == NULL) {
            atomic_store(&watched[i], dir);
            return;
        }
    CHECK(!"room for one more model");
}

void sigbus_forget(const struct tensor_dir *dir)
{
    for (int i = 0; i < WATCHED_MAX; i++)
        if (atomic_load(&watched[i]) == dir)
            atomic_store(&watched[i], NULL);
}
