/* token_cases.h - reading the tokenizers of the reference data and running their cases. For the
 * tests of this folder. */
#pragma once
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include <unistd.h>
#include "host/base/buf.h"
#include "host/base/json.h"
#include "host/text/detok.h"
#include "host/text/tokenizer.h"

/* The file, or the same gzipped; false when neither is there. */
static inline bool read_any(struct buf *out, const char *set, const char *file)
{
    const char *path = oracle_path("tokenizers/%s/%s", set, file);
    const char *packed = oracle_path("tokenizers/%s/%s.gz", set, file);
    char command[1200], chunk[65536];
    size_t n;
    bool plain = access(path, R_OK) == 0;
    if (!plain && access(packed, R_OK) != 0)
        return false;
    snprintf(command, sizeof command, "zcat '%s'", packed);
    FILE *stream = plain ? fopen(path, "rb") : popen(command, "r");
    assert_non_null(stream);
    buf_reset(out);
    while ((n = fread(chunk, 1, sizeof chunk, stream)) > 0)
        buf_put(out, chunk, n);
    assert_int_equal(plain ? fclose(stream) : pclose(stream), 0);
    assert_false(out->failed);
    return true;
}

/* cJSON ends strings at U+0000, which some cases have: in the JSON it is swapped for U+FDD0, which
 * none has, and back in the values. */
static inline void hide_zeros(char *line)
{
    assert_null(strstr(line, "\\ufdd0"));
    for (char *p = line; *p; p++)
        if (*p == '\\') {
            if (strncmp(p, "\\u0000", 6) == 0)
                memcpy(p, "\\ufdd0", 6);
            p++;
        }
}

struct text {
    char *bytes;
    size_t length;
};
static inline struct text text_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItem(object, key);
    struct text t = { 0 };
    if (!item)
        return t;
    t.bytes = item->valuestring;
    for (const char *p = t.bytes; *p; t.length++) {
        bool zero = strncmp(p, "\xef\xb7\x90", 3) == 0;
        t.bytes[t.length] = zero ? 0 : *p;
        p += zero ? 3 : 1;
    }
    return t;
}

static inline void check_ids(const struct tokenizer *t, const char *set, size_t line,
                             struct text text, unsigned flags, const cJSON *want)
{
    struct ids ids = { 0 };
    struct err err;
    assert_non_null(want);
    if (!tokenizer_encode(t, text.bytes, text.length, flags, NULL, 0, &ids, &err))
        fail_msg("%s line %zu: %s", set, line, err.text);
    size_t i = 0;
    for (const cJSON *w = want->child; w; w = w->next, i++)
        if (i >= ids.n || ids.ids[i] != w->valueint)
            fail_msg("%s line %zu, id %zu: want %d, got %d (of %zu): %.200s", set, line, i,
                     w->valueint, i < ids.n ? ids.ids[i] : -1, ids.n, text.bytes);
    if (i != ids.n)
        fail_msg("%s line %zu: want %zu ids, got %zu", set, line, i, ids.n);
    ids_clear(&ids);
}

/* All at once, and id by id: the joined text is the same. */
static inline void check_decoded(const struct tokenizer *t, const char *set, size_t line,
                                 const cJSON *list, bool skip_special, struct text want)
{
    struct buf all, joined;
    struct detok detok;
    buf_init(&all, SIZE_MAX);
    buf_init(&joined, SIZE_MAX);
    size_t n = (size_t)cJSON_GetArraySize(list), i = 0;
    int32_t *ids = calloc(n + 1, sizeof *ids);
    assert_non_null(ids);
    for (const cJSON *id = list->child; id; id = id->next)
        ids[i++] = id->valueint;
    detok_all(t, ids, n, skip_special, &all);
    if (all.length != want.length || memcmp(buf_text(&all), want.bytes, want.length) != 0)
        fail_msg("%s line %zu: decoded \"%.200s\", want \"%.200s\"", set, line, buf_text(&all),
                 want.bytes);
    detok_init(&detok, t, skip_special);
    for (i = 0; i < n; i++)
        detok_push(&detok, ids[i], &joined);
    detok_flush(&detok, &joined);
    assert_int_equal(joined.length, want.length);
    assert_memory_equal(buf_text(&joined), want.bytes, want.length);
    free(ids);
    buf_clear(&all);
    buf_clear(&joined);
}

/* All cases but those whose text has `without` (NULL: all); returns how many were run. */
static inline size_t run_cases_without(const struct tokenizer *t, const char *set,
                                       struct buf *cases, const char *without)
{
    size_t n = 0;
    size_t line = 0;
    char *save = NULL, *text = cases->bytes;
    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        hide_zeros(l);
        cJSON *c = cJSON_Parse(l);
        assert_non_null(c);
        line++;
        struct text in = text_of(c, "text");
        if (without && strstr(in.bytes, without)) {
            cJSON_Delete(c);
            continue;
        }
        n++;
        const cJSON *ids = cJSON_GetObjectItem(c, "ids");
        struct text decoded = text_of(c, "decoded"), with = text_of(c, "decoded_with_special");
        check_ids(t, set, line, in, ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL, ids);
        check_ids(t, set, line, in, ENCODE_PARSE_SPECIAL, cJSON_GetObjectItem(c, "ids_no_special"));
        check_decoded(t, set, line, ids, true, decoded);
        check_decoded(t, set, line, ids, false, with.bytes ? with : decoded);
        cJSON_Delete(c);
    }
    return n;
}

static inline size_t run_cases(const struct tokenizer *t, const char *set, struct buf *cases)
{
    return run_cases_without(t, set, cases, NULL);
}
