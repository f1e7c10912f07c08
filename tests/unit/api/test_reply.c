/* reply: every shape against written-out JSON, and streams against the collected reply. What comes
 * out is read back by the strict parser, which refuses bad UTF-8 and one key given twice. */
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include <math.h>
#include "api/reply.h"
#include "api/text.h"
#include "host/base/json.h"
#include "host/base/rng.h"

static float chance(uint64_t seed, uint64_t stream, uint64_t counter)
{
    return (float)rng_uniform(seed, stream, counter) * 0.999f;
}

static cJSON *read_json(const char *name, const char *bytes, size_t length)
{
    cJSON *root;
    struct err err = { 0 };
    if (!json_parse(bytes, length, &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err))
        fail_msg("%s: %s: %.*s", name, err.text, (int)length, bytes);
    return root;
}

/* `text` is the JSON `want`, members in any order. */
static void check_json(const char *name, const char *text, size_t length, const char *want)
{
    cJSON *got = read_json(name, text, length), *wanted = read_json(name, want, strlen(want));
    if (!cJSON_Compare(got, wanted, true))
        fail_msg("%s:\n%.*s, want\n%s", name, (int)length, text, want);
    json_free(got);
    json_free(wanted);
}

#define TOKEN(id_, text_, ...)                                                                     \
    {                                                                                              \
        .id = id_, .bytes = text_, .length = sizeof(text_) - 1, __VA_ARGS__                        \
    }
#define TOP(text_, logprob_)                                                                       \
    {                                                                                              \
        .bytes = text_, .length = sizeof(text_) - 1, .logprob = logprob_                           \
    }
#define TEXT(text_)     .text = text_, .length = sizeof(text_) - 1
#define TOKENS(tokens_) .tokens = tokens_, .n_tokens = sizeof(tokens_) / sizeof(tokens_)[0]
#define FINGER          "\"system_fingerprint\":\"nibble-" NIBBLE_VERSION "\""
#define CHAT_HEAD(object)                                                                          \
    "\"id\":\"chatcmpl-1\",\"object\":\"" object "\",\"created\":5,\"model\":\"m\"," FINGER
#define TEXT_HEAD                                                                                  \
    "\"id\":\"cmpl-1\",\"object\":\"text_completion\",\"created\":5,\"model\":\"m\"," FINGER
#define USAGE                                                                                      \
    "\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":3,\"total_tokens\":7,"                   \
    "\"prompt_tokens_details\":{\"cached_tokens\":2}}"
#define TIMINGS                                                                                    \
    "\"timings\":{\"cache_n\":2,\"prompt_n\":2,\"prompt_ms\":4,\"prompt_per_token_ms\":2,"         \
    "\"prompt_per_second\":500,\"predicted_n\":3,\"predicted_ms\":6,"                              \
    "\"predicted_per_token_ms\":2,\"predicted_per_second\":500}"

static const struct reply_usage SOME_USAGE = { 4, 3, 2 };
static const struct reply_timings SOME_TIMINGS = { 2, 2, 3, 4.0, 6.0 };
static const int32_t PROMPT[] = { 9, 8 };

static const struct reply_top TOPS_A[] = { TOP("a", -0.5f), TOP("\"\n", -1.25f) };
static const struct reply_top TOPS_B[] = { TOP("x", -0.25f), TOP("\xff", -2) };
static const struct reply_token AB[] = {
    TOKEN(1, "a", .logprob = -0.5f, .tops = TOPS_A, .n_tops = 2),
    TOKEN(2, "b\xc3", .logprob = -3, .tops = TOPS_B, .n_tops = 2, .text_offset = 1),
};
/* An echoed prompt of two tokens, then one of the answer. */
static const struct reply_token ECHO[] = {
    TOKEN(9, "<s>", .prompt = true, .no_logprob = true),
    TOKEN(8, "hi", .prompt = true, .logprob = -1, .tops = TOPS_A, .n_tops = 1, .text_offset = 3),
    TOKEN(1, "a", .logprob = -0.5f, .tops = TOPS_A, .n_tops = 2, .text_offset = 5),
};
/* What cannot be a number in JSON, and what can look odd. */
static const struct reply_top INFINITE[] = { TOP("p", -INFINITY), TOP("q", NAN) };
static const struct reply_token ODD[] = {
    TOKEN(1, "", .logprob = -INFINITY, .tops = INFINITE, .n_tops = 2),
    TOKEN(2, "\x01", .logprob = -0.0f),
};
/* Different bytes that look alike as text: the first stays, be it the chosen token or not. */
static const struct reply_top ALIKE[] = { TOP("\xe2", -0.5f), TOP("\xf0", -1), TOP("e", -2),
                                          TOP("e", -4) };
