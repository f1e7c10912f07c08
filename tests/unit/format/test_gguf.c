/* gguf_read: what is read, and everything that is refused, with a guard page behind the file. */
#include "tests/support/support.h"
#include <math.h>
#include "host/format/gguf.h"

/* Two tensors and three values; the offsets below are used by the rows of FORGED.
 *     0 magic   4 version   8 n_tensors   16 n_values
 *    24 length 17  32 "general.alignment"  49 type u32      53 value 32
 *    57 length 1   65 "a"                  66 type array    70 of strings  74 n 2
 *    82 length 1   90 "x"   91 length 2    99 "yz"
 *   101 length 1  109 "b"                 110 type bool    114 true
 *   115 length 1  123 "t"  124 n_dims 2   128 dim 32  136 dim 2  144 Q4_0  148 offset 0
 *   156 length 1  164 "u"  165 n_dims 1   169 dim 3              177 F32   181 offset 64
 *   189 padding   192 data of t, 36 bytes   256 data of u, 12 bytes */
enum { FILE_BYTES = 268, HEADER_BYTES = 189 };

static void put(uint8_t *bytes, size_t at, size_t n, uint64_t value)
{
    for (size_t i = 0; i < n; i++)
        bytes[at + i] = (uint8_t)(value >> (8 * i));
}

static void make_file(uint8_t bytes[FILE_BYTES])
{
    static const struct {
        size_t at, n;
        uint64_t value;
    } numbers[] = { { 4, 4, 3 },   { 8, 8, 2 },   { 16, 8, 3 },   { 24, 8, 17 }, { 49, 4, 4 },
                    { 53, 4, 32 }, { 57, 8, 1 },  { 66, 4, 9 },   { 70, 4, 8 },  { 74, 8, 2 },
                    { 82, 8, 1 },  { 91, 8, 2 },  { 101, 8, 1 },  { 110, 4, 7 }, { 114, 1, 1 },
                    { 115, 8, 1 }, { 124, 4, 2 }, { 128, 8, 32 }, { 136, 8, 2 }, { 144, 4, 2 },
                    { 148, 8, 0 }, { 156, 8, 1 }, { 165, 4, 1 },  { 169, 8, 3 }, { 177, 4, 0 },
                    { 181, 8, 64 } };
    static const struct {
        size_t at;
        const char *text;
    } texts[] = { { 0, "GGUF" }, { 32, "general.alignment" },
                  { 65, "a" },   { 90, "x" },
                  { 99, "yz" },  { 109, "b" },
                  { 123, "t" },  { 164, "u" } };
    memset(bytes, 0, FILE_BYTES);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        put(bytes, numbers[i].at, numbers[i].n, numbers[i].value);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        memcpy(bytes + texts[i].at, texts[i].text, strlen(texts[i].text));
    for (int i = 0; i < 12; i++)
        bytes[256 + i] = (uint8_t)i;
}

/* Reads `size` bytes that end at a guard page. */
static bool read_bytes(struct gguf *gguf, void **copy, const uint8_t *bytes, size_t size,
                       struct err *err)
{
    struct file_map map;
    *copy = guard_copy(bytes, size);
    file_map_memory(&map, *copy, size);
    return gguf_read(gguf, map, "m.gguf", err);
}

