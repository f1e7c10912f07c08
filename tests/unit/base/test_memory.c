/* arena, buf, map, err, file: limits, growth, text. */
#include "tests/support/support.h"
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>
#include "host/base/arena.h"
#include "host/base/buf.h"
#include "host/base/file.h"
#include "host/base/map.h"
#include "host/base/rng.h"

/* ---- err ---- */

static void test_err(void **state)
{
    (void)state;
    struct err err;
    assert_false(err_set_field(&err, ERR_REQUEST, "a[1]", "bad %d", 3));
    assert_string_equal(err.field, "a[1]");
    assert_string_equal(err.text, "bad 3");
    err_prefix(&err, "file %s", "x");
    assert_string_equal(err.text, "file x: bad 3");
    assert_int_equal(err.code, ERR_REQUEST);
    err_set(&err, ERR_FORMAT, "again: %s", err.text); /* its own text as an argument */
    assert_string_equal(err.text, "again: file x: bad 3");
    assert_string_equal(err.field, "");
    err_set(&err, ERR_IO, "a\nb\x1b[0m\x7f \xff\xc3\xa9 %s", "\xe2\x82");
    assert_string_equal(err.text, "a b [0m  ?\xc3\xa9 "); /* a cut sequence at the end goes */
    char big[2000];
    memset(big, 'x', sizeof big);
    big[sizeof big - 1] = 0;
    memcpy(big + sizeof err.text - 3, "\xe2\x82\xac", 3); /* the cut falls inside the euro sign */
    err_set_field(&err, ERR_IO, big, "%s", big);
    assert_int_equal(strlen(err.text), sizeof err.text - 3);
    assert_int_equal(strlen(err.field), sizeof err.field - 1);
    err_prefix(&err, "%s", big);
    assert_int_equal(strlen(err.text), sizeof err.text - 3);
}

/* ---- arena ---- */

static void test_arena(void **state)
{
    (void)state;
    struct arena arena;
    arena_init(&arena, 10000);
    assert_null(arena_take(&arena, SIZE_MAX / 2, 3)); /* n * size wraps */
    assert_null(arena_take(&arena, SIZE_MAX - 3, 1)); /* rounding up would wrap */
    assert_null(arena_take(&arena, 10001, 1));        /* over the limit at once */
    assert_int_equal(arena.used, 0);
    assert_non_null(arena_take(&arena, 0, 8));
    char *text = arena_copy(&arena, "abc", 3);
    assert_string_equal(text, "abc");
    struct arena_mark mark = arena_mark(&arena);
    uint8_t *bytes = NULL;
    for (int n = 0; n < 5; n++) {
        bytes = arena_take(&arena, 1, 1500);
        assert_non_null(bytes);
        assert_int_equal((uintptr_t)bytes % 16, 0);
        for (int i = 0; i < 1500; i++)
            assert_int_equal(bytes[i], 0);
        memset(bytes, 0xee, 1500);
    }
    arena_reset(&arena, mark);
    assert_int_equal(arena.used, mark.used);
    assert_string_equal(text, "abc");
    bytes = arena_take(&arena, 1, 64); /* memory used before comes back zeroed */
    assert_int_equal(bytes[0] | bytes[63], 0);
    assert_non_null(arena_take(&arena, 10000 - arena.used, 1)); /* to the last byte */
    assert_int_equal(arena.used, 10000);
    assert_null(arena_take(&arena, 1, 1));
    arena_clear(&arena);
    assert_int_equal(arena.used, 0);
    struct arena_mark empty = arena_mark(&arena);
    assert_non_null(arena_take(&arena, 100, 1));
    arena_reset(&arena, empty);
    assert_null(arena.last);
    arena_clear(&arena);
}

/* ---- buf ---- */

