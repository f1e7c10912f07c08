/* reply.c - the JSON of replies, whole and streamed, from the same parts. */
#include "api/reply.h"
#include "api/error.h"
#include <math.h>
#include <string.h>

int64_t reply_characters(const char *text, size_t length)
{
    int64_t n = 0;
    for (size_t i = 0; i < length; i++)
        n += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n;
}

/* Log-probabilities are floats: nine significant digits give each back exactly. -inf cannot be
 * JSON. */
static void put_logprob(struct buf *out, float logprob)
{
    if (!isfinite(logprob))
        buf_puts(out, "-9999.0");
    else
        buf_printf(out, "%.9g", (double)logprob);
}

static void put_ids(struct buf *out, const int32_t *ids, int32_t n)
{
    buf_putc(out, '[');
    for (int32_t i = 0; i < n; i++)
        buf_printf(out, "%s%d", i ? "," : "", (int)ids[i]);
    buf_putc(out, ']');
}

/* Generated tokens only: an echoed prompt is in prompt_token_ids. */
static void put_token_ids(struct buf *out, const struct reply_piece *piece)
{
    bool any = false;
    buf_puts(out, ",\"token_ids\":[");
    for (int32_t i = 0; i < piece->n_tokens; i++) {
        if (piece->tokens[i].prompt)
            continue;
        buf_printf(out, "%s%d", any ? "," : "", (int)piece->tokens[i].id);
        any = true;
    }
    buf_putc(out, ']');
}

static void put_bytes(struct buf *out, const char *bytes, size_t length)
{
    buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < length; i++)
        buf_printf(out, "%s%d", i ? "," : "", (unsigned char)bytes[i]);
    buf_putc(out, ']');
}

static void put_token(struct buf *out, const struct reply_head *head, int32_t id, const char *bytes,
                      size_t length)
{
    if (head->tokens_as_ids)
        buf_printf(out, "\"token_id:%d\"", (int)id);
    else
        buf_put_json_string(out, bytes, length);
}

static void put_chat_logprobs(struct buf *out, const struct reply_head *head,
                              const struct reply_piece *piece)
{
    buf_puts(out, "{\"content\":[");
    for (int32_t i = 0; i < piece->n_tokens; i++) {
        const struct reply_token *token = &piece->tokens[i];
        buf_puts(out, i ? ",{\"token\":" : "{\"token\":");
        put_token(out, head, token->id, token->bytes, token->length);
        buf_puts(out, ",\"logprob\":");
        put_logprob(out, token->logprob);
        put_bytes(out, token->bytes, token->length);
        buf_puts(out, ",\"top_logprobs\":[");
        for (int32_t k = 0; k < token->n_tops; k++) {
            const struct reply_top *top = &token->tops[k];
            buf_puts(out, k ? ",{\"token\":" : "{\"token\":");
            put_token(out, head, top->id, top->bytes, top->length);
            buf_puts(out, ",\"logprob\":");
            put_logprob(out, top->logprob);
            put_bytes(out, top->bytes, top->length);
            buf_putc(out, '}');
        }
        buf_puts(out, "]}");
    }
    buf_puts(out, "],\"refusal\":null}");
}

/* One `"text":logprob` member, unless its key is among the n_keys that start at keys[]: two tokens
 * can look alike (byte pieces that are no UTF-8 by themselves all show as U+FFFD), and an object
 * must not hold one key twice. The first, which is the likelier, stays. */
static int32_t put_top(struct buf *out, const struct reply_head *head, size_t *keys, int32_t n_keys,
                       const struct reply_top *top)
{
    size_t before = out->length;
    if (n_keys > 0)
        buf_putc(out, ',');
    size_t at = out->length;
    put_token(out, head, top->id, top->bytes, top->length);
    buf_putc(out, ':');
    if (out->failed)
        return n_keys;
    size_t key_bytes = out->length - at;
    for (int32_t i = 0; i < n_keys; i++) {
        /* No key is the beginning of another: each ends with the only bare quote and a colon. */
        if (key_bytes <= at - keys[i] &&
            memcmp(out->bytes + keys[i], out->bytes + at, key_bytes) == 0) {
            out->length = before;
            out->bytes[before] = 0;
            return n_keys;
        }
    }
    put_logprob(out, top->logprob);
    keys[n_keys] = at;
    return n_keys + 1;
}

