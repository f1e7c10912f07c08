/* tokenizer_gguf.c - GGUF metadata to tokenizer_build. Sizes come from arrays that gguf_read has
 * proven to lie in the file; what is allocated is a small multiple of their bytes. */
#include "host/text/tokenizer_gguf.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/pretok_names.h"
#include "host/text/tokenizer_build.h"

#define KEY "tokenizer.ggml."
enum { NAME_BYTES_MAX = 63 };

/* What the kinds do where the file says nothing. */
static const struct kind {
    const char *name;
    enum build_kind build;
    bool add_bos, add_eos, add_space;
    int32_t bos, eos, unk;
} KINDS[] = {
    { "llama", BUILD_SCORES, true, false, true, 1, 2, 0 },
    { "gpt2", BUILD_MERGES, false, false, false, -1, -1, -1 },
    { "t5", BUILD_UNIGRAM, false, true, true, -1, 1, 2 },
};

/* Everything that is borrowed by the build, owned here. */
struct source {
    const struct gguf *gguf;
    struct piece *pieces;
    struct piece_text *merges;
    char pre[NAME_BYTES_MAX + 1];
    struct err *err;
};

/* An array of `n` (0: any number) elements; NULL and true when absent. */
static bool find_array(const struct source *s, const char *key, bool strings, uint64_t n,
                       const struct gguf_value **found)
{
    const struct gguf_value *value = *found = gguf_find(s->gguf, key);
    if (value == NULL)
        return true;
    const bool good = value->is_array &&
                      (strings ? value->type == GGUF_STRING
                               : gguf_type_is_int(value->type) || gguf_type_is_float(value->type));
    if (!good)
        return err_set(s->err, ERR_FORMAT, "metadata %s: is %s%s, want an array of %s", key,
                       value->is_array ? "an array of " : "", gguf_type_name(value->type),
                       strings ? "texts" : "numbers");
    if (n != 0 && value->n != n)
        return err_set(s->err, ERR_FORMAT, "metadata %s: has %llu elements, want %llu, one a token",
                       key, (unsigned long long)value->n, (unsigned long long)n);
    return true;
}

static bool no_memory(const struct source *s, uint64_t n)
{
    return err_set(s->err, ERR_MEMORY, "no memory for a vocabulary of %llu tokens",
                   (unsigned long long)n);
}

static bool read_pieces(struct source *s, struct tokenizer_build *build)
{
    const struct gguf_value *tokens, *scores, *types;
    if (!find_array(s, KEY "tokens", true, 0, &tokens))
        return false;
    if (tokens == NULL || tokens->n == 0)
        return err_set(s->err, ERR_NOT_FOUND, "metadata " KEY "tokens is missing");
    if (tokens->n > INT32_MAX)
        return err_set(s->err, ERR_FORMAT, "metadata " KEY "tokens: %llu tokens, want at most %d",
                       (unsigned long long)tokens->n, INT32_MAX);
    if (!find_array(s, KEY "scores", false, tokens->n, &scores) ||
        !find_array(s, KEY "token_type", false, tokens->n, &types))
        return false;
    if (types != NULL && !gguf_type_is_int(types->type))
        return err_set(s->err, ERR_FORMAT, "metadata " KEY "token_type: want integers");
    s->pieces = calloc((size_t)tokens->n, sizeof *s->pieces);
    if (s->pieces == NULL)
        return no_memory(s, tokens->n);
    const uint8_t *at = tokens->bytes;
    for (uint64_t i = 0; i < tokens->n; i++) {
        struct piece *p = &s->pieces[i];
        gguf_next_string(&at, &p->text, &p->length);
        p->score = scores != NULL ? (float)gguf_float_at(scores, i) : 0;
        const int64_t type = types != NULL ? gguf_int_at(types, i) : PIECE_NORMAL;
        if (type < 0 || type > PIECE_BYTE)
            return err_set(s->err, ERR_FORMAT,
                           "metadata " KEY "token_type: token %llu has type %lld, want 0 to 6",
                           (unsigned long long)i, (long long)type);
        p->type = type == 0 ? PIECE_NORMAL : (enum piece_type)type; /* 0: not said */
    }
    build->pieces = s->pieces;
    build->n_pieces = (size_t)tokens->n;
    return true;
}

static bool read_merges(struct source *s, struct tokenizer_build *build)
{
    const struct gguf_value *merges;
    if (!find_array(s, KEY "merges", true, 0, &merges))
        return false;
    if (merges == NULL)
        return err_set(s->err, ERR_FORMAT, "metadata " KEY "merges is missing");
    s->merges = calloc((size_t)merges->n + 1, sizeof *s->merges);
    if (s->merges == NULL)
        return no_memory(s, merges->n);
    const uint8_t *at = merges->bytes;
    for (uint64_t i = 0; i < merges->n; i++)
        gguf_next_string(&at, &s->merges[i].text, &s->merges[i].length);
    build->merges = s->merges;
    build->n_merges = (size_t)merges->n;
    return true;
}

static bool read_pre(struct source *s, struct tokenizer_build *build, bool *add_bos)
{
    const char *text = "default";
    size_t length = strlen(text);
    if (!gguf_opt_string(s->gguf, KEY "pre", &text, &length, s->err))
        return false;
    if (length > NAME_BYTES_MAX || memchr(text, 0, length) != NULL)
        return err_set(s->err, ERR_FORMAT, "metadata " KEY "pre: a name of %zu bytes, want 1 to %d",
                       length, NAME_BYTES_MAX);
    memcpy(s->pre, text, length);
    build->pre = s->pre;
    const struct pretok_name *name = pretok_name_find(s->pre);
    *add_bos = name != NULL && name->add_bos; /* tokenizer_build refuses unknown ones */
    return true;
}

