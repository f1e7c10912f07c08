/* stream: hand-filled outboxes of one request -> text. Property: however the events are cut into
 * drains and whoever reads when, stream and collected reply say what a plain search over the whole
 * text says. (test_stream_edges: the cases one by one.) */
#include "tests/unit/server/stream.h"

enum { SEQS = 3, TOKENS_MAX = 90, TOPS = 2 };

/* ---- the property -----------------------------------------------------------------------------
 */

struct script {
    int32_t ids[SEQS][TOKENS_MAX];
    int32_t n_ids[SEQS];
    enum finish finish[SEQS];
    char stops[STOPS_MAX][16];
    struct generate generate;
};

static uint32_t draw(uint64_t seed, uint64_t stream, uint64_t at, uint32_t n)
{
    return (uint32_t)(rng_uniform(seed, stream, at) * n);
}

/* Texts of few characters, so that stop strings nearly match all the time; characters of several
 * bytes, cut into tokens of one byte; bytes that are no text; special tokens. */
static void write_script(struct script *s, uint64_t seed)
{
    static const char *const parts[] = {
        "a", "a", "b", "ab", "aab", "\n\n", "END", "\xc3\xa9", "\xf0\x9f\x98\x80", "\x80", "\xf0"
    };
    *s = (struct script){ 0 };
    struct generate *g = &s->generate;
    g->kind = draw(seed, 1, 0, 2) ? API_CHAT : API_COMPLETION;
    g->n = 1 + (int32_t)draw(seed, 1, 1, SEQS);
    g->return_token_ids = draw(seed, 1, 2, 2);
    g->include_stop = draw(seed, 1, 3, 3) == 0;
    g->skip_special = draw(seed, 1, 4, 2);
    g->sampling.n_top = (int32_t)draw(seed, 1, 5, TOPS + 2) - 1;
    g->include_usage = draw(seed, 1, 6, 2);
    g->continuous_usage = g->include_usage && draw(seed, 1, 7, 2);
    for (int32_t q = 0; q < g->n; q++) {
        uint64_t stream = 10 + (uint64_t)q;
        int32_t n = (int32_t)draw(seed, stream, 0, TOKENS_MAX - 10);
        for (int32_t i = 0, k = 1; i < n; k++) {
            uint32_t which = draw(seed, stream, (uint64_t)k, 14);
            if (which < 11)
                for (const char *c = parts[which]; *c != 0; c++)
                    s->ids[q][i++] = byte_ids[(unsigned char)*c];
            else
                s->ids[q][i++] = which == 11 ? 1 : (int32_t)draw(seed, 20, (uint64_t)k, 4094);
            if (s->ids[q][i - 1] == byte_ids[0]) /* our strict reader takes no U+0000 */
                s->ids[q][i - 1] = byte_ids['a'];
            s->n_ids[q] = i;
        }
        s->finish[q] = draw(seed, stream, 999, 2) ? FINISH_STOP : FINISH_LENGTH;
    }
    /* Stop strings out of what will be said (so that they begin inside tokens), some with a last
     * byte that was not. */
    struct buf text;
    buf_init(&text, 1 << 16);
    detok_all(tokenizer, s->ids[0], (size_t)s->n_ids[0], g->skip_special, &text);
    int32_t n_stops = (int32_t)draw(seed, 2, 0, STOPS_MAX + 1);
    for (int32_t i = 0; i < n_stops && text.length > 0; i++) {
        uint64_t at = (uint64_t)i;
        size_t from = draw(seed, 3, at, (uint32_t)text.length), n = 1 + draw(seed, 4, at, 7);
        while (from > 0 && (text.bytes[from] & 0xc0) == 0x80)
            from--;
        n = n < text.length - from ? n : text.length - from;
        while (from + n < text.length && (text.bytes[from + n] & 0xc0) == 0x80)
            n++;
        memcpy(s->stops[i], text.bytes + from, n);
        if (draw(seed, 5, at, 2))
            s->stops[i][n] = 'b';
        g->n_stops = i + 1;
    }
    buf_clear(&text);
}

/* The plain answer: the whole text, searched at every end for every stop string. */
struct wanted {
    struct buf text;
    const char *stop; /* NULL: none */
    int32_t n_ids;    /* tokens that were read, but for EOS */
};
static void want(struct wanted *w, const struct script *s, int32_t q)
{
    const struct generate *g = &s->generate;
    struct detok detok;
    *w = (struct wanted){ 0 };
    buf_init(&w->text, 1 << 16);
    detok_init(&detok, tokenizer, g->skip_special);
    size_t searched = 0;
    for (int32_t i = 0; i <= s->n_ids[q]; i++) {
        if (i < s->n_ids[q])
            detok_push(&detok, s->ids[q][i], &w->text);
        else
            detok_flush(&detok, &w->text);
        w->n_ids = i < s->n_ids[q] ? i + 1 : i;
        for (; searched < w->text.length; searched++) {
            size_t end = searched + 1, longest = 0;
            for (int32_t k = 0; k < g->n_stops; k++) {
                size_t n = strlen(s->stops[k]);
                if (n > longest && n <= end &&
                    memcmp(w->text.bytes + end - n, s->stops[k], n) == 0) {
                    longest = n;
                    w->stop = s->stops[k];
                }
            }
            if (w->stop != NULL) {
                w->text.length = g->include_stop ? end : end - longest;
                w->text.bytes[w->text.length] = 0;
                return;
            }
        }
    }
}