/* The token that was chosen is always there, as with OpenAI and vLLM. */
static void put_top_object(struct buf *out, const struct reply_head *head,
                           const struct reply_token *token)
{
    const struct reply_top own = { token->id, token->bytes, token->length, token->logprob };
    size_t keys[API_TOP_MAX + 1];
    int32_t n = 0;
    CHECK(token->n_tops <= API_TOP_MAX);
    buf_putc(out, '{');
    for (int32_t k = 0; k < token->n_tops; k++)
        n = put_top(out, head, keys, n, &token->tops[k]);
    put_top(out, head, keys, n, &own);
    buf_putc(out, '}');
}

static void put_completion_logprobs(struct buf *out, const struct reply_head *head,
                                    const struct reply_piece *piece)
{
    int32_t n = piece->n_tokens;
    buf_puts(out, "{\"tokens\":[");
    for (int32_t i = 0; i < n; i++) {
        buf_puts(out, i ? "," : "");
        put_token(out, head, piece->tokens[i].id, piece->tokens[i].bytes, piece->tokens[i].length);
    }
    buf_puts(out, "],\"token_logprobs\":[");
    for (int32_t i = 0; i < n; i++) {
        buf_puts(out, i ? "," : "");
        if (piece->tokens[i].no_logprob)
            buf_puts(out, "null");
        else
            put_logprob(out, piece->tokens[i].logprob);
    }
    buf_puts(out, "],\"top_logprobs\":[");
    for (int32_t i = 0; i < n; i++) {
        buf_puts(out, i ? "," : "");
        if (piece->tokens[i].no_logprob)
            buf_puts(out, "null");
        else
            put_top_object(out, head, &piece->tokens[i]);
    }
    buf_puts(out, "],\"text_offset\":[");
    for (int32_t i = 0; i < n; i++)
        buf_printf(out, "%s%lld", i ? "," : "", (long long)piece->tokens[i].text_offset);
    buf_puts(out, "]}");
}

static void put_logprobs(struct buf *out, const struct reply_head *head,
                         const struct reply_piece *piece)
{
    buf_puts(out, ",\"logprobs\":");
    if (!head->logprobs)
        buf_puts(out, "null");
    else if (head->kind == API_CHAT)
        put_chat_logprobs(out, head, piece);
    else
        put_completion_logprobs(out, head, piece);
}

static void put_finish(struct buf *out, const struct reply_piece *piece)
{
    buf_puts(out, ",\"finish_reason\":");
    if (piece->finish_reason == NULL)
        buf_puts(out, "null");
    else
        buf_printf(out, "\"%s\"", piece->finish_reason);
    if (piece->finish_reason == NULL)
        return;
    buf_puts(out, ",\"stop_reason\":");
    if (piece->stop_reason_text != NULL)
        buf_put_json_string(out, piece->stop_reason_text, strlen(piece->stop_reason_text));
    else if (piece->stop_reason_token >= 0)
        buf_printf(out, "%d", (int)piece->stop_reason_token);
    else
        buf_puts(out, "null");
}

static void put_head(struct buf *out, const struct reply_head *head, const char *object)
{
    buf_puts(out, "{\"id\":");
    buf_put_json_string(out, head->id, strlen(head->id));
    buf_printf(out, ",\"object\":\"%s\",\"created\":%lld,\"model\":", object,
               (long long)head->created_s);
    buf_put_json_string(out, head->model, strlen(head->model));
    buf_puts(out, ",\"system_fingerprint\":\"nibble-" NIBBLE_VERSION "\"");
}

