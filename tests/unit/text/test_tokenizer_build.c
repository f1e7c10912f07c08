/* test_tokenizer_build.c - tokenizers from lists of pieces: each kind by hand, options that a file
 * format sets, and lists that are refused. */
#include "tests/support/support.h"
#include "host/text/added.h"
#include "host/text/detok.h"
#include "host/text/tokenizer_build.h"

#define MARK "\xe2\x96\x81"
#define P(text, type)                                                                              \
    {                                                                                              \
        text, sizeof text - 1, 0, type                                                             \
    }
#define S(text, score)                                                                             \
    {                                                                                              \
        text, sizeof text - 1, score, PIECE_NORMAL                                                 \
    }

static const struct piece LETTERS[] = {
    P("a", PIECE_NORMAL),         P("b", PIECE_NORMAL),       P("\u0120", PIECE_NORMAL),
    P("ab", PIECE_NORMAL),        P("\u0120a", PIECE_NORMAL), P("<s>", PIECE_CONTROL),
    P("<|role|>", PIECE_CONTROL), P("<x>", PIECE_USER),       P("b\u0120", PIECE_UNUSED),
    P("", PIECE_UNUSED),
};
static const struct piece SCORED[] = {
    P("<unk>", PIECE_UNKNOWN),
    P("<s>", PIECE_CONTROL),
    S(MARK, -5),
    S("a", -5),
    S("b", -5),
    S("ab", -1),
    P("  ", PIECE_USER),
    S("ba", -1),
};
enum { N_LETTERS = sizeof LETTERS / sizeof *LETTERS, N_SCORED = sizeof SCORED / sizeof *SCORED };
#define M(text)                                                                                    \
    {                                                                                              \
        text, sizeof text - 1                                                                      \
    }
static const struct piece_text MERGES[] = { M("a b"), M("\u0120 a") };

/* Lists that rows change. */
static struct tokenizer_build by_merges(void)
{
    return (struct tokenizer_build){ .kind = BUILD_MERGES,
                                     .pieces = LETTERS,
                                     .n_pieces = N_LETTERS,
                                     .merges = MERGES,
                                     .n_merges = 2,
                                     .pre = "gpt-2",
                                     .unk = -1,
                                     .bos = -1,
                                     .eos = -1 };
}
static struct tokenizer_build by_scores(void)
{
    return (struct tokenizer_build){ .kind = BUILD_SCORES,
                                     .pieces = SCORED,
                                     .n_pieces = N_SCORED,
                                     .unk = -1,
                                     .bos = -1,
                                     .eos = -1 };
}

static const char *encode(const struct tokenizer *t, const char *text, unsigned flags)
{
    static char out[512];
    struct ids ids = { 0 };
    struct err err;
    size_t at = 0;
    assert_ok(tokenizer_encode(t, text, strlen(text), flags, NULL, 0, &ids, &err), &err);
    out[0] = 0;
    for (size_t i = 0; i < ids.n && at < sizeof out - 16; i++)
        at += (size_t)snprintf(out + at, sizeof out - at, "%s%d", i ? " " : "", ids.ids[i]);
    ids_clear(&ids);
    return out;
}

static void check(const char *sentence, const struct tokenizer_build *build, const char *text,
                  unsigned flags, const char *want)
{
    struct tokenizer *t;
    struct err err;
    if (!tokenizer_build(&t, build, &err))
        fail_msg("%s: %s", sentence, err.text);
    const char *got = encode(t, text, flags);
    if (strcmp(got, want) != 0)
        fail_msg("%s: %s, want %s", sentence, got, want);
    tokenizer_close(t);
}

static void test_options(void **state)
{
    (void)state;
    const unsigned all = ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL;
    struct tokenizer_build b = by_merges();
    check("merges in their order", &b, "ab a", 0, "3 4");
    check("a user-defined piece is cut out", &b, "a<x>b", 0, "0 7 1");
    check("an unused one never comes", &b, "b ", 0, "1 2");
    check("white space behind a role stays", &b, "<|role|> a", all, "6 4");
    b.strip_behind_special = true;
    check("or goes", &b, "<|role|> a<s> a", all, "6 0 5 4");
    b.bos = 5;
    b.eos = 7;
    check("ends of a text", &b, "a", all, "5 0 7");
    check("where they are asked for", &b, "a", 0, "0");
    b = by_merges();
    b.pattern = "a|b";
    check("a pattern of its own", &b, "ab a", 0, "0 1 2 0");
    b.pattern = NULL;
    b.pre = NULL;
    check("no name is the default", &b, "ab", 0, "3");
    static const struct build_added added[] = { { "<y>", 12, ADDED_SPECIAL },
                                                { "ab", 3, 0 },
                                                { "<z>", 7, 0 } };
    b.added = added;
    b.n_added = 3;
    check("added tokens", &b, "<y>ab<x><z>", ENCODE_PARSE_SPECIAL, "12 3 7");

    b = by_scores();
    check("the leftmost of equal scores", &b, "aba", 0, "5 3");
    check("unknown ones are one", &b, "axyb", 0, "3 0 4");
    check("a blank is the mark", &b, "a  b", 0, "3 2 2 4");
    b.user_blanks = true;
    check("a user-defined piece of blanks", &b, "a  b", 0, "3 6 4");
    b.add_dummy_prefix = true;
    check("one put before", &b, "ab", 0, "2 5");
    b.remove_extra_whitespaces = true;
    check("and never more", &b, "  a  b ", 0, "2 3 2 4");
    b.kind = BUILD_UNIGRAM;
    check("unigram", &b, "aab", 0, "2 3 5");
}

