/* gguf.c - reads header, metadata and tensor list of one GGUF file.
 *
 *   "GGUF" [u32 version][u64 n_tensors][u64 n_values]
 *   n_values  x  [string key][u32 type][value]       string: [u64 length][bytes]
 *                                                    array:  [u32 type][u64 n][elements]
 *   n_tensors x  [string name][u32 n_dims][u64 dims, innermost first][u32 type][u64 offset]
 *   padding to general.alignment, then the data; offsets count from there
 *
 * The file is hostile until proven otherwise: a cursor knows how many bytes are left, every count
 * is compared with that before it sizes or loops anything, and tables grow with what has been read,
 * never with what is announced. Called by gguf_folder.c. */
#include "host/format/gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAGIC_BYTES = 4,
    VERSION_MIN = 2,
    VERSION_MAX = 3,
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MAX = 1 << 20, /* writers use 32; a page or a huge page would still pass */
    KEY_BYTES_MAX = 65535,   /* the format's limit */
    NAME_BYTES_MAX = 64,     /* the format's limit */
    VALUES_MAX = 1 << 16,    /* real files have 20 to 60 */
    TENSORS_MAX = 1 << 20,
    /* The least that one takes in the file: empty strings, a byte of value, one dimension. */
    VALUE_BYTES_MIN = 8 + 4 + 1,
    TENSOR_BYTES_MIN = 8 + 4 + 8 + 4 + 8,
};

struct cursor {
    const uint8_t *at;
    size_t left;
};

static const struct {
    const char *name;
    size_t bytes; /* 0: not of one size */
} TYPES[GGUF_TYPE_COUNT] = {
    [GGUF_U8] = { "u8", 1 },       [GGUF_I8] = { "i8", 1 },     [GGUF_U16] = { "u16", 2 },
    [GGUF_I16] = { "i16", 2 },     [GGUF_U32] = { "u32", 4 },   [GGUF_I32] = { "i32", 4 },
    [GGUF_F32] = { "f32", 4 },     [GGUF_BOOL] = { "bool", 1 }, [GGUF_STRING] = { "string", 0 },
    [GGUF_ARRAY] = { "array", 0 }, [GGUF_U64] = { "u64", 8 },   [GGUF_I64] = { "i64", 8 },
    [GGUF_F64] = { "f64", 8 },
};

static const struct {
    const char *name;
    enum dtype dtype;
} TENSOR_TYPES[] = {
    [0] = { "F32", DTYPE_F32 },          [1] = { "F16", DTYPE_F16 },
    [2] = { "Q4_0", DTYPE_Q4_0 },        [3] = { "Q4_1", DTYPE_Q4_1 },
    [4] = { "Q4_2", DTYPE_NONE },        [5] = { "Q4_3", DTYPE_NONE },
    [6] = { "Q5_0", DTYPE_Q5_0 },        [7] = { "Q5_1", DTYPE_Q5_1 },
    [8] = { "Q8_0", DTYPE_Q8_0 },        [9] = { "Q8_1", DTYPE_NONE },
    [10] = { "Q2_K", DTYPE_Q2_K },       [11] = { "Q3_K", DTYPE_Q3_K },
    [12] = { "Q4_K", DTYPE_Q4_K },       [13] = { "Q5_K", DTYPE_Q5_K },
    [14] = { "Q6_K", DTYPE_Q6_K },       [15] = { "Q8_K", DTYPE_NONE },
    [16] = { "IQ2_XXS", DTYPE_NONE },    [17] = { "IQ2_XS", DTYPE_NONE },
    [18] = { "IQ3_XXS", DTYPE_NONE },    [19] = { "IQ1_S", DTYPE_NONE },
    [20] = { "IQ4_NL", DTYPE_IQ4_NL },   [21] = { "IQ3_S", DTYPE_NONE },
    [22] = { "IQ2_S", DTYPE_NONE },      [23] = { "IQ4_XS", DTYPE_IQ4_XS },
    [24] = { "I8", DTYPE_I8 },           [25] = { "I16", DTYPE_I16 },
    [26] = { "I32", DTYPE_I32 },         [27] = { "I64", DTYPE_I64 },
    [28] = { "F64", DTYPE_F64 },         [29] = { "IQ1_M", DTYPE_NONE },
    [30] = { "BF16", DTYPE_BF16 },       [31] = { "Q4_0_4_4", DTYPE_NONE },
    [32] = { "Q4_0_4_8", DTYPE_NONE },   [33] = { "Q4_0_8_8", DTYPE_NONE },
    [34] = { "TQ1_0", DTYPE_TQ1_0 },     [35] = { "TQ2_0", DTYPE_TQ2_0 },
    [36] = { "IQ4_NL_4_4", DTYPE_NONE }, [37] = { "IQ4_NL_4_8", DTYPE_NONE },
    [38] = { "IQ4_NL_8_8", DTYPE_NONE }, [39] = { "MXFP4", DTYPE_MXFP4 },
    [40] = { "NVFP4", DTYPE_NONE },      [41] = { "Q1_0", DTYPE_NONE },
};

