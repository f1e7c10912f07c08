/* test_tokenizer_files.c - tokenizer.model, tekken.json and tiktoken files: what they mean, by
 * hand, and what may not be in them; and decoders other than ByteLevel, streamed. */
#include "tests/support/support.h"
#include "host/base/clock.h"
#include "host/base/rng.h"
#include "host/text/detok.h"
#include "host/text/tokenizer_files.h"

/* --- a protobuf writer ------------------------------------------------------------------------ */

static void put_varint(struct buf *out, uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        buf_putc(out, (char)(value | 0x80));
    buf_putc(out, (char)value);
}

static void put_int(struct buf *out, uint32_t field, uint64_t value)
{
    put_varint(out, (uint64_t)field << 3);
    put_varint(out, value);
}

static void put_bytes(struct buf *out, uint32_t field, const void *bytes, size_t length)
{
    put_varint(out, (uint64_t)field << 3 | 2);
    put_varint(out, length);
    buf_put(out, bytes, length);
}

static void put_piece(struct buf *out, const char *text, float score, int type)
{
    struct buf piece;
    buf_init(&piece, SIZE_MAX);
    put_bytes(&piece, 1, text, strlen(text));
    put_varint(&piece, 2 << 3 | 5);
    buf_put(&piece, &score, 4);
    if (type != 1)
        put_int(&piece, 3, (uint64_t)type);
    put_bytes(out, 1, piece.bytes, piece.length);
    buf_clear(&piece);
}

#define MARK "\xe2\x96\x81"

/* <unk> <s> </s> <0xC3> <0xA9> _ a b ab _a <u> __ */
static void put_pieces(struct buf *out)
{
    put_piece(out, "<unk>", 0, 2);
    put_piece(out, "<s>", 0, 3);
    put_piece(out, "</s>", 0, 3);
    put_piece(out, "<0xC3>", 0, 6);
    put_piece(out, "<0xA9>", 0, 6);
    put_piece(out, MARK, -9, 1);
    put_piece(out, "a", -9, 1);
    put_piece(out, "b", -9, 1);
    put_piece(out, "ab", -2, 1);
    put_piece(out, MARK "a", -1, 1);
    put_piece(out, "<u>", 0, 4);
    put_piece(out, MARK MARK, -3, 1);
}

struct spec {
    int model; /* 1 unigram, 2 BPE */
    bool no_prefix, keep_spaces;
};

static void put_model(struct buf *out, struct spec spec)
{
    struct buf part;
    buf_init(&part, SIZE_MAX);
    put_pieces(out);
    put_int(&part, 3, (uint64_t)spec.model);
    put_bytes(out, 2, part.bytes, part.length);
    buf_reset(&part);
    put_int(&part, 3, !spec.no_prefix);
    put_int(&part, 4, !spec.keep_spaces);
    put_bytes(out, 3, part.bytes, part.length);
    buf_clear(&part);
}

/* --- asking ----------------------------------------------------------------------------------- */

/* The ids as text: "0 8 20". */
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

/* At once, and streamed with every cut: what is out is always a beginning of the whole. */
static const char *decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip)
{
    static char out[512];
    struct buf all, some;
    buf_init(&all, SIZE_MAX);
    buf_init(&some, SIZE_MAX);
    detok_all(t, ids, n, skip, &all);
    struct detok detok;
    detok_init(&detok, t, skip);
    for (size_t i = 0; i < n; i++) {
        detok_push(&detok, ids[i], &some);
        assert_true(some.length <= all.length);
        assert_memory_equal(buf_text(&some), buf_text(&all), some.length);
    }
    detok_flush(&detok, &some);
    assert_string_equal(buf_text(&some), buf_text(&all));
    snprintf(out, sizeof out, "%s", buf_text(&all));
    buf_clear(&all);
    buf_clear(&some);
    return out;
}

static struct tokenizer *open_spec(struct spec spec, const char *config)
{
    struct buf model;
    struct tokenizer *t;
    struct cJSON *tree = NULL;
    struct err err;
    buf_init(&model, SIZE_MAX);
    put_model(&model, spec);
    if (config)
        assert_ok(json_parse(config, strlen(config), &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err),
                  &err);
    struct json_ref root = json_root(tree);
    assert_ok(sentencepiece_open(&t, model.bytes, model.length, config ? &root : NULL, &err), &err);
    json_free(tree);
    buf_clear(&model);
    return t;
}