static const struct reply_token TWINS[] = {
    TOKEN(1, "\xf1", .logprob = -8, .tops = ALIKE, .n_tops = 4),
    TOKEN(2, "e", .logprob = -2, .tops = ALIKE, .n_tops = 4),
    TOKEN(3, "ee", .logprob = -16, .tops = ALIKE, .n_tops = 4),
};

static struct reply_head head_of(enum api_kind kind, bool logprobs, bool ids)
{
    return (struct reply_head){ .kind = kind,
                                .id = kind == API_CHAT ? "chatcmpl-1" : "cmpl-1",
                                .model = "m",
                                .created_s = 5,
                                .logprobs = logprobs,
                                .return_token_ids = ids };
}

/* ---- one choice, collected --------------------------------------------------------------------
 */

static const struct {
    const char *name;
    enum api_kind kind;
    bool logprobs, ids;
    struct reply_piece piece;
    const char *choice; /* what stands in choices[0], without index */
} WHOLE[] = {
    { "chat",
      API_CHAT,
      false,
      false,
      { TEXT("hi"), TOKENS(AB), .finish_reason = "stop", .stop_reason_token = -1 },
      "\"message\":{\"role\":\"assistant\",\"content\":\"hi\",\"refusal\":null},"
      "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":null" },
    { "chat without a word",
      API_CHAT,
      true,
      true,
      { TEXT(""), .finish_reason = "length", .stop_reason_token = -1 },
      "\"message\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
      "\"logprobs\":{\"content\":[],\"refusal\":null},\"finish_reason\":\"length\","
      "\"stop_reason\":null,\"token_ids\":[]" },
    { "text to be escaped",
      API_CHAT,
      false,
      false,
      { TEXT("\"\\\n\t\x01\x7f\xc3\xa9\xf0\x9f\x98\x80</script>"), .finish_reason = "stop",
        .stop_reason_token = 7 },
      "\"message\":{\"role\":\"assistant\",\"content\":\"\\\"\\\\\\n\\t\\u0001\x7f\xc3\xa9"
      "\\ud83d\\ude00</script>\",\"refusal\":null},\"logprobs\":null,\"finish_reason\":\"stop\","
      "\"stop_reason\":7" },
    { "a stop string of quotes",
      API_COMPLETION,
      false,
      false,
      { TEXT("x"), .finish_reason = "stop", .stop_reason_text = "\"\n", .stop_reason_token = -1 },
      "\"text\":\"x\",\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":\"\\\"\\n\"" },
    { "chat with log-probabilities",
      API_CHAT,
      true,
      true,
      { TEXT("ab\xef\xbf\xbd"), TOKENS(AB), .finish_reason = "stop", .stop_reason_token = -1 },
      "\"message\":{\"role\":\"assistant\",\"content\":\"ab\xef\xbf\xbd\",\"refusal\":null},"
      "\"logprobs\":{\"content\":[{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],"
      "\"top_logprobs\":[{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97]},"
      "{\"token\":\"\\\"\\n\",\"logprob\":-1.25,\"bytes\":[34,10]}]},"
      "{\"token\":\"b\xef\xbf\xbd\",\"logprob\":-3,\"bytes\":[98,195],"
      "\"top_logprobs\":[{\"token\":\"x\",\"logprob\":-0.25,\"bytes\":[120]},"
      "{\"token\":\"\xef\xbf\xbd\",\"logprob\":-2,\"bytes\":[255]}]}],\"refusal\":null},"
      "\"finish_reason\":\"stop\",\"stop_reason\":null,\"token_ids\":[1,2]" },
    { "a completion with log-probabilities: the chosen token is added to the tops",
      API_COMPLETION,
      true,
      false,
      { TEXT("ab"), TOKENS(AB), .finish_reason = "length", .stop_reason_token = -1 },
      "\"text\":\"ab\",\"logprobs\":{\"tokens\":[\"a\",\"b\xef\xbf\xbd\"],"
      "\"token_logprobs\":[-0.5,-3],\"top_logprobs\":[{\"a\":-0.5,\"\\\"\\n\":-1.25},"
      "{\"x\":-0.25,\"\xef\xbf\xbd\":-2,\"b\xef\xbf\xbd\":-3}],\"text_offset\":[0,1]},"
      "\"finish_reason\":\"length\",\"stop_reason\":null" },
    { "an echoed prompt is not among token_ids",
      API_COMPLETION,
      true,
      true,
      { TEXT("<s>hia"), TOKENS(ECHO), .finish_reason = "length", .stop_reason_token = -1,
        .prompt_ids = PROMPT, .n_prompt_ids = 2 },
      "\"text\":\"<s>hia\",\"logprobs\":{\"tokens\":[\"<s>\",\"hi\",\"a\"],"
      "\"token_logprobs\":[null,-1,-0.5],\"top_logprobs\":[null,{\"a\":-0.5,\"hi\":-1},"
      "{\"a\":-0.5,\"\\\"\\n\":-1.25}],\"text_offset\":[0,3,5]},\"finish_reason\":\"length\","
      "\"stop_reason\":null,\"prompt_token_ids\":[9,8],\"token_ids\":[1]" },
    { "what is not finite",
      API_CHAT,
      true,
      false,
      { TEXT(""), TOKENS(ODD), .finish_reason = "stop", .stop_reason_token = 0 },
      "\"message\":{\"role\":\"assistant\",\"content\":\"\",\"refusal\":null},"
      "\"logprobs\":{\"content\":[{\"token\":\"\",\"logprob\":-9999,\"bytes\":[],"
      "\"top_logprobs\":[{\"token\":\"p\",\"logprob\":-9999,\"bytes\":[112]},"
      "{\"token\":\"q\",\"logprob\":-9999,\"bytes\":[113]}]},{\"token\":\"\\u0001\","
      "\"logprob\":0,\"bytes\":[1],\"top_logprobs\":[]}],\"refusal\":null},"
      "\"finish_reason\":\"stop\",\"stop_reason\":0" },
    { "what is not finite, in a completion",
      API_COMPLETION,
      true,
      false,
      { TEXT(""), TOKENS(ODD), .finish_reason = "abort", .stop_reason_token = -1 },
      "\"text\":\"\",\"logprobs\":{\"tokens\":[\"\",\"\\u0001\"],\"token_logprobs\":[-9999,0],"
      "\"top_logprobs\":[{\"p\":-9999,\"q\":-9999,\"\":-9999},{\"\\u0001\":0}],"
      "\"text_offset\":[0,0]},\"finish_reason\":\"abort\",\"stop_reason\":null" },
    { "tokens that look alike",
      API_COMPLETION,
      true,
      false,
      { TEXT(""), TOKENS(TWINS), .finish_reason = "length", .stop_reason_token = -1 },
      "\"text\":\"\",\"logprobs\":{\"tokens\":[\"\xef\xbf\xbd\",\"e\",\"ee\"],"
      "\"token_logprobs\":[-8,-2,-16],\"top_logprobs\":[{\"\xef\xbf\xbd\":-0.5,\"e\":-2},"
      "{\"\xef\xbf\xbd\":-0.5,\"e\":-2},{\"\xef\xbf\xbd\":-0.5,\"e\":-2,\"ee\":-16}],"
      "\"text_offset\":[0,0,0]},\"finish_reason\":\"length\",\"stop_reason\":null" },
};

static void test_whole(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof WHOLE / sizeof WHOLE[0]; i++) {
        struct reply_head head = head_of(WHOLE[i].kind, WHOLE[i].logprobs, WHOLE[i].ids);
        bool chat = head.kind == API_CHAT;
        struct buf out, want;
        buf_init(&out, 1 << 20);
        buf_init(&want, 1 << 20);
        reply_begin(&out, &head);
        reply_choice(&out, &head, &WHOLE[i].piece, true);
        const struct reply_piece first = { .prompt_ids = WHOLE[i].ids ? PROMPT : NULL,
                                           .n_prompt_ids = 2 };
        reply_end(&out, &head, &SOME_USAGE, &SOME_TIMINGS, &first);
        buf_printf(&want, "{%s,\"choices\":[{\"index\":0,%s}]," USAGE "," TIMINGS "%s}",
                   chat ? CHAT_HEAD("chat.completion") : TEXT_HEAD, WHOLE[i].choice,
                   chat && WHOLE[i].ids ? ",\"prompt_token_ids\":[9,8]" : "");
        check_json(WHOLE[i].name, buf_text(&out), out.length, buf_text(&want));
        buf_clear(&out);
        buf_clear(&want);
    }
}