static void test_valid(void **state)
{
    (void)state;
    uint8_t bytes[FILE_BYTES];
    for (uint32_t version = 2; version <= 3; version++) {
        struct gguf gguf;
        struct err err;
        void *copy;
        make_file(bytes);
        put(bytes, 4, 4, version);
        assert_ok(read_bytes(&gguf, &copy, bytes, FILE_BYTES, &err), &err);
        assert_int_equal(gguf.version, version);
        assert_int_equal(gguf.alignment, 32);
        assert_int_equal(gguf.n_values, 3);
        assert_int_equal(gguf.n_tensors, 2);
        const struct gguf_value *a = gguf_find(&gguf, "a");
        assert_non_null(a);
        assert_true(a->is_array && a->type == GGUF_STRING && a->n == 2);
        const uint8_t *at = a->bytes;
        const char *text = NULL;
        size_t length = 0;
        gguf_next_string(&at, &text, &length);
        assert_true(length == 1 && text[0] == 'x');
        gguf_next_string(&at, &text, &length);
        assert_true(length == 2 && memcmp(text, "yz", 2) == 0);
        assert_ptr_equal(at, a->bytes + a->size);
        bool b = false;
        assert_ok(gguf_opt_bool(&gguf, "b", &b, &err), &err);
        assert_true(b);
        assert_null(gguf_find(&gguf, "c"));
        const struct tensor *t = &gguf.tensors[0], *u = &gguf.tensors[1];
        assert_string_equal(t->name, "t");
        assert_int_equal(t->dtype, DTYPE_Q4_0);
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->dims[0], 2); /* outermost first */
        assert_int_equal(t->dims[1], 32);
        assert_int_equal(t->bytes, 36);
        assert_ptr_equal(t->data, (uint8_t *)copy + 192);
        assert_int_equal(u->dtype, DTYPE_F32);
        assert_int_equal(u->bytes, 12);
        assert_int_equal(u->data[11], 11);
        gguf_clear(&gguf);
        guard_free(copy, FILE_BYTES);
    }
}

static void test_every_truncation(void **state)
{
    (void)state;
    uint8_t bytes[FILE_BYTES];
    make_file(bytes);
    for (size_t size = 0; size < FILE_BYTES; size++) {
        struct gguf gguf;
        struct err err;
        void *copy;
        if (read_bytes(&gguf, &copy, bytes, size, &err))
            fail_msg("cut to %zu bytes: accepted", size);
        assert_int_equal(err.code, ERR_FORMAT);
        assert_true(strncmp(err.text, "m.gguf: ", 8) == 0);
        assert_null(gguf.values);
        guard_free(copy, size);
    }
}

