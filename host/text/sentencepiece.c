/* sentencepiece.c - tokenizer.model: sentencepiece's ModelProto.
 *
 *   1 pieces (many): 1 text, 2 score (float), 3 type (1 when absent)
 *   2 trainer:       3 model (1 unigram, 2 BPE, 3 word, 4 char), 24 blanks as suffix,
 *                    40 unk, 41 bos, 42 eos (ids; negative: none)
 *   3 normalizer:    2 precompiled map, 3 dummy prefix, 4 remove extra blanks, 5 escape blanks
 *   4 self test, 5 denormalizer: 2 precompiled map
 *
 * Fields that are not listed do not change what a text becomes. The last of a field that is given
 * twice holds, as protobuf has it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/text/protobuf.h"
#include "host/text/tokenizer_config.h"
#include "host/text/tokenizer_files.h"
#include "host/text/vocab.h"

enum { MODEL_TYPE_UNIGRAM = 1, MODEL_TYPE_BPE = 2 };

struct model_file {
    struct tokenizer_build build;
    struct piece *pieces;
    size_t room;
    int32_t model_type;
    bool suffix, escape, denormalizes;
    struct err *err;
};

static int32_t to_int32(uint64_t value)
{
    return (int32_t)(uint32_t)value; /* protobuf's int32: a sign-extended varint's low half */
}

static bool read_piece(struct model_file *f, struct protobuf message)
{
    struct protobuf_field field;
    struct piece piece = { .text = "", .type = PIECE_NORMAL };
    int more;
    while ((more = protobuf_next(&message, &field, f->err)) > 0) {
        uint32_t bits;
        if (field.number == 1) {
            if (!protobuf_want(&field, PROTOBUF_BYTES, "a piece's text", f->err))
                return false;
            piece.text = (const char *)field.bytes;
            piece.length = field.length;
        } else if (field.number == 2) {
            if (!protobuf_want(&field, PROTOBUF_FIXED32, "a piece's score", f->err))
                return false;
            bits = (uint32_t)field.value;
            memcpy(&piece.score, &bits, sizeof bits);
        } else if (field.number == 3) {
            if (!protobuf_want(&field, PROTOBUF_VARINT, "a piece's type", f->err))
                return false;
            if (field.value < PIECE_NORMAL || field.value > PIECE_BYTE)
                return err_set(f->err, ERR_FORMAT, "piece %zu has the type %llu, want 1 to 6",
                               f->build.n_pieces, (unsigned long long)field.value);
            piece.type = (enum piece_type)field.value;
        }
    }
    if (more < 0)
        return false;
    if (f->build.n_pieces == VOCAB_IDS_MAX)
        return err_set(f->err, ERR_FORMAT, "more than %d pieces", VOCAB_IDS_MAX);
    if (f->build.n_pieces == f->room) {
        size_t room = f->room ? f->room * 2 : 1024;
        struct piece *grown = reallocarray(f->pieces, room, sizeof *grown);
        if (!grown)
            return err_set(f->err, ERR_MEMORY, "no memory for %zu pieces", room);
        f->pieces = grown;
        f->room = room;
    }
    f->pieces[f->build.n_pieces++] = piece;
    return true;
}

static bool read_trainer(struct model_file *f, struct protobuf message)
{
    struct protobuf_field field;
    int more;
    while ((more = protobuf_next(&message, &field, f->err)) > 0) {
        int32_t value = to_int32(field.value);
        bool known = true;
        switch (field.number) {
        case 3:
            f->model_type = value;
            break;
        case 24:
            f->suffix = field.value != 0;
            break;
        case 40:
            f->build.unk = value;
            break;
        case 41:
            f->build.bos = value;
            break;
        case 42:
            f->build.eos = value;
            break;
        default:
            known = false;
        }
        if (known && !protobuf_want(&field, PROTOBUF_VARINT, "a trainer's field", f->err))
            return false;
    }
    return more == 0;
}