static void test_refused(void **state)
{
    (void)state;
    static const struct piece no_type[] = { { "a", 1, 0, (enum piece_type)0 } };
    static const struct piece type_7[] = { { "a", 1, 0, (enum piece_type)7 } };
    static const struct piece not_utf8[] = { P("\xff", PIECE_NORMAL) };
    static const struct piece nul[] = { P("a\0b", PIECE_CONTROL) };
    static const struct piece twice[] = { P("a", PIECE_NORMAL), P("a", PIECE_NORMAL) };
    static const struct piece_text one[] = { M("ab") }, three[] = { M("a b c") },
                                   blank[] = { M(" b") }, unknown[] = { M("a c") },
                                   unmade[] = { M("b a") }, bad[] = { M("a \xff") },
                                   nothing[] = { M("") }, letter[] = { M("a") },
                                   left[] = { M("c a") }, control[] = { M("\x01 a") },
                                   long_one[] = { M("a xxxxxxxxxxyyyyyyyyyyzzzzzzzzzzxxxxxxxxxx"
                                                    "yyyyyyyyyyzzzzzzzzzz") };
    static char huge_text[2000];
    memset(huge_text, 'a', sizeof huge_text);
    huge_text[1] = ' ';
    static const struct piece_text huge[] = { { huge_text, sizeof huge_text } };
    static const struct build_added other[] = { { "ac", 3, 0 }, { "ab", 11, 0 } };
    static const struct build_added far[] = { { "x", 1 << 20, 0 } },
                                    negative[] = { { "x", -1, 0 } }, same[] = { { "ab", 1, 0 } };
    static const struct {
        const char *sentence;
        const struct piece *pieces; /* NULL: LETTERS */
        size_t n_pieces;
        const struct piece_text *merges;
        const char *pre;
        int32_t bos, eos, unk;
        const struct build_added *added;
        enum err_code code;
        const char *text;
    } rows[] = {
        { "no pieces", LETTERS, 0, NULL, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT, "without tokens" },
        { "type 0", no_type, 1, NULL, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "token 0 has the type 0, want 1 to 6" },
        { "type 7", type_7, 1, NULL, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT, "the type 7" },
        { "no UTF-8", not_utf8, 1, NULL, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "token 0 is not UTF-8 at byte 0" },
        { "a NUL", nul, 1, NULL, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT, "token 0 has a NUL" },
        { "one text twice", twice, 2, NULL, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "\"a\" has the ids 0 and 1" },
        { "a merge of one", NULL, 0, one, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 must be two tokens" },
        { "of three", NULL, 0, three, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT, "merge 0 must be" },
        { "of nothing", NULL, 0, blank, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT, "merge 0 must be" },
        { "of an unknown token", NULL, 0, unknown, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "no token" },
        { "that makes none", NULL, 0, unmade, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 \"b a\" makes no token" },
        { "of no bytes", NULL, 0, nothing, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 must be" },
        { "of one letter", NULL, 0, letter, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 must be" },
        { "of what is no letter", NULL, 0, control, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 must be" },
        { "longer than any token", NULL, 0, huge, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 must be" },
        { "of an unknown token on the left", NULL, 0, left, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 \"c a\" makes no token" },
        { "too long to be shown", NULL, 0, long_one, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 \"\" makes no token" },
        { "an added token in the place of another", NULL, 0, NULL, "gpt-2", -1, -1, -1, other,
          ERR_NONE, "" },
        { "that is no UTF-8", NULL, 0, bad, "gpt-2", -1, -1, -1, NULL, ERR_FORMAT,
          "merge 0 must be" },
        { "an unknown pre-tokenizer", NULL, 0, NULL, "nobody", -1, -1, -1, NULL, ERR_UNSUPPORTED,
          "the pre-tokenizer \"nobody\" is not supported" },
        { "bos that is a hole", NULL, 0, NULL, "gpt-2", 9, -1, -1, NULL, ERR_FORMAT,
          "bos is 9, which is no token" },
        { "eos beyond the pieces", NULL, 0, NULL, "gpt-2", -1, 99, -1, NULL, ERR_FORMAT,
          "eos is 99" },
        { "unk beyond them", NULL, 0, NULL, "gpt-2", -1, -1, 1 << 30, NULL, ERR_FORMAT, "unk is" },
        { "an added token far away", NULL, 0, NULL, "gpt-2", -1, -1, -1, far, ERR_FORMAT,
          "the added token \"x\" has the id 1048576 of 10" },
        { "before the first", NULL, 0, NULL, "gpt-2", -1, -1, -1, negative, ERR_FORMAT,
          "has the id -1" },
        { "with the text of another", NULL, 0, NULL, "gpt-2", -1, -1, -1, same, ERR_FORMAT,
          "\"ab\" has the ids" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer_build b = by_merges();
        struct tokenizer *t;
        struct err err;
        if (rows[i].pieces) {
            b.pieces = rows[i].pieces;
            b.n_pieces = rows[i].n_pieces;
        }
        b.merges = rows[i].merges;
        b.n_merges = rows[i].merges != NULL;
        b.pre = rows[i].pre;
        b.bos = rows[i].bos;
        b.eos = rows[i].eos;
        b.unk = rows[i].unk;
        b.added = rows[i].added;
        b.n_added = rows[i].added != NULL;
        if (rows[i].added == other)
            b.n_added = 2;
        if (tokenizer_build(&t, &b, &err)) {
            if (rows[i].code != ERR_NONE)
                fail_msg("%s: accepted", rows[i].sentence);
            assert_string_equal(encode(t, "abac", 0), "11 3");
            tokenizer_close(t);
            continue;
        }
        if (err.code != rows[i].code || !strstr(err.text, rows[i].text))
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
