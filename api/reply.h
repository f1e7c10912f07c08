/* reply.h - finished JSON and SSE text of generations. A streamed reply and a collected one are
 * made of the same pieces, so they cannot differ.
 *
 * Shapes: OpenAI chat.completion(.chunk) and text_completion; vLLM's token_ids and
 * prompt_token_ids with return_token_ids. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "api/generate.h"
#include "host/base/buf.h"

struct reply_head {
    enum api_kind kind;
    const char *id; /* "chatcmpl-..." or "cmpl-..." */
    const char *model;
    int64_t created_s;
    bool logprobs, return_token_ids;
    bool tokens_as_ids; /* "token_id:123" for a token's text in log-probabilities */
};
struct reply_top {
    int32_t id;
    const char *bytes;
    size_t length;
    float logprob;
};
/* One token with what is said of it. */
struct reply_token {
    int32_t id;
    const char *bytes; /* its own bytes, perhaps not UTF-8 */
    size_t length;
    float logprob;
    bool prompt;                  /* of an echoed prompt: not among token_ids */
    bool no_logprob;              /* null: the first token of a prompt */
    const struct reply_top *tops; /* [n_tops], likeliest first; at most API_TOP_MAX */
    int32_t n_tops;
    int64_t text_offset; /* completions: characters (code points) of text before it */
};
/* What became certain for one choice. */
struct reply_piece {
    int32_t index;
    bool split;            /* chat whose text is split: said stands for text */
    struct tool_said said; /* since the last piece, or all of it */
    const char *text;
    size_t length;
    const struct reply_token *tokens; /* [n_tokens]: for logprobs and token_ids */
    int32_t n_tokens;
    const char *finish_reason;    /* "stop", "length", NULL: not yet */
    const char *stop_reason_text; /* vLLM's stop_reason: the stop string, or NULL */
    int32_t stop_reason_token;    /* or the stop token id, -1: none */
    bool first;                   /* chat: this chunk carries the role */
    /* Not streamed: vLLM's prompt_logprobs, one a token of the prompt; NULL: not asked for */
    const struct reply_token *prompt_logprobs;
    int32_t n_prompt_logprobs;
    const int32_t *prompt_ids; /* with return_token_ids, first piece of a choice; or NULL */
    int32_t n_prompt_ids;
};
struct reply_usage {
    int64_t prompt_tokens, completion_tokens, cached_tokens;
};
struct reply_timings {
    int64_t cache_n, prompt_n, predicted_n;
    double prompt_ms, predicted_ms;
};

/* llama-server's prompt_progress: of `total` tokens `processed` are there, `cache` of them from the
 * start. */
struct reply_progress {
    int64_t total, cache, processed;
    double time_ms;
};

/* One SSE event `data: {...}\n\n` of one piece. `usage` NULL unless continuous_usage_stats;
 * `timings` NULL but with timings_per_token, and in the last event. */
void reply_chunk(struct buf *out, const struct reply_head *head, const struct reply_piece *piece,
                 const struct reply_usage *usage, const struct reply_timings *timings);
/* An event about the prompt, with an empty delta (or text) of that choice. */
void reply_progress_chunk(struct buf *out, const struct reply_head *head, int32_t index,
                          const struct reply_progress *progress);
/* The last chunk with empty choices and usage (stream_options.include_usage). */
void reply_usage_chunk(struct buf *out, const struct reply_head *head,
                       const struct reply_usage *usage, const struct reply_timings *timings);
void reply_done(struct buf *out); /* data: [DONE] */
/* An error inside a stream that has begun: one event with the error body. */
void reply_error_chunk(struct buf *out, const struct err *err);

/* The collected form: begin, then each choice whole, then end. */
void reply_begin(struct buf *out, const struct reply_head *head);
void reply_choice(struct buf *out, const struct reply_head *head, const struct reply_piece *whole,
                  bool is_first_choice);
/* Chat: prompt ids (return_token_ids) and prompt_logprobs are those of `first`, at the top level.
 */
void reply_end(struct buf *out, const struct reply_head *head, const struct reply_usage *usage,
               const struct reply_timings *timings, const struct reply_piece *first);
/* response_fields: of the members of the object json[0..length) those whose names are asked for,
 * "a" or "a/b" for a member of a member, each under its last name, in that order. Ones that are not
 * there are left out. `json` is this server's own. */
void reply_select(struct buf *out, const char *json, size_t length, const struct api_stop *names,
                  int32_t n_names);

/* Code points in UTF-8 text: for text_offset. */
int64_t reply_characters(const char *text, size_t length);
