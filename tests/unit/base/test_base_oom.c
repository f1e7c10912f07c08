/* Each allocation fails once: the error is clean, nothing leaks (ASan), nothing is half-made. */
#include "tests/support/support.h"
#include "tests/support/fail_alloc.h"
#include <cjson/cJSON.h>
#include "host/base/arena.h"
#include "host/base/buf.h"
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/base/map.h"
#include "host/base/pool.h"
#include "host/base/queue.h"

static bool try_arena(struct err *err)
{
    struct arena arena;
    arena_init(&arena, 1 << 20);
    bool ok = true;
    for (int i = 0; i < 40 && ok; i++)
        ok = arena_take(&arena, 1000, 1) != NULL;
    arena_clear(&arena);
    return ok ? true : err_set(err, ERR_MEMORY, "arena");
}

static bool try_buf(struct err *err)
{
    struct buf buf;
    buf_init(&buf, 1 << 20);
    for (int i = 0; i < 300; i++)
        buf_printf(&buf, "%d ", i);
    bool ok = !buf.failed;
    if (!ok)
        assert_true(buf.length == 0 || buf.bytes[buf.length] == 0);
    buf_clear(&buf);
    return ok ? true : err_set(err, ERR_MEMORY, "buf");
}

static bool try_map(struct err *err)
{
    struct map map;
    if (!map_init(&map, 4, err))
        return false;
    bool ok = true;
    for (int i = 0; i < 200 && ok; i++) {
        char key[16];
        int n = snprintf(key, sizeof key, "key%d", i);
        ok = map_set(&map, key, (size_t)n, i, NULL);
        if (!ok) /* what was there still is */
            for (int j = 0; j < i; j++) {
                n = snprintf(key, sizeof key, "key%d", j);
                assert_int_equal(map_get(&map, key, (size_t)n, -1), j);
            }
    }
    map_clear(&map);
    return ok ? true : err_set(err, ERR_MEMORY, "map");
}

static bool try_json(struct err *err)
{
    static const char text[] = "{\"a\":[1,2,{\"b\":\"c\",\"n\":12345678901234567890}],\"d\":{\"1\":"
                               "1,\"2\":2,\"3\":3,\"4\":4,"
                               "\"5\":5,\"6\":6,\"7\":7,\"8\":8,\"9\":9}}";
    struct cJSON *root;
    if (!json_parse(text, sizeof text - 1, &JSON_REQUEST_LIMITS, ERR_REQUEST, &root, err)) {
        assert_null(root);
        return false;
    }
    json_free(root);
    return true;
}

static bool try_queue(struct err *err)
{
    struct mpsc queue;
    if (!mpsc_init(&queue, 8, err))
        return false;
    mpsc_clear(&queue);
    return true;
}

static bool try_pool(struct err *err)
{
    struct pool *pool;
    if (!pool_open(&pool, 3, err)) {
        assert_null(pool);
        return false;
    }
    pool_close(pool);
    return true;
}

static bool try_file(struct err *err)
{
    char path[512];
    snprintf(path, sizeof path, "%s/f", temp_dir());
    char *bytes;
    size_t size;
    if (!file_read(path, 100, &bytes, &size, err)) {
        assert_null(bytes);
        return false;
    }
    free(bytes);
    return true;
}

static const struct {
    const char *name;
    bool (*run)(struct err *err);
} CASES[] = {
    { "an arena that needs several chunks", try_arena },
    { "a buffer that grows", try_buf },
    { "a map that grows slots and keys", try_map },
    { "a small request", try_json },
    { "a queue", try_queue },
    { "a pool of three", try_pool },
    { "a file read whole", try_file },
};

static void test_each_allocation_fails(void **state)
{
    (void)state;
    cJSON_InitHooks(&(cJSON_Hooks){ fail_alloc_malloc, free });
    char path[512];
    snprintf(path, sizeof path, "%s/f", temp_dir());
    write_file(path, "abc", 3);
    for (size_t i = 0; i < sizeof CASES / sizeof CASES[0]; i++) {
        int64_t n = 1;
        for (;; n++) {
            struct err err = { 0 };
            fail_alloc_at(n);
            bool ok = CASES[i].run(&err);
            int64_t seen = fail_alloc_seen();
            fail_alloc_off();
            if (ok) {
                assert_true(seen < n); /* it never got as far as the failing one */
                break;
            }
            if (err.code != ERR_MEMORY || !err.text[0])
                fail_msg("%s, allocation %d: code %d \"%s\"", CASES[i].name, (int)n, err.code,
                         err.text);
        }
        assert_true(n > 1);
    }
    cJSON_InitHooks(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_each_allocation_fails) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
