/* test_tokenizer_mutated.c - each value of small tokenizer.json files replaced by values of every
 * type: refused by the name of what is wrong, or a tokenizer that works. And rows for what only a
 * certain value shows. */
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include "host/base/buf.h"
#include "host/text/detok.h"
#include "host/text/tokenizer.h"
#include "tests/unit/text/tokenizer_examples.h"

static const char *const VALUES[] = { "null", "true", "-1", "\"x\"", "\"\"", "[1]", "{}" };

/* Node number `*at` in reading order; NULL when there are fewer. Names it as errors do, as far as
 * the last key. */
static cJSON *find_node(cJSON *parent, int *at, const char **key)
{
    for (cJSON *child = parent->child; child != NULL; child = child->next) {
        if (child->string != NULL)
            *key = child->string;
        if ((*at)-- == 0)
            return child;
        const char *outer = *key;
        cJSON *found = find_node(child, at, key);
        if (found != NULL)
            return found;
        *key = outer;
    }
    return NULL;
}

static void use(const struct tokenizer *t)
{
    static const char TEXT[] = " Ab\xc3\xa9 qq<unk>\t1-2 u b[UNK] abc\xe4\xbd\xa0.a";
    struct ids ids = { 0 };
    struct err err;
    struct buf text;
    buf_init(&text, 1 << 16);
    assert_ok(tokenizer_encode(t, TEXT, sizeof TEXT - 1, ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL,
                               NULL, 0, &ids, &err),
              &err);
    for (size_t i = 0; i < ids.n; i++)
        assert_true(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_size(t));
    detok_all(t, ids.ids, ids.n, false, &text);
    assert_false(text.failed);
    buf_clear(&text);
    ids_clear(&ids);
}

/* Does the message speak of something that is on the way to the changed value? */
static bool names(const char *text, const char *key)
{
    static const char *const WHOLE[] = { "normalizer", "pre_tokenizer", "decoder", "post_processor",
                                         "model",      "added_tokens",  "vocab",   "JSON" };
    if (strstr(text, key) != NULL)
        return true;
    for (size_t i = 0; i < sizeof WHOLE / sizeof *WHOLE; i++)
        if (strstr(text, WHOLE[i]) != NULL)
            return true;
    return false;
}

static void test_each_value(void **state)
{
    (void)state;
    int n_refused = 0, n_opened = 0;
    for (int e = 0; e < N_TOKENIZER_EXAMPLES; e++)
        for (int node = 0;; node++) {
            bool there = true;
            for (size_t v = 0; there && v < sizeof VALUES / sizeof *VALUES; v++) {
                cJSON *tree = cJSON_Parse(TOKENIZER_EXAMPLES[e].json);
                const char *key = "";
                int at = node;
                assert_non_null(tree);
                cJSON *old = find_node(tree, &at, &key);
                there = old != NULL;
                if (there) {
                    cJSON *value = cJSON_Parse(VALUES[v]);
                    char name[64];
                    snprintf(name, sizeof name, "%s", key);
                    /* the new value takes the old one's place, and its name */
                    cJSON_free(old->valuestring);
                    cJSON_Delete(old->child);
                    old->valuestring = value->valuestring;
                    old->child = value->child;
                    old->type = value->type;
                    old->valueint = value->valueint;
                    old->valuedouble = value->valuedouble;
                    value->valuestring = NULL;
                    value->child = NULL;
                    cJSON_Delete(value);
                    char *json = cJSON_PrintUnformatted(tree);
                    struct tokenizer *t;
                    struct err err = { 0 };
                    if (tokenizer_open(&t, json, strlen(json), &err)) {
                        use(t);
                        tokenizer_close(t);
                        n_opened++;
                    } else {
                        if ((err.code != ERR_FORMAT && err.code != ERR_UNSUPPORTED) ||
                            strncmp(err.text, "tokenizer.json: ", 16) != 0 ||
                            !names(err.text, name))
                            fail_msg("%s, %s = %s: code %d, %s", TOKENIZER_EXAMPLES[e].name, name,
                                     VALUES[v], err.code, err.text);
                        n_refused++;
                    }
                    cJSON_free(json);
                }
                cJSON_Delete(tree);
            }
            if (!there)
                break;
        }
    print_message("%d refused, %d opened\n", n_refused, n_opened);
    assert_true(n_refused > 1000 && n_opened > 100);
}

