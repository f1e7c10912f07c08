/* Structural tags: free text until a trigger, then begin, body, end. */
#include "tests/unit/grammar/grammars.h"
#include "host/base/json.h"

#define TEXT(text)                                                                                 \
    {                                                                                              \
        text, sizeof text - 1                                                                      \
    }
static const struct grammar_text TOOL[] = { TEXT("<tool") };
static const struct grammar_text PAIR[] = { TEXT("<tool"), TEXT("aab") };
static const struct {
    const char *name;
    const struct grammar_text *triggers;
    size_t n_triggers;
    bool at_least_one, only_tags, stop_after_first;
    const char *text;
    bool matches;
} TEXTS[] = {
    { "no tag", TOOL, 1, false, false, false, "just < prose <too", true },
    { "empty", TOOL, 1, false, false, false, "", true },
    { "a tag", TOOL, 1, false, false, false, "so: <tool=f>{\"x\":1}</tool> done", true },
    { "the other tag", TOOL, 1, false, false, false, "<tool=g>{}</tool>", true },
    { "two tags", TOOL, 1, false, false, false, "<tool=f>{\"x\":1}</tool><tool=g>{}</tool>", true },
    { "trigger without a tag", TOOL, 1, false, false, false, "<tool", false },
    { "another tag", TOOL, 1, false, false, false, "<tool=h>{}</tool>", false },
    { "a wrong body", TOOL, 1, false, false, false, "<tool=f>{\"x\":\"1\"}</tool>", false },
    { "an open body", TOOL, 1, false, false, false, "<tool=f>{\"x\":1}", false },
    { "<< before it", TOOL, 1, false, false, false, "<<<tool=g>{}</tool>", true },
    { "at least one, none", TOOL, 1, true, false, false, "prose", false },
    { "at least one, one", TOOL, 1, true, false, false, "prose <tool=g>{}</tool> prose", true },
    { "stop, and stopped", TOOL, 1, false, false, true, "x<tool=g>{}</tool>", true },
    { "stop, and went on", TOOL, 1, false, false, true, "x<tool=g>{}</tool>y", false },
    { "only, prose", TOOL, 1, false, true, false, "x<tool=g>{}</tool>", false },
    { "only, two", TOOL, 1, false, true, false, "<tool=g>{}</tool>\n<tool=f>{\"x\":2}</tool>",
      true },
    { "only, none", TOOL, 1, false, true, false, "", true },
    { "only, none, one wanted", TOOL, 1, true, true, false, "", false },
    { "aaab: the trigger overlaps itself", PAIR, 2, false, false, false, "aaab{\"x\":1}.", true },
    { "aaab and prose", PAIR, 2, false, false, false, "aaabx", false },
    { "begins as triggers", NULL, 0, false, false, false, "<tool=h> <tool=g>{}</tool>", true },
};

static const struct grammar_tag *tags_of(struct json_ref *ref)
{
    static struct grammar_tag tags[3];
    tags[0] = (struct grammar_tag){ TEXT("<tool=f>"), TEXT("</tool>"), ref };
    tags[1] = (struct grammar_tag){ TEXT("<tool=g>"), TEXT("</tool>"), NULL };
    tags[2] = (struct grammar_tag){ TEXT("aab"), TEXT("."), ref };
    return tags;
}

static void test_texts(void **state)
{
    static const char schema[] =
        "{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"integer\"}},\"required\":[\"x\"]}";
    struct cJSON *root;
    struct err err;
    struct grammar_vocab *vocab = test_vocab(1 << 22);
    (void)state;
    assert_ok(json_parse(schema, strlen(schema), &JSON_REQUEST_LIMITS, ERR_REQUEST, &root, &err),
              &err);
    struct json_ref ref = json_root(root);
    for (size_t i = 0; i < sizeof TEXTS / sizeof TEXTS[0]; i++) {
        struct grammar *grammar;
        struct grammar_tags tags = { tags_of(&ref),
                                     TEXTS[i].n_triggers == 2 ? 3 : 2,
                                     TEXTS[i].triggers,
                                     TEXTS[i].n_triggers,
                                     TEXTS[i].at_least_one,
                                     TEXTS[i].only_tags,
                                     TEXTS[i].stop_after_first };
        assert_ok(grammar_compile_tags(&grammar, &tags, NULL, &GRAMMAR_LIMITS, &err), &err);
        if (grammar_accepts(grammar, TEXTS[i].text, strlen(TEXTS[i].text)) != TEXTS[i].matches)
            fail_msg("%s: %s", TEXTS[i].name, TEXTS[i].text);
        random_text(grammar, vocab, NULL, i, 40, NULL, 0);
        grammar_close(grammar);
    }
    json_free(root);
    grammar_vocab_close(vocab);
}

static void test_refused(void **state)
{
    static const struct grammar_text wrong[] = { TEXT("<tool"), TEXT("<x") },
                                     empty[] = { { "", 0 } };
    static const struct grammar_tag unnamed[] = { { { "", 0 }, { "", 0 }, NULL } };
    struct grammar *grammar;
    struct err err;
    (void)state;
    struct grammar_tags tags = { tags_of(NULL), 2, wrong, 2, false, false, false };
    ASSERT_REFUSED(grammar_compile_tags(&grammar, &tags, NULL, &GRAMMAR_LIMITS, &err), &err,
                   "triggers[1]: no structure");
    tags.triggers = wrong + 1, tags.n_triggers = 1;
    ASSERT_REFUSED(grammar_compile_tags(&grammar, &tags, NULL, &GRAMMAR_LIMITS, &err), &err,
                   "triggers[0]: no structure");
    tags.triggers = wrong, tags.n_tags = 3;
    ASSERT_REFUSED(grammar_compile_tags(&grammar, &tags, NULL, &GRAMMAR_LIMITS, &err), &err,
                   "structures[2]: begins with none");
    tags.triggers = empty;
    ASSERT_REFUSED(grammar_compile_tags(&grammar, &tags, NULL, &GRAMMAR_LIMITS, &err), &err,
                   "triggers[0]: want texts");
    tags.n_tags = 0;
    ASSERT_REFUSED(grammar_compile_tags(&grammar, &tags, NULL, &GRAMMAR_LIMITS, &err), &err,
                   "want at least one");
    tags = (struct grammar_tags){ .tags = unnamed, .n_tags = 1 };
    ASSERT_REFUSED(grammar_compile_tags(&grammar, &tags, NULL, &GRAMMAR_LIMITS, &err), &err,
                   "structures[0]: want a begin");
    struct cJSON *root;
    assert_ok(json_parse("{\"not\":{}}", 10, &JSON_REQUEST_LIMITS, ERR_REQUEST, &root, &err), &err);
    struct json_ref ref = json_root(root);
    tags = (struct grammar_tags){ .tags = tags_of(&ref), .n_tags = 2 };
    ASSERT_REFUSED(grammar_compile_tags(&grammar, &tags, NULL, &GRAMMAR_LIMITS, &err), &err,
                   "structures[0]: not at #");
    json_free(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_texts),
                                        cmocka_unit_test(test_refused) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