static void play(struct fixture *f, const struct script *s, bool stream, uint64_t cuts)
{
    static const int32_t prompt[] = { 5, 6, 7 };
    struct generate g = s->generate;
    g.stream = stream;
    struct api_stop stops[STOPS_MAX];
    for (int32_t i = 0; i < g.n_stops; i++)
        stops[i] = (struct api_stop){ s->stops[i], strlen(s->stops[i]) };
    fixture_open(f, &g, stops, prompt, 3);
    int32_t fed[SEQS] = { 0 };
    int32_t n_top = g.sampling.n_top > 0 ? g.sampling.n_top : 0;
    uint64_t step = 0;
    for (bool more = true; more; step++) {
        more = false;
        assert_true(step < 10000);
        for (int32_t q = 0; q < g.n; q++) {
            int32_t some = cuts == 0 ? 1 : (int32_t)draw(cuts, (uint64_t)q, step, 9);
            for (; some > 0 && fed[q] <= s->n_ids[q]; some--, fed[q]++) {
                struct event event = fed[q] < s->n_ids[q] ? token_event(s->ids[q][fed[q]], n_top)
                                                          : done_event(s->finish[q]);
                if (!put_event(f, q, &event))
                    break;
            }
            more = more || fed[q] <= s->n_ids[q] ||
                   spsc_ready(&f->job.requests[0]->outboxes[q].ring) > 0;
        }
        if (cuts < 2 || draw(cuts, 9, step, 3) == 0)
            exchange_drain(&f->x, draw(cuts, 10, step, 2) ? f->job.requests[0] : NULL);
        if (cuts < 2 || draw(cuts, 8, step, 4) == 0)
            take(f);
    }
    exchange_drain(&f->x, NULL);
    take(f);
    assert_int_equal(f->x.n_done, g.n);
    assert_int_equal(f->x.n_running, 0);
    assert_int_equal(f->x.err.code, ERR_NONE);
    assert_int_equal(f->x.out_final, stream);
    if (!stream) {
        assert_int_equal(f->sse.length, 0); /* nothing was said before the end */
        exchange_write_reply(&f->x);
    }
}

static void check_said(const struct said *said, const struct wanted *w, const struct script *s,
                       int32_t q)
{
    const struct generate *g = &s->generate;
    assert_string_equal(buf_text(&said->text), buf_text(&w->text));
    assert_int_equal(said->n_finishes, 1);
    bool eos = w->stop == NULL && s->finish[q] == FINISH_STOP;
    assert_string_equal(said->finish, w->stop != NULL || eos ? "stop" : "length");
    if (w->stop != NULL)
        assert_string_equal(said->stop_reason->valuestring, w->stop);
    else
        assert_true(cJSON_IsNull(said->stop_reason));
    if (g->return_token_ids) {
        const cJSON *id = said->ids->child;
        for (int32_t i = 0; i < w->n_ids; i++, id = id->next)
            assert_int_equal(id->valueint, s->ids[q][i]);
        if (eos) {
            assert_int_equal(id->valueint, EOS);
            id = id->next;
        }
        assert_null(id);
        assert_int_equal(said->n_prompts, 1);
    }
}

static void test_any_cut(void **state)
{
    (void)state;
    int32_t n_stopped = 0;
    for (uint64_t seed = 0; seed < 400; seed++) {
        struct script s;
        struct fixture f;
        struct said whole[SEQS];
        struct wanted w[SEQS];
        write_script(&s, seed);
        play(&f, &s, false, 3);
        cJSON *reply = strict(buf_text(&f.x.out), f.x.out.length);
        const cJSON *usage = cJSON_GetObjectItem(reply, "usage");
        int32_t n_tokens = 0;
        for (int32_t q = 0; q < s.generate.n; q++) {
            want(&w[q], &s, q);
            said_init(&whole[q]);
            hear(&whole[q], cJSON_GetArrayItem(cJSON_GetObjectItem(reply, "choices"), q));
            if (s.generate.kind == API_CHAT) /* once for all choices: it is one prompt */
                whole[q].n_prompts = cJSON_HasObjectItem(reply, "prompt_token_ids");
            check_said(&whole[q], &w[q], &s, q);
            n_tokens += w[q].n_ids + (w[q].stop == NULL && s.finish[q] == FINISH_STOP);
            n_stopped += w[q].stop != NULL;
        }
        assert_int_equal(cJSON_GetObjectItem(usage, "completion_tokens")->valueint, n_tokens);
        json_free(reply);
        fixture_close(&f);
        for (uint64_t cuts = 0; cuts < 5; cuts++) {
            struct said said[SEQS];
            for (int32_t q = 0; q < SEQS; q++)
                said_init(&said[q]);
            play(&f, &s, true, cuts);
            hear_stream(said, &f.sse, NULL);
            for (int32_t q = 0; q < s.generate.n; q++) {
                check_said(&said[q], &w[q], &s, q);
                assert_true(cJSON_Compare(said[q].logprobs, whole[q].logprobs, true));
                assert_int_equal(f.job.requests[0]->seq_cancelled[q], w[q].stop != NULL);
            }
            for (int32_t q = 0; q < SEQS; q++)
                said_clear(&said[q]);
            fixture_close(&f);
        }
        for (int32_t q = 0; q < s.generate.n; q++) {
            said_clear(&whole[q]);
            buf_clear(&w[q].text);
        }
    }
    assert_in_range(n_stopped, 100, 700); /* the scripts do both */
}