/* An id of the vocabulary, or -1. */
static bool read_id(const struct source *s, const char *key, size_t n_pieces, int32_t usual,
                    int32_t *id)
{
    int64_t value = usual >= 0 && (size_t)usual < n_pieces ? usual : -1;
    /* Some writers put 2^32 - 1 where there is none. */
    if (!gguf_opt_int(s->gguf, key, -1, UINT32_MAX, &value, s->err))
        return false;
    if (value == UINT32_MAX)
        value = -1;
    if (value >= (int64_t)n_pieces)
        return err_set(s->err, ERR_FORMAT, "metadata %s: is %lld, want an id below %zu", key,
                       (long long)value, n_pieces);
    *id = (int32_t)value;
    return true;
}

static bool read_ends(const struct source *s, const struct kind *kind, bool add_bos,
                      struct tokenizer_build *build)
{
    bool add_eos = kind->add_eos;
    if (!gguf_opt_bool(s->gguf, KEY "add_bos_token", &add_bos, s->err) ||
        !gguf_opt_bool(s->gguf, KEY "add_eos_token", &add_eos, s->err) ||
        !read_id(s, KEY "bos_token_id", build->n_pieces, kind->bos, &build->bos) ||
        !read_id(s, KEY "eos_token_id", build->n_pieces, kind->eos, &build->eos) ||
        !read_id(s, KEY "unknown_token_id", build->n_pieces, kind->unk, &build->unk))
        return false;
    if (!add_bos)
        build->bos = -1;
    if (!add_eos)
        build->eos = -1;
    return true;
}

static bool read_normalizer(const struct source *s, const struct kind *kind,
                            struct tokenizer_build *build)
{
    const struct gguf_value *map = gguf_find(s->gguf, KEY "precompiled_charsmap");
    build->add_dummy_prefix = kind->add_space;
    if (!gguf_opt_bool(s->gguf, KEY "add_space_prefix", &build->add_dummy_prefix, s->err) ||
        !gguf_opt_bool(s->gguf, KEY "remove_extra_whitespaces", &build->remove_extra_whitespaces,
                       s->err))
        return false;
    if (map != NULL && (!map->is_array || (map->type != GGUF_U8 && map->type != GGUF_I8)))
        return err_set(s->err, ERR_FORMAT,
                       "metadata " KEY "precompiled_charsmap: want an array of bytes");
    if (map != NULL && map->size > 0) {
        build->charsmap = map->bytes;
        build->charsmap_bytes = map->size;
    }
    return true;
}

/* The one family whose tokens take the white space behind them is known by its name alone, as in
 * llama.cpp. */
static bool is_phi3(const struct gguf *gguf)
{
    const char *name = "";
    size_t length = 0;
    struct err ignored;
    if (!gguf_opt_string(gguf, "general.name", &name, &length, &ignored))
        return false;
    for (size_t i = 0; i + 4 <= length; i++) {
        if (strncasecmp(name + i, "phi", 3) != 0)
            continue;
        if (name[i + 3] == '3' || (i + 5 <= length && name[i + 3] == '-' && name[i + 4] == '3'))
            return true;
    }
    return false;
}

static const struct kind *find_kind(const struct gguf *gguf, struct err *err)
{
    const char *model = NULL;
    size_t length = 0;
    if (!gguf_opt_string(gguf, KEY "model", &model, &length, err))
        return NULL;
    if (model == NULL) {
        err_set(err, ERR_NOT_FOUND, "the file has no vocabulary (metadata " KEY "model)");
        return NULL;
    }
    for (size_t i = 0; i < sizeof KINDS / sizeof *KINDS; i++)
        if (strlen(KINDS[i].name) == length && memcmp(KINDS[i].name, model, length) == 0)
            return &KINDS[i];
    char shown[NAME_BYTES_MAX + 1];
    size_t n = 0;
    for (; n < length && n < NAME_BYTES_MAX; n++)
        shown[n] = isprint((unsigned char)model[n]) ? model[n] : '?';
    shown[n] = 0;
    err_set(err, ERR_UNSUPPORTED, "metadata " KEY "model: \"%s\"; supported: llama, gpt2, t5",
            shown);
    return NULL;
}

bool tokenizer_open_gguf(struct tokenizer **tokenizer, const struct gguf *gguf, struct err *err)
{
    struct source s = { .gguf = gguf, .err = err };
    const struct kind *kind = find_kind(gguf, err);
    *tokenizer = NULL;
    if (kind == NULL)
        return false;
    struct tokenizer_build build = { .kind = kind->build,
                                     .user_blanks = true,
                                     .strip_behind_special = is_phi3(gguf) };
    bool add_bos = kind->add_bos;
    bool ok = read_pieces(&s, &build);
    if (kind->build == BUILD_MERGES)
        ok = ok && read_merges(&s, &build) && read_pre(&s, &build, &add_bos);
    else
        ok = ok && read_normalizer(&s, kind, &build);
    ok = ok && read_ends(&s, kind, add_bos, &build) && tokenizer_build(tokenizer, &build, err);
    free(s.pieces);
    free(s.merges);
    return ok;
}