enum dtype gguf_dtype(uint32_t number, const char **name)
{
    const bool known = number < sizeof TENSOR_TYPES / sizeof *TENSOR_TYPES;
    *name = known ? TENSOR_TYPES[number].name : NULL;
    return known ? TENSOR_TYPES[number].dtype : DTYPE_NONE;
}

const char *gguf_type_name(enum gguf_type type)
{
    CHECK((unsigned)type < GGUF_TYPE_COUNT);
    return TYPES[type].name;
}

bool gguf_type_is_int(enum gguf_type type)
{
    _Static_assert(GGUF_I32 < GGUF_F32, "the integers of up to 32 bits come first");
    return type <= GGUF_I32 || type == GGUF_U64 || type == GGUF_I64;
}

bool gguf_type_is_float(enum gguf_type type)
{
    return type == GGUF_F32 || type == GGUF_F64;
}

/* ---- bytes ------------------------------------------------------------------------------------
 */

static uint64_t little(const uint8_t *bytes, size_t n)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++)
        value |= (uint64_t)bytes[i] << (8 * i);
    return value;
}

/* The next n bytes, which are there. */
static const uint8_t *pass(struct cursor *cursor, size_t n)
{
    const uint8_t *bytes = cursor->at;
    CHECK(n <= cursor->left);
    cursor->at += n;
    cursor->left -= n;
    return bytes;
}

static bool take(struct cursor *cursor, size_t n, const uint8_t **bytes, const char *what,
                 struct err *err)
{
    if (cursor->left < n)
        return err_set(err, ERR_FORMAT,
                       "%s: want %zu bytes, the file has %zu left: it is cut short", what, n,
                       cursor->left);
    *bytes = pass(cursor, n);
    return true;
}

static bool take_u32(struct cursor *cursor, uint32_t *value, const char *what, struct err *err)
{
    const uint8_t *bytes = NULL;
    if (!take(cursor, 4, &bytes, what, err))
        return false;
    *value = (uint32_t)little(bytes, 4);
    return true;
}

static bool take_u64(struct cursor *cursor, uint64_t *value, const char *what, struct err *err)
{
    const uint8_t *bytes = NULL;
    if (!take(cursor, 8, &bytes, what, err))
        return false;
    *value = little(bytes, 8);
    return true;
}

static bool take_string(struct cursor *cursor, const char **text, size_t *length, const char *what,
                        struct err *err)
{
    uint64_t n = 0;
    if (!take_u64(cursor, &n, what, err))
        return false;
    if (n > cursor->left)
        return err_set(err, ERR_FORMAT, "%s: a text of %llu bytes, the file has %zu left", what,
                       (unsigned long long)n, cursor->left);
    *text = (const char *)pass(cursor, (size_t)n);
    *length = (size_t)n;
    return true;
}

/* A copy with a NUL behind; refuses an empty name, NULs, and control bytes, which have no business
 * in a key or in a log. */
static bool take_name(struct cursor *cursor, size_t size_max, char **name, const char *what,
                      struct err *err)
{
    const char *text = NULL;
    size_t length = 0;
    *name = NULL;
    if (!take_string(cursor, &text, &length, what, err))
        return false;
    if (length == 0 || length > size_max)
        return err_set(err, ERR_FORMAT, "%s has %zu bytes, want 1 to %zu", what, length, size_max);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return err_set(err, ERR_FORMAT, "%s holds the control byte 0x%02x", what,
                           (unsigned)(unsigned char)text[i]);
    *name = strndup(text, length);
    return *name != NULL || err_set(err, ERR_MEMORY, "no memory for a name");
}

