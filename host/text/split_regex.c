/* split_regex.c - compiling and running split patterns with PCRE2.
 *
 * The subject must be valid UTF-8: PCRE2 is told not to check. Limits: a match that takes more
 * than MATCH_LIMIT steps or 64 MiB of backtracking memory ends in ERR_REQUEST, not in a hang. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "host/text/split_regex.h"
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/unicode.h"

enum {
    MATCH_LIMIT = 20000000,
    HEAP_LIMIT_KIB = 65536,
    JIT_STACK_START = 32768,
    JIT_STACK_MAX = 64 << 20,
};

struct split_regex {
    pcre2_code *code;
    bool jit;
};

bool split_regex_open(struct split_regex **regex, enum regex_kind kind, const char *pattern,
                      size_t length, struct err *err)
{
    struct buf source;
    pcre2_compile_context *context = NULL;
    struct split_regex *made = NULL;
    int code;
    size_t at;
    buf_init(&source, 64 * REGEX_PATTERN_MAX);
    if (length > REGEX_PATTERN_MAX) {
        err_set(err, ERR_UNSUPPORTED, "pattern of %zu bytes, at most %d", length,
                REGEX_PATTERN_MAX);
        goto fail;
    }
    if (kind == REGEX_RUBY) {
        if (!regex_from_ruby(pattern, length, &source, err))
            goto fail;
    } else {
        buf_put(&source, pattern, length);
    }
    made = calloc(1, sizeof *made);
    context = pcre2_compile_context_create(NULL);
    if (!made || !context || source.failed) {
        err_set(err, ERR_MEMORY, "no memory for a pattern of %zu bytes", length);
        goto fail;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    pcre2_set_bsr(context, PCRE2_BSR_UNICODE);
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    if (kind == REGEX_LITERAL)
        options = PCRE2_UTF | PCRE2_LITERAL;
    made->code =
        pcre2_compile((PCRE2_SPTR)buf_text(&source), source.length, options, &code, &at, context);
    if (!made->code) {
        PCRE2_UCHAR text[160] = "";
        pcre2_get_error_message(code, text, sizeof text);
        err_set(err, ERR_UNSUPPORTED, "pattern: %s at byte %zu of its PCRE2 form \"%.200s\"",
                (const char *)text, at, buf_text(&source));
        goto fail;
    }
    /* No JIT (not built in, or no executable memory): the interpreter does the same, slower. */
    made->jit = pcre2_jit_compile(made->code, PCRE2_JIT_COMPLETE) == 0;
    pcre2_compile_context_free(context);
    buf_clear(&source);
    *regex = made;
    return true;
fail:
    pcre2_compile_context_free(context);
    buf_clear(&source);
    split_regex_close(made);
    return false;
}

void split_regex_close(struct split_regex *regex)
{
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    free(regex);
}

void regex_scratch_clear(struct regex_scratch *scratch)
{
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    *scratch = (struct regex_scratch){ 0 };
}

static bool scratch_ready(struct regex_scratch *scratch)
{
    if (!scratch->match)
        scratch->match = pcre2_match_data_create(1, NULL);
    if (!scratch->context) {
        scratch->context = pcre2_match_context_create(NULL);
        if (!scratch->context)
            return false;
        pcre2_set_match_limit(scratch->context, MATCH_LIMIT);
        pcre2_set_heap_limit(scratch->context, HEAP_LIMIT_KIB);
    }
    return scratch->match != NULL;
}

static int match(const struct regex_walk *walk, struct regex_scratch *scratch)
{
    const struct split_regex *regex = walk->regex;
    PCRE2_SPTR text = (PCRE2_SPTR)walk->text;
    if (!regex->jit)
        return pcre2_match(regex->code, text, walk->length, walk->from, PCRE2_NO_UTF_CHECK,
                           scratch->match, scratch->context);
    int n = pcre2_jit_match(regex->code, text, walk->length, walk->from, 0, scratch->match,
                            scratch->context);
    if (n != PCRE2_ERROR_JIT_STACKLIMIT || scratch->stack)
        return n;
    /* The 32 KiB of machine stack that JIT code uses by itself were not enough. */
    scratch->stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    if (!scratch->stack)
        return PCRE2_ERROR_NOMEMORY;
    pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack);
    return pcre2_jit_match(regex->code, text, walk->length, walk->from, 0, scratch->match,
                           scratch->context);
}

bool regex_next(struct regex_walk *walk, size_t *start, size_t *end, struct err *err)
{
    struct regex_scratch *scratch = walk->scratch;
    err->code = ERR_NONE;
    if (!scratch_ready(scratch))
        return err_set(err, ERR_MEMORY, "no memory for matching");
    while (walk->from <= walk->length) {
        int n = match(walk, scratch);
        if (n == PCRE2_ERROR_NOMATCH)
            return false;
        if (n == PCRE2_ERROR_NOMEMORY)
            return err_set(err, ERR_MEMORY, "no memory for matching");
        if (n < 0)
            return err_set(err, ERR_REQUEST,
                           "the tokenizer's split pattern gave up on this text (PCRE2 error %d)",
                           n);
        const PCRE2_SIZE *at = pcre2_get_ovector_pointer(scratch->match);
        *start = at[0];
        *end = at[1];
        CHECK(*start >= walk->from && *end >= *start && *end <= walk->length);
        if (*start == *end && walk->any && walk->last_end == *end) {
            unsigned step = 1;
            if (walk->from < walk->length)
                unicode_decode(walk->text + walk->from, &step);
            walk->from += step;
            continue;
        }
        walk->from = walk->last_end = *end;
        walk->any = true;
        return true;
    }
    return false;
}
