/* text.h - /tokenize, /detokenize, /apply-template: vLLM's and llama-server's field names both. */
#pragma once
#include "api/generate.h"
#include "host/base/buf.h"

struct tokenize_request {
    const char *text; /* vLLM "prompt", llama-server "content"; NULL: chat messages */
    size_t length;
    bool add_special;     /* vLLM add_special_tokens (default true with prompt), llama add_special
                             (default false with content) */
    bool parse_special;   /* llama parse_special, default true */
    bool with_pieces;     /* llama with_pieces: tokens are {"id", "piece"} */
    bool with_strings;    /* vLLM return_token_strs: token_strs beside the ids */
    struct generate chat; /* with messages: kind API_CHAT fields for the template */
};
MUST_USE bool api_parse_tokenize(struct tokenize_request *out, struct cJSON *root,
                                 const struct api_model *model, struct arena *arena,
                                 struct err *err);
/* pieces[i]/piece_lengths[i]: bytes of ids[i]; used when with_pieces or with_strings. */
void api_write_tokenize(struct buf *out, const struct tokenize_request *request, const int32_t *ids,
                        int32_t n_ids, const char *const *pieces, const size_t *piece_lengths,
                        int32_t ctx);

struct detokenize_request {
    int32_t *ids; /* "tokens" */
    int32_t n_ids;
};
MUST_USE bool api_parse_detokenize(struct detokenize_request *out, struct cJSON *root,
                                   const struct api_model *model, struct arena *arena,
                                   struct err *err);
void api_write_detokenize(struct buf *out, const char *text, size_t length);

MUST_USE bool api_parse_apply_template(struct generate *out, struct cJSON *root,
                                       const struct api_model *model, struct arena *arena,
                                       struct err *err);
void api_write_apply_template(struct buf *out, const char *text, size_t length);

/* GET /v1/models and one model's object. */
void api_write_models(struct buf *out, const struct api_model *model);