static void test_several_choices(void **state)
{
    (void)state;
    struct reply_head head = head_of(API_COMPLETION, false, false);
    struct buf out;
    buf_init(&out, 1 << 20);
    reply_begin(&out, &head);
    for (int32_t i = 0; i < 3; i++) {
        struct reply_piece piece = { .index = i,
                                     .text = i == 1 ? "b" : "",
                                     .length = i == 1,
                                     .finish_reason = "stop",
                                     .stop_reason_token = i - 1 };
        reply_choice(&out, &head, &piece, i == 0);
    }
    struct reply_timings none = { 0 };
    const struct reply_piece no_prompt = { 0 };
    reply_end(&out, &head, &SOME_USAGE, &none, &no_prompt);
    check_json("several choices", buf_text(&out), out.length,
               "{" TEXT_HEAD
               ",\"choices\":[{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":"
               "\"stop\",\"stop_reason\":null},{\"index\":1,\"text\":\"b\",\"logprobs\":null,"
               "\"finish_reason\":\"stop\",\"stop_reason\":0},{\"index\":2,\"text\":\"\","
               "\"logprobs\":null,\"finish_reason\":\"stop\",\"stop_reason\":1}]," USAGE
               ",\"timings\":{\"cache_n\":0,\"prompt_n\":0,\"prompt_ms\":0,"
               "\"prompt_per_token_ms\":0,\"prompt_per_second\":0,\"predicted_n\":0,"
               "\"predicted_ms\":0,\"predicted_per_token_ms\":0,\"predicted_per_second\":0}}");
    buf_clear(&out);
}

