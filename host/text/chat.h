/* chat.h - messages to prompt text by a model's chat template (a Jinja2 subset, jinja_*.c).
 *
 * A template is code from a model file: it is interpreted with budgets (steps, depth, output
 * bytes, time) and has no way to the system. Text that came from a user must not turn into special
 * tokens: strings of messages, tools and documents that contain the text of a special token are
 * marked before rendering (a noncharacter U+FDD0..U+FDEF that the input does not use is put behind
 * the first character of that text) and the marks are taken out of the result, where they become
 * `barriers` for tokenizer_encode. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>
#include "host/base/buf.h"
#include "host/base/err.h"

struct cJSON;
struct chat_template; /* immutable after open, shared by threads */

/* `specials` (n of them): contents of the tokenizer's special tokens; copied. A syntax error is
 * ERR_FORMAT with line number. */
MUST_USE bool chat_template_open(struct chat_template **chat, const char *source, size_t length,
                                 const char *const *specials, size_t n_specials, struct err *err);
void chat_template_close(struct chat_template *chat);

/* The template's text in a tokenizer_config.json: `chat_template` is a string, or a list of
 * {name, template}, of which "default" is taken (or the only one). False when there is none.
 * Borrowed from the config. */
bool chat_template_source(const struct cJSON *tokenizer_config, const char **source);

struct chat_input {
    const struct cJSON *messages;  /* array, borrowed */
    const struct cJSON *tools;     /* array or NULL (None) */
    const struct cJSON *documents; /* array or NULL (None) */
    const struct cJSON *variables; /* object of further variables (chat_template_kwargs) or NULL;
                                      names of our own variables are refused by the caller */
    bool add_generation_prompt;
    bool continue_final_message; /* cut behind the last message's content, as transformers does */
    const char *bos_token, *eos_token, *unk_token, *pad_token; /* NULL: undefined */
    int64_t now_s; /* for strftime_now, seconds since 1970, shown as UTC */
};
struct chat_text {
    struct buf text;  /* chat_text_clear frees */
    size_t *barriers; /* [n_barriers] ascending byte offsets into text */
    size_t n_barriers;
};
/* raise_exception in the template, a budget, or a wrong operation: ERR_REQUEST with the template's
 * message. `out` must be zero-initialized or cleared. */
MUST_USE bool chat_render(const struct chat_template *chat, const struct chat_input *input,
                          struct chat_text *out, struct err *err);
void chat_text_clear(struct chat_text *out);