/* Room for one more of `n` elements of `size` bytes; doubles, so memory follows what was read. */
static bool grow(void **table, int32_t n, size_t size, struct err *err)
{
    if ((n & (n - 1)) != 0)
        return true;
    const size_t room = n == 0 ? 1 : 2 * (size_t)n;
    void *larger = realloc(*table, room * size);
    if (larger == NULL)
        return err_set(err, ERR_MEMORY, "no memory for %zu entries", room);
    *table = larger;
    return true;
}

/* ---- metadata ---------------------------------------------------------------------------------
 */

static bool take_type(struct cursor *cursor, enum gguf_type *type, struct err *err)
{
    uint32_t number = 0;
    if (!take_u32(cursor, &number, "type", err))
        return false;
    if (number >= GGUF_TYPE_COUNT)
        return err_set(err, ERR_FORMAT, "unknown type %u", number);
    *type = (enum gguf_type)number;
    return true;
}

/* Elements: skipped over, and proven to be there. */
static bool take_elements(struct cursor *cursor, struct gguf_value *value, struct err *err)
{
    const size_t element = TYPES[value->type].bytes;
    value->bytes = cursor->at;
    const size_t least = value->type == GGUF_STRING ? 8 : element;
    if (value->n > cursor->left / least)
        return err_set(err, ERR_FORMAT, "%llu elements of type %s, the file has %zu bytes left",
                       (unsigned long long)value->n, TYPES[value->type].name, cursor->left);
    if (value->type != GGUF_STRING) {
        value->size = (size_t)value->n * element;
        const uint8_t *bytes = pass(cursor, value->size);
        for (size_t i = 0; value->type == GGUF_BOOL && i < value->size; i++)
            if (bytes[i] > 1)
                return err_set(err, ERR_FORMAT, "the bool %zu is %u, want 0 or 1", i, bytes[i]);
        return true;
    }
    for (uint64_t i = 0; i < value->n; i++) {
        const char *text = NULL;
        size_t length = 0;
        if (!take_string(cursor, &text, &length, "value", err))
            return false;
    }
    value->size = (size_t)(cursor->at - value->bytes);
    return true;
}

static bool take_value(struct cursor *cursor, struct gguf_value *value, struct err *err)
{
    value->n = 1;
    if (!take_type(cursor, &value->type, err))
        return false;
    if (value->type == GGUF_ARRAY) {
        value->is_array = true;
        if (!take_type(cursor, &value->type, err) ||
            !take_u64(cursor, &value->n, "array length", err))
            return false;
        if (value->type == GGUF_ARRAY)
            return err_set(err, ERR_UNSUPPORTED, "arrays of arrays are not supported");
    }
    return take_elements(cursor, value, err);
}

static bool read_values(struct gguf *gguf, struct cursor *cursor, uint64_t n, struct err *err)
{
    if (n > VALUES_MAX || n > cursor->left / VALUE_BYTES_MIN)
        return err_set(err, ERR_FORMAT,
                       "%llu metadata values, want at most %d and no more than %zu bytes can hold",
                       (unsigned long long)n, VALUES_MAX, cursor->left);
    if (!map_init(&gguf->by_key, 64, err))
        return false;
    for (uint64_t i = 0; i < n; i++) {
        struct gguf_value value = { 0 };
        bool is_new = false;
        if (!grow((void **)&gguf->values, gguf->n_values, sizeof value, err) ||
            !take_name(cursor, KEY_BYTES_MAX, &value.key, "a metadata key", err))
            return false;
        gguf->values[gguf->n_values++] = value; /* owned from here on */
        struct gguf_value *kept = &gguf->values[gguf->n_values - 1];
        if (!take_value(cursor, kept, err)) {
            err_prefix(err, "metadata %.120s", kept->key);
            return false;
        }
        if (!map_set(&gguf->by_key, kept->key, strlen(kept->key), gguf->n_values - 1, &is_new))
            return err_set(err, ERR_MEMORY, "no memory for a table of keys");
        if (!is_new)
            return err_set(err, ERR_FORMAT, "metadata %.120s: the key is there twice", kept->key);
    }
    return true;
}

