/* gguf.h - one .gguf file: header, metadata, tensor list, data.
 * Format: ggml-org/ggml docs/gguf.md, versions 2 and 3, little-endian. Enforced: every count and
 * length against the bytes that are left, no duplicate keys or tensors, known types, rows of whole
 * blocks, each tensor where the one before it ends (rounded up to general.alignment), all of them
 * inside the file. A gguf holds one file; models in parts are put together by gguf_folder.h. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/err.h"
#include "host/base/file.h"
#include "host/base/map.h"
#include "host/format/tensor_dir.h"

enum gguf_type { /* as written in the file */
                 GGUF_U8,
                 GGUF_I8,
                 GGUF_U16,
                 GGUF_I16,
                 GGUF_U32,
                 GGUF_I32,
                 GGUF_F32,
                 GGUF_BOOL,
                 GGUF_STRING,
                 GGUF_ARRAY,
                 GGUF_U64,
                 GGUF_I64,
                 GGUF_F64,
                 GGUF_TYPE_COUNT
};
struct gguf_value {
    char *key;           /* NUL-terminated, no NUL inside */
    enum gguf_type type; /* of the value, or of an array's elements; never GGUF_ARRAY */
    bool is_array;
    uint64_t n;           /* elements; 1 unless an array */
    const uint8_t *bytes; /* the first element, in the mapped file, any alignment */
    size_t size;          /* bytes of all elements */
};
struct gguf {
    struct file_map map; /* owned, or borrowed memory (file_map_memory) */
    char *label;         /* the file's name, for messages */
    uint32_t version;
    size_t alignment;
    struct gguf_value *values; /* [n_values], in file order */
    int32_t n_values;
    struct map by_key;
    struct tensor *tensors; /* [n_tensors], in file order; dims outermost first, file 0 */
    int32_t n_tensors;
};
/* Reads header, metadata and tensor list; touches no page of data. `label` is copied. On success
 * `gguf` takes the mapping over; on false nothing is held and the mapping still the caller's.
 * ERR_FORMAT: the file is not what it says; ERR_UNSUPPORTED: version 1, big-endian, a type of
 * blocks that nibble does not read (by name). Every message starts with the label. */
MUST_USE bool gguf_read(struct gguf *gguf, struct file_map map, const char *label, struct err *err);
void gguf_clear(struct gguf *gguf);

/* NULL when there is no such key. */
const struct gguf_value *gguf_find(const struct gguf *gguf, const char *key);

/* Typed values of scalars. Absent: *value stays and all is well. ERR_FORMAT, naming the key, when
 * it is of another kind (any integer type will do for an integer, floats too for a float) or out of
 * range. */
MUST_USE bool gguf_opt_int(const struct gguf *gguf, const char *key, int64_t low, int64_t high,
                           int64_t *value, struct err *err);
MUST_USE bool gguf_opt_float(const struct gguf *gguf, const char *key, double *value,
                             struct err *err);
MUST_USE bool gguf_opt_bool(const struct gguf *gguf, const char *key, bool *value, struct err *err);
/* Not NUL-terminated; points into the file. */
MUST_USE bool gguf_opt_string(const struct gguf *gguf, const char *key, const char **text,
                              size_t *length, struct err *err);

/* Element i < n of a value that holds integers, floats or bools, as a number of that kind. */
int64_t gguf_int_at(const struct gguf_value *value, uint64_t i); /* u64 above 2^63 - 1: that */
double gguf_float_at(const struct gguf_value *value, uint64_t i);
bool gguf_type_is_int(enum gguf_type type);
bool gguf_type_is_float(enum gguf_type type);
const char *gguf_type_name(enum gguf_type type);
/* Strings one after another: *at starts at value->bytes; call n times at most. */
void gguf_next_string(const uint8_t **at, const char **text, size_t *length);

/* The block or element type of a tensor's type number; NONE when nibble does not read it. *name
 * is its own name, NULL when nobody knows the number. */
enum dtype gguf_dtype(uint32_t number, const char **name);