/* A float read back from the reply is the same float. */
static void test_logprob_digits(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 2000; i++) {
        float logprob = -20.0f * chance(7, 1, i) * chance(7, 2, i);
        struct reply_token token = TOKEN(1, "a", .logprob = logprob);
        struct reply_piece piece = { TEXT("a"), .tokens = &token, .n_tokens = 1 };
        struct reply_head head = head_of(API_COMPLETION, true, false);
        struct buf out;
        buf_init(&out, 1 << 20);
        reply_choice(&out, &head, &piece, true);
        cJSON *root = read_json("a logprob", buf_text(&out), out.length);
        const cJSON *list =
            cJSON_GetObjectItem(cJSON_GetObjectItem(root, "logprobs"), "token_logprobs");
        float back = (float)cJSON_GetArrayItem(list, 0)->valuedouble;
        if (memcmp(&back, &logprob, sizeof back) != 0)
            fail_msg("%.9g came back as %.9g", (double)logprob, (double)back);
        json_free(root);
        buf_clear(&out);
    }
}

/* ---- streams ----------------------------------------------------------------------------------
 */

/* The JSON of one event; it must be "data: ", one line, an empty line. */
static const char *event_json(const char *name, const struct buf *out, size_t *length)
{
    const char *text = buf_text(out);
    if (out->length < 8 || memcmp(text, "data: ", 6) != 0 ||
        memcmp(text + out->length - 2, "\n\n", 2) != 0)
        fail_msg("%s: not an event: %s", name, text);
    *length = out->length - 8;
    if (memchr(text + 6, '\n', *length) || memchr(text + 6, '\r', *length))
        fail_msg("%s: a line feed inside: %s", name, text);
    return text + 6;
}

static const struct {
    const char *name;
    enum api_kind kind;
    bool logprobs, ids, usage;
    struct reply_piece piece;
    const char *want; /* behind the head */
} CHUNKS[] = {
    { "the role",
      API_CHAT,
      false,
      true,
      false,
      { TEXT(""), .first = true, .stop_reason_token = -1, .prompt_ids = PROMPT, .n_prompt_ids = 2 },
      "\"prompt_token_ids\":[9,8],\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\","
      "\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null,\"token_ids\":[]}]" },
    { "the role with text",
      API_CHAT,
      false,
      false,
      false,
      { TEXT("a\r\n"), .index = 2, .first = true, .stop_reason_token = -1 },
      "\"choices\":[{\"index\":2,\"delta\":{\"role\":\"assistant\",\"content\":\"a\\r\\n\"},"
      "\"logprobs\":null,\"finish_reason\":null}]" },
    { "text with usage",
      API_CHAT,
      true,
      true,
      true,
      { TEXT("a"), .tokens = AB, .n_tokens = 1, .stop_reason_token = -1 },
      "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"logprobs\":{\"content\":["
      "{\"token\":\"a\",\"logprob\":-0.5,\"bytes\":[97],\"top_logprobs\":[{\"token\":\"a\","
      "\"logprob\":-0.5,\"bytes\":[97]},{\"token\":\"\\\"\\n\",\"logprob\":-1.25,"
      "\"bytes\":[34,10]}]}],\"refusal\":null},\"finish_reason\":null,\"token_ids\":[1]}]," USAGE },
    { "the end of a chat",
      API_CHAT,
      false,
      false,
      false,
      { TEXT(""), .finish_reason = "stop", .stop_reason_text = "END", .stop_reason_token = -1 },
      "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\","
      "\"stop_reason\":\"END\"}]" },
    { "a piece of a completion",
      API_COMPLETION,
      true,
      true,
      false,
      { TEXT("<s>hia"), TOKENS(ECHO), .stop_reason_token = -1, .prompt_ids = PROMPT,
        .n_prompt_ids = 2 },
      "\"choices\":[{\"index\":0,\"text\":\"<s>hia\",\"logprobs\":{\"tokens\":[\"<s>\",\"hi\","
      "\"a\"],\"token_logprobs\":[null,-1,-0.5],\"top_logprobs\":[null,{\"a\":-0.5,\"hi\":-1},"
      "{\"a\":-0.5,\"\\\"\\n\":-1.25}],\"text_offset\":[0,3,5]},\"finish_reason\":null,"
      "\"prompt_token_ids\":[9,8],\"token_ids\":[1]}]" },
    { "the end of a completion",
      API_COMPLETION,
      false,
      false,
      false,
      { TEXT("z"), .finish_reason = "length", .stop_reason_token = -1 },
      "\"choices\":[{\"index\":0,\"text\":\"z\",\"logprobs\":null,\"finish_reason\":\"length\","
      "\"stop_reason\":null}]" },
};