static void test_sentencepiece(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct spec spec;
        const char *config, *text;
        unsigned flags;
        const char *want;
    } rows[] = {
        { "the best score merges first", { 2, false, true }, NULL, "ab", 0, "9 7" },
        { "nothing is put before", { 2, true, true }, NULL, "ab", 0, "8" },
        { "no text, no mark", { 2, false, true }, NULL, "", 0, "" },
        { "blanks stay", { 2, true, true }, NULL, "a   b", 0, "6 11 5 7" },
        { "blanks are joined and stripped", { 2, true, false }, NULL, "  a   b ", 0, "6 5 7" },
        { "a character without a piece is bytes", { 2, true, true }, NULL, "a\u00e9", 0, "6 3 4" },
        { "one whose bytes have no pieces is unk",
          { 2, true, true },
          NULL,
          "a\u00e8\u00e8b",
          0,
          "6 0 7" },
        { "control is text where it is not parsed", { 2, true, true }, NULL, "<s>", 0, "0" },
        { "and a token where it is",
          { 2, true, true },
          NULL,
          "a<s>b",
          ENCODE_PARSE_SPECIAL,
          "6 1 7" },
        { "a piece behind a token begins anew",
          { 2, false, true },
          NULL,
          "a<s>b",
          ENCODE_PARSE_SPECIAL,
          "9 1 5 7" },
        { "user-defined always is", { 2, false, true }, NULL, "a<u>b", 0, "9 10 7" },
        { "BOS by itself", { 2, true, true }, NULL, "a", ENCODE_ADD_SPECIAL, "1 6" },
        { "as the configuration says",
          { 2, true, true },
          "{\"add_bos_token\":false,\"add_eos_token\":true}",
          "a",
          ENCODE_ADD_SPECIAL,
          "6 2" },
        { "an added token",
          { 2, true, true },
          "{\"added_tokens_decoder\":{\"12\":{\"content\":\"<|x|>\",\"rstrip\":true}}}",
          "a<|x|>  b",
          0,
          "6 12 7" },
        { "an added token instead of a control piece",
          { 2, true, true },
          "{\"added_tokens_decoder\":{\"1\":{\"content\":\"<s>\"}}}",
          "a<s>b",
          0,
          "6 1 7" },
        { "an added token of another text",
          { 2, true, true },
          "{\"added_tokens_decoder\":{\"8\":{\"content\":\"<y>\"}}}",
          "ab<y>",
          0,
          "6 7 8" },
        { "unigram takes the best sum", { 1, false, true }, NULL, "ab", 0, "9 7" },
        { "of two cuts the better one", { 1, true, true }, NULL, "bab", 0, "7 8" },
        { "unigram's bytes", { 1, true, true }, NULL, "a\u00e9b", 0, "6 3 4 7" },
        { "unigram's unknowns are one", { 1, true, true }, NULL, "axyb", 0, "6 0 7" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t = open_spec(rows[i].spec, rows[i].config);
        const char *got = encode(t, rows[i].text, rows[i].flags);
        if (strcmp(got, rows[i].want) != 0)
            fail_msg("%s: %s, want %s", rows[i].sentence, got, rows[i].want);
        tokenizer_close(t);
    }
}

