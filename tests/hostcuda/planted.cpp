/* planted.cpp - runs a table of programs, each in a child of its own (planted.h). */
#include "planted.h"
#include "hostcuda.h"
#include <stdio.h>
#include <string.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
static const enum build this_build = ADDRESS;
/* Children end in the middle of things. */
extern "C" const char *__asan_default_options(void)
{
    return "detect_leaks=0";
}
#elif defined(__SANITIZE_THREAD__)
static const enum build this_build = THREAD;
#else
static const enum build this_build = EVERYWHERE;
#endif

/* Exit status of the child (0 right, 1 wrong numbers, others: failed), and all it said. */
static int run_child(const struct planted *row, int seed, std::string *said)
{
    int ends[2];
    if (pipe(ends) != 0)
        exit(2);
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        hostcuda_seed((uint64_t)seed);
        exit(row->run() ? 0 : 1);
    }
    close(ends[1]);
    char part[4096];
    for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;)
        said->append(part, (size_t)n);
    close(ends[0]);
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}
/* The first line with a colon in it: what a report says. */
static std::string gist(const std::string &said)
{
    size_t at = said.find("hostcuda: ");
    if (at == std::string::npos)
        at = said.find("SUMMARY: ");
    return at == std::string::npos ? "wrong numbers" : said.substr(at, said.find('\n', at) - at);
}
int run_planted(const struct planted *rows, int n)
{
    int n_failed = 0, n_skipped = 0;
    for (int i = 0; i < n; i++) {
        const struct planted *row = &rows[i];
        if (row->build != EVERYWHERE && row->build != this_build) {
            n_skipped++;
            continue;
        }
        bool as_told = row->outcome == RIGHT;
        std::string seen = "right";
        const int n_seeds = this_build == THREAD && row->outcome == RIGHT ? 3 : N_SEEDS;
        for (int seed = 1; seed <= n_seeds; seed++) {
            std::string said;
            const int status = run_child(row, seed, &said);
            const bool right = status == 0 && said.empty();
            if (right)
                continue;
            seen = "seed " + std::to_string(seed) + ": " + gist(said);
            as_told = row->outcome == CAUGHT &&
                      (row->text == NULL ? status != 3 : said.find(row->text) != std::string::npos);
            if (!as_told)
                seen += "\n" + said;
            break;
        }
        printf("%-7s %-44s %s\n", as_told ? "ok" : "FAILED", row->name, seen.c_str());
        n_failed += !as_told;
    }
    printf("%d programs, %d failed, %d skipped (another sanitizer's)\n", n, n_failed, n_skipped);
    return n_failed;
}
