/* safetensors: what is read, and everything that is refused, with a guard page behind the file. */
#include "tests/support/support.h"
#include "host/format/safetensors.h"

/* [u64 size][header][data zeros 0, 1, 2, ...] in memory that ends at a guard page. */
static void *make_file(uint64_t stated, const char *header, size_t header_bytes, size_t data_bytes,
                       size_t *size)
{
    *size = 8 + header_bytes + data_bytes;
    uint8_t *bytes = malloc(*size);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(stated >> (8 * i));
    memcpy(bytes + 8, header, header_bytes);
    for (size_t i = 0; i < data_bytes; i++)
        bytes[8 + header_bytes + i] = (uint8_t)i;
    void *copy = guard_copy(bytes, *size);
    free(bytes);
    return copy;
}

static bool add(struct tensor_dir *dir, const void *bytes, size_t size, const char *label,
                struct err *err)
{
    struct file_map map;
    file_map_memory(&map, bytes, size);
    return safetensors_add(dir, map, label, err);
}

#define T(name, dtype, shape, begin, end)                                                          \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" begin "," end   \
    "]}"

static const char VALID[] =
    "{\"__metadata__\":{\"format\":\"pt\"}," T("b", "F32", "[2,2]", "6", "22") "," T(
        "a", "BF16", "[3]", "0", "6") "," T("scalar", "U8", "[]", "22",
                                            "23") "," T("none", "I64", "[0,7]", "23", "23") "}   ";

static void test_valid(void **state)
{
    (void)state;
    struct tensor_dir dir = { 0 };
    struct err err;
    size_t size;
    void *bytes = make_file(strlen(VALID), VALID, strlen(VALID), 23, &size);
    assert_ok(add(&dir, bytes, size, "one", &err), &err);
    assert_int_equal(dir.n_tensors, 4);
    static const char *const IN_FILE_ORDER[] = { "a", "b", "scalar", "none" };
    for (int i = 0; i < 4; i++)
        assert_string_equal(dir.tensors[i].name, IN_FILE_ORDER[i]);
    const struct tensor *b = tensor_dir_find(&dir, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, DTYPE_F32);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->dims[0], 2);
    assert_int_equal(b->dims[1], 2);
    assert_int_equal(b->bytes, 16);
    assert_int_equal(b->data[0], 6); /* not aligned to 4, and that is fine */
    assert_int_equal(b->data[15], 21);
    assert_int_equal(tensor_count(b), 4);
    const struct tensor *scalar = tensor_dir_find(&dir, "scalar");
    assert_int_equal(scalar->n_dims, 0);
    assert_int_equal(tensor_count(scalar), 1);
    const struct tensor *none = tensor_dir_find(&dir, "none");
    assert_int_equal(none->bytes, 0);
    assert_int_equal(tensor_count(none), 0);
    assert_null(tensor_dir_find(&dir, "__metadata__"));
    assert_null(tensor_dir_find(&dir, "c"));
    assert_null(tensor_dir_find(&dir, ""));
    tensor_dir_clear(&dir);
    assert_null(tensor_dir_find(&dir, "b"));
    guard_free(bytes, size);
}

/* Tensors without bytes lie where others begin; their order is by name. */
static void test_empty_tensors(void **state)
{
    (void)state;
    static const char HEADER[] =
        "{" T("f", "I8", "[0]", "0", "0") "," T("b", "I8", "[2]", "0", "2") "," T(
            "e", "I8", "[0]", "0", "0") "," T("g", "I8", "[0]", "2", "2") "}";
    static const char *const ORDER[] = { "e", "f", "b", "g" };
    struct tensor_dir dir = { 0 };
    struct err err;
    size_t size;
    void *bytes = make_file(strlen(HEADER), HEADER, strlen(HEADER), 2, &size);
    assert_ok(add(&dir, bytes, size, "one", &err), &err);
    for (int i = 0; i < 4; i++)
        assert_string_equal(dir.tensors[i].name, ORDER[i]);
    tensor_dir_clear(&dir);
    guard_free(bytes, size);
}