static void test_chunks(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof CHUNKS / sizeof CHUNKS[0]; i++) {
        struct reply_head head = head_of(CHUNKS[i].kind, CHUNKS[i].logprobs, CHUNKS[i].ids);
        struct buf out, want;
        size_t length;
        buf_init(&out, 1 << 20);
        buf_init(&want, 1 << 20);
        reply_chunk(&out, &head, &CHUNKS[i].piece, CHUNKS[i].usage ? &SOME_USAGE : NULL, NULL);
        buf_printf(&want, "{%s,%s}",
                   head.kind == API_CHAT ? CHAT_HEAD("chat.completion.chunk") : TEXT_HEAD,
                   CHUNKS[i].want);
        const char *json = event_json(CHUNKS[i].name, &out, &length);
        check_json(CHUNKS[i].name, json, length, buf_text(&want));
        buf_clear(&out);
        buf_clear(&want);
    }
}

static void test_other_events(void **state)
{
    (void)state;
    struct buf out;
    size_t length;
    buf_init(&out, 1 << 20);
    for (int32_t chat = 0; chat < 2; chat++) {
        struct reply_head head = head_of(chat ? API_CHAT : API_COMPLETION, true, true);
        buf_reset(&out);
        reply_usage_chunk(&out, &head, &SOME_USAGE, NULL);
        const char *json = event_json("usage", &out, &length);
        check_json("usage", json, length,
                   chat ? "{" CHAT_HEAD("chat.completion.chunk") ",\"choices\":[]," USAGE "}"
                        : "{" TEXT_HEAD ",\"choices\":[]," USAGE "}");
    }
    buf_reset(&out);
    reply_done(&out);
    assert_string_equal(buf_text(&out), "data: [DONE]\n\n");
    struct err err;
    err_set(&err, ERR_UNAVAILABLE, "the device\nis \"lost\"");
    buf_reset(&out);
    reply_error_chunk(&out, &err);
    const char *json = event_json("an error", &out, &length);
    check_json("an error", json, length,
               "{\"error\":{\"message\":\"the device is \\\"lost\\\"\",\"type\":"
               "\"unavailable_error\",\"param\":null,\"code\":503}}");
    buf_clear(&out);
}

enum { N_RANDOM = 40 };
struct random_reply {
    char bytes[N_RANDOM][8];
    struct reply_top tops[N_RANDOM][3];
    struct reply_token tokens[N_RANDOM];
    char text[256];
    size_t length;
    int32_t n;
};

/* Tokens of 0 to 4 bytes, half of them no UTF-8, with tops that are other tokens' bytes. */
static void random_reply(struct random_reply *r, uint64_t seed)
{
    static const char *const words[] = { "a",    "\xc3\xa9", "\n\"", "\xf0\x9f\x98\x80",
                                         "\xf0", "\x80",     "",     "\xe2\x82" };
    r->n = (int32_t)(chance(seed, 0, 0) * N_RANDOM);
    r->length = 0;
    for (int32_t i = 0; i < r->n; i++) {
        const char *word = words[(uint32_t)(chance(seed, 1, (uint64_t)i) * 8)];
        size_t length = strlen(word);
        memcpy(r->bytes[i], word, length + 1);
        for (int32_t k = 0; k < 3; k++) {
            const char *other = words[(uint32_t)(chance(seed, 2 + (uint64_t)k, (uint64_t)i) * 8)];
            r->tops[i][k] =
                (struct reply_top){ k, other, strlen(other), -(float)k - chance(seed, 9, 1) };
        }
        r->tokens[i] = (struct reply_token){ .id = i * 7,
                                             .bytes = r->bytes[i],
                                             .length = length,
                                             .logprob = -chance(seed, 10, (uint64_t)i),
                                             .tops = r->tops[i],
                                             .n_tops = i % 4,
                                             .text_offset = i };
        const char *shown = length == 1 || length == 2 ? "\xc3\xa9" : "b";
        memcpy(r->text + r->length, shown, strlen(shown));
        r->length += strlen(shown);
    }
}