static const struct {
    const char *sentence;
    size_t at, n; /* of the one number that is changed */
    uint64_t value;
    enum err_code code;
    const char *text;
} FORGED[] = {
    { "another magic number", 0, 4, 0x6c6d6767, ERR_FORMAT,
      "starts with 67 67 6d 6c, want \"GGUF\"" },
    { "big-endian", 4, 4, 0x03000000, ERR_UNSUPPORTED, "the file is big-endian" },
    { "version 0", 4, 4, 0, ERR_UNSUPPORTED, "version 0 of the format, want 2 or 3" },
    { "version 1", 4, 4, 1, ERR_UNSUPPORTED, "version 1 of the format is not supported" },
    { "version 4", 4, 4, 4, ERR_UNSUPPORTED, "version 4 of the format, want 2 or 3" },
    { "2^31 tensors", 8, 8, UINT64_C(1) << 31, ERR_FORMAT, "2147483648 tensors" },
    { "2^32 tensors", 8, 8, UINT64_C(1) << 32, ERR_FORMAT, "4294967296 tensors" },
    { "2^63 tensors", 8, 8, UINT64_C(1) << 63, ERR_FORMAT, "9223372036854775808 tensors" },
    { "2^64 - 1 tensors", 8, 8, UINT64_MAX, ERR_FORMAT, "18446744073709551615 tensors" },
    { "a tensor more than there is", 8, 8, 3, ERR_FORMAT, "a tensor's name" },
    { "2^63 values", 16, 8, UINT64_C(1) << 63, ERR_FORMAT, "9223372036854775808 metadata values" },
    { "2^64 - 1 values", 16, 8, UINT64_MAX, ERR_FORMAT, "metadata values, want at most 65536" },
    { "a key without bytes", 57, 8, 0, ERR_FORMAT, "a metadata key has 0 bytes" },
    { "a key longer than the file", 57, 8, 1000, ERR_FORMAT, "a text of 1000 bytes" },
    { "a key of 2^64 - 1 bytes", 57, 8, UINT64_MAX, ERR_FORMAT,
      "a text of 18446744073709551615 bytes" },
    { "a key with a NUL", 65, 1, 0, ERR_FORMAT, "a metadata key holds the control byte 0x00" },
    { "a key that is there twice", 109, 1, 'a', ERR_FORMAT, "metadata a: the key is there twice" },
    { "an unknown type", 110, 4, 13, ERR_FORMAT, "metadata b: unknown type 13" },
    { "a type of 2^32 - 1", 110, 4, UINT32_MAX, ERR_FORMAT, "unknown type 4294967295" },
    { "a bool of 2", 114, 1, 2, ERR_FORMAT, "metadata b: the bool 0 is 2, want 0 or 1" },
    { "arrays in an array", 70, 4, 9, ERR_UNSUPPORTED, "metadata a: arrays of arrays" },
    { "an array of 2^31", 74, 8, UINT64_C(1) << 31, ERR_FORMAT, "2147483648 elements" },
    { "an array of 2^32", 74, 8, UINT64_C(1) << 32, ERR_FORMAT, "4294967296 elements" },
    { "an array of 2^63", 74, 8, UINT64_C(1) << 63, ERR_FORMAT, "elements of type string" },
    { "an array of 2^64 - 1", 74, 8, UINT64_MAX, ERR_FORMAT, "elements of type string" },
    { "a text in an array beyond the end", 91, 8, 500, ERR_FORMAT,
      "metadata a: value: a text of 500 bytes" },
    { "alignment 0", 53, 4, 0, ERR_FORMAT, "metadata general.alignment: is 0, want 1 to 1048576" },
    { "alignment 3", 53, 4, 3, ERR_FORMAT, "general.alignment is 3, want a power of two" },
    { "alignment 2^31", 53, 4, UINT64_C(1) << 31, ERR_FORMAT, "is 2147483648, want 1 to" },
    { "alignment as a float", 49, 4, GGUF_F32, ERR_FORMAT,
      "metadata general.alignment: is f32, want an integer" },
    { "a tensor without a name", 115, 8, 0, ERR_FORMAT, "a tensor's name has 0 bytes" },
    { "a tensor's name of 65 bytes", 115, 8, 65, ERR_FORMAT,
      "a tensor's name has 65 bytes, want 1 to 64" },
    { "a tensor that is there twice", 164, 1, 't', ERR_FORMAT, "tensor t is there twice" },
    { "no dimension", 124, 4, 0, ERR_FORMAT, "tensor t: 0 dimensions, want 1 to 4" },
    { "5 dimensions", 124, 4, 5, ERR_FORMAT, "tensor t: 5 dimensions" },
    { "2^32 - 1 dimensions", 124, 4, UINT32_MAX, ERR_FORMAT, "4294967295 dimensions" },
    { "a dimension of 0", 136, 8, 0, ERR_FORMAT, "tensor t: dimension 1 is 0" },
    { "a dimension of 2^63", 136, 8, UINT64_C(1) << 63, ERR_FORMAT, "dimension 1 is 92233" },
    { "a product that overflows", 136, 8, UINT64_C(1) << 59, ERR_FORMAT,
      "dimension 1 is 576460752303423488, want 1 or more, with a product" },
    { "a product whose bytes are too many", 136, 8, UINT64_C(1) << 40, ERR_FORMAT,
      "tensor u: offset 64, want" },
    { "a row that is no whole block", 128, 8, 33, ERR_FORMAT,
      "rows of 33 elements are not whole Q4_0 blocks of 32" },
    { "an unknown type of tensor", 144, 4, 1000, ERR_FORMAT, "tensor t: unknown type number 1000" },
    { "a negative type of tensor", 144, 4, UINT32_MAX, ERR_FORMAT,
      "unknown type number 4294967295" },
    { "a type that is not read", 144, 4, 16, ERR_UNSUPPORTED,
      "tensor t: type IQ2_XXS is not supported" },
    { "an offset that is not aligned", 181, 8, 65, ERR_FORMAT, "tensor u: offset 65, want 64" },
    { "an offset into the tensor before", 181, 8, 32, ERR_FORMAT, "tensor u: offset 32, want 64" },
    { "an offset that leaves a hole", 181, 8, 96, ERR_FORMAT, "tensor u: offset 96, want 64" },
    { "an offset of 2^64 - 32", 148, 8, UINT64_MAX - 31, ERR_FORMAT, "want 0: tensors follow" },
    { "data past the end", 169, 8, 4, ERR_FORMAT,
      "tensor u: ends at byte 80 of the data, the file has 76" },
};