/* Two files in one directory; a third with a name that is taken changes nothing. */
static void test_several_files(void **state)
{
    (void)state;
    static const char SECOND[] = "{" T("c", "I8", "[1,2]", "0", "2") "}";
    static const char CLASH[] =
        "{" T("d", "I8", "[1]", "0", "1") "," T("c", "I8", "[2]", "1", "3") "}";
    struct tensor_dir dir = { 0 };
    struct err err;
    size_t size1, size2, size3;
    void *one = make_file(strlen(VALID), VALID, strlen(VALID), 23, &size1);
    void *two = make_file(strlen(SECOND), SECOND, strlen(SECOND), 2, &size2);
    void *three = make_file(strlen(CLASH), CLASH, strlen(CLASH), 3, &size3);
    assert_ok(add(&dir, one, size1, "one.safetensors", &err), &err);
    assert_ok(add(&dir, two, size2, "two.safetensors", &err), &err);
    assert_false(add(&dir, three, size3, "three.safetensors", &err));
    assert_int_equal(err.code, ERR_FORMAT);
    assert_string_equal(err.text, "three.safetensors: tensor \"c\" is already in two.safetensors");
    assert_int_equal(dir.n_files, 2);
    assert_int_equal(dir.n_tensors, 5);
    assert_null(tensor_dir_find(&dir, "d"));
    assert_int_equal(tensor_dir_find(&dir, "a")->file, 0);
    assert_string_equal(tensor_dir_find(&dir, "a")->name, "a");
    assert_int_equal(tensor_dir_find(&dir, "c")->file, 1);
    assert_string_equal(dir.labels[1], "two.safetensors");
    tensor_dir_clear(&dir);
    guard_free(one, size1);
    guard_free(two, size2);
    guard_free(three, size3);
}

static void test_every_truncation(void **state)
{
    (void)state;
    size_t full;
    uint8_t *whole = make_file(strlen(VALID), VALID, strlen(VALID), 23, &full);
    for (size_t size = 0; size < full; size++) {
        struct tensor_dir dir = { 0 };
        struct err err;
        void *bytes = guard_copy(whole, size);
        assert_false(add(&dir, bytes, size, "cut", &err));
        assert_int_equal(err.code, ERR_FORMAT);
        assert_int_equal(dir.n_tensors, 0);
        tensor_dir_clear(&dir);
        guard_free(bytes, size);
    }
    /* One byte too many is a byte that belongs to nobody. */
    struct tensor_dir dir = { 0 };
    struct err err;
    size_t size;
    void *bytes = make_file(strlen(VALID), VALID, strlen(VALID), 24, &size);
    assert_false(add(&dir, bytes, size, "long", &err));
    assert_non_null(strstr(err.text, "last 1 bytes belong to no tensor"));
    tensor_dir_clear(&dir);
    guard_free(bytes, size);
    guard_free(whole, full);
}

/* Every single byte of the header replaced: refused or read, never out of bounds. */
static void test_every_flipped_byte(void **state)
{
    (void)state;
    static const uint8_t REPLACEMENTS[] = { 0x00, 0xff, '"', '{', '}', '9', '-', ',' };
    size_t size;
    uint8_t *whole = make_file(strlen(VALID), VALID, strlen(VALID), 23, &size);
    uint8_t *copy = guard_copy(whole, size);
    for (size_t at = 0; at < size - 23; at++) {
        for (size_t r = 0; r < sizeof REPLACEMENTS; r++) {
            struct tensor_dir dir = { 0 };
            struct err err;
            copy[at] = REPLACEMENTS[r];
            if (add(&dir, copy, size, "flipped", &err))
                for (int32_t i = 0; i < dir.n_tensors; i++)
                    assert_true(dir.tensors[i].data + dir.tensors[i].bytes <= copy + size);
            tensor_dir_clear(&dir);
        }
        copy[at] = whole[at];
    }
    guard_free(copy, size);
    guard_free(whole, size);
}

