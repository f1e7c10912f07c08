/* json.c - cJSON behind a strict reader, and getters that name the field at fault.
 *
 * Invariant: cJSON sees only bytes that the scanner (json_scan.c) has accepted in full, so its
 * leniency (blanks, 0x10, BOM, trailing bytes, U+0000) is never reached; and a tree that leaves
 * json_parse has no object with one key twice. Numbers are doubles: integers are exact up to 2^53,
 * larger ones are the nearest double. Any thread, one tree per thread at a time. */
#include "host/base/json.h"
#include "host/base/json_scan.h"
#include "host/base/buf.h"
#include "host/base/rng.h"
#include <cjson/cJSON.h>
#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct json_limits JSON_REQUEST_LIMITS = { 1 << 20, 64, 200000 };
const struct json_limits JSON_FILE_LIMITS = { (size_t)512 << 20, 128, 40000000 };

/* Up to this many members every pair is compared; above, a hash table. */
enum { PAIRS_MAX = 8, FOUND_BYTES = 40, PATH_LINKS_MAX = 256 };

/* ---- duplicate keys ------------------------------------------------------------------------ */

/* Keyed, because a request could otherwise choose keys that collide and cost O(n^2). */
static uint64_t hash_of(const char *key, uint64_t secret)
{
    uint64_t h = secret, word;
    size_t length = strlen(key);
    for (; length >= 8; key += 8, length -= 8) {
        memcpy(&word, key, 8);
        h = (h ^ word) * 0xff51afd7ed558ccdu;
        h = (h ^ h >> 29) + secret;
    }
    word = (uint64_t)length << 56;
    memcpy(&word, key, length);
    h = (h ^ word) * 0xff51afd7ed558ccdu;
    return h ^ h >> 32;
}

struct key_table {
    const char **slots; /* owned, grown as needed and cleared per object */
    size_t capacity;    /* a power of two */
    uint64_t secret;
};

static bool reserve(struct key_table *table, size_t n)
{
    size_t capacity = 64;
    while (capacity < 2 * n)
        capacity *= 2;
    if (capacity > table->capacity) {
        free(table->slots);
        table->capacity = 0;
        table->slots = malloc(capacity * sizeof *table->slots);
        if (!table->slots)
            return false;
        table->capacity = capacity;
    }
    memset(table->slots, 0, capacity * sizeof *table->slots);
    return true;
}

/* Finds a key that `object` has twice (*twice, else NULL). False when out of memory. */
static bool find_twice(struct key_table *table, const cJSON *object, const char **twice)
{
    size_t n = 0;
    const cJSON *member, *other;
    *twice = NULL;
    cJSON_ArrayForEach (member, object)
        n++;
    if (n <= PAIRS_MAX) {
        cJSON_ArrayForEach (member, object)
            for (other = member->next; other; other = other->next)
                if (strcmp(member->string, other->string) == 0)
                    *twice = member->string;
        return true;
    }
    if (!reserve(table, n))
        return false;
    size_t mask = 63;
    while (mask + 1 < 2 * n)
        mask = 2 * mask + 1; /* the part that reserve cleared */
    cJSON_ArrayForEach (member, object) {
        size_t i = hash_of(member->string, table->secret) & mask;
        for (; table->slots[i]; i = (i + 1) & mask)
            if (strcmp(table->slots[i], member->string) == 0) {
                *twice = member->string;
                return true;
            }
        table->slots[i] = member->string;
    }
    return true;
}

/* Every object below `ref`; the recursion is as deep as the limit on nesting. */
static bool refuse_twice(struct key_table *table, const struct json_ref *ref, enum err_code code,
                         struct err *err)
{
    const char *twice;
    struct json_ref item;
    if (cJSON_IsObject(ref->node)) {
        if (!find_twice(table, ref->node, &twice))
            return err_set(err, ERR_MEMORY, "no memory for the keys of a JSON object");
        if (twice) {
            char path[sizeof err->field];
            struct json_ref again = { NULL, ref, twice, 0 };
            json_path(&again, path, sizeof path);
            return err_set_field(err, code, path, "%s is given twice", path);
        }
    }
    for (bool more = json_first(ref, &item); more; more = json_next(&item))
        if (item.node->child && !refuse_twice(table, &item, code, err))
            return false;
    return true;
}