static void test_forged(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof FORGED / sizeof *FORGED; i++) {
        uint8_t bytes[FILE_BYTES];
        struct gguf gguf;
        struct err err;
        void *copy;
        make_file(bytes);
        put(bytes, FORGED[i].at, FORGED[i].n, FORGED[i].value);
        if (read_bytes(&gguf, &copy, bytes, FILE_BYTES, &err))
            fail_msg("%s: accepted", FORGED[i].sentence);
        if (err.code != FORGED[i].code || strstr(err.text, FORGED[i].text) == NULL)
            fail_msg("%s: code %d, \"%s\"", FORGED[i].sentence, err.code, err.text);
        assert_null(gguf.tensors);
        guard_free(copy, FILE_BYTES);
    }
}

/* Every byte of the header, every bit: read or refused, never more. */
static void test_every_flipped_bit(void **state)
{
    (void)state;
    for (size_t bit = 0; bit < HEADER_BYTES * 8; bit++) {
        uint8_t bytes[FILE_BYTES];
        struct gguf gguf;
        struct err err;
        void *copy;
        make_file(bytes);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (read_bytes(&gguf, &copy, bytes, FILE_BYTES, &err)) {
            for (int32_t i = 0; i < gguf.n_tensors; i++) {
                const struct tensor *t = &gguf.tensors[i];
                assert_true(t->data + t->bytes <= (uint8_t *)copy + FILE_BYTES);
            }
            gguf_clear(&gguf);
        } else {
            assert_true(err.code == ERR_FORMAT || err.code == ERR_UNSUPPORTED);
        }
        guard_free(copy, FILE_BYTES);
    }
}

/* One value of every type, alone in a file. */
static void test_numbers(void **state)
{
    (void)state;
    static const struct {
        enum gguf_type type;
        uint64_t bits;
        size_t n;
        int64_t as_int;
        double as_float;
    } rows[] = {
        { GGUF_U8, 200, 1, 200, 200 },
        { GGUF_I8, 200, 1, -56, -56 },
        { GGUF_U16, 60000, 2, 60000, 60000 },
        { GGUF_I16, 60000, 2, -5536, -5536 },
        { GGUF_U32, UINT32_MAX, 4, UINT32_MAX, 4294967295.0 },
        { GGUF_I32, UINT32_MAX, 4, -1, -1 },
        { GGUF_U64, UINT64_MAX, 8, INT64_MAX, 0x1p63 },
        { GGUF_I64, UINT64_MAX, 8, -1, -1 },
        { GGUF_F32, 0x3f400000, 4, 0, 0.75 },
        { GGUF_F64, 0xbfe8000000000000, 8, 0, -0.75 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t bytes[64] = "GGUF";
        struct gguf gguf;
        struct err err;
        void *copy;
        put(bytes, 4, 4, 3);
        put(bytes, 16, 8, 1);
        put(bytes, 24, 8, 1);
        bytes[32] = 'k';
        put(bytes, 33, 4, rows[i].type);
        put(bytes, 37, rows[i].n, rows[i].bits);
        assert_ok(read_bytes(&gguf, &copy, bytes, 37 + rows[i].n, &err), &err);
        int64_t integer = 7;
        double number = 7;
        bool flag = true;
        const char *text = NULL;
        size_t length;
        const bool is_int = gguf_type_is_int(rows[i].type);
        assert_int_equal(gguf_opt_int(&gguf, "k", INT64_MIN, INT64_MAX, &integer, &err), is_int);
        if (is_int)
            assert_true(integer == rows[i].as_int);
        else
            assert_non_null(strstr(err.text, "want an integer"));
        assert_ok(gguf_opt_float(&gguf, "k", &number, &err), &err);
        assert_true(number == rows[i].as_float);
        assert_false(gguf_opt_bool(&gguf, "k", &flag, &err));
        assert_false(gguf_opt_string(&gguf, "k", &text, &length, &err));
        integer = 7;
        assert_ok(gguf_opt_int(&gguf, "absent", 0, 1, &integer, &err), &err);
        assert_true(integer == 7);
        gguf_clear(&gguf);
        guard_free(copy, 37 + rows[i].n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_valid),   cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_forged),  cmocka_unit_test(test_every_flipped_bit),
        cmocka_unit_test(test_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