/* Each value left out. */
static void test_each_left_out(void **state)
{
    (void)state;
    for (int e = 0; e < N_TOKENIZER_EXAMPLES; e++)
        for (int node = 0;; node++) {
            cJSON *tree = cJSON_Parse(TOKENIZER_EXAMPLES[e].json);
            const char *key = "";
            int at = node;
            cJSON *old = find_node(tree, &at, &key);
            if (old != NULL && old->string != NULL) { /* another name is as good as none */
                memset(old->string, '?', strlen(old->string));
                char *json = cJSON_PrintUnformatted(tree);
                struct tokenizer *t;
                struct err err = { 0 };
                if (tokenizer_open(&t, json, strlen(json), &err)) {
                    use(t);
                    tokenizer_close(t);
                } else if (err.code != ERR_FORMAT && err.code != ERR_UNSUPPORTED) {
                    fail_msg("%s without %s: code %d, %s", TOKENIZER_EXAMPLES[e].name, key,
                             err.code, err.text);
                }
                cJSON_free(json);
            }
            cJSON_Delete(tree);
            if (old == NULL)
                break;
        }
}

/* ---- rows -------------------------------------------------------------------------------------
 */

/* A tokenizer of "a" and "b" with these parts; `wanted`: of the error, NULL: it opens. */
static void expect(const char *normalizer, const char *pretok, const char *decoder,
                   const char *post, const char *wanted)
{
    struct buf json;
    struct tokenizer *t;
    struct err err = { 0 };
    buf_init(&json, 1 << 20);
    buf_printf(&json,
               "{\"normalizer\":%s,\"pre_tokenizer\":%s,\"decoder\":%s,\"post_processor\":%s,"
               "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[]}}",
               normalizer, pretok, decoder, post);
    const bool ok = tokenizer_open(&t, buf_text(&json), json.length, &err);
    if (ok != (wanted == NULL) || (!ok && !strstr(err.text, wanted)))
        fail_msg("%s: %s, want %s", buf_text(&json), ok ? "opened" : err.text, wanted);
    if (ok)
        tokenizer_close(t);
    buf_clear(&json);
}