static void append_items(cJSON *to, cJSON *from)
{
    while (from->child != NULL)
        cJSON_AddItemToArray(to, cJSON_DetachItemFromArray(from, 0));
}
/* Lists of `from` behind those of `to`, by name. */
static void append_lists(cJSON *to, cJSON *from)
{
    for (cJSON *list = to->child; list != NULL; list = list->next)
        if (cJSON_IsArray(list))
            append_items(list, cJSON_GetObjectItemCaseSensitive(from, list->string));
}

/* Whatever the cuts: the chunks' texts, log-probabilities and token ids, joined, are the collected
 * choice's. */
static void test_joined_stream(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct random_reply r;
        random_reply(&r, seed);
        struct reply_head head = head_of(seed % 2 ? API_CHAT : API_COMPLETION, true, true);
        bool chat = head.kind == API_CHAT;
        struct buf out, joined;
        buf_init(&out, 1 << 20);
        buf_init(&joined, 1 << 20);
        struct reply_piece whole = { .text = r.text,
                                     .length = r.length,
                                     .tokens = r.tokens,
                                     .n_tokens = r.n,
                                     .finish_reason = "length",
                                     .stop_reason_token = -1 };
        reply_choice(&out, &head, &whole, true);
        cJSON *collected = read_json("collected", buf_text(&out), out.length);
        cJSON *logprobs = NULL, *ids = cJSON_CreateArray();
        size_t text_at = 0;
        int32_t at = 0;
        for (bool first = true, last = false; !last; first = false) {
            int32_t n = (int32_t)(chance(seed, 20, (uint64_t)at) * 5) + !first;
            n = n < r.n - at ? n : r.n - at;
            last = at + n == r.n && !first;
            size_t to = text_at; /* as many characters as tokens */
            for (int32_t k = 0; k < n; k++)
                to += r.text[to] == 'b' ? 1 : 2;
            struct reply_piece piece = { .text = r.text + text_at,
                                         .length = to - text_at,
                                         .tokens = r.tokens + at,
                                         .n_tokens = n,
                                         .finish_reason = last ? "length" : NULL,
                                         .stop_reason_token = -1,
                                         .first = first };
            buf_reset(&out);
            reply_chunk(&out, &head, &piece, NULL, NULL);
            size_t length;
            const char *json = event_json("chunk", &out, &length);
            cJSON *root = read_json("chunk", json, length);
            cJSON *choice = cJSON_GetArrayItem(cJSON_GetObjectItem(root, "choices"), 0);
            const cJSON *text =
                chat ? cJSON_GetObjectItem(cJSON_GetObjectItem(choice, "delta"), "content")
                     : cJSON_GetObjectItem(choice, "text");
            if (text != NULL)
                buf_puts(&joined, text->valuestring);
            append_items(ids, cJSON_GetObjectItem(choice, "token_ids"));
            if (logprobs == NULL)
                logprobs = cJSON_DetachItemFromObject(choice, "logprobs");
            else
                append_lists(logprobs, cJSON_GetObjectItem(choice, "logprobs"));
            assert_int_equal(cJSON_IsString(cJSON_GetObjectItem(choice, "finish_reason")), last);
            json_free(root);
            text_at = to;
            at += n;
        }
        const cJSON *text =
            chat ? cJSON_GetObjectItem(cJSON_GetObjectItem(collected, "message"), "content")
                 : cJSON_GetObjectItem(collected, "text");
        assert_string_equal(buf_text(&joined), text->valuestring);
        assert_true(cJSON_Compare(logprobs, cJSON_GetObjectItem(collected, "logprobs"), true));
        assert_true(cJSON_Compare(ids, cJSON_GetObjectItem(collected, "token_ids"), true));
        cJSON_Delete(logprobs);
        cJSON_Delete(ids);
        json_free(collected);
        buf_clear(&out);
        buf_clear(&joined);
    }
}

/* ---- the small replies ------------------------------------------------------------------------
 */

static void test_characters(void **state)
{
    (void)state;
    assert_int_equal(reply_characters("", 0), 0);
    assert_int_equal(reply_characters("abc", 3), 3);
    assert_int_equal(reply_characters("\xc3\xa9\xf0\x9f\x98\x80z", 7), 3);
}