/* ---- tensors ----------------------------------------------------------------------------------
 */

static bool take_shape(struct cursor *cursor, struct tensor *tensor, struct err *err)
{
    uint32_t n_dims = 0;
    uint64_t dim = 0;
    int64_t product = 1;
    if (!take_u32(cursor, &n_dims, "number of dimensions", err))
        return false;
    if (n_dims < 1 || n_dims > TENSOR_DIMS_MAX)
        return err_set(err, ERR_FORMAT, "%u dimensions, want 1 to %d", n_dims, TENSOR_DIMS_MAX);
    tensor->n_dims = (int32_t)n_dims;
    for (uint32_t i = 0; i < n_dims; i++) {
        if (!take_u64(cursor, &dim, "dimension", err))
            return false;
        if (dim < 1 || dim > INT64_MAX || __builtin_mul_overflow(product, (int64_t)dim, &product) ||
            product > INT64_MAX / 16)
            return err_set(err, ERR_FORMAT,
                           "dimension %u is %llu, want 1 or more, with a product "
                           "that can be counted",
                           i, (unsigned long long)dim);
        tensor->dims[n_dims - 1 - i] = (int64_t)dim; /* outermost first here */
    }
    return true;
}

/* Type, size and place; *end is where the next tensor must be. */
static bool take_place(struct cursor *cursor, const struct gguf *gguf, struct tensor *tensor,
                       uint64_t *end, struct err *err)
{
    uint32_t number = 0;
    uint64_t offset = 0;
    const char *name;
    if (!take_u32(cursor, &number, "type", err))
        return false;
    tensor->dtype = gguf_dtype(number, &name);
    if (name == NULL)
        return err_set(err, ERR_FORMAT, "unknown type number %u", number);
    if (tensor->dtype == DTYPE_NONE)
        return err_set(err, ERR_UNSUPPORTED, "type %s is not supported", name);
    const int64_t row = tensor->dims[tensor->n_dims - 1];
    if (row % dtype_block(tensor->dtype) != 0)
        return err_set(err, ERR_FORMAT, "rows of %lld elements are not whole %s blocks of %d",
                       (long long)row, name, dtype_block(tensor->dtype));
    /* At most 16 bytes an element fit: take_shape has left room for that. */
    tensor->bytes = dtype_row_bytes(tensor->dtype, (size_t)tensor_count(tensor));
    if (!take_u64(cursor, &offset, "offset", err))
        return false;
    if (offset != *end)
        return err_set(err, ERR_FORMAT,
                       "offset %llu, want %llu: tensors follow each other, aligned to %zu",
                       (unsigned long long)offset, (unsigned long long)*end, gguf->alignment);
    if (__builtin_add_overflow(offset, tensor->bytes, end) ||
        __builtin_add_overflow(*end, gguf->alignment - 1, end))
        return err_set(err, ERR_FORMAT, "%zu bytes at offset %llu: too large to count",
                       tensor->bytes, (unsigned long long)offset);
    *end &= ~(uint64_t)(gguf->alignment - 1);
    return true;
}

static bool place_data(struct gguf *gguf, size_t header_bytes, struct err *err)
{
    uint64_t offset = 0;
    const size_t mask = gguf->alignment - 1;
    const size_t start = (header_bytes + mask) & ~mask; /* far below SIZE_MAX: a mapped file */
    for (int32_t i = 0; i < gguf->n_tensors; i++) {
        struct tensor *tensor = &gguf->tensors[i];
        const size_t left = start < gguf->map.size ? gguf->map.size - start : 0;
        if (offset > left || tensor->bytes > left - (size_t)offset)
            return err_set(err, ERR_FORMAT,
                           "tensor %s: ends at byte %llu of the data, the file has %zu: it is cut "
                           "short",
                           tensor->name, (unsigned long long)(offset + tensor->bytes), left);
        tensor->data = gguf->map.bytes + start + (size_t)offset;
        offset = (offset + tensor->bytes + mask) & ~(uint64_t)mask;
    }
    return true;
}