static bool read_normalizer(struct model_file *f, struct protobuf message)
{
    struct protobuf_field field;
    int more;
    while ((more = protobuf_next(&message, &field, f->err)) > 0) {
        if (field.number == 2) {
            if (!protobuf_want(&field, PROTOBUF_BYTES, "precompiled_charsmap", f->err))
                return false;
            f->build.charsmap = field.bytes;
            f->build.charsmap_bytes = field.length;
        } else if (field.number >= 3 && field.number <= 5) {
            if (!protobuf_want(&field, PROTOBUF_VARINT, "a normalizer's field", f->err))
                return false;
            bool value = field.value != 0;
            if (field.number == 3)
                f->build.add_dummy_prefix = value;
            else if (field.number == 4)
                f->build.remove_extra_whitespaces = value;
            else
                f->escape = value;
        }
    }
    return more == 0;
}

static bool read_denormalizer(struct model_file *f, struct protobuf message)
{
    struct protobuf_field field;
    int more;
    while ((more = protobuf_next(&message, &field, f->err)) > 0)
        f->denormalizes |= field.number == 2 && field.length > 0;
    return more == 0;
}

static bool read_model(struct model_file *f, const void *bytes, size_t size)
{
    struct protobuf message = { bytes, (const uint8_t *)bytes + size, bytes };
    struct protobuf_field field;
    int more;
    while ((more = protobuf_next(&message, &field, f->err)) > 0) {
        static bool (*const READ[])(struct model_file *, struct protobuf) = {
            [1] = read_piece, [2] = read_trainer, [3] = read_normalizer, [5] = read_denormalizer
        };
        if (field.number >= sizeof READ / sizeof *READ || !READ[field.number])
            continue;
        if (!protobuf_want(&field, PROTOBUF_BYTES, "a message", f->err) ||
            !READ[field.number](f, protobuf_inside(&message, &field)))
            return false;
    }
    return more == 0;
}

/* The id of a piece that may be missing: then it is none. */
static int32_t control_or_none(const struct model_file *f, int32_t id)
{
    if (id < 0 || (size_t)id >= f->build.n_pieces || f->pieces[id].type != PIECE_CONTROL)
        return -1;
    return id;
}

static bool check_model(struct model_file *f)
{
    struct tokenizer_build *b = &f->build;
    if (b->n_pieces == 0)
        return err_set(f->err, ERR_FORMAT, "no sentencepiece model: it has no pieces");
    if (f->model_type != MODEL_TYPE_UNIGRAM && f->model_type != MODEL_TYPE_BPE)
        return err_set(f->err, ERR_UNSUPPORTED,
                       "a sentencepiece model of type %d is not supported, want 1 (unigram) or "
                       "2 (BPE)",
                       f->model_type);
    if (f->suffix || !f->escape || f->denormalizes)
        return err_set(f->err, ERR_UNSUPPORTED, "a sentencepiece model that %s is not supported",
                       f->suffix    ? "marks blanks as suffixes"
                       : !f->escape ? "does not mark blanks"
                                    : "changes decoded text");
    b->kind = f->model_type == MODEL_TYPE_BPE ? BUILD_SCORES : BUILD_UNIGRAM;
    b->pieces = f->pieces;
    b->bos = control_or_none(f, b->bos);
    b->eos = control_or_none(f, b->eos);
    if (b->unk < 0 || (size_t)b->unk >= b->n_pieces)
        return err_set(f->err, ERR_FORMAT, "unk_id is %d, want 0 to %zu", b->unk, b->n_pieces - 1);
    return true;
}

bool sentencepiece_open(struct tokenizer **tokenizer, const void *bytes, size_t size,
                        const struct json_ref *config, struct err *err)
{
    struct model_file f = { .model_type = MODEL_TYPE_UNIGRAM, .escape = true, .err = err };
    f.build = (struct tokenizer_build){
        .bos = 1, .eos = 2, .add_dummy_prefix = true, .remove_extra_whitespaces = true
    };
    bool ok = read_model(&f, bytes, size) && check_model(&f) && config_added(&f.build, config, err);
    /* A model that is trained without BOS is of T5's kind, which ends its texts. */
    ok = ok && config_ends(&f.build, config, true, f.build.bos < 0, err) &&
         tokenizer_build(tokenizer, &f.build, err);
    free((void *)f.build.added);
    free(f.pieces);
    return ok;
}