static void test_small_replies(void **state)
{
    (void)state;
    static const int32_t ids[] = { 5, 6 };
    static const char *const pieces[] = { "a\"", "\xc3" };
    static const size_t lengths[] = { 2, 1 };
    static const struct {
        const char *name;
        bool with_pieces, with_strings;
        int32_t n;
        const char *want;
    } rows[] = {
        { "ids", false, false, 2, "\"count\":2,\"tokens\":[5,6],\"token_strs\":null" },
        { "no ids", false, true, 0, "\"count\":0,\"tokens\":[],\"token_strs\":[]" },
        { "strings beside the ids, as vLLM", false, true, 2,
          "\"count\":2,\"tokens\":[5,6],\"token_strs\":[\"a\\\"\",\"\xef\xbf\xbd\"]" },
        { "pieces, as llama-server: bytes where there is no UTF-8", true, false, 2,
          "\"count\":2,\"tokens\":[{\"id\":5,\"piece\":\"a\\\"\"},{\"id\":6,\"piece\":[195]}],"
          "\"token_strs\":null" },
    };
    struct buf out, want;
    buf_init(&out, 1 << 20);
    buf_init(&want, 1 << 20);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tokenize_request request = { .with_pieces = rows[i].with_pieces,
                                            .with_strings = rows[i].with_strings };
        buf_reset(&out);
        buf_reset(&want);
        api_write_tokenize(&out, &request, ids, rows[i].n, pieces, lengths, 77);
        buf_printf(&want, "{\"max_model_len\":77,%s}", rows[i].want);
        check_json(rows[i].name, buf_text(&out), out.length, buf_text(&want));
    }
    buf_reset(&out);
    api_write_detokenize(&out, "a\n\xff", 3);
    check_json("detokenize", buf_text(&out), out.length,
               "{\"prompt\":\"a\\n\xef\xbf\xbd\",\"content\":\"a\\n\xef\xbf\xbd\"}");
    buf_reset(&out);
    api_write_apply_template(&out, "<|user|>\t", 9);
    check_json("apply-template", buf_text(&out), out.length, "{\"prompt\":\"<|user|>\\t\"}");
    struct api_model model = { .id = "m\"1", .vocab = 10, .ctx = 20, .created_s = 30 };
    buf_reset(&out);
    api_write_models(&out, &model);
    check_json("models", buf_text(&out), out.length,
               "{\"object\":\"list\",\"data\":[{\"id\":\"m\\\"1\",\"object\":\"model\","
               "\"created\":30,\"owned_by\":\"nibble\",\"max_model_len\":20,"
               "\"meta\":{\"n_vocab\":10,\"n_ctx_train\":20}}]}");
    buf_clear(&out);
    buf_clear(&want);
}

/* A buffer that is full says so, and is left as it was; nothing is read or written beyond. */
static void test_full_buffer(void **state)
{
    (void)state;
    struct reply_head head = head_of(API_COMPLETION, true, true);
    struct reply_piece piece = { TEXT("x"), TOKENS(TWINS), .finish_reason = "stop" };
    for (size_t limit = 0;; limit++) {
        struct buf out;
        buf_init(&out, limit);
        reply_chunk(&out, &head, &piece, &SOME_USAGE, NULL);
        bool failed = out.failed;
        assert_true(out.length <= limit);
        buf_clear(&out);
        if (!failed)
            break;
        assert_true(limit < 4096);
    }
}

/* ---- what only some ask for -------------------------------------------------------------------
 */