static void test_buf(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 10);
    assert_string_equal(buf_text(&buf), "");
    buf_puts(&buf, "hello");
    buf_printf(&buf, "%d", 12345);
    assert_string_equal(buf_text(&buf), "hello12345"); /* exactly the limit */
    assert_false(buf.failed);
    buf_putc(&buf, '!');
    assert_true(buf.failed);
    buf_shift(&buf, 5);
    assert_string_equal(buf_text(&buf), "12345");
    buf_puts(&buf, "x"); /* sticky */
    assert_int_equal(buf.length, 5);
    buf_reset(&buf);
    assert_false(buf.failed);
    assert_string_equal(buf_text(&buf), "");
    buf_printf(&buf, "%s", "elevenbytes");
    assert_true(buf.failed && buf.length == 0);
    buf_clear(&buf);
    buf_init(&buf, 0);
    buf_putc(&buf, 'x');
    assert_true(buf.failed);
    buf_clear(&buf);
    buf_init(&buf, SIZE_MAX);
    for (int i = 0; i < 100000; i++)
        buf_putc(&buf, (char)('a' + i % 26));
    assert_int_equal(buf.length, 100000);
    assert_int_equal(buf.bytes[99999], 'a' + 99999 % 26);
    buf_clear(&buf);
}

static const struct {
    const char *bytes;
    size_t length;
    const char *want;
} STRINGS[] = {
    { "", 0, "\"\"" },
    { "plain", 5, "\"plain\"" },
    { "a\"b\\c/", 6, "\"a\\\"b\\\\c/\"" },
    { "\b\f\n\r\t\x01\x1f\x7f", 8, "\"\\b\\f\\n\\r\\t\\u0001\\u001f\\u007f\"" },
    { "nul\0in", 6, "\"nul\\u0000in\"" },
    { "\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\"" },
    { "a\xff"
      "b",
      3,
      "\"a\xef\xbf\xbd"
      "b\"" },
    { "\xf0\x9f\x98", 3, "\"\xef\xbf\xbd\"" }, /* cut: one subpart, one mark */
    { "\xed\xa0\x80", 3, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" }, /* a surrogate: three */
    { "\xc0\xaf", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\"" },                 /* overlong */
    { "\xf4\x90\x80\x80", 4, "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"" },
};

static void test_json_string(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof STRINGS / sizeof STRINGS[0]; i++) {
        struct buf buf;
        buf_init(&buf, 1000);
        char *copy = guard_copy(STRINGS[i].bytes, STRINGS[i].length);
        buf_put_json_string(&buf, copy, STRINGS[i].length);
        assert_string_equal(buf_text(&buf), STRINGS[i].want);
        guard_free(copy, STRINGS[i].length);
        buf_clear(&buf);
    }
}

static const struct {
    double number;
    const char *want;
} NUMBERS[] = {
    { 0, "0" },
    { -0.0, "-0" },
    { 1, "1" },
    { -17, "-17" },
    { 0.1, "0.1" },
    { 1.0 / 3, "0.3333333333333333" },
    { 0.1 + 0.2, "0.30000000000000004" },
    { 9007199254740993.0, "9007199254740992" },
    { 1e20, "100000000000000000000" },
    { 1e22, "1e+22" },
    { 1.5e300, "1.5e+300" },
    { 5e-324, "5e-324" },
    { NAN, "null" },
    { INFINITY, "null" },
    { -INFINITY, "null" },
};

static void test_json_number(void **state)
{
    (void)state;
    struct buf buf;
    buf_init(&buf, 1000);
    for (size_t i = 0; i < sizeof NUMBERS / sizeof NUMBERS[0]; i++) {
        buf_reset(&buf);
        buf_put_json_number(&buf, NUMBERS[i].number);
        assert_string_equal(buf_text(&buf), NUMBERS[i].want);
    }
    for (uint64_t i = 0; i < 20000; i++) { /* any bits read back as themselves */
        struct rng4 r = rng_philox(1, 2, i);
        double number, back;
        memcpy(&number, r.v, sizeof number);
        if (!isfinite(number))
            continue;
        buf_reset(&buf);
        buf_put_json_number(&buf, number);
        back = strtod(buf_text(&buf), NULL);
        assert_memory_equal(&back, &number, sizeof back);
    }
    buf_clear(&buf);
}

/* ---- map ---- */

static void test_map(void **state)
{
    (void)state;
    struct map map;
    struct err err;
    assert_false(map_init(&map, SIZE_MAX / 2, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    assert_ok(map_init(&map, 0, &err), &err);
    assert_int_equal(map_get(&map, "x", 1, -7), -7);
    bool was_new;
    assert_true(map_set(&map, "", 0, 5, &was_new) && was_new);
    assert_true(map_set(&map, "a\0b", 3, 6, &was_new) && was_new);
    assert_true(map_set(&map, "a\0c", 3, 7, &was_new) && was_new);
    assert_true(map_set(&map, "a", 1, 8, &was_new) && was_new);
    assert_true(map_set(&map, "a", 1, 9, &was_new) && !was_new);
    assert_int_equal(map.n, 4);
    enum { N = 50000 };
    for (int i = 0; i < N; i++) {
        char key[32];
        int n = snprintf(key, sizeof key, "%d-key-%d", i, i % 7);
        assert_true(map_set(&map, key, (size_t)n, i, NULL));
    }
    for (int i = 0; i < N; i++) {
        char key[32];
        int n = snprintf(key, sizeof key, "%d-key-%d", i, i % 7);
        assert_int_equal(map_get(&map, key, (size_t)n, -1), i);
        assert_int_equal(map_get(&map, key, (size_t)n - 1, -1), -1);
    }
    assert_int_equal(map_get(&map, "", 0, -1), 5);
    assert_int_equal(map_get(&map, "a\0b", 3, -1), 6);
    assert_int_equal(map_get(&map, "a\0c", 3, -1), 7);
    assert_int_equal(map_get(&map, "a", 1, -1), 9);
    map_clear(&map);
    map_clear(&map);
}

/* ---- file ---- */

static void test_file(void **state)
{
    (void)state;
    char path[512], fifo[512], empty[512];
    struct file_map map;
    struct err err;
    char *bytes;
    size_t size;
    snprintf(path, sizeof path, "%s/data", temp_dir());
    snprintf(fifo, sizeof fifo, "%s/fifo", temp_dir());
    snprintf(empty, sizeof empty, "%s/empty", temp_dir());
    char *pattern = malloc(100001);
    for (int i = 0; i < 100001; i++)
        pattern[i] = (char)(i * 7);
    write_file(path, pattern, 100001);
    write_file(empty, "", 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);

    assert_ok(file_map(&map, path, &err), &err);
    assert_int_equal(map.size, 100001);
    assert_memory_equal(map.bytes, pattern, map.size);
    file_map_drop(&map, map.bytes + 1, map.size - 1);
    file_map_drop(&map, map.bytes + map.size, 0);
    assert_memory_equal(map.bytes, pattern, map.size); /* they come back */
    file_unmap(&map);
    file_unmap(&map);
    assert_null(map.bytes);

    assert_ok(file_read(path, 100001, &bytes, &size, &err), &err);
    assert_int_equal(size, 100001);
    assert_memory_equal(bytes, pattern, size);
    assert_int_equal(bytes[size], 0);
    free(bytes);
    assert_false(file_read(path, 100000, &bytes, &size, &err));
    assert_int_equal(err.code, ERR_TOO_LARGE);
    assert_null(bytes);
    assert_ok(file_read(empty, 10, &bytes, &size, &err), &err);
    assert_string_equal(bytes, "");
    free(bytes);

    file_map_memory(&map, pattern, 10);
    file_map_drop(&map, map.bytes, 10);
    assert_false(map.mapped);
    file_unmap(&map);
    assert_int_equal(pattern[1], 7);
    free(pattern);

    const struct {
        const char *path;
        enum err_code code;
        const char *says;
    } refused[] = {
        { "/nonexistent/file", ERR_NOT_FOUND, "No such file" },
        { empty, ERR_FORMAT, "empty" },
        { fifo, ERR_FORMAT, "a FIFO" },
        { temp_dir(), ERR_FORMAT, "a directory" },
        { "/dev/zero", ERR_FORMAT, "a device" },
    };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        assert_false(file_map(&map, refused[i].path, &err));
        assert_int_equal(err.code, refused[i].code);
        assert_non_null(strstr(err.text, refused[i].says));
        assert_non_null(strstr(err.text, refused[i].path));
    }
    assert_true(file_exists(path));
    assert_false(file_exists("/nonexistent/file"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_err),         cmocka_unit_test(test_arena),
        cmocka_unit_test(test_buf),         cmocka_unit_test(test_json_string),
        cmocka_unit_test(test_json_number), cmocka_unit_test(test_map),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