/* ---- what each chunk holds --------------------------------------------------------------------
 */

/* Text as one-byte tokens, a drain each, and the chunks' texts with | after each. */
static void test_chunk_texts(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *stops[STOPS_MAX];
        bool include;
        const char *chunks, *finish;
    } rows[] = {
        { "each byte at once", "abc", { 0 }, false, "a|b|c||", "length" },
        { "a character of two bytes is whole",
          "a\xc3\xa9z",
          { 0 },
          false,
          "a|\xc3\xa9|z||",
          "length" },
        { "and of four", "\xf0\x9f\x98\x80", { 0 }, false, "\xf0\x9f\x98\x80||", "length" },
        { "half a character at the end", "a\xf0\x9f", { 0 }, false, "a|\xef\xbf\xbd|", "length" },
        { "a stop string", "xENDy", { "END" }, false, "x||", "stop" },
        { "a stop string that stays", "xENDy", { "END" }, true, "x|END|", "stop" },
        { "half a stop string is text after all", "xENx", { "END" }, false, "x|ENx||", "length" },
        { "half a stop string at the end too", "xEN", { "END" }, false, "x|EN|", "length" },
        { "a stop string begins inside its own beginning",
          "aabaac",
          { "aac" },
          false,
          "aab||",
          "stop" },
        { "of two the one that is complete first", "abcd", { "bcd", "c" }, false, "a|b|", "stop" },
        { "of two that end together the longer", "abcd", { "c", "bc" }, false, "a||", "stop" },
        { "held for one, released by it", "abx", { "abc", "z" }, false, "abx||", "length" },
        { "the first byte", "ENDx", { "END" }, false, "|", "stop" },
        { "a stop string of half-read characters",
          "a\xf0\x9f\x98\x80z",
          { "\xf0\x9f\x98\x80z" },
          false,
          "a||",
          "stop" },
        { "a stop string of what was no text",
          "a\x80z",
          { "\xef\xbf\xbdz" },
          false,
          "a||",
          "stop" },
        { "a stop string that the flush completes",
          "a\xc3",
          { "\xef\xbf\xbd" },
          false,
          "a||",
          "stop" },
    };
    static const int32_t prompt[] = { 5 };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct generate g = { .kind = API_COMPLETION, .n = 1, .stream = true };
        struct fixture f;
        struct buf chunks;
        g.include_stop = rows[i].include;
        g.sampling.n_top = -1;
        buf_init(&chunks, 1 << 16);
        struct api_stop stops[STOPS_MAX];
        for (int32_t k = 0; k < STOPS_MAX && rows[i].stops[k] != NULL; k++, g.n_stops++)
            stops[k] = (struct api_stop){ rows[i].stops[k], strlen(rows[i].stops[k]) };
        fixture_open(&f, &g, stops, prompt, 1);
        const char *finish = "";
        for (size_t k = 0; k <= strlen(rows[i].text); k++) {
            struct event event = k < strlen(rows[i].text)
                                     ? token_event(byte_ids[(unsigned char)rows[i].text[k]], 0)
                                     : done_event(FINISH_LENGTH);
            assert_true(put_event(&f, 0, &event));
            exchange_drain(&f.x, f.job.requests[0]);
        }
        take(&f);
        for (const char *at = buf_text(&f.sse), *end; *at != 0; at = end + 2) {
            end = strstr(at, "\n\n");
            if (strncmp(at + 6, "[DONE]", 6) == 0)
                continue;
            cJSON *root = strict(at + 6, (size_t)(end - at) - 6);
            const cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItem(root, "choices"), 0);
            buf_printf(&chunks, "%s|", cJSON_GetObjectItem(choice, "text")->valuestring);
            const cJSON *reason = cJSON_GetObjectItem(choice, "finish_reason");
            if (cJSON_IsString(reason))
                finish = strcmp(reason->valuestring, "stop") == 0 ? "stop" : "length";
            json_free(root);
        }
        if (strcmp(buf_text(&chunks), rows[i].chunks) != 0 || strcmp(finish, rows[i].finish) != 0)
            fail_msg("%s: \"%s\" %s, want \"%s\" %s", rows[i].name, buf_text(&chunks), finish,
                     rows[i].chunks, rows[i].finish);
        buf_clear(&chunks);
        fixture_close(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_cut),
        cmocka_unit_test(test_chunk_texts),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