static void test_prompt_logprobs(void **state)
{
    (void)state;
    const struct reply_top tops[] = { { 7, "x", 1, -0.25f }, { 9, "a\"", 2, -1.5f } };
    const struct reply_token tokens[] = {
        { .id = 5, .bytes = "<s>", .length = 3, .no_logprob = true },
        { .id = 9, .bytes = "a\"", .length = 2, .logprob = -1.5f, .tops = tops, .n_tops = 2 },
        { .id = 4, .bytes = "\xff", .length = 1, .logprob = -8, .tops = tops, .n_tops = 1 },
    };
    const char *listed = "\"prompt_logprobs\":[null,"
                         "{\"9\":{\"logprob\":-1.5,\"rank\":2,\"decoded_token\":\"a\\\"\"},"
                         "\"7\":{\"logprob\":-0.25,\"rank\":1,\"decoded_token\":\"x\"}},"
                         "{\"4\":{\"logprob\":-8,\"rank\":null,\"decoded_token\":\"\xef\xbf\xbd\"},"
                         "\"7\":{\"logprob\":-0.25,\"rank\":1,\"decoded_token\":\"x\"}}]";
    struct buf out, want;
    buf_init(&out, 1 << 20);
    buf_init(&want, 1 << 20);
    for (int32_t chat = 0; chat < 2; chat++) {
        struct reply_head head = head_of(chat ? API_CHAT : API_COMPLETION, false, false);
        const struct reply_piece piece = { TEXT("t"), .finish_reason = "stop",
                                           .stop_reason_token = -1, .prompt_logprobs = tokens,
                                           .n_prompt_logprobs = 3 };
        buf_reset(&out);
        buf_reset(&want);
        reply_begin(&out, &head);
        reply_choice(&out, &head, &piece, true);
        reply_end(&out, &head, &SOME_USAGE, NULL, &piece);
        buf_printf(&want,
                   "{%s,\"choices\":[{\"index\":0,%s,\"logprobs\":null,\"finish_reason\":"
                   "\"stop\",\"stop_reason\":null%s%s}]," USAGE "%s%s}",
                   chat ? CHAT_HEAD("chat.completion") : TEXT_HEAD,
                   chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"t\",\"refusal\":null}"
                        : "\"text\":\"t\"",
                   chat ? "" : ",", chat ? "" : listed, chat ? "," : "", chat ? listed : "");
        check_json("prompt_logprobs", buf_text(&out), out.length, buf_text(&want));
    }
    buf_clear(&out);
    buf_clear(&want);
}

static void test_progress_and_timings(void **state)
{
    (void)state;
    const struct reply_progress progress = { 10, 2, 6, 1.5 };
    struct buf out;
    size_t length;
    buf_init(&out, 1 << 20);
    struct reply_head head = head_of(API_CHAT, false, false);
    reply_progress_chunk(&out, &head, 3, &progress);
    const char *json = event_json("progress", &out, &length);
    check_json(
        "progress", json, length,
        "{" CHAT_HEAD("chat.completion.chunk") ",\"choices\":[{\"index\":3,\"delta\":{},"
                                               "\"logprobs\":null,\"finish_reason\":null}],"
                                               "\"prompt_progress\":{\"total\":10,"
                                               "\"cache\":2,\"processed\":6,\"time_ms\":1.5}}");
    buf_reset(&out);
    head = head_of(API_COMPLETION, false, false);
    const struct reply_piece piece = { TEXT("t"), .stop_reason_token = -1 };
    reply_chunk(&out, &head, &piece, &SOME_USAGE, &SOME_TIMINGS);
    json = event_json("timings", &out, &length);
    check_json("timings", json, length,
               "{" TEXT_HEAD ",\"choices\":[{\"index\":0,\"text\":\"t\",\"logprobs\":null,"
               "\"finish_reason\":null}]," USAGE "," TIMINGS "}");
    buf_clear(&out);
}

static void test_select(void **state)
{
    (void)state;
    static const char json[] =
        "{\"a\":1.50,\"b\":{\"c\":[1,{\"d\":2},\"]\"],\"e\":\"}\\\"\",\"f\":{}},"
        "\"g\":null,\"h\\\"\":true,\"i\":\"\"}";
    static const struct {
        const char *names[4], *want;
    } rows[] = {
        { { "a" }, "{\"a\":1.50}" },
        { { "i", "g", "a" }, "{\"i\":\"\",\"g\":null,\"a\":1.50}" },
        { { "b/c", "b/e" }, "{\"c\":[1,{\"d\":2},\"]\"],\"e\":\"}\\\"\"}" },
        { { "b" }, "{\"b\":{\"c\":[1,{\"d\":2},\"]\"],\"e\":\"}\\\"\",\"f\":{}}}" },
        { { "b/f", "b/f/x", "b/c/d", "a/b" }, "{\"f\":{}}" },
        { { "x", "b/x", "/", "b/" }, "{}" },
        { { "a", "x/a", "a" }, "{\"a\":1.50}" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct api_stop names[4];
        struct buf out;
        int32_t n = 0;
        for (; n < 4 && rows[i].names[n] != NULL; n++)
            names[n] = (struct api_stop){ rows[i].names[n], strlen(rows[i].names[n]) };
        buf_init(&out, 1 << 16);
        reply_select(&out, json, sizeof json - 1, names, n);
        assert_string_equal(buf_text(&out), rows[i].want);
        buf_clear(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),          cmocka_unit_test(test_several_choices),
        cmocka_unit_test(test_logprob_digits), cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_other_events),   cmocka_unit_test(test_joined_stream),
        cmocka_unit_test(test_characters),     cmocka_unit_test(test_small_replies),
        cmocka_unit_test(test_full_buffer),    cmocka_unit_test(test_prompt_logprobs),
        cmocka_unit_test(test_select),         cmocka_unit_test(test_progress_and_timings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
