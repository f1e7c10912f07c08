/* test_bpe.c - vocabulary tables and merges, worked out by hand, and the two ways of merging
 * against a third, plain one. */
#include "tests/support/support.h"
#include "host/base/clock.h"
#include "host/base/rng.h"
#include "host/text/bpe.h"

/* Tokens are named by the order of these texts. */
static void open_bpe(struct vocab *vocab, enum vocab_kind kind, struct bpe *bpe,
                     const char *const *texts, size_t n, const char *const (*merges)[2],
                     size_t n_merges)
{
    struct vocab_entry *entries = calloc(n, sizeof *entries);
    struct err err;
    for (size_t i = 0; i < n; i++)
        entries[i] =
            (struct vocab_entry){ .text = texts[i], .length = strlen(texts[i]), .id = (int32_t)i };
    assert_ok(vocab_build(vocab, kind, entries, n, &err), &err);
    free(entries);
    assert_ok(bpe_open(bpe, vocab, n_merges, &err), &err);
    for (size_t i = 0; i < n_merges; i++) {
        char made[64];
        snprintf(made, sizeof made, "%s%s", merges[i][0], merges[i][1]);
        bpe_add(bpe, vocab_word(vocab, merges[i][0], strlen(merges[i][0])),
                vocab_word(vocab, merges[i][1], strlen(merges[i][1])), (uint32_t)i,
                vocab_word(vocab, made, strlen(made)));
    }
}

/* The pieces that the ids stand for, with blanks between. */
static void encode_text(const struct bpe *bpe, const char *text, size_t length, struct buf *out)
{
    struct bpe_scratch scratch = { 0 };
    struct ids ids = { 0 };
    buf_reset(out);
    assert_true(bpe_encode(bpe, &scratch, text, length, &ids));
    for (size_t i = 0; i < ids.n; i++) {
        size_t n;
        const char *bytes = vocab_bytes(bpe->vocab, ids.ids[i], &n);
        if (i > 0)
            buf_putc(out, ' ');
        buf_put(out, bytes, n);
    }
    ids_clear(&ids);
    bpe_scratch_clear(&scratch);
}

/* Ranks: 0 "a b", 1 "b c", 2 "ab c", 3 "c d", 4 "a a", 5 "aa aa".
 * "abcd": ab(0) first, although bc(1) would do too; then ab+c (2) beats c+d (3): abc d.
 * "bcd": bc(1) before cd(3), and then bc+d has no merge: bc d.
 * "xbc": x is unknown to merges: x bc. "aaaaa": aa aa a (leftmost first), then aaaa a. */
static void test_by_hand(void **state)
{
    (void)state;
    static const char *const texts[] = { "a",  "b",   "c",  "d",  "x",   "ab",
                                         "bc", "abc", "cd", "aa", "aaaa" };
    static const char *const merges[][2] = { { "a", "b" }, { "b", "c" }, { "ab", "c" },
                                             { "c", "d" }, { "a", "a" }, { "aa", "aa" } };
    static const struct {
        const char *text, *want;
    } rows[] = {
        { "abcd", "abc d" }, { "bcd", "bc d" },   { "xbc", "x bc" },     { "aaaaa", "aaaa a" },
        { "aab", "a ab" },   { "abab", "ab ab" }, { "cdcd", "cd cd" },   { "a", "a" },
        { "abc", "abc" },    { "", "" },          { "bcabc", "bc abc" },
    };
    struct vocab vocab;
    struct bpe bpe;
    struct buf out;
    buf_init(&out, SIZE_MAX);
    open_bpe(&vocab, VOCAB_LETTERS, &bpe, texts, sizeof texts / sizeof *texts, merges, 6);
    for (int twice = 0; twice < 2; twice++) /* the second time from what was remembered */
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            encode_text(&bpe, rows[i].text, strlen(rows[i].text), &out);
            if (strcmp(buf_text(&out), rows[i].want) != 0)
                fail_msg("%s: \"%s\", want \"%s\"", rows[i].text, buf_text(&out), rows[i].want);
        }
    bpe_close(&bpe);
    vocab_clear(&vocab);
    buf_clear(&out);
}