bool json_parse(const char *bytes, size_t length, const struct json_limits *limits,
                enum err_code code, struct cJSON **root, struct err *err)
{
    struct key_table table = { 0 };
    *root = NULL;
    if (!json_scan(bytes, length, limits, code, err))
        return false;
    cJSON *tree = cJSON_ParseWithLengthOpts(bytes, length, NULL, false);
    if (!tree)
        return err_set(err, ERR_MEMORY, "no memory for JSON of %zu bytes", length);
    if (!json_keep_numbers(tree, bytes, length)) {
        cJSON_Delete(tree);
        return err_set(err, ERR_MEMORY, "no memory for JSON of %zu bytes", length);
    }
    table.secret = rng_system();
    struct json_ref ref = json_root(tree);
    bool ok = refuse_twice(&table, &ref, code, err);
    free(table.slots);
    if (!ok) {
        cJSON_Delete(tree);
        return false;
    }
    *root = tree;
    return true;
}

void json_free(struct cJSON *root)
{
    cJSON_Delete(root);
}

/* ---- walking ------------------------------------------------------------------------------- */

struct json_ref json_root(const struct cJSON *root)
{
    return (struct json_ref){ .node = root };
}

static const cJSON *member_of(const struct json_ref *obj, const char *key)
{
    return cJSON_IsObject(obj->node) ? cJSON_GetObjectItemCaseSensitive(obj->node, key) : NULL;
}

bool json_get(const struct json_ref *obj, const char *key, struct json_ref *out)
{
    const cJSON *node = member_of(obj, key);
    if (cJSON_IsNull(node))
        node = NULL;
    *out = (struct json_ref){ .node = node, .up = obj, .key = key };
    return node != NULL;
}

bool json_is_null(const struct json_ref *obj, const char *key)
{
    return cJSON_IsNull(member_of(obj, key));
}

bool json_is_object(const struct json_ref *ref)
{
    return cJSON_IsObject(ref->node);
}

bool json_is_array(const struct json_ref *ref)
{
    return cJSON_IsArray(ref->node);
}

bool json_is_string(const struct json_ref *ref)
{
    return cJSON_IsString(ref->node);
}

bool json_is_number(const struct json_ref *ref)
{
    return cJSON_IsNumber(ref->node);
}

bool json_is_bool(const struct json_ref *ref)
{
    return cJSON_IsBool(ref->node);
}

int64_t json_count(const struct json_ref *ref)
{
    int64_t n = 0;
    for (const cJSON *child = ref->node ? ref->node->child : NULL; child; child = child->next)
        n++;
    return n;
}

bool json_first(const struct json_ref *parent, struct json_ref *item)
{
    const cJSON *child = parent->node ? parent->node->child : NULL;
    *item = (struct json_ref){ .node = child, .up = parent, .key = child ? child->string : NULL };
    return child != NULL;
}

bool json_next(struct json_ref *item)
{
    item->node = item->node ? item->node->next : NULL;
    item->key = item->node ? item->node->string : NULL;
    item->index++;
    return item->node != NULL;
}

/* ---- errors -------------------------------------------------------------------------------- */

const char *json_path(const struct json_ref *ref, char *text, size_t size)
{
    const struct json_ref *links[PATH_LINKS_MAX];
    int n = 0;
    CHECK(size > 0);
    text[0] = 0;
    for (; ref && ref->up && n < PATH_LINKS_MAX; ref = ref->up)
        links[n++] = ref;
    for (size_t used = 0; n > 0 && used < size - 1; used = strlen(text)) {
        const struct json_ref *link = links[--n];
        if (link->key)
            snprintf(text + used, size - used, "%s%s", used > 0 ? "." : "", link->key);
        else
            snprintf(text + used, size - used, "[%lld]", (long long)link->index);
    }
    return text;
}

bool json_error(const struct json_ref *ref, struct err *err, const char *format, ...)
{
    char path[sizeof err->field], text[sizeof err->text];
    va_list args;
    json_path(ref, path, sizeof path);
    va_start(args, format);
    if (vsnprintf(text, sizeof text, format, args) < 0)
        text[0] = 0;
    va_end(args);
    /* Some callers name the field themselves: once is enough. */
    size_t length = strlen(path);
    bool named = length == 0 ||
                 (strncmp(text, path, length) == 0 && (text[length] == ' ' || text[length] == ':'));
    return err_set_field(err, ERR_REQUEST, path, "%s%s%s", named ? "" : path, named ? "" : " ",
                         text);
}

