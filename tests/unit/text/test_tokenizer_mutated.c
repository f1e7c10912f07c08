/* test_tokenizer_mutated.c - each value of small tokenizer.json files replaced by values of every
 * type: refused by the name of what is wrong, or a tokenizer that works. And rows for what only a
 * certain value shows. */
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include "host/base/buf.h"
#include "host/text/detok.h"
#include "host/text/tokenizer.h"
#include "tests/unit/text/tokenizer_examples.h"

static const char *const VALUES[] = { "null",    "true",  "false",     "7",     "-1",      "1e300",
                                      "1.5",     "\"x\"", "\"\"",      "[]",    "[1]",     "[[]]",
                                      "[\"a\"]", "{}",    "{\"a\":1}", "\"[\"", "\"type\"" };

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
    assert_true(n_refused > 1500 && n_opened > 200);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_value),
        cmocka_unit_test(test_each_left_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