static void put_usage(struct buf *out, const struct reply_usage *usage)
{
    buf_printf(out,
               "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
               "\"prompt_tokens_details\":{\"cached_tokens\":%lld}}",
               (long long)usage->prompt_tokens, (long long)usage->completion_tokens,
               (long long)(usage->prompt_tokens + usage->completion_tokens),
               (long long)usage->cached_tokens);
}

static void put_prompt_ids(struct buf *out, const struct reply_piece *piece)
{
    if (piece->prompt_ids == NULL)
        return;
    buf_puts(out, ",\"prompt_token_ids\":");
    put_ids(out, piece->prompt_ids, piece->n_prompt_ids);
}

/* One member of vLLM's {"id": {"logprob", "rank", "decoded_token"}}. The rank of a token that is
 * not among the likeliest is not known: null. */
static void put_ranked(struct buf *out, const struct reply_head *head, const struct reply_top *top,
                       int32_t rank, bool first)
{
    buf_printf(out, "%s\"%d\":{\"logprob\":", first ? "" : ",", (int)top->id);
    put_logprob(out, top->logprob);
    if (rank > 0)
        buf_printf(out, ",\"rank\":%d,\"decoded_token\":", (int)rank);
    else
        buf_puts(out, ",\"rank\":null,\"decoded_token\":");
    put_token(out, head, top->id, top->bytes, top->length);
    buf_putc(out, '}');
}