/* {"type":"Sequence","LIST":[each, each, ..., last]} */
static const char *sequence(const char *list, const char *each, int times, const char *last)
{
    static char text[8192];
    size_t n = (size_t)snprintf(text, sizeof text, "{\"type\":\"Sequence\",\"%s\":[", list);
    for (int i = 0; i < times; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s,", each);
    snprintf(text + n, sizeof text - n, "%s]}", last);
    return text;
}

/* The same in each other, `depth` deep. */
static const char *nested(const char *list, int depth, const char *inner)
{
    static char text[8192];
    size_t n = 0;
    for (int i = 0; i < depth; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "{\"type\":\"Sequence\",\"%s\":[", list);
    n += (size_t)snprintf(text + n, sizeof text - n, "%s", inner);
    for (int i = 0; i < depth; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "]}");
    return text;
}

#define NFC      "{\"type\":\"NFC\"}"
#define DIGITS   "{\"type\":\"Digits\"}"
#define SPLIT    "{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\"}"
#define REPLACE  "{\"type\":\"Replace\",\"pattern\":{\"String\":\"q\"},\"content\":\"\"}"
#define BERT     "{\"type\":\"BertNormalizer\"}"
#define META     "{\"type\":\"Metaspace\"}"
#define BYTES    "{\"type\":\"ByteLevel\"}"
#define FUSE     "{\"type\":\"Fuse\"}"
#define FALLBACK "{\"type\":\"ByteFallback\"}"
#define STRIP    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"
#define PIECES   "{\"type\":\"WordPiece\"}"

/* More parts than there is room for, whatever the last one is; deeper than is read. */
static void test_bounds(void **state)
{
    (void)state;
    static const struct {
        const char *last;
        int steps;
    } normalizers[] = { { NFC, 1 },
                        { REPLACE, 1 },
                        { "{\"type\":\"Strip\"}", 1 },
                        { "{\"type\":\"Prepend\",\"prepend\":\"a\"}", 1 },
                        { "{\"type\":\"Precompiled\"}", 1 },
                        { BERT, 4 } },
      pretoks[] = { { SPLIT, 1 },
                    { DIGITS, 1 },
                    { "{\"type\":\"CharDelimiterSplit\",\"delimiter\":\"-\"}", 1 },
                    { "{\"type\":\"WhitespaceSplit\"}", 1 },
                    { "{\"type\":\"BertPreTokenizer\"}", 2 },
                    { META, 2 } },
      decoders[] = { { REPLACE, 1 }, { META, 1 }, { PIECES, 1 } };
    for (size_t i = 0; i < sizeof normalizers / sizeof *normalizers; i++)
        for (int k = 0; k <= normalizers[i].steps; k++)
            expect(sequence("normalizers", NFC, 32 - k, normalizers[i].last), "null", "null",
                   "null", k == normalizers[i].steps ? NULL : "has more than 32 steps");
    for (size_t i = 0; i < sizeof pretoks / sizeof *pretoks; i++)
        for (int k = 0; k <= pretoks[i].steps; k++)
            expect("null", sequence("pretokenizers", DIGITS, 32 - k, pretoks[i].last), "null",
                   "null", k == pretoks[i].steps ? NULL : "has more than 32 stages");
    for (int k = 0; k <= 2; k++)
        expect("null", sequence("pretokenizers", DIGITS, 32 - k, BYTES), BYTES, "null",
               k == 2 ? NULL : "has more than 32 stages");
    for (size_t i = 0; i < sizeof decoders / sizeof *decoders; i++)
        for (int k = 0; k <= 1; k++)
            expect("null", "null", sequence("decoders", REPLACE, 16 - k, decoders[i].last), "null",
                   k == 1 ? NULL : "has more than 16 steps");
    expect(nested("normalizers", 9, NFC), "null", "null", "null", NULL);
    expect(nested("normalizers", 10, NFC), "null", "null", "null", "is nested too deep");
    expect("null", nested("pretokenizers", 9, DIGITS), "null", "null", NULL);
    expect("null", nested("pretokenizers", 10, DIGITS), "null", "null", "is nested too deep");
    expect("null", "null", nested("decoders", 9, FUSE), "null", NULL);
    expect("null", "null", nested("decoders", 10, FUSE), "null", "nested at most 8 deep");
    expect("null", "null", "null", nested("processors", 9, BYTES), NULL);
    expect("null", "null", "null", nested("processors", 10, BYTES), "nested at most 8 deep");
}

/* Parts that do not go together. */
static void test_order(void **state)
{
    (void)state;
    static const struct {
        const char *pretok, *decoder, *wanted;
    } rows[] = {
        { META "," META, "null", "is a second component that writes the text anew" },
        { META "," BYTES, BYTES, "is a second component that writes the text anew" },
        { BYTES "," DIGITS, BYTES, "(Digits) comes after ByteLevel, which must be the last" },
        { BYTES, FUSE "," BYTES, "(ByteLevel) must be the only one" },
        { BYTES, FALLBACK "," BYTES, "(ByteLevel) must be the only one" },
        { BYTES, REPLACE "," BYTES, "(ByteLevel) must be the only one" },
        { BYTES, BYTES "," BYTES, "(ByteLevel) must be the only one" },
        { BYTES, BYTES "," FALLBACK, "(ByteFallback) must come before Fuse" },
        { BYTES, BYTES "," REPLACE, "after Fuse or ByteLevel is not supported" },
        { META, FUSE "," META, "after Fuse or ByteLevel is not supported" },
        { META, FUSE "," PIECES, "after Fuse or ByteLevel is not supported" },
        { META, FUSE "," FALLBACK, "(ByteFallback) must come before Fuse" },
        { META, STRIP, "must stand once, after Fuse, and strip the start alone" },
        { META, FUSE "," STRIP "," STRIP,
          "must stand once, after Fuse, and strip the start alone" },
        { META, FUSE "," STRIP, NULL },
        { BYTES, "", "decoder must be ByteLevel, as the pre_tokenizer is" },
        { META, BYTES, "pre_tokenizer must have ByteLevel, as the decoder does" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char pretok[1024], decoder[1024];
        snprintf(pretok, sizeof pretok, "{\"type\":\"Sequence\",\"pretokenizers\":[%s]}",
                 rows[i].pretok);
        snprintf(decoder, sizeof decoder, "{\"type\":\"Sequence\",\"decoders\":[%s]}",
                 rows[i].decoder);
        expect("null", pretok, strcmp(rows[i].decoder, "null") == 0 ? "null" : decoder, "null",
               rows[i].wanted);
    }
    expect("null", "null", "null",
           "{\"type\":\"BertProcessing\",\"cls\":[\"a\",0,7],\"sep\":[\"b\",1]}", NULL);
    expect("null", "null", "null",
           "{\"type\":\"BertProcessing\",\"cls\":[\"a\",2],\"sep\":[\"b\",1]}",
           "post_processor.cls[1] must be an integer from 0 to 1");
}

static struct tokenizer *open_whole(const char *json, struct err *err)
{
    struct tokenizer *t = NULL;
    return tokenizer_open(&t, json, strlen(json), err) ? t : NULL;
}

/* A pattern that goes on for ever: the file is refused where the vocabulary shows it, the text
 * where the text does. */
static void test_endless(void **state)
{
    (void)state;
#define ENDLESS "(?:a|aa|a.)+[bc](?=x)"
    char text[4001], json[8192];
    struct ids ids = { 0 };
    struct err err = { 0 };
    memset(text, 'a', 4000);
    text[3999] = 'c';
    text[4000] = 0;
    snprintf(
        json, sizeof json,
        "{\"decoder\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"" ENDLESS
        "\"},\"content\":\"\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"%s\":0},\"merges\":[]}}",
        text);
    assert_null(open_whole(json, &err));
    assert_non_null(
        strstr(err.text, "tokenizer.json: decoder: the tokenizer's split pattern gave up"));
    static const char *const parts[] = {
        "\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"" ENDLESS
        "\"},\"content\":\"\"}",
        "\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" ENDLESS
        "\"},\"behavior\":\"Isolated\"}",
    };
    for (int i = 0; i < 2; i++) {
        snprintf(json, sizeof json,
                 "{%s,\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"c\":1},\"merges\":[]}}",
                 parts[i]);
        struct tokenizer *t = open_whole(json, &err);
        assert_non_null(t);
        assert_false(tokenizer_encode(t, text, 4000, 0, NULL, 0, &ids, &err));
        assert_int_equal(err.code, ERR_REQUEST);
        assert_non_null(strstr(err.text, "gave up on this text"));
        tokenizer_close(t);
    }
    ids_clear(&ids);
}

/* How vocabularies and merges are written. */
static void test_tables(void **state)
{
    (void)state;
    static const struct {
        const char *model, *wanted; /* "=": the ids of "ab\U0001F600" */
    } rows[] = {
        { "\"type\":\"BPE\",\"vocab\":\n\t{\r\n\"a\"\t:\n0 "
          ",\r\"b\":1,\"ab\":2,\"\\ud83d\\ude00\":3},"
          "\"merges\":\t[\n[\"a\"\r,\t\"b\"]\n]",
          "=2 3" },
        { "\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"\\n\\t\\r\\b\\f\\/"
          "\\\\\\\"\":2,\"\\u00e9\":4},"
          "\"merges\":[]",
          "=0 1" },
        { "\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"b\",5]]",
          "model.merges[0] must be two tokens" },
        { "\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",5]]",
          "model.merges[0] must be two tokens" },
        { "\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"b\",\"c\"]]",
          "model.merges[0] must be two tokens" },
        { "\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]",
          "model.merges[0] must be two tokens" },
        { "\"type\":\"BPE\",\"vocab\":{\"a\":1.5},\"merges\":[]",
          "model.vocab: the id of \"a\" must be an integer from 0 to 16777215" },
        { "\"type\":\"BPE\",\"vocab\":{\"a\":\"x\"},\"merges\":[]",
          "model.vocab: the id of \"a\" must be an integer from 0 to 16777215" },
        { "\"type\":\"Unigram\",\"vocab\":[[\"a\",-1,3]]",
          "model.vocab[0] must be a token and its score" },
        { "\"type\":\"Unigram\",\"vocab\":[[\"a\",1e999]]", "a number too large for a double" },
        { "\"type\":\"Unigram\",\"vocab\":[[\"a\",-1],[\"b\"]]",
          "model.vocab[1] must be a token and its score" },
        { "\"type\":\"Unigram\",\"vocab\":[[-1,\"a\"]]",
          "model.vocab[0] must be a token and its score" },
        { "\"type\":\"Unigram\",\"vocab\":[[\"a\",-1],[\"b\",-1]],\"unk_id\":2",
          "model.unk_id must be an integer from 0 to 1" },
        { "\"vocab\":[[\"a\",-1],[\"b\",-2.5E+0]]", "=0 1" }, /* a list: it must be Unigram */
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char json[1024];
        struct err err = { 0 };
        snprintf(json, sizeof json, "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{%s}}",
                 rows[i].model);
        struct tokenizer *t = open_whole(json, &err);
        if ((t != NULL) != (rows[i].wanted[0] == '='))
            fail_msg("row %zu: %s", i, t ? "opened" : err.text);
        if (!t && !strstr(err.text, rows[i].wanted))
            fail_msg("row %zu: %s", i, err.text);
        if (!t)
            continue;
        static const char TEXT[] = "ab\xf0\x9f\x98\x80";
        struct ids ids = { 0 };
        char got[64] = "";
        assert_ok(tokenizer_encode(t, TEXT, sizeof TEXT - 1, 0, NULL, 0, &ids, &err), &err);
        for (size_t k = 0; k < ids.n; k++)
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s%d", k ? " " : "", ids.ids[k]);
        assert_string_equal(got, rows[i].wanted + 1);
        ids_clear(&ids);
        tokenizer_close(t);
    }
    /* A list that is longer than its first table. */
    struct buf json;
    struct err err = { 0 };
    buf_init(&json, 1 << 20);
    buf_puts(&json, "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"Unigram\",\"vocab\":[");
    for (int i = 0; i < 2500; i++)
        buf_printf(&json, "%s[\"t%d\",-%d]", i ? "," : "", i, i + 1);
    buf_puts(&json, "]}}");
    struct tokenizer *t = open_whole(buf_text(&json), &err);
    assert_non_null(t);
    struct ids ids = { 0 };
    assert_ok(tokenizer_encode(t, "t2499t1024", 10, 0, NULL, 0, &ids, &err), &err);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.ids[0], 2499);
    assert_int_equal(ids.ids[1], 1024);
    ids_clear(&ids);
    tokenizer_close(t);
    buf_clear(&json);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_value), cmocka_unit_test(test_each_left_out),
        cmocka_unit_test(test_bounds),     cmocka_unit_test(test_order),
        cmocka_unit_test(test_endless),    cmocka_unit_test(test_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
