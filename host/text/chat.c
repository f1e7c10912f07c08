/* chat.c - messages to prompt text, with the text of special tokens in users' strings disarmed.
 *
 * Invariant: wherever a user's string contributes the first character of a special token's text, a
 * barrier stands behind that character in the result; also when the string holds only the begin
 * of that text and the template (or another string) brings the rest. Without such text nothing is
 * marked, and the render is exactly the template's. Any thread: a chat_template never changes. */
#include "host/text/chat.h"
#include "host/text/jinja.h"
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

enum {
    MARK_FIRST = 0xfdd0, /* noncharacters, for a program's own use */
    N_MARKS = 32,
    MARK_BYTES = 3,
};

struct chat_template {
    struct jinja jinja;
    struct value_text *specials; /* in the tree's arena, sorted by bytes */
    size_t n_specials;
    uint32_t source_marks; /* bit i: the template itself uses MARK_FIRST + i */
};

struct marker {
    const struct value_text *specials;
    size_t n_specials;
    bool first[256]; /* bytes that begin a special */
    uint32_t mark;
    char bytes[4]; /* of the mark */
};

/* Which marks the bytes use. */
static uint32_t marks_in(const char *bytes, size_t length)
{
    uint32_t used = 0;
    const char *p = bytes, *end = bytes + length;
    while (end - p >= MARK_BYTES && (p = memchr(p, 0xef, (size_t)(end - p) - 2))) {
        unsigned char last = (unsigned char)p[2];
        if ((unsigned char)p[1] == 0xb7 && last >= 0x90 && last < 0x90 + N_MARKS)
            used |= (uint32_t)1 << (last - 0x90);
        p++;
    }
    return used;
}