static void test_header_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        uint64_t stated;
        const char *text;
    } rows[] = {
        { "a header of 0 bytes", 0, "does not start with '{'" },
        { "a header of 1 byte", 1, "does not start with '{'" },
        { "one byte behind the file", 27, "cut short" },
        { "100 MB exactly, in a file of 34 bytes", 100000000, "cut short" },
        { "100 MB and a byte", 100000001, "at most 100000000" },
        { "2^31", UINT64_C(1) << 31, "at most 100000000" },
        { "2^32", UINT64_C(1) << 32, "at most 100000000" },
        { "2^63", UINT64_C(1) << 63, "at most 100000000" },
        { "2^64 - 1", UINT64_MAX, "at most 100000000" },
        { "2^64 - 8, which plus 8 is 0", UINT64_MAX - 7, "at most 100000000" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tensor_dir dir = { 0 };
        struct err err;
        size_t size;
        void *bytes = make_file(rows[i].stated, "{\"a\":0}                   ", 26, 0, &size);
        assert_false(add(&dir, bytes, size, "forged", &err));
        if (err.code != ERR_FORMAT || strstr(err.text, rows[i].text) == NULL)
            fail_msg("%s: %s", rows[i].sentence, err.text);
        tensor_dir_clear(&dir);
        guard_free(bytes, size);
    }
}