/* What is there instead, as JSON, cut at FOUND_BYTES. */
static void describe(const cJSON *node, struct buf *out)
{
    if (!node) {
        buf_puts(out, "nothing");
    } else if (cJSON_IsString(node)) {
        size_t length = strlen(node->valuestring), kept = length;
        if (kept > FOUND_BYTES)
            for (kept = FOUND_BYTES - 3; (node->valuestring[kept] & 0xc0) == 0x80;)
                kept--;
        buf_put_json_string(out, node->valuestring, kept);
        if (kept < length)
            buf_puts(out, "...");
    } else if (cJSON_IsNumber(node)) {
        buf_put_json_number(out, node->valuedouble);
    } else {
        buf_puts(out, cJSON_IsNull(node)     ? "null"
                      : cJSON_IsTrue(node)   ? "true"
                      : cJSON_IsFalse(node)  ? "false"
                      : cJSON_IsArray(node)  ? "an array"
                      : cJSON_IsObject(node) ? "an object"
                                             : "nothing");
    }
}

/* "temperature must be a number from 0 to 100, got "5"" */
static bool refuse(const struct json_ref *ref, const char *wanted, struct err *err)
{
    struct buf found;
    char path[sizeof err->field];
    buf_init(&found, 1024);
    describe(ref->node, &found);
    json_path(ref, path, sizeof path);
    err_set_field(err, ERR_REQUEST, path, "%s must be %s, got %s", path[0] ? path : "the value",
                  wanted, buf_text(&found));
    buf_clear(&found);
    return false;
}

static bool refuse_range(const struct json_ref *ref, const char *what, double low, double high,
                         bool has_low, bool has_high, struct err *err)
{
    struct buf wanted;
    buf_init(&wanted, 256);
    buf_puts(&wanted, what);
    if (has_low && has_high)
        buf_puts(&wanted, " from ");
    else if (has_low)
        buf_puts(&wanted, " of at least ");
    if (has_low)
        buf_put_json_number(&wanted, low);
    if (has_high) {
        buf_puts(&wanted, has_low ? " to " : " of at most ");
        buf_put_json_number(&wanted, high);
    }
    refuse(ref, buf_text(&wanted), err);
    buf_clear(&wanted);
    return false;
}

/* ---- typed values -------------------------------------------------------------------------- */

bool json_string(const struct json_ref *ref, const char **text, struct err *err)
{
    if (!cJSON_IsString(ref->node))
        return refuse(ref, "a string", err);
    *text = ref->node->valuestring;
    return true;
}

bool json_int(const struct json_ref *ref, int64_t low, int64_t high, int64_t *value,
              struct err *err)
{
    if (cJSON_IsNumber(ref->node)) {
        double number = ref->node->valuedouble;
        if (number >= -0x1p63 && number < 0x1p63 && trunc(number) == number &&
            (int64_t)number >= low && (int64_t)number <= high) {
            *value = (int64_t)number;
            return true;
        }
        if (number == 0x1p63 && high == INT64_MAX) { /* 2^63-1 as the nearest double */
            *value = INT64_MAX;
            return true;
        }
    }
    /* Bounds past 2^53 do not print as what they are, and nobody means them. */
    return refuse_range(ref, "an integer", (double)low, (double)high, low > -(1ll << 53),
                        high < 1ll << 53, err);
}

bool json_double(const struct json_ref *ref, double low, double high, double *value,
                 struct err *err)
{
    if (cJSON_IsNumber(ref->node)) {
        double number = ref->node->valuedouble;
        if (isfinite(number) && number >= low && number <= high) {
            *value = number;
            return true;
        }
    }
    return refuse_range(ref, "a number", low, high, low > -FLT_MAX, high < FLT_MAX, err);
}

bool json_bool(const struct json_ref *ref, bool *value, struct err *err)
{
    if (!cJSON_IsBool(ref->node))
        return refuse(ref, "true or false", err);
    *value = cJSON_IsTrue(ref->node);
    return true;
}

bool json_opt_string(const struct json_ref *obj, const char *key, const char **text,
                     struct err *err)
{
    struct json_ref ref;
    return !json_get(obj, key, &ref) || json_string(&ref, text, err);
}

bool json_opt_int(const struct json_ref *obj, const char *key, int64_t low, int64_t high,
                  int64_t *value, struct err *err)
{
    struct json_ref ref;
    return !json_get(obj, key, &ref) || json_int(&ref, low, high, value, err);
}

bool json_opt_double(const struct json_ref *obj, const char *key, double low, double high,
                     double *value, struct err *err)
{
    struct json_ref ref;
    return !json_get(obj, key, &ref) || json_double(&ref, low, high, value, err);
}

bool json_opt_bool(const struct json_ref *obj, const char *key, bool *value, struct err *err)
{
    struct json_ref ref;
    return !json_get(obj, key, &ref) || json_bool(&ref, value, err);
}