/* A token that merges cannot make is found with ignore_merges only. Unknown bytes: dropped, or
 * unk for each, or one unk for a run. */
static void test_options(void **state)
{
    (void)state;
    static const char *const texts[] = { "a", "b", "ab", "ba", "?" };
    static const char *const merges[][2] = { { "a", "b" } };
    static const struct {
        const char *sentence, *text;
        bool ignore, unk, fuse;
        const char *want;
    } rows[] = {
        { "merges decide", "ba", false, false, false, "b a" },
        { "the whole piece decides", "ba", true, false, false, "ba" },
        { "but not a part of it", "bab", true, false, false, "b ab" },
        { "unknown bytes give nothing", "axyb", false, false, false, "ab" },
        { "unknown bytes give unk each", "axyb", false, true, false, "a ? ? b" },
        { "a run of them gives one", "axybz", false, true, true, "a ? b ?" },
        { "nothing but unknown bytes", "xyz", false, false, true, "" },
    };
    struct vocab vocab;
    struct bpe bpe;
    struct buf out;
    buf_init(&out, SIZE_MAX);
    open_bpe(&vocab, VOCAB_LETTERS, &bpe, texts, 5, merges, 1);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[200];
        bpe.ignore_merges = rows[i].ignore;
        bpe.unk_id = rows[i].unk ? 4 : -1;
        bpe.fuse_unk = rows[i].fuse;
        encode_text(&bpe, rows[i].text, strlen(rows[i].text), &out);
        if (strcmp(buf_text(&out), rows[i].want) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", rows[i].sentence, buf_text(&out), rows[i].want);
        if (rows[i].ignore)
            continue;
        /* The same in a long piece, where the heap merges: 100 known bytes first. */
        memset(text, 'b', 100);
        strcpy(text + 100, rows[i].text);
        encode_text(&bpe, text, strlen(text), &out);
        const char *rest = buf_text(&out) + 199;
        rest += *rest == ' ';
        if (strcmp(rest, rows[i].want) != 0)
            fail_msg("%s, long: \"%s\", want \"%s\"", rows[i].sentence, rest, rows[i].want);
    }
    bpe_close(&bpe);
    vocab_clear(&vocab);
    buf_clear(&out);
}

/* The definition itself: look for the lowest rank, leftmost; merge; again. */
static size_t merge_plainly(const struct bpe *bpe, int32_t *ids, size_t n)
{
    for (;;) {
        const struct bpe_slot *best = NULL;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t k = 0; k <= bpe->slot_mask; k++) {
                const struct bpe_slot *slot = &bpe->slots[k];
                if (slot->rank != UINT32_MAX && slot->left == (uint32_t)ids[i] &&
                    slot->right == (uint32_t)ids[i + 1] && (!best || slot->rank < best->rank)) {
                    best = slot;
                    at = i;
                }
            }
        if (!best)
            return n;
        ids[at] = best->id;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
        n--;
    }
}

