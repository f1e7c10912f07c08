/* A mapped model file that is cut short ends the process with a message, not with garbage. */
#include "tests/support/support.h"
#include <sys/wait.h>
#include <unistd.h>
#include "host/base/file.h"
#include "server/sigbus.h"

static void a_cut_file_is_named(void **state)
{
    (void)state;
    static uint8_t bytes[3 * 4096];
    char path[256], said[1024] = "";
    int ends[2], status = 0;
    struct file_map map;
    struct err err;
    snprintf(path, sizeof path, "%s/model.safetensors", temp_dir());
    write_file(path, bytes, sizeof bytes);
    assert_ok(file_map(&map, path, &err), &err);
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char *label = path;
        struct tensor_dir dir = { .files = &map, .labels = &label, .n_files = 1 };
        dup2(ends[1], STDERR_FILENO);
        sigbus_watch(&dir);
        if (truncate(path, 4096) != 0)
            _exit(9);
        volatile uint8_t got = map.bytes[2 * 4096];
        _exit(got == 0 ? 7 : 8);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; (got = read(ends[0], said + n, sizeof said - 1 - n)) > 0;)
        n += (size_t)got;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    assert_non_null(strstr(said, path));
    assert_non_null(strstr(said, "has become shorter"));
    file_unmap(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(a_cut_file_is_named) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