static bool read_tensors(struct gguf *gguf, struct cursor *cursor, uint64_t n, struct err *err)
{
    struct map names = { 0 };
    uint64_t end = 0;
    if (n > TENSORS_MAX || n > cursor->left / TENSOR_BYTES_MIN)
        return err_set(err, ERR_FORMAT,
                       "%llu tensors, want at most %d and no more than %zu bytes can hold",
                       (unsigned long long)n, TENSORS_MAX, cursor->left);
    bool ok = map_init(&names, 64, err);
    for (uint64_t i = 0; i < n && ok; i++) {
        struct tensor tensor = { 0 };
        char *name = NULL;
        bool is_new = false;
        ok = grow((void **)&gguf->tensors, gguf->n_tensors, sizeof tensor, err) &&
             take_name(cursor, NAME_BYTES_MAX, &name, "a tensor's name", err);
        if (!ok)
            break;
        tensor.name = name;
        ok = take_shape(cursor, &tensor, err) && take_place(cursor, gguf, &tensor, &end, err);
        gguf->tensors[gguf->n_tensors++] = tensor; /* owns the name */
        if (!ok)
            err_prefix(err, "tensor %s", name);
        else if (!map_set(&names, name, strlen(name), 0, &is_new))
            ok = err_set(err, ERR_MEMORY, "no memory for a table of names");
        else if (!is_new)
            ok = err_set(err, ERR_FORMAT, "tensor %s is there twice", name);
    }
    map_clear(&names);
    return ok && place_data(gguf, gguf->map.size - cursor->left, err);
}

/* ---- the file ---------------------------------------------------------------------------------
 */

static bool read_head(struct gguf *gguf, struct cursor *cursor, uint64_t *n_tensors,
                      uint64_t *n_values, struct err *err)
{
    const uint8_t *magic = NULL;
    if (!take(cursor, MAGIC_BYTES, &magic, "magic number", err))
        return false;
    if (memcmp(magic, "GGUF", MAGIC_BYTES) != 0)
        return err_set(err, ERR_FORMAT, "starts with %02x %02x %02x %02x, want \"GGUF\"", magic[0],
                       magic[1], magic[2], magic[3]);
    if (!take_u32(cursor, &gguf->version, "version", err))
        return false;
    if ((gguf->version & 0xffff) == 0 && gguf->version != 0)
        return err_set(err, ERR_UNSUPPORTED, "the file is big-endian, want little-endian");
    if (gguf->version == 1)
        return err_set(err, ERR_UNSUPPORTED,
                       "version 1 of the format is not supported; convert the model again");
    if (gguf->version < VERSION_MIN || gguf->version > VERSION_MAX)
        return err_set(err, ERR_UNSUPPORTED, "version %u of the format, want %d or %d",
                       gguf->version, VERSION_MIN, VERSION_MAX);
    return take_u64(cursor, n_tensors, "number of tensors", err) &&
           take_u64(cursor, n_values, "number of metadata values", err);
}

static bool read_alignment(struct gguf *gguf, struct err *err)
{
    int64_t alignment = ALIGNMENT_DEFAULT;
    if (!gguf_opt_int(gguf, "general.alignment", 1, ALIGNMENT_MAX, &alignment, err))
        return false;
    if ((alignment & (alignment - 1)) != 0)
        return err_set(err, ERR_FORMAT, "general.alignment is %lld, want a power of two",
                       (long long)alignment);
    gguf->alignment = (size_t)alignment;
    return true;
}

bool gguf_read(struct gguf *gguf, struct file_map map, const char *label, struct err *err)
{
    struct cursor cursor = { map.bytes, map.size };
    uint64_t n_tensors = 0, n_values = 0;
    *gguf = (struct gguf){ .map = map, .label = strdup(label) };
    if (gguf->label == NULL) {
        err_set(err, ERR_MEMORY, "no memory for a file name");
        goto fail;
    }
    if (!read_head(gguf, &cursor, &n_tensors, &n_values, err) ||
        !read_values(gguf, &cursor, n_values, err) || !read_alignment(gguf, err) ||
        !read_tensors(gguf, &cursor, n_tensors, err))
        goto fail;
    return true;
fail:
    gguf->map = (struct file_map){ 0 }; /* still the caller's */
    gguf_clear(gguf);
    err_prefix(err, "%s", label);
    return false;
}