/* The prompt's own token first, then the likeliest ones. */
static void put_prompt_logprobs(struct buf *out, const struct reply_head *head,
                                const struct reply_piece *piece)
{
    if (piece->prompt_logprobs == NULL)
        return;
    buf_puts(out, ",\"prompt_logprobs\":[");
    for (int32_t i = 0; i < piece->n_prompt_logprobs; i++) {
        const struct reply_token *token = &piece->prompt_logprobs[i];
        if (token->no_logprob) {
            buf_puts(out, i ? ",null" : "null");
            continue;
        }
        const struct reply_top own = { token->id, token->bytes, token->length, token->logprob };
        int32_t rank = 0;
        for (int32_t k = 0; k < token->n_tops; k++)
            rank = token->tops[k].id == token->id ? k + 1 : rank;
        buf_puts(out, i ? ",{" : "{");
        put_ranked(out, head, &own, rank, true);
        for (int32_t k = 0; k < token->n_tops; k++)
            if (token->tops[k].id != token->id)
                put_ranked(out, head, &token->tops[k], k + 1, false);
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}

static void put_timings(struct buf *out, const struct reply_timings *timings)
{
    double prompt_n = (double)timings->prompt_n, predicted_n = (double)timings->predicted_n;
    buf_printf(
        out,
        ",\"timings\":{\"cache_n\":%lld,\"prompt_n\":%lld,\"prompt_ms\":%.3f,"
        "\"prompt_per_token_ms\":%.3f,\"prompt_per_second\":%.3f,\"predicted_n\":%lld,"
        "\"predicted_ms\":%.3f,\"predicted_per_token_ms\":%.3f,\"predicted_per_second\":%.3f}",
        (long long)timings->cache_n, (long long)timings->prompt_n, timings->prompt_ms,
        timings->prompt_n ? timings->prompt_ms / prompt_n : 0.0,
        timings->prompt_ms > 0 ? 1e3 * prompt_n / timings->prompt_ms : 0.0,
        (long long)timings->predicted_n, timings->predicted_ms,
        timings->predicted_n ? timings->predicted_ms / predicted_n : 0.0,
        timings->predicted_ms > 0 ? 1e3 * predicted_n / timings->predicted_ms : 0.0);
}

static const char *chunk_object(const struct reply_head *head)
{
    return head->kind == API_CHAT ? "chat.completion.chunk" : "text_completion";
}

void reply_progress_chunk(struct buf *out, const struct reply_head *head, int32_t index,
                          const struct reply_progress *progress)
{
    buf_puts(out, "data: ");
    put_head(out, head, chunk_object(head));
    buf_printf(out, ",\"choices\":[{\"index\":%d,%s,\"logprobs\":null,\"finish_reason\":null}]",
               (int)index, head->kind == API_CHAT ? "\"delta\":{}" : "\"text\":\"\"");
    buf_printf(out,
               ",\"prompt_progress\":{\"total\":%lld,\"cache\":%lld,\"processed\":%lld,"
               "\"time_ms\":%.3f}}\n\n",
               (long long)progress->total, (long long)progress->cache,
               (long long)progress->processed, progress->time_ms);
}

/* ---- text that was split ----------------------------------------------------------------------
 */

/* All events of one kind (and call), joined, as `,"key":"..."`; nothing when there are none and
 * `always` is not set. */
static void put_said(struct buf *out, const struct tool_said *said, enum tool_said_kind kind,
                     int32_t call, const char *key, bool always)
{
    struct buf text;
    bool any = false;
    buf_init(&text, SIZE_MAX);
    for (int32_t i = 0; i < said->n_events; i++) {
        const struct tool_event *event = &said->events[i];
        if (event->kind != kind || event->call != call)
            continue;
        any = true;
        buf_put(&text, said->text + event->at, event->length);
    }
    if (any || always) {
        buf_printf(out, ",\"%s\":", key);
        buf_put_json_string(out, buf_text(&text), text.length);
    }
    out->failed = out->failed || text.failed;
    buf_clear(&text);
}

/* The calls of which something was said: whole ones in a message; in a delta (`streamed`) with
 * their index, and with id and name where they begin. */
static void put_calls(struct buf *out, const struct tool_said *said, bool streamed)
{
    int32_t last = -1;
    for (int32_t i = 0; i < said->n_events; i++) {
        const struct tool_event *event = &said->events[i];
        bool begins = event->kind == TOOL_SAID_CALL;
        if ((!begins && event->kind != TOOL_SAID_ARGUMENTS) || event->call == last)
            continue;
        buf_puts(out, last < 0 ? ",\"tool_calls\":[{" : ",{");
        last = event->call;
        if (streamed)
            buf_printf(out, "\"index\":%d,", (int)event->call);
        if (begins) {
            buf_printf(out,
                       "\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", event->id);
            buf_put_json_string(out, said->text + event->at, event->length);
            put_said(out, said, TOOL_SAID_ARGUMENTS, event->call, "arguments", true);
        } else {
            buf_puts(out, "\"function\":{\"arguments\":");
            buf_put_json_string(out, said->text + event->at, event->length);
        }
        buf_puts(out, "}}");
    }
    if (last >= 0)
        buf_putc(out, ']');
}

static void put_delta(struct buf *out, const struct tool_said *said)
{
    size_t from = out->length;
    put_said(out, said, TOOL_SAID_REASONING, -1, "reasoning_content", false);
    put_said(out, said, TOOL_SAID_CONTENT, -1, "content", false);
    put_calls(out, said, true);
    /* Each member began with a comma: the first takes the place of none. */
    if (!out->failed && out->length > from) {
        memmove(out->bytes + from, out->bytes + from + 1, out->length - from);
        out->length--;
    }
}

static void put_message(struct buf *out, const struct tool_said *said)
{
    bool content = false, calls = false;
    for (int32_t i = 0; i < said->n_events; i++) {
        content = content || said->events[i].kind == TOOL_SAID_CONTENT;
        calls = calls || said->events[i].kind == TOOL_SAID_CALL;
    }
    if (content || !calls)
        put_said(out, said, TOOL_SAID_CONTENT, -1, "content", true);
    else
        buf_puts(out, ",\"content\":null");
    put_said(out, said, TOOL_SAID_REASONING, -1, "reasoning_content", false);
    put_calls(out, said, false);
}

void reply_chunk(struct buf *out, const struct reply_head *head, const struct reply_piece *piece,
                 const struct reply_usage *usage, const struct reply_timings *timings)
{
    bool chat = head->kind == API_CHAT;
    buf_puts(out, "data: ");
    put_head(out, head, chunk_object(head));
    if (chat)
        put_prompt_ids(out, piece);
    buf_printf(out, ",\"choices\":[{\"index\":%d,", (int)piece->index);
    if (chat) {
        buf_puts(out, "\"delta\":{");
        if (piece->first)
            buf_puts(out, piece->length ? "\"role\":\"assistant\","
                                        : "\"role\":\"assistant\",\"content\":\"\"");
        if (piece->split) {
            put_delta(out, &piece->said);
        } else if (piece->length) {
            buf_puts(out, "\"content\":");
            buf_put_json_string(out, piece->text, piece->length);
        }
        buf_putc(out, '}');
    } else {
        buf_puts(out, "\"text\":");
        buf_put_json_string(out, piece->text, piece->length);
    }
    put_logprobs(out, head, piece);
    put_finish(out, piece);
    if (head->return_token_ids) {
        if (!chat)
            put_prompt_ids(out, piece);
        put_token_ids(out, piece);
    }
    buf_puts(out, "}]");
    if (usage != NULL) {
        buf_puts(out, ",\"usage\":");
        put_usage(out, usage);
    }
    if (timings != NULL)
        put_timings(out, timings);
    buf_puts(out, "}\n\n");
}

void reply_usage_chunk(struct buf *out, const struct reply_head *head,
                       const struct reply_usage *usage, const struct reply_timings *timings)
{
    buf_puts(out, "data: ");
    put_head(out, head, chunk_object(head));
    buf_puts(out, ",\"choices\":[],\"usage\":");
    put_usage(out, usage);
    if (timings != NULL)
        put_timings(out, timings);
    buf_puts(out, "}\n\n");
}

void reply_done(struct buf *out)
{
    buf_puts(out, "data: [DONE]\n\n");
}

void reply_error_chunk(struct buf *out, const struct err *err)
{
    buf_puts(out, "data: ");
    api_write_error(out, err, 0, 0);
    buf_puts(out, "\n\n");
}

void reply_begin(struct buf *out, const struct reply_head *head)
{
    put_head(out, head, head->kind == API_CHAT ? "chat.completion" : "text_completion");
    buf_puts(out, ",\"choices\":[");
}

void reply_choice(struct buf *out, const struct reply_head *head, const struct reply_piece *whole,
                  bool is_first_choice)
{
    bool chat = head->kind == API_CHAT;
    buf_printf(out, "%s{\"index\":%d,", is_first_choice ? "" : ",", (int)whole->index);
    if (chat && whole->split) {
        buf_puts(out, "\"message\":{\"role\":\"assistant\"");
        put_message(out, &whole->said);
    } else {
        buf_puts(out, chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
        buf_put_json_string(out, whole->text, whole->length);
    }
    if (chat)
        buf_puts(out, ",\"refusal\":null}");
    put_logprobs(out, head, whole);
    put_finish(out, whole);
    if (head->return_token_ids) {
        if (!chat)
            put_prompt_ids(out, whole);
        put_token_ids(out, whole);
    }
    if (!chat)
        put_prompt_logprobs(out, head, whole);
    buf_putc(out, '}');
}

void reply_end(struct buf *out, const struct reply_head *head, const struct reply_usage *usage,
               const struct reply_timings *timings, const struct reply_piece *first)
{
    buf_puts(out, "],\"usage\":");
    put_usage(out, usage);
    if (timings != NULL)
        put_timings(out, timings);
    if (head->kind == API_CHAT) {
        put_prompt_ids(out, first);
        put_prompt_logprobs(out, head, first);
    }
    buf_putc(out, '}');
}