static void test_decoded(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        bool no_prefix, skip;
        int32_t ids[6];
        size_t n;
        const char *want;
    } rows[] = {
        { "the mark that was put before goes", false, true, { 1, 9, 7 }, 3, "ab" },
        { "one of two", false, true, { 11, 7 }, 2, " b" },
        { "none was put", true, true, { 9, 7 }, 2, " ab" },
        { "not behind a text", false, true, { 6, 9 }, 2, "a a" },
        { "two bytes are one letter", false, true, { 3, 4, 7 }, 3, "\u00e9b" },
        { "half a letter before a text", false, true, { 6, 3, 7 }, 3, "a\ufffdb" },
        { "half a letter at the end", false, true, { 6, 3 }, 2, "a\ufffd" },
        { "a byte that begins nothing, then a letter",
          false,
          true,
          { 4, 3, 4 },
          3,
          "\ufffd\u00e9" },
        { "a byte twice", false, true, { 3, 3, 4 }, 3, "\ufffd\u00e9" },
        { "a letter across a control token", false, true, { 3, 1, 4 }, 3, "\u00e9" },
        { "which is shown", false, false, { 3, 1, 4 }, 3, "\ufffd<s>\ufffd" },
        { "a control token first, shown", false, false, { 1, 9 }, 2, "<s> a" },
        { "ids that are none", false, true, { 99, -1, 9 }, 3, "a" },
        { "nothing", false, true, { 0 }, 0, "" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t = open_spec((struct spec){ 2, rows[i].no_prefix, true }, NULL);
        const char *got = decode(t, rows[i].ids, rows[i].n, rows[i].skip);
        if (strcmp(got, rows[i].want) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", rows[i].sentence, got, rows[i].want);
        tokenizer_close(t);
    }
}

/* Prompt and continuation, each decoded by itself, are the whole. */
static void test_behind_a_prompt(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        int32_t prompt[3];
        size_t n;
        const char *want; /* of _a b behind it */
    } rows[] = {
        { "behind a text", { 1, 6 }, 2, " ab" },
        { "behind what is not shown", { 1 }, 1, "ab" },
        { "behind nothing", { 0 }, 0, "ab" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t = open_spec((struct spec){ 2, false, true }, NULL);
        struct detok detok;
        struct buf text;
        buf_init(&text, SIZE_MAX);
        detok_init(&detok, t, true);
        detok_go_on(&detok, rows[i].prompt, rows[i].n);
        detok_push(&detok, 9, &text);
        detok_push(&detok, 7, &text);
        detok_flush(&detok, &text);
        if (strcmp(buf_text(&text), rows[i].want) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", rows[i].sentence, buf_text(&text), rows[i].want);
        buf_clear(&text);
        tokenizer_close(t);
    }
}

/* Decoders of tokenizer.json, over one small WordPiece vocabulary. */
#define WORDS(decoder)                                                                             \
    "{\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},\"decoder\":" decoder                      \
    ",\"added_tokens\":[{\"id\":0,\"content\":\"[UNK]\",\"special\":true}],\"model\":{\"type\":"   \
    "\"WordPiece\",\"unk_token\":\"[UNK]\",\"vocab\":{\"[UNK]\":0,\"a\":1,\"##b\":2,\".\":3,"      \
    "\"n't\":4,\"" MARK "c\":5,\"<0x41>\":6}}}"

static void test_decoders(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *json;
        int32_t ids[5];
        size_t n;
        const char *want;
    } rows[] = {
        { "words and their parts",
          WORDS("{\"type\":\"WordPiece\",\"cleanup\":false}"),
          { 1, 2, 1, 3 },
          4,
          "ab a ." },
        { "a part first keeps its prefix",
          WORDS("{\"type\":\"WordPiece\",\"cleanup\":false}"),
          { 2, 2 },
          2,
          "##bb" },
        { "no blanks before punctuation",
          WORDS("{\"type\":\"WordPiece\"}"),
          { 1, 3, 1, 4 },
          4,
          "a. an't" },
        { "no decoder", WORDS("null"), { 1, 2, 1 }, 3, "a ##b a" },
        { "marks of the first token go", WORDS("{\"type\":\"Metaspace\"}"), { 5, 5 }, 2, "c c" },
        { "or stay",
          WORDS("{\"type\":\"Metaspace\",\"prepend_scheme\":\"never\"}"),
          { 5, 5 },
          2,
          " c c" },
        { "the first that is shown", WORDS("{\"type\":\"Metaspace\"}"), { 0, 5, 5 }, 3, "c c" },
        { "a byte",
          WORDS("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"}]}"),
          { 6, 1 },
          2,
          "Aa" },
        { "a pattern",
          WORDS("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[a#]+\"},"
                "\"content\":\"x\"}"),
          { 1, 2 },
          2,
          "xxb" },
        { "stripped twice",
          WORDS("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},"
                "{\"type\":\"Strip\",\"content\":\"a\",\"start\":2}]}"),
          { 1, 1, 1 },
          3,
          "a" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err err;
        assert_ok(tokenizer_open(&t, rows[i].json, strlen(rows[i].json), &err), &err);
        const char *got = decode(t, rows[i].ids, rows[i].n, true);
        if (strcmp(got, rows[i].want) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", rows[i].sentence, got, rows[i].want);
        tokenizer_close(t);
    }
    static const struct {
        const char *json;
        enum err_code code;
        const char *text;
    } refused[] = {
        { WORDS("{\"type\":\"CTC\"}"), ERR_UNSUPPORTED, "decoder.type \"CTC\" is not supported" },
        { WORDS("{\"type\":\"ByteLevel\"}"), ERR_UNSUPPORTED, "pre_tokenizer" },
        { WORDS("{\"type\":\"Strip\",\"content\":\" \",\"start\":1}"), ERR_UNSUPPORTED,
          "decoder must stand once, after Fuse" },
        { WORDS("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Metaspace\"}]"
                "}"),
          ERR_UNSUPPORTED, "decoder.decoders[1] after Fuse" },
        { WORDS("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"(\"},\"content\":\"\"}"),
          ERR_FORMAT, "decoder.pattern.Regex" },
        { WORDS("{\"type\":\"Replace\",\"content\":\"\"}"), ERR_FORMAT,
          "decoder.pattern must be an object" },
        { WORDS("{\"type\":\"Sequence\",\"decoders\":3}"), ERR_FORMAT, "decoder.decoders must be" },
        { WORDS("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Strip\","
                "\"content\":\"ab\",\"start\":1}]}"),
          ERR_FORMAT, "decoder.decoders[1] must strip one character" },
        { WORDS("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":\"Strip\","
                "\"content\":\"a\",\"stop\":1}]}"),
          ERR_UNSUPPORTED, "strip the start alone" },
        { WORDS("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
                "\"ByteFallback\"}]}"),
          ERR_UNSUPPORTED, "(ByteFallback) must come before Fuse" },
        { WORDS("{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
                "\"ByteLevel\"}]}"),
          ERR_UNSUPPORTED, "(ByteLevel) must be the only one" },
        { WORDS("{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":"
                "\"0123456789012345678901234567890123456789012345678901234567890123456\"}"),
          ERR_FORMAT, "content of more than 64 bytes" },
        { WORDS("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"\"},\"content\":"
                "\"012345678901234567890123456789012345678901234567890123456789\"}"),
          ERR_UNSUPPORTED, "decoded tokens take more than" },
        { WORDS("{\"type\":\"Metaspace\",\"replacement\":\"\"}"), ERR_FORMAT, "empty replacement" },
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct tokenizer *t;
        struct err err;
        assert_false(tokenizer_open(&t, refused[i].json, strlen(refused[i].json), &err));
        if (err.code != refused[i].code || !strstr(err.text, refused[i].text))
            fail_msg("%zu: code %d, \"%s\"", i, err.code, err.text);
    }
}

/* --- forged sentencepiece files --------------------------------------------------------------- */

static void test_forged_model(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *bytes;
        size_t length;
        enum err_code code;
        const char *text;
    } rows[] = {
#define ROW(sentence, bytes, code, text) { sentence, bytes, sizeof bytes - 1, code, text }
        ROW("nothing", "", ERR_FORMAT, "it has no pieces"),
        ROW("a field 0", "\x00\x00", ERR_FORMAT, "no field's key at byte 0"),
        ROW("a key without an end", "\x8a", ERR_FORMAT, "no field's key at byte 0"),
        ROW("a key of more than 64 bits", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", ERR_FORMAT,
            "no field's key"),
        ROW("a group", "\x0b", ERR_FORMAT, "has the wire type 3"),
        ROW("wire type 7", "\x0f", ERR_FORMAT, "has the wire type 7"),
        ROW("a length past the end",
            "\x0a\x05"
            "abc",
            ERR_FORMAT, "past the end"),
        ROW("a length of 2^64-1", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", ERR_FORMAT,
            "past the end"),
        ROW("a length of 2^63", "\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", ERR_FORMAT,
            "past the end"),
        ROW("pieces that are a number", "\x08\x01", ERR_FORMAT, "a message has the wire type 0"),
        ROW("a text that is a number", "\x0a\x02\x08\x01", ERR_FORMAT,
            "a piece's text has the wire type 0"),
        ROW("a score of eight bytes",
            "\x0a\x09\x11"
            "12345678",
            ERR_FORMAT, "a piece's score"),
        ROW("a score cut off",
            "\x0a\x03\x15"
            "12",
            ERR_FORMAT, "past the end"),
        ROW("a piece of type 0", "\x0a\x02\x18\x00", ERR_FORMAT, "has the type 0, want 1 to 6"),
        ROW("a piece of type 2^63", "\x0a\x0b\x18\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
            ERR_FORMAT, "want 1 to 6"),
        ROW("a text that is no UTF-8", "\x0a\x03\x0a\x01\xff", ERR_FORMAT,
            "token 0 is not UTF-8 at byte 0"),
        ROW("a score that is no number",
            "\x0a\x08\x0a\x01"
            "a\x15\x00\x00\xc0\x7f",
            ERR_FORMAT, "token 0 has the score nan"),
        ROW("two pieces alike",
            "\x0a\x03\x0a\x01"
            "a\x0a\x03\x0a\x01"
            "a",
            ERR_FORMAT, "\"a\" has the ids 0 and 1"),
        ROW("pieces without text", "\x0a\x00\x0a\x00", ERR_FORMAT, "without tokens"),
        ROW("unk beyond the pieces",
            "\x0a\x03\x0a\x01"
            "a\x12\x03\xc0\x02\x07",
            ERR_FORMAT, "unk_id is 7"),
        ROW("unk before them",
            "\x0a\x03\x0a\x01"
            "a\x12\x0c\xc0\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            ERR_FORMAT, "unk_id is -1"),
        ROW("a model of words",
            "\x0a\x03\x0a\x01"
            "a\x12\x02\x18\x03",
            ERR_UNSUPPORTED, "of type 3 is not supported"),
        ROW("blanks as suffixes",
            "\x0a\x03\x0a\x01"
            "a\x12\x03\xc0\x01\x01",
            ERR_UNSUPPORTED, "marks blanks as suffixes"),
        ROW("blanks that are not marked",
            "\x0a\x03\x0a\x01"
            "a\x1a\x02\x28\x00",
            ERR_UNSUPPORTED, "does not mark blanks"),
        ROW("a denormalizer",
            "\x0a\x03\x0a\x01"
            "a\x2a\x03\x12\x01x",
            ERR_UNSUPPORTED, "changes decoded text"),
        ROW("a map of three bytes",
            "\x0a\x03\x0a\x01"
            "a\x1a\x05\x12\x03"
            "abc",
            ERR_FORMAT, "precompiled_charsmap: a map of 3 bytes"),
        ROW("a map whose trie is all of it",
            "\x0a\x03\x0a\x01"
            "a\x1a\x0a\x12\x08\x04\x00\x00\x00"
            "abcd",
            ERR_FORMAT, "a map of 8 bytes with a trie of 4"),
        ROW("a map whose trie has 2^32-1 bytes",
            "\x0a\x03\x0a\x01"
            "a\x1a\x0a\x12\x08\xff\xff\xff\xff"
            "abcd",
            ERR_FORMAT, "with a trie of"),
        ROW("a map whose texts do not end",
            "\x0a\x03\x0a\x01"
            "a\x1a\x0b\x12\x09\x04\x00\x00\x00"
            "abcdx",
            ERR_FORMAT, "are not texts"),
#undef ROW
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err err;
        char *copy = guard_copy(rows[i].bytes, rows[i].length);
        if (sentencepiece_open(&t, copy, rows[i].length, NULL, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (err.code != rows[i].code || !strstr(err.text, rows[i].text))
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
        guard_free(copy, rows[i].length);
    }
}

/* Cut or changed anywhere it is refused or works; never read past its end. */
static void test_changed_model(void **state)
{
    (void)state;
    struct buf model;
    struct tokenizer *t;
    struct err err;
    size_t n_accepted = 0;
    buf_init(&model, SIZE_MAX);
    put_model(&model, (struct spec){ 2, false, true });
    for (size_t n = 0; n < model.length; n++) {
        char *copy = guard_copy(model.bytes, n);
        if (sentencepiece_open(&t, copy, n, NULL, &err)) {
            encode(t, "ab <u>\u00e9", 0);
            tokenizer_close(t);
        }
        guard_free(copy, n);
    }
    for (uint64_t round = 0; round < 4000; round++) {
        char *copy = guard_copy(model.bytes, model.length);
        copy[(size_t)(rng_uniform(5, round, 0) * (double)model.length)] =
            (char)(rng_uniform(5, round, 1) * 256);
        if (sentencepiece_open(&t, copy, model.length, NULL, &err)) {
            n_accepted++;
            encode(t, "ab <u>\u00e9", 0);
            tokenizer_close(t);
        }
        guard_free(copy, model.length);
    }
    print_message("%zu of 4000 changed files were still valid\n", n_accepted);
    assert_true(n_accepted > 0);
    buf_clear(&model);
}

/* A piece longer than a merge may be, and texts that would be slow if anything were quadratic. */
static void test_long(void **state)
{
    (void)state;
    static const struct {
        const char *sentence, *unit;
        int model;
    } rows[] = {
        { "one letter", "a", 2 },
        { "two letters", "ab", 2 },
        { "blanks", " ", 2 },
        { "no letters", "\u4f60", 2 },
        { "half of it bytes", "\u00e9a", 2 },
        { "user-defined", "<u>", 2 },
        { "one letter, unigram", "a", 1 },
        { "unknown, unigram", "x", 1 },
        { "blanks, unigram", " a", 1 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t = open_spec((struct spec){ rows[i].model, false, true }, NULL);
        struct buf text;
        struct ids ids = { 0 };
        struct err err;
        buf_init(&text, SIZE_MAX);
        while (text.length < 1 << 20)
            buf_puts(&text, rows[i].unit);
        uint64_t start = clock_ms();
        assert_ok(tokenizer_encode(t, text.bytes, text.length, 0, NULL, 0, &ids, &err), &err);
        uint64_t spent = clock_ms() - start;
        print_message("%s: %d ms\n", rows[i].sentence, (int)spent);
        assert_true(spent < 20000); /* sanitizers, a loaded machine; quadratic would be minutes */
        ids_clear(&ids);
        buf_clear(&text);
        tokenizer_close(t);
    }
    struct buf model;
    struct tokenizer *t;
    struct err err;
    char *piece = calloc(1026, 1);
    assert_non_null(piece);
    memset(piece, 'a', 1025);
    buf_init(&model, SIZE_MAX);
    put_piece(&model, "<unk>", 0, 2);
    put_piece(&model, piece, 0, 1);
    assert_false(sentencepiece_open(&t, model.bytes, model.length, NULL, &err));
    assert_string_equal(err.text, "token 1 has 1025 bytes, want at most 1024");
    free(piece);
    buf_clear(&model);
}

/* --- tekken and tiktoken ---------------------------------------------------------------------- */

#define TOKEN(rank, bytes) "{\"rank\":" rank ",\"token_bytes\":\"" bytes "\"}"
/* a b " " ab " a" */
#define RANKS                                                                                      \
    TOKEN("0", "YQ==")                                                                             \
    "," TOKEN("1", "Yg==") "," TOKEN("2", "IA==") "," TOKEN("3", "YWI=") "," TOKEN("4", "IGE=")
#define CONFIG                      "{\"pattern\":\" ?\\\\p{L}+|\\\\s+\",\"default_num_special_tokens\":4}"
#define TEKKEN(config, vocab, more) "{\"config\":" config ",\"vocab\":[" vocab "]" more "}"
#define NAMED(list)                 ",\"special_tokens\":[" list "]"

static void test_tekken(void **state)
{
    (void)state;
    static const struct {
        const char *json, *text;
        unsigned flags;
        const char *want; /* ids, or part of the error */
        bool good;
    } rows[] = {
        { TEKKEN(CONFIG, RANKS, ""), "ab ab a", 0, "7 6 7 8", true },
        { TEKKEN(CONFIG, RANKS, ""), "a</s>b", ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL, "1 4 2 5",
          true },
        { TEKKEN(CONFIG, RANKS, ""), "a[INST]", ENCODE_PARSE_SPECIAL, "4 3", true },
        { TEKKEN(CONFIG, RANKS, NAMED("{\"rank\":3,\"token_str\":\"<z>\",\"is_control\":false}")),
          "a<z>", 0, "4 3", true },
        { TEKKEN(CONFIG, RANKS, NAMED("{\"rank\":3,\"token_str\":\"<z>\"}")), "a<SPECIAL_1>",
          ENCODE_PARSE_SPECIAL, "4 1", true },
        { TEKKEN("{\"pattern\":\" ?\\\\p{L}+\",\"default_num_special_tokens\":4,"
                 "\"default_vocab_size\":7}",
                 RANKS, ""),
          "ab", 0, "4 5", true },
        { TEKKEN(CONFIG, RANKS ",{\"rank\":5,\"token_bytes\":\"AA==\",\"token_str\":\"\\u0000\"}",
                 ""),
          "a", 0, "4", true },
        { "[]", "", 0, "no tekken file", false },
        { "{\"config\":{}}", "", 0, "vocab must be a list", false },
        { TEKKEN("{}", RANKS, ""), "", 0, "config.pattern", false },
        { TEKKEN("{\"pattern\":\"(\"}", RANKS, ""), "", 0, "pattern", false },
        { TEKKEN(CONFIG, "", ""), "", 0, "vocab has 0 tokens", false },
        { TEKKEN(CONFIG, "7", ""), "", 0, "vocab[0] must be an object", false },
        { TEKKEN(CONFIG, TOKEN("1", "YQ=="), ""), "", 0, "vocab[0].rank is 1, want its place, 0",
          false },
        { TEKKEN(CONFIG, TOKEN("-1", "YQ=="), ""), "", 0, "vocab[0].rank", false },
        { TEKKEN(CONFIG, TOKEN("0", "Y"), ""), "", 0, "vocab[0].token_bytes must be base64",
          false },
        { TEKKEN(CONFIG, TOKEN("0", "Y!=="), ""), "", 0, "must be base64", false },
        { TEKKEN(CONFIG, TOKEN("0", ""), ""), "", 0, "must be base64 of a byte", false },
        { TEKKEN(CONFIG, TOKEN("0", "YQ==") "," TOKEN("1", "YQ=="), ""), "", 0,
          "has the ids 4 and 5", false },
        { TEKKEN(CONFIG, RANKS, NAMED("{\"rank\":4,\"token_str\":\"x\"}")), "", 0,
          "special_tokens[0].rank", false },
        { TEKKEN(CONFIG, RANKS,
                 NAMED("{\"rank\":1,\"token_str\":\"x\"},{\"rank\":1,\"token_str\":\"y\"}")),
          "", 0, "special_tokens[1] has the rank 1 of another", false },
        { TEKKEN(CONFIG, RANKS, ",\"special_tokens\":3"), "", 0, "special_tokens must be a list",
          false },
        { TEKKEN(CONFIG, RANKS, NAMED("3")), "", 0, "special_tokens[0] must be an object", false },
        { TEKKEN(CONFIG, TOKEN("0", "YQ==") ",{\"rank\":1,\"token_bytes\":3}", ""), "", 0,
          "vocab[1].token_bytes", false },
        { TEKKEN(CONFIG, RANKS, NAMED("{\"rank\":1,\"token_str\":\"\"}")), "", 0,
          "token_str must have 1 to", false },
        { TEKKEN("{\"pattern\":\"a\",\"default_num_special_tokens\":1e9}", RANKS, ""), "", 0,
          "config.default_num_special_tokens", false },
        { TEKKEN("{\"pattern\":\"a\",\"default_vocab_size\":1e12}", RANKS, ""), "", 0,
          "config.default_vocab_size", false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct err err;
        bool ok =
            tokenizer_open_file(&t, "tekken.json", rows[i].json, strlen(rows[i].json), NULL, &err);
        if (ok != rows[i].good)
            fail_msg("row %zu: %s", i, ok ? "accepted" : err.text);
        if (!ok) {
            if (err.code != ERR_FORMAT && err.code != ERR_UNSUPPORTED)
                fail_msg("row %zu: code %d", i, err.code);
            if (strncmp(err.text, "tekken.json: ", 13) != 0 || !strstr(err.text, rows[i].want))
                fail_msg("row %zu: \"%s\"", i, err.text);
            continue;
        }
        const char *got = encode(t, rows[i].text, rows[i].flags);
        if (strcmp(got, rows[i].want) != 0)
            fail_msg("row %zu: %s, want %s", i, got, rows[i].want);
        tokenizer_close(t);
    }
}

#define LINES "YQ== 0\nYg== 1\r\nIA== 2\n\nYWI= 3\nIGE= 4"

static void test_tiktoken(void **state)
{
    (void)state;
    static const struct {
        const char *lines, *config, *text;
        unsigned flags;
        const char *want; /* ids, or part of the error */
        bool good;
    } rows[] = {
        { LINES, NULL, "ab ab a", 0, "3 2 3 4", true },
        { LINES, "{\"added_tokens_decoder\":{\"6\":{\"content\":\"<s>\",\"special\":true}}}",
          "a<s>b", ENCODE_PARSE_SPECIAL, "0 6 1", true },
        { LINES,
          "{\"added_tokens_decoder\":{\"6\":{\"content\":\"<s>\",\"special\":true}},"
          "\"bos_token\":{\"content\":\"<s>\"},\"add_bos_token\":true}",
          "a", ENCODE_ADD_SPECIAL, "6 0", true },
        { LINES, "{\"added_tokens_decoder\":{\"6\":{\"content\":\"\"}}}", "a", 0, "0", true },
        { "", NULL, "", 0, "no tiktoken file", false },
        { "hello", NULL, "", 0, "line 1 must be base64, a blank and a rank", false },
        { "YQ== 0\nYg==1\n", NULL, "", 0, "line 2 must be", false },
        { "YQ== ", NULL, "", 0, "line 1 must be", false },
        { "YQ== -1", NULL, "", 0, "line 1 must be", false },
        { "YQ== 0x1", NULL, "", 0, "line 1 must be", false },
        { "YQ== 1.5", NULL, "", 0, "line 1 must be", false },
        { "YQ== 99999999999999999999", NULL, "", 0, "line 1 must be", false },
        { " 0", NULL, "", 0, "line 1 must be", false },
        { "Y=Q= 0", NULL, "", 0, "line 1 must be", false },
        { "YQ== 16777215", NULL, "", 0, "line 1 has the rank 16777215", false },
        { "YQ== 0\nYg== 0", NULL, "", 0, "line 2 has the rank 0 of another", false },
        { "YQ== 0\nYQ== 1", NULL, "", 0, "\"a\" has the ids 0 and 1", false },
        { "YQ== 0\nYg== 900", NULL, "ab", 0, "0 900", true },
        { LINES, "{\"added_tokens_decoder\":7}", "", 0, "added_tokens_decoder must be an object",
          false },
        { LINES, "{\"added_tokens_decoder\":{\"x\":{\"content\":\"y\"}}}", "", 0,
          "must have an id from 0", false },
        { LINES, "{\"added_tokens_decoder\":{\"-1\":{\"content\":\"y\"}}}", "", 0,
          "must have an id from 0", false },
        { LINES, "{\"added_tokens_decoder\":{\"16777215\":{\"content\":\"y\"}}}", "", 0,
          "the added token \"y\" has the id 16777215 of 5", false },
        { LINES, "{\"added_tokens_decoder\":{\"7\":{\"content\":3}}}", "", 0, "content", false },
        { LINES,
          "{\"added_tokens_decoder\":{\"7\":{\"content\":\"y\"},\"07\":{\"content\":\"z\"}}}", "",
          0, "id 7 belongs to", false },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tokenizer *t;
        struct cJSON *tree = NULL;
        struct err err;
        if (rows[i].config)
            assert_ok(json_parse(rows[i].config, strlen(rows[i].config), &JSON_FILE_LIMITS,
                                 ERR_FORMAT, &tree, &err),
                      &err);
        struct json_ref root = json_root(tree);
        size_t length = strlen(rows[i].lines);
        char *copy = guard_copy(rows[i].lines, length);
        bool ok = tiktoken_open(&t, copy, length, "gpt-2", tree ? &root : NULL, &err);
        guard_free(copy, length);
        json_free(tree);
        if (ok != rows[i].good || (!ok && !strstr(err.text, rows[i].want)))
            fail_msg("row %zu: %s", i, ok ? "accepted" : err.text);
        if (!ok)
            continue;
        const char *got = encode(t, rows[i].text, rows[i].flags);
        if (strcmp(got, rows[i].want) != 0)
            fail_msg("row %zu: %s, want %s", i, got, rows[i].want);
        tokenizer_close(t);
    }
}

/* A file of a known family's size is that family's; one of any other size is refused by name. */
static void test_families(void **state)
{
    (void)state;
    static const char LETTERS[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    struct buf lines;
    struct tokenizer *t;
    struct err err;
    buf_init(&lines, SIZE_MAX);
    for (int i = 0; i < 128000; i++) { /* 128,000 different texts of three bytes */
        char text[5] = { LETTERS[i >> 12 & 31], LETTERS[i >> 6 & 63], LETTERS[i & 63], 'a', 0 };
        buf_printf(&lines, "%s %d\n", text, i);
    }
    assert_ok(tokenizer_open_file(&t, "tokenizer.model", lines.bytes, lines.length, NULL, &err),
              &err);
    assert_int_equal(tokenizer_size(t), 128256);
    assert_int_equal(tokenizer_find(t, "<|eot_id|>", 10), 128009);
    assert_int_equal(tokenizer_find(t, "<|reserved_special_token_246|>", 30), 128255);
    assert_string_equal(encode(t, "<|eot_id|>", ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL),
                        "128000 128009");
    tokenizer_close(t);
    buf_puts(&lines, "//// 128000\n");
    assert_false(tokenizer_open_file(&t, "x.tiktoken", lines.bytes, lines.length, NULL, &err));
    assert_int_equal(err.code, ERR_UNSUPPORTED);
    assert_true(strstr(err.text, "x.tiktoken: a tiktoken file of 128001 tokens") != NULL);
    buf_clear(&lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentencepiece),
        cmocka_unit_test(test_decoded),
        cmocka_unit_test(test_behind_a_prompt),
        cmocka_unit_test(test_decoders),
        cmocka_unit_test(test_forged_model),
        cmocka_unit_test(test_changed_model),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_tekken),
        cmocka_unit_test(test_tiktoken),
        cmocka_unit_test(test_families),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