void gguf_clear(struct gguf *gguf)
{
    for (int32_t i = 0; i < gguf->n_values; i++)
        free(gguf->values[i].key);
    for (int32_t i = 0; i < gguf->n_tensors; i++)
        free((char *)(uintptr_t)gguf->tensors[i].name);
    free(gguf->values);
    free(gguf->tensors);
    free(gguf->label);
    map_clear(&gguf->by_key);
    file_unmap(&gguf->map);
    *gguf = (struct gguf){ 0 };
}

/* ---- typed values -----------------------------------------------------------------------------
 */

const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key)
{
    if (gguf->n_values == 0)
        return NULL;
    const int32_t index = map_get(&gguf->by_key, key, strlen(key), -1);
    return index < 0 ? NULL : &gguf->values[index];
}

int64_t gguf_int_at(const struct gguf_value *value, uint64_t i)
{
    CHECK(i < value->n && (gguf_type_is_int(value->type) || value->type == GGUF_BOOL));
    const size_t n = TYPES[value->type].bytes;
    const uint64_t bits = little(value->bytes + (size_t)i * n, n);
    switch (value->type) {
    case GGUF_I8:
        return (int8_t)bits;
    case GGUF_I16:
        return (int16_t)bits;
    case GGUF_I32:
        return (int32_t)bits;
    case GGUF_I64:
        return (int64_t)bits;
    default:
        return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    }
}

double gguf_float_at(const struct gguf_value *value, uint64_t i)
{
    if (!gguf_type_is_float(value->type))
        return (double)gguf_int_at(value, i);
    CHECK(i < value->n);
    if (value->type == GGUF_F32) {
        float number;
        memcpy(&number, value->bytes + (size_t)i * sizeof number, sizeof number);
        return (double)number;
    }
    double number;
    memcpy(&number, value->bytes + (size_t)i * sizeof number, sizeof number);
    return number;
}

void gguf_next_string(const uint8_t **at, const char **text, size_t *length)
{
    *length = (size_t)little(*at, 8);
    *text = (const char *)*at + 8;
    *at += 8 + *length;
}

static bool wrong_type(const struct gguf_value *value, const char *wanted, struct err *err)
{
    return err_set(err, ERR_FORMAT, "metadata %.120s: is %s%s, want %s", value->key,
                   value->is_array ? "an array of " : "", TYPES[value->type].name, wanted);
}

bool gguf_opt_int(const struct gguf *gguf, const char *key, int64_t low, int64_t high,
                  int64_t *value, struct err *err)
{
    const struct gguf_value *found = gguf_find(gguf, key);
    if (found == NULL)
        return true;
    if (found->is_array || !gguf_type_is_int(found->type))
        return wrong_type(found, "an integer", err);
    const int64_t number = gguf_int_at(found, 0);
    if (number < low || number > high)
        return err_set(err, ERR_FORMAT, "metadata %.120s: is %lld, want %lld to %lld", key,
                       (long long)number, (long long)low, (long long)high);
    *value = number;
    return true;
}

bool gguf_opt_float(const struct gguf *gguf, const char *key, double *value, struct err *err)
{
    const struct gguf_value *found = gguf_find(gguf, key);
    if (found == NULL)
        return true;
    if (found->is_array || (!gguf_type_is_float(found->type) && !gguf_type_is_int(found->type)))
        return wrong_type(found, "a number", err);
    const double number = gguf_float_at(found, 0);
    if (!isfinite(number))
        return err_set(err, ERR_FORMAT, "metadata %.120s: is not finite (NaN or Inf)", key);
    *value = number;
    return true;
}

bool gguf_opt_bool(const struct gguf *gguf, const char *key, bool *value, struct err *err)
{
    const struct gguf_value *found = gguf_find(gguf, key);
    if (found == NULL)
        return true;
    if (found->is_array || found->type != GGUF_BOOL)
        return wrong_type(found, "a bool", err);
    *value = found->bytes[0] != 0;
    return true;
}

bool gguf_opt_string(const struct gguf *gguf, const char *key, const char **text, size_t *length,
                     struct err *err)
{
    const struct gguf_value *found = gguf_find(gguf, key);
    if (found == NULL)
        return true;
    if (found->is_array || found->type != GGUF_STRING)
        return wrong_type(found, "a text", err);
    const uint8_t *at = found->bytes;
    gguf_next_string(&at, text, length);
    return true;
}