static void run_random(enum vocab_kind kind)
{
    static const char *const texts[] = { "a",  "b",   "c",   "aa",  "ab",   "ba",  "bc",
                                         "ca", "aab", "abc", "bca", "aabc", "cab", "caab" };
    static const char *const merges[][2] = { { "b", "c" },  { "a", "a" },   { "a", "b" },
                                             { "aa", "b" }, { "c", "a" },   { "a", "bc" },
                                             { "b", "a" },  { "aa", "bc" }, { "ca", "ab" },
                                             { "bc", "a" }, { "c", "ab" } };
    struct vocab vocab;
    struct bpe bpe;
    struct bpe_scratch scratch = { 0 };
    struct ids got = { 0 };
    open_bpe(&vocab, kind, &bpe, texts, 14, merges, 11);
    for (uint64_t round = 0; round < 3000; round++) {
        char text[160];
        int32_t want[160];
        size_t n = 1 + (size_t)(rng_uniform(1, round, 0) * (round % 4 == 0 ? 150 : 24));
        for (size_t i = 0; i < n; i++) {
            text[i] = (char)('a' + (int)(rng_uniform(2, round, i) * 3));
            want[i] = text[i] - 'a';
        }
        size_t n_want = merge_plainly(&bpe, want, n);
        got.n = 0;
        assert_true(bpe_encode(&bpe, &scratch, text, n, &got));
        if (got.n != n_want || memcmp(got.ids, want, n_want * sizeof *want) != 0)
            fail_msg("round %d: %.*s", (int)round, (int)n, text);
    }
    ids_clear(&got);
    bpe_scratch_clear(&scratch);
    bpe_close(&bpe);
    vocab_clear(&vocab);
}

static void test_random(void **state)
{
    (void)state;
    run_random(VOCAB_LETTERS);
    run_random(VOCAB_TEXTS); /* cut where no merge joins */
}

/* A megabyte of one letter as one piece, with merges up to 2^14 of them. */
static void test_megabyte(void **state)
{
    (void)state;
    enum { LEVELS = 15, MEGABYTE = 1 << 20 };
    struct vocab_entry entries[LEVELS];
    struct vocab vocab;
    struct bpe bpe;
    struct bpe_scratch scratch = { 0 };
    struct ids ids = { 0 };
    struct err err;
    char *text = malloc(MEGABYTE);
    memset(text, 'a', MEGABYTE);
    for (int i = 0; i < LEVELS; i++)
        entries[i] = (struct vocab_entry){ .text = text, .length = (size_t)1 << i, .id = i };
    assert_ok(vocab_build(&vocab, VOCAB_LETTERS, entries, LEVELS, &err), &err);
    assert_ok(bpe_open(&bpe, &vocab, LEVELS - 1, &err), &err);
    for (int i = 0; i + 1 < LEVELS; i++)
        bpe_add(&bpe, i, i, (uint32_t)i, i + 1);
    uint64_t start = clock_ms();
    assert_true(bpe_encode(&bpe, &scratch, text, MEGABYTE, &ids));
    uint64_t spent = clock_ms() - start;
    print_message("a megabyte of one letter: %d ms\n", (int)spent);
    assert_int_equal(ids.n, 64);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(ids.ids[i], LEVELS - 1);
    assert_true(spent < 10000); /* loaded machine, sanitizers; quadratic would be minutes */
    ids_clear(&ids);
    bpe_scratch_clear(&scratch);
    bpe_close(&bpe);
    vocab_clear(&vocab);
    free(text);
}

static void test_letters(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int length;
        const char *want;
    } rows[] = {
        { "\u0120the", 4, " the" },
        { "\u010a", 1, "\n" },
        { "\u0100", 1, "\0" },
        { "\u00e9!", 2, "\xe9!" },
        { "\u0143", 1, "\xad" },
        { "\u0121\u0142", 2, "\x7f\xa0" },
        { "\u00a1\u00ac\u00ae\u00ff", 4, "\xa1\xac\xae\xff" },
    };
    static const char *const none[] = { "a b", "\u2581", "\u0144", "\n", "\u00ad", "\x7f" };
    char out[16];
    size_t n;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_true(vocab_from_letters(rows[i].text, strlen(rows[i].text), out, &n));
        assert_int_equal(n, rows[i].length);
        assert_memory_equal(out, rows[i].want, n);
    }
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_false(vocab_from_letters(none[i], strlen(none[i]), out, &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand), cmocka_unit_test(test_options),
        cmocka_unit_test(test_random),  cmocka_unit_test(test_megabyte),
        cmocka_unit_test(test_letters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
