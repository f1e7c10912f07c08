/* json.h - cJSON behind a strict reader.
 *
 * json_parse refuses what cJSON lets through: bytes that are not UTF-8, U+0000 (raw or escaped),
 * trailing bytes, duplicate keys in one object, numbers outside RFC 8259's grammar or infinite,
 * unescaped control bytes, nesting over `depth_max`, more than `nodes_max` values. Numbers of
 * more than 63 bytes are refused too. The error says the byte offset, of an equal key its path.
 * Getters name the field at fault by its path, "messages[2].role", which is only rendered on error:
 * a json_ref is a node with a link to where it came from, on the C stack. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/err.h"

struct cJSON;
struct json_limits {
    size_t bytes_max;
    int32_t depth_max; /* a scalar has depth 1 */
    int64_t nodes_max;
};
/* 64 deep, 200,000 values, 1 MiB: for requests. */
extern const struct json_limits JSON_REQUEST_LIMITS;
/* 128 deep, 40 million values, 512 MiB: for model files (a tokenizer has over a million). */
extern const struct json_limits JSON_FILE_LIMITS;

struct json_ref {
    const struct cJSON *node; /* NULL: absent */
    const struct json_ref *up;
    const char *key; /* NULL: an array element, see index */
    int64_t index;
};

/* Own the result; free with json_free. The error's code is `code` (ERR_REQUEST, ERR_FORMAT). */
MUST_USE bool json_parse(const char *bytes, size_t length, const struct json_limits *limits,
                         enum err_code code, struct cJSON **root, struct err *err);
void json_free(struct cJSON *root);
struct json_ref json_root(const struct cJSON *root);

/* The member, case-sensitively. False when absent or null (then out->node is NULL, but out still
 * knows its path, for json_error). O(members). `obj` must outlive `out`. */
bool json_get(const struct json_ref *obj, const char *key, struct json_ref *out);
bool json_is_null(const struct json_ref *obj, const char *key); /* present and null */
bool json_is_object(const struct json_ref *ref);
bool json_is_array(const struct json_ref *ref);
bool json_is_string(const struct json_ref *ref);
bool json_is_number(const struct json_ref *ref);
bool json_is_bool(const struct json_ref *ref);
int64_t json_count(const struct json_ref *array_or_object); /* O(n) */

/* Walk an array or object in order:
 *   struct json_ref item;
 *   for (bool more = json_first(&list, &item); more; more = json_next(&item)) ... */
bool json_first(const struct json_ref *parent, struct json_ref *item);
bool json_next(struct json_ref *item);

/* Typed values. On a wrong type or range: err_set_field(err, ERR_REQUEST, path, "... must be an
 * integer from 1 to 16, got 1.5"). Numbers that are exact integers count as integers (1.0 does).
 * Integers are exact up to 2^53; a larger one is the nearest double, which must lie in the range.
 */
MUST_USE bool json_string(const struct json_ref *ref, const char **text, struct err *err);
MUST_USE bool json_int(const struct json_ref *ref, int64_t low, int64_t high, int64_t *value,
                       struct err *err);
MUST_USE bool json_double(const struct json_ref *ref, double low, double high, double *value,
                          struct err *err);
MUST_USE bool json_bool(const struct json_ref *ref, bool *value, struct err *err);

/* How a number of a tree from json_parse was spelled (chat templates print 1.0 and 1 differently):
 * with '.', 'e' or 'E'? And the text of an integer of more than 15 digits, which a double may not
 * hold; NULL for other numbers. Numbers made by cJSON_CreateNumber are neither. */
bool json_number_is_float(const struct cJSON *node);
const char *json_number_text(const struct cJSON *node);

/* Optional members: absent or null leaves *value as it is and is fine. */
MUST_USE bool json_opt_string(const struct json_ref *obj, const char *key, const char **text,
                              struct err *err);
MUST_USE bool json_opt_int(const struct json_ref *obj, const char *key, int64_t low, int64_t high,
                           int64_t *value, struct err *err);
MUST_USE bool json_opt_double(const struct json_ref *obj, const char *key, double low, double high,
                              double *value, struct err *err);
MUST_USE bool json_opt_bool(const struct json_ref *obj, const char *key, bool *value,
                            struct err *err);

/* err_set_field with this ref's path; the text is the path, a blank, and the formatted rest:
 * json_error(&at, err, "must be a list") gives "messages must be a list". Returns false. */
bool json_error(const struct json_ref *ref, struct err *err, const char *format, ...)
    PRINTF_LIKE(3, 4);
/* The path as text, "messages[2].role"; "" for the root. Returns `text`. */
const char *json_path(const struct json_ref *ref, char *text, size_t size);