static void test_forged_headers(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *header;
        size_t data_bytes;
        enum err_code code; /* ERR_NONE: is read */
        const char *text;   /* part of the message */
    } rows[] = {
        { "no tensors at all", "{}", 0, ERR_NONE, "" },
        { "no tensors but data", "{}", 5, ERR_FORMAT, "last 5 bytes" },
        { "a JSON list", "[1]", 0, ERR_FORMAT, "start with '{'" },
        { "blanks first", " {}", 0, ERR_FORMAT, "start with '{'" },
        { "not JSON", "{nonsense}", 0, ERR_FORMAT, "header" },
        { "JSON with something behind", "{} {}", 0, ERR_FORMAT, "header" },
        { "bytes that are not UTF-8", "{\"\xff\":{}}", 0, ERR_FORMAT, "header" },
        { "a tensor that is a number", "{\"a\":7}", 0, ERR_FORMAT, "must be an object" },
        { "a tensor that is null", "{\"a\":null}", 0, ERR_FORMAT, "must be an object" },
        { "an empty tensor object", "{\"a\":{}}", 0, ERR_FORMAT, "dtype must be" },
        { "no dtype", "{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ERR_FORMAT, "dtype" },
        { "no shape", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, ERR_FORMAT, "shape" },
        { "no offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, ERR_FORMAT, "data_offsets" },
        { "an unknown dtype", "{" T("a", "F4", "[2]", "0", "1") "}", 1, ERR_UNSUPPORTED,
          "unknown dtype \"F4\"" },
        { "a dtype in small letters", "{" T("a", "u8", "[1]", "0", "1") "}", 1, ERR_UNSUPPORTED,
          "unknown dtype" },
        { "a numeric dtype", "{\"a\":{\"dtype\":1,\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
          ERR_FORMAT, "dtype must be" },
        { "a wrong dtype for its bytes", "{" T("a", "F32", "[2]", "0", "4") "}", 4, ERR_FORMAT,
          "want 8 bytes, data_offsets give 4" },
        { "four dimensions", "{" T("a", "U8", "[1,1,2,1]", "0", "2") "}", 2, ERR_NONE, "" },
        { "five dimensions", "{" T("a", "U8", "[1,1,1,1,1]", "0", "1") "}", 1, ERR_UNSUPPORTED,
          "has 5 dimensions, at most 4" },
        { "a dimension of 0", "{" T("a", "U8", "[5,0]", "0", "0") "}", 0, ERR_NONE, "" },
        { "a negative dimension", "{" T("a", "U8", "[-1]", "0", "1") "}", 1, ERR_FORMAT,
          "whole number" },
        { "two negative dimensions", "{" T("a", "U8", "[-1,-1]", "0", "1") "}", 1, ERR_FORMAT,
          "whole number" },
        { "half a dimension", "{" T("a", "U8", "[1.5]", "0", "1") "}", 1, ERR_FORMAT,
          "whole number" },
        { "a dimension of 2^53 + 1", "{" T("a", "U8", "[9007199254740993]", "0", "1") "}", 1,
          ERR_FORMAT, "whole number" },
        { "a dimension as text", "{" T("a", "U8", "[\"1\"]", "0", "1") "}", 1, ERR_FORMAT,
          "whole number" },
        { "a shape that is a number", "{" T("a", "U8", "1", "0", "1") "}", 1, ERR_FORMAT,
          "list of sizes" },
        { "a shape in a list in a list", "{" T("a", "U8", "[[1]]", "0", "1") "}", 1, ERR_FORMAT,
          "header" },
        { "2^32 x 2^32 elements", "{" T("a", "U8", "[4294967296,4294967296]", "0", "0") "}", 0,
          ERR_FORMAT, "too large" },
        { "2^61 elements of 8 bytes", "{" T("a", "F64", "[2305843009213693952,1]", "0", "0") "}", 0,
          ERR_FORMAT, "whole number" },
        { "2^31 x 2^30 elements of 8 bytes",
          "{" T("a", "F64", "[2147483648,1073741824]", "0", "0") "}", 0, ERR_FORMAT, "too large" },
        { "an overflow hidden behind a 0",
          "{" T("a", "U8", "[4294967296,4294967296,0]", "0", "0") "}", 0, ERR_FORMAT, "too large" },
        { "an overflow hidden by a 0 before it",
          "{" T("a", "U8", "[0,4294967296,4294967296]", "0", "0") "}", 0, ERR_FORMAT, "too large" },
        { "more elements than bytes", "{" T("a", "U8", "[1000000]", "0", "1000000") "}", 10,
          ERR_FORMAT, "ends at byte 1000000 of the data, but the file has only 10" },
        { "one byte past the end", "{" T("a", "U8", "[11]", "0", "11") "}", 10, ERR_FORMAT,
          "ends at byte 11" },
        { "offsets past the end", "{" T("a", "U8", "[1]", "100", "101") "}", 1, ERR_FORMAT,
          "ends at byte 101" },
        { "a negative offset", "{" T("a", "U8", "[1]", "-1", "0") "}", 1, ERR_FORMAT,
          "whole number" },
        { "offsets that run backwards", "{" T("a", "U8", "[1]", "1", "0") "}", 1, ERR_FORMAT,
          "run backwards" },
        { "one offset", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0]}}", 1,
          ERR_FORMAT, "list of two" },
        { "three offsets", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,1]}}", 1,
          ERR_FORMAT, "list of two" },
        { "offsets as an object", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":{}}}", 1,
          ERR_FORMAT, "list of two" },
        { "an offset of 1e400", "{" T("a", "U8", "[1]", "0", "1e400") "}", 1, ERR_FORMAT,
          "header" },
        { "two tensors over one another",
          "{" T("a", "U8", "[4]", "0", "4") "," T("b", "U8", "[4]", "2", "6") "}", 6, ERR_FORMAT,
          "\"a\" and \"b\" overlap" },
        { "two tensors at one place",
          "{" T("a", "U8", "[4]", "0", "4") "," T("b", "U8", "[4]", "0", "4") "}", 4, ERR_FORMAT,
          "overlap" },
        { "a hole before the first", "{" T("a", "U8", "[4]", "4", "8") "}", 8, ERR_FORMAT,
          "4 bytes before tensor \"a\"" },
        { "a hole between", "{" T("a", "U8", "[4]", "0", "4") "," T("b", "U8", "[4]", "5", "9") "}",
          9, ERR_FORMAT, "1 bytes before tensor \"b\"" },
        { "an empty tensor inside another one",
          "{" T("a", "U8", "[4]", "0", "4") "," T("b", "U8", "[0]", "2", "2") "}", 4, ERR_FORMAT,
          "overlap" },
        { "empty tensors at one place",
          "{" T("a", "U8", "[0]", "0", "0") "," T("b", "U8", "[0]", "0", "0") "}", 0, ERR_NONE,
          "" },
        { "an unaligned float",
          "{" T("a", "U8", "[3]", "0", "3") "," T("b", "F32", "[1]", "3", "7") "}", 7, ERR_NONE,
          "" },
        { "the same name twice",
          "{" T("a", "U8", "[1]", "0", "1") "," T("a", "U8", "[1]", "1", "2") "}", 2, ERR_FORMAT,
          "header" },
        { "metadata twice", "{\"__metadata__\":{},\"__metadata__\":{}}", 0, ERR_FORMAT, "header" },
        { "metadata that is a tensor", "{" T("__metadata__", "U8", "[1]", "0", "1") "}", 1,
          ERR_FORMAT, "must be a string" },
        { "metadata that is a text", "{\"__metadata__\":\"x\"}", 0, ERR_FORMAT,
          "object of strings" },
        { "metadata with a number", "{\"__metadata__\":{\"x\":1}}", 0, ERR_FORMAT,
          "must be a string" },
        { "an unknown key in a tensor",
          "{\"a\":{\"x\":[1],\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, ERR_NONE,
          "" },
        { "objects ten deep", "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{}}}}}}}", 0, ERR_FORMAT,
          "header" },
        { "an empty name", "{" T("", "U8", "[1]", "0", "1") "}", 1, ERR_NONE, "" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tensor_dir dir = { 0 };
        struct err err = { 0 };
        size_t size, length = strlen(rows[i].header);
        void *bytes = make_file(length, rows[i].header, length, rows[i].data_bytes, &size);
        bool ok = add(&dir, bytes, size, "forged.safetensors", &err);
        if (ok != (rows[i].code == ERR_NONE))
            fail_msg("%s: %s", rows[i].sentence, ok ? "was read" : err.text);
        if (!ok && (err.code != rows[i].code || strstr(err.text, rows[i].text) == NULL ||
                    strncmp(err.text, "forged.safetensors: ", 20) != 0))
            fail_msg("%s: code %d, %s", rows[i].sentence, err.code, err.text);
        if (!ok)
            assert_int_equal(dir.n_tensors, 0);
        tensor_dir_clear(&dir);
        guard_free(bytes, size);
    }
}