static int by_bytes(const void *a, const void *b)
{
    const struct value_text *x = a, *y = b;
    size_t n = x->length < y->length ? x->length : y->length;
    int order = memcmp(x->bytes, y->bytes, n);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

bool chat_template_open(struct chat_template **out, const char *source, size_t length,
                        const char *const *specials, size_t n_specials, struct err *err)
{
    *out = NULL;
    struct chat_template *chat = calloc(1, sizeof *chat);
    if (!chat)
        return err_set(err, ERR_MEMORY, "chat template: out of memory");
    if (!jinja_parse(&chat->jinja, source, length, err)) {
        free(chat);
        return false;
    }
    chat->source_marks = marks_in(source, length);
    chat->specials = arena_take(&chat->jinja.arena, n_specials, sizeof *chat->specials);
    if (!chat->specials)
        goto fail;
    for (size_t i = 0; i < n_specials; i++) {
        size_t n = strlen(specials[i]);
        const char *copy = n ? arena_copy(&chat->jinja.arena, specials[i], n) : "";
        if (!copy)
            goto fail;
        if (n)
            chat->specials[chat->n_specials++] = (struct value_text){ copy, n };
    }
    if (chat->n_specials)
        qsort(chat->specials, chat->n_specials, sizeof *chat->specials, by_bytes);
    *out = chat;
    return true;
fail:
    chat_template_close(chat);
    return err_set(err, ERR_MEMORY, "chat template: out of memory for its special tokens");
}

void chat_template_close(struct chat_template *chat)
{
    if (!chat)
        return;
    jinja_clear(&chat->jinja);
    free(chat);
}

bool chat_template_source(const struct cJSON *tokenizer_config, const char **source)
{
    const struct cJSON *entry, *found = NULL;
    const struct cJSON *member =
        cJSON_GetObjectItemCaseSensitive(tokenizer_config, "chat_template");
    *source = NULL;
    if (cJSON_IsString(member)) {
        *source = member->valuestring;
        return true;
    }
    if (!cJSON_IsArray(member))
        return false;
    cJSON_ArrayForEach (entry, member) {
        const struct cJSON *name = cJSON_GetObjectItemCaseSensitive(entry, "name");
        if (cJSON_IsString(name) && strcmp(name->valuestring, "default") == 0)
            found = entry;
    }
    if (!found && member->child && !member->child->next)
        found = member->child;
    const struct cJSON *text = cJSON_GetObjectItemCaseSensitive(found, "template");
    if (cJSON_IsString(text))
        *source = text->valuestring;
    return *source;
}

/* ---- marking ---- */

/* Does a special token begin at `at`, or one that the text's end (with or without the white space
 * there, which templates trim) breaks off? */
static bool special_begins(const struct marker *marker, const char *at, const char *end,
                           const char *trimmed_end)
{
    size_t low = 0, high = marker->n_specials;
    for (size_t k = 0;; k++) {
        if (marker->specials[low].length == k) /* a prefix sorts first */
            return true;
        if (at + k == end || (k && at + k == trimmed_end))
            return true;
        unsigned char c = (unsigned char)at[k];
        size_t from = low, to = high;
        while (from < to) { /* the first with a byte of at least c */
            size_t middle = (from + to) / 2;
            if ((unsigned char)marker->specials[middle].bytes[k] < c)
                from = middle + 1;
            else
                to = middle;
        }
        low = from;
        to = high;
        while (from < to) { /* the first with a byte above c */
            size_t middle = (from + to) / 2;
            if ((unsigned char)marker->specials[middle].bytes[k] <= c)
                from = middle + 1;
            else
                to = middle;
        }
        high = from;
        if (low == high)
            return false;
    }
}

/* The next place from `at` on where a mark is due (behind its first character), or NULL. */
static const char *next_special(const struct marker *marker, const char *at, const char *end,
                                const char *trimmed_end)
{
    for (; at < end; at++)
        if (marker->first[(unsigned char)*at] && special_begins(marker, at, end, trimmed_end))
            return at;
    return NULL;
}

static const char *trimmed(const char *bytes, size_t length)
{
    struct value_text text = text_strip(NULL, (struct value_text){ bytes, length }, NULL, 2);
    return text.bytes + text.length;
}

bool marker_put(struct run *run, const struct marker *marker, const char *bytes, size_t length)
{
    const char *at = bytes, *end = bytes + length, *trimmed_end = trimmed(bytes, length), *found;
    while ((found = next_special(marker, at, end, trimmed_end))) {
        const char *behind = found;
        text_next(NULL, &behind, end);
        if (!run_put(run, at, (size_t)(behind - at)) || !run_put(run, marker->bytes, MARK_BYTES))
            return false;
        at = behind;
    }
    return run_put(run, at, (size_t)(end - at));
}

struct survey {
    const struct marker *marker;
    uint32_t used;
    bool found;
};

static void survey_text(struct survey *survey, const char *text)
{
    size_t length = text ? strlen(text) : 0;
    if (!length)
        return;
    survey->used |= marks_in(text, length);
    survey->found =
        survey->found || next_special(survey->marker, text, text + length, trimmed(text, length));
}

/* Every string and key below the node. */
static bool survey_json(struct survey *survey, const struct cJSON *node, int32_t depth,
                        struct err *err)
{
    if (!node)
        return true;
    if (depth > JINJA_DATA_DEPTH_MAX)
        return err_set(err, ERR_REQUEST, "chat template: input of more than %d levels",
                       JINJA_DATA_DEPTH_MAX);
    if (cJSON_IsString(node))
        survey_text(survey, node->valuestring);
    for (const struct cJSON *child = node->child; child; child = child->next) {
        survey_text(survey, child->string);
        if (!survey_json(survey, child, depth + 1, err))
            return false;
    }
    return true;
}

/* marker->mark stays 0 when nothing has to be marked. */
static bool marker_init(struct marker *marker, const struct chat_template *chat,
                        const struct chat_input *input, struct err *err)
{
    *marker = (struct marker){ .specials = chat->specials, .n_specials = chat->n_specials };
    for (size_t i = 0; i < chat->n_specials; i++)
        marker->first[(unsigned char)*chat->specials[i].bytes] = true;
    struct survey survey = { .marker = marker, .used = chat->source_marks };
    if (!survey_json(&survey, input->messages, 0, err) ||
        !survey_json(&survey, input->tools, 0, err) ||
        !survey_json(&survey, input->documents, 0, err) ||
        !survey_json(&survey, input->variables, 0, err))
        return false;
    if (!survey.found)
        return true;
    for (uint32_t i = 0; i < N_MARKS && !marker->mark; i++)
        if (!(survey.used >> i & 1))
            marker->mark = MARK_FIRST + i;
    if (!marker->mark)
        return err_set(err, ERR_REQUEST,
                       "the input has the text of special tokens and all of U+FDD0 to U+FDEF, "
                       "which are noncharacters: at least one of them must be left");
    text_encode(marker->mark, marker->bytes);
    return true;
}

/* The marks out of the text; with `out`, their places into out->barriers. */
static bool marks_out(const struct marker *marker, char *text, size_t *length,
                      struct chat_text *out, struct err *err)
{
    size_t n = 0, kept = 0;
    if (!marker->mark || !*length)
        return true;
    for (const char *p = text, *end = text + *length;
         (p = memmem(p, (size_t)(end - p), marker->bytes, MARK_BYTES)); p += MARK_BYTES)
        n++;
    if (!n)
        return true;
    if (out && !(out->barriers = calloc(n, sizeof *out->barriers)))
        return err_set(err, ERR_MEMORY, "out of memory for %zu barriers", n);
    for (size_t i = 0; i < *length;) {
        if (*length - i >= MARK_BYTES && memcmp(text + i, marker->bytes, MARK_BYTES) == 0) {
            bool again = out && out->n_barriers && out->barriers[out->n_barriers - 1] == kept;
            if (out && kept && !again)
                out->barriers[out->n_barriers++] = kept;
            i += MARK_BYTES;
        } else {
            text[kept++] = text[i++];
        }
    }
    text[kept] = 0;
    *length = kept;
    while (out && out->n_barriers && out->barriers[out->n_barriers - 1] >= kept)
        out->n_barriers--;
    return true;
}

/* ---- the render ---- */

static bool define_json(struct run *run, const struct marker *marker, const char *name,
                        const struct cJSON *json)
{
    struct value value = value_none();
    if (json && !value_from_json(run, json, marker->mark ? marker : NULL, &value))
        return false;
    return run_define(run, name, value);
}

static bool define_text(struct run *run, const char *name, const char *text)
{
    return text ? run_define(run, name, value_word(text)) : true;
}

static bool define_all(struct run *run, const struct marker *marker, const struct chat_input *input)
{
    const struct cJSON *variable;
    cJSON_ArrayForEach (variable, input->variables)
        if (variable->string && !define_json(run, marker, variable->string, variable))
            return false;
    return define_json(run, marker, "messages", input->messages) &&
           define_json(run, marker, "tools", input->tools) &&
           define_json(run, marker, "documents", input->documents) &&
           run_define(run, "add_generation_prompt", value_bool(input->add_generation_prompt)) &&
           define_text(run, "bos_token", input->bos_token) &&
           define_text(run, "eos_token", input->eos_token) &&
           define_text(run, "unk_token", input->unk_token) &&
           define_text(run, "pad_token", input->pad_token);
}

/* The content of the last message: a string, or its last part with text. */
static const char *final_content(const struct cJSON *messages)
{
    const struct cJSON *last = messages ? messages->child : NULL, *part;
    const char *text = NULL;
    while (last && last->next)
        last = last->next;
    const struct cJSON *content = cJSON_GetObjectItemCaseSensitive(last, "content");
    if (cJSON_IsString(content))
        return content->valuestring;
    if (!cJSON_IsArray(content))
        return NULL;
    cJSON_ArrayForEach (part, content) {
        const struct cJSON *of_part = cJSON_GetObjectItemCaseSensitive(part, "text");
        if (cJSON_IsString(of_part))
            text = of_part->valuestring;
    }
    return text;
}

/* The last occurrence: memmem finds the first. */
static const char *find_last(const char *text, size_t length, struct value_text needle)
{
    for (size_t at = needle.length <= length ? length - needle.length + 1 : 0; at-- > 0;)
        if (memcmp(text + at, needle.bytes, needle.length) == 0)
            return text + at;
    return NULL;
}

/* Cut behind the last message's content. When the template kept the content as it is, trailing
 * space is part of it; when it trimmed, the text ends with the trimmed content (transformers). */
static bool cut_behind_final(const struct cJSON *messages, struct chat_text *out, struct err *err)
{
    const char *final = final_content(messages);
    if (!final)
        return err_set_field(err, ERR_REQUEST, "messages",
                             "continue_final_message needs a last message with text content");
    struct value_text whole = { final, strlen(final) }, trimmed_text;
    trimmed_text = text_strip(NULL, whole, NULL, 3);
    const char *text = buf_text(&out->text), *at = find_last(text, out->text.length, trimmed_text);
    if (!at)
        return err_set_field(err, ERR_REQUEST, "messages",
                             "continue_final_message: the last message's content does not appear "
                             "in the rendered chat, because the chat template changes it");
    size_t from = (size_t)(at - text), length = trimmed_text.length;
    if (out->text.length - from >= whole.length && memcmp(at, final, whole.length) == 0)
        length = whole.length;
    if (out->text.bytes) {
        out->text.length = from + length;
        out->text.bytes[out->text.length] = 0;
    }
    while (out->n_barriers && out->barriers[out->n_barriers - 1] >= out->text.length)
        out->n_barriers--;
    return true;
}

bool chat_render(const struct chat_template *chat, const struct chat_input *input,
                 struct chat_text *out, struct err *err)
{
    struct marker marker;
    struct run run;
    *out = (struct chat_text){ 0 };
    if (input->continue_final_message && input->add_generation_prompt)
        return err_set_field(err, ERR_REQUEST, "continue_final_message",
                             "continue_final_message and add_generation_prompt exclude each other");
    if (!marker_init(&marker, chat, input, err))
        return false;
    buf_init(&out->text, JINJA_OUTPUT_MAX);
    bool good = run_init(&run, &chat->jinja, &out->text, input->now_s, err);
    run.mark = marker.mark;
    good = good && define_all(&run, &marker, input) && run_template(&run);
    run_clear(&run);
    if (!good) { /* a message may quote the user's text */
        size_t length = strlen(err->text);
        struct err ignored;
        (void)!marks_out(&marker, err->text, &length, NULL, &ignored);
        goto fail;
    }
    if (!marks_out(&marker, out->text.bytes, &out->text.length, out, err) ||
        (input->continue_final_message && !cut_behind_final(input->messages, out, err)))
        goto fail;
    return true;
fail:
    chat_text_clear(out);
    return false;
}

void chat_text_clear(struct chat_text *out)
{
    buf_clear(&out->text);
    free(out->barriers);
    *out = (struct chat_text){ 0 };
}
