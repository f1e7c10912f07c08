/* Loading from GGUF: blocks as they are, rows of q put in order, and what is refused. On a tiny
 * llama in memory. */
#include "tests/support/gguf_file.h"
#include "host/format/gguf_folder.h"
#include "host/model/model.h"

enum { HIDDEN = 32, VOCAB = 64, HEAD_DIM = 16 };
enum { ONE = 0x3c00, NOT_A_NUMBER = 0x7e00 }; /* fp16 */

/* What to do to the file. */
struct change {
    uint16_t scale;    /* of attn_output's blocks; 0: 1 */
    bool norm_blocks;  /* a norm as blocks */
    const char *extra; /* a tensor more */
    bool only_words;   /* no tensors */
};

static void make_model(struct gguf_file *f, const struct change *change)
{
    static const struct {
        const char *key;
        uint32_t value;
    } ints[] = { { "llama.context_length", 64 },      { "llama.embedding_length", HIDDEN },
                 { "llama.block_count", 1 },          { "llama.feed_forward_length", 32 },
                 { "llama.attention.head_count", 2 }, { "llama.attention.head_count_kv", 1 } };
    gguf_file_init(f);
    gguf_file_text(f, "general.architecture", "llama");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        gguf_file_int(f, ints[i].key, ints[i].value);
    gguf_file_float(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    if (change->only_words)
        return;
    gguf_file_blocks(f, "token_embd.weight", VOCAB, HIDDEN, ONE);
    gguf_file_tensor(f, "blk.0.attn_q.weight", 32, HIDDEN, 0);
    gguf_file_blocks(f, "blk.0.attn_k.weight", 16, HIDDEN, ONE);
    gguf_file_blocks(f, "blk.0.attn_v.weight", 16, HIDDEN, ONE);
    gguf_file_blocks(f, "blk.0.attn_output.weight", HIDDEN, 32,
                     change->scale != 0 ? change->scale : ONE);
    if (change->norm_blocks)
        gguf_file_blocks(f, "blk.0.attn_norm.weight", HIDDEN, 0, ONE);
    else
        gguf_file_tensor(f, "blk.0.attn_norm.weight", HIDDEN, 0, 0);
    gguf_file_tensor(f, "blk.0.ffn_norm.weight", HIDDEN, 0, 0);
    gguf_file_blocks(f, "blk.0.ffn_gate.weight", 32, HIDDEN, ONE);
    gguf_file_blocks(f, "blk.0.ffn_up.weight", 32, HIDDEN, ONE);
    gguf_file_blocks(f, "blk.0.ffn_down.weight", HIDDEN, 32, ONE);
    gguf_file_tensor(f, "output_norm.weight", HIDDEN, 0, 0);
    if (change->extra != NULL)
        gguf_file_tensor(f, change->extra, 4, 0, 0);
}

struct opened {
    uint8_t *bytes;
    struct hf_folder folder;
    struct backend *be;
    struct model model;
};

static bool open_model(struct opened *o, const struct change *change, enum weights_mode weights,
                       struct err *err)
{
    struct gguf_file f;
    struct file_map map;
    size_t size;
    const struct cpu_options cpu = { .n_threads = 1, .exact = true };
    const struct model_options options = {
        .weights = weights, .group = 32, .ctx = 16, .rows_max = 4, .logit_rows_max = 4
    };
    *o = (struct opened){ 0 };
    make_model(&f, change);
    o->bytes = gguf_file_bytes(&f, &size);
    file_map_memory(&map, o->bytes, size);
    o->folder.path = strdup("m.gguf");
    assert_ok(gguf_folder_open_map(&o->folder, map, "m.gguf", err), err);
    assert_ok(cpu_backend_open(&o->be, &cpu, err), err);
    return model_open(&o->model, &o->folder, NULL, o->be, &options, err);
}

static void close_model(struct opened *o, bool has_model)
{
    if (has_model)
        model_close(&o->model);
    o->be->ops->close(o->be);
    hf_folder_close(&o->folder);
    free(o->bytes);
}

static void test_loaded(void **state)
{
    (void)state;
    struct opened o;
    struct err err;
    struct model_slot slots[16];
    assert_ok(open_model(&o, &(struct change){ 0 }, WEIGHTS_AUTO, &err), &err);
    const int32_t n = model_slots(&o.model, slots, 16);
    assert_int_equal(n, 8); /* the head is tied */
    assert_int_equal(o.model.vocab, VOCAB);
    for (int32_t i = 0; i < n; i++) {
        const bool q = strstr(slots[i].name, "q_proj") != NULL;
        assert_string_equal(slots[i].stored, q ? "f32" : "Q8_0 (8.5 bits)");
        assert_int_equal(slots[i].bits, q ? 0 : 8);
        assert_int_equal(slots[i].group, q ? 0 : 32);
    }
    close_model(&o, true);
}

/* Rows of q are read in the half-split order: a copy, never the mapped file. */
static void test_rows(void **state)
{
    (void)state;
    struct opened o;
    struct err err;
    struct model_slot slots[16];
    assert_ok(open_model(&o, &(struct change){ 0 }, WEIGHTS_AUTO, &err), &err);
    const int32_t n = model_slots(&o.model, slots, 16);
    for (int32_t i = 0; i < n; i++)
        if (strstr(slots[i].name, "q_proj") != NULL)
            assert_string_equal(slots[i].resident, "f32 rows");
    const struct tensor *q =
        tensor_dir_find(&o.folder.tensors, "model.layers.0.self_attn.q_proj.weight");
    assert_non_null(q);
    assert_int_equal(q->pairs, HEAD_DIM);
    close_model(&o, true);
}

static const struct {
    const char *sentence;
    struct change change;
    enum weights_mode weights;
    enum err_code code;
    const char *text;
} REFUSED[] = {
    { "a scale that is not a number",
      { .scale = NOT_A_NUMBER },
      WEIGHTS_AUTO,
      ERR_FORMAT,
      "o_proj.weight: row 0: a block's scale is not finite" },
    { "a norm in blocks",
      { .norm_blocks = true },
      WEIGHTS_AUTO,
      ERR_FORMAT,
      "input_layernorm.weight is Q8_0, want f32, f16 or bf16" },
    { "a tensor that nothing reads",
      { .extra = "blk.0.ssm_a" },
      WEIGHTS_AUTO,
      ERR_FORMAT,
      "tensor blk.0.ssm_a" },
    { "blocks to be quantized again",
      { 0 },
      WEIGHTS_INT4,
      ERR_REQUEST,
      "is quantized already (Q8_0)" },
    { "blocks as bf16", { 0 }, WEIGHTS_BF16, ERR_REQUEST, "is quantized already (Q8_0)" },
    { "a vocabulary",
      { .only_words = true },
      WEIGHTS_AUTO,
      ERR_UNSUPPORTED,
      "m.gguf: holds a vocabulary, and no tensors" },
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++) {
        struct opened o;
        struct err err;
        if (open_model(&o, &REFUSED[i].change, REFUSED[i].weights, &err))
            fail_msg("%s: accepted", REFUSED[i].sentence);
        if (err.code != REFUSED[i].code || strstr(err.text, REFUSED[i].text) == NULL)
            fail_msg("%s: code %d, \"%s\"", REFUSED[i].sentence, err.code, err.text);
        close_model(&o, false);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loaded),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