/* A million brackets must not recurse a million times. */
static void test_deep_nesting(void **state)
{
    (void)state;
    enum { DEPTH = 1000000 };
    char *header = malloc(DEPTH + 5);
    assert_non_null(header);
    memcpy(header, "{\"a\":", 5);
    memset(header + 5, '[', DEPTH);
    struct tensor_dir dir = { 0 };
    struct err err;
    size_t size;
    void *bytes = make_file(DEPTH + 5, header, DEPTH + 5, 0, &size);
    assert_false(add(&dir, bytes, size, "deep", &err));
    assert_int_equal(err.code, ERR_FORMAT);
    tensor_dir_clear(&dir);
    guard_free(bytes, size);
    free(header);
}

/* 20,000 tensors: what the largest mixtures of experts have; also a name of 4 KB, and one more. */
static void test_many_and_long(void **state)
{
    (void)state;
    enum { N = 20000, LONG = 4096 };
    char *header = malloc(N * 80 + 2 * LONG), *at = header;
    assert_non_null(header);
    *at++ = '{';
    for (int i = 0; i < N; i++)
        at += sprintf(at, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                      i == 0 ? "" : ",", i, N - 1 - i, N - i);
    *at++ = '}';
    struct tensor_dir dir = { 0 };
    struct err err;
    size_t size, length = (size_t)(at - header);
    void *bytes = make_file(length, header, length, N, &size);
    assert_ok(add(&dir, bytes, size, "many", &err), &err);
    assert_int_equal(dir.n_tensors, N);
    assert_string_equal(dir.tensors[0].name, "t19999");
    assert_int_equal(tensor_dir_find(&dir, "t0")->data[0], (N - 1) & 255);
    tensor_dir_clear(&dir);
    guard_free(bytes, size);

    for (int extra = 0; extra < 2; extra++) {
        at = header + sprintf(header, "{\"");
        memset(at, 'n', LONG + (size_t)extra);
        at += LONG + extra;
        at += sprintf(at, "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}");
        length = (size_t)(at - header);
        bytes = make_file(length, header, length, 1, &size);
        assert_int_equal(add(&dir, bytes, size, "long", &err), extra == 0);
        tensor_dir_clear(&dir);
        guard_free(bytes, size);
    }
    free(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),
        cmocka_unit_test(test_empty_tensors),
        cmocka_unit_test(test_several_files),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_flipped_byte),
        cmocka_unit_test(test_header_sizes),
        cmocka_unit_test(test_forged_headers),
        cmocka_unit_test(test_deep_nesting),
        cmocka_unit_test(test_many_and_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
