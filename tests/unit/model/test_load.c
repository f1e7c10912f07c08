/* Loading: tensors to their places, refusals that name file, tensor, wanted and found, the small
 * files beside the weights. On a tiny llama in memory. */
#include "tests/support/support.h"

#include <math.h>
#include "host/backend/batch.h"
#include "host/base/half.h"
#include "host/base/rng.h"
#include "host/model/model.h"

enum { HIDDEN = 16, MLP = 24, HEADS = 2, KV = 1, HEAD_DIM = 8, VOCAB = 40, LAYERS = 2 };
static const char CONFIG[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":16,"
    "\"intermediate_size\":24,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
    "\"num_hidden_layers\":2,\"vocab_size\":40,\"max_position_embeddings\":64,"
    "\"torch_dtype\":\"bfloat16\",\"bos_token_id\":1,\"eos_token_id\":2%s}";

struct file {
    uint8_t *bytes;
    size_t size, used;
    char header[8192];
    size_t header_used;
};
/* What to do to one tensor. */
struct change {
    const char *name; /* the tensor; NULL: none */
    enum { DROP = 1, RESHAPE, RETYPE, FLATTEN, POISON } how;
    const char *extra;        /* a further tensor [2] */
    const char *extra_config; /* ",\"key\":value" */
    bool tied;                /* no lm_head */
    bool copy_head;           /* lm_head is the table's copy */
    size_t shift;             /* bytes of padding in the header: misaligns the data */
};

static void add_tensor(struct file *f, const struct change *change, const char *name, int32_t rows,
                       int32_t cols)
{
    const bool hit = change->name != NULL && strcmp(change->name, name) == 0;
    const bool table = strstr(name, "lm_head") != NULL && change->copy_head;
    const uint64_t stream = strlen(name) * 131 + (unsigned char)name[strlen(name) - 9] * 7;
    const char *dtype = "BF16";
    char shape[32];
    if (hit && change->how == DROP)
        return;
    if (hit && change->how == RESHAPE)
        rows++;
    if (hit && change->how == RETYPE)
        dtype = "I16";
    snprintf(shape, sizeof shape, cols > 0 && !(hit && change->how == FLATTEN) ? "%d,%d" : "%d",
             hit && change->how == FLATTEN && cols > 0 ? rows * cols : rows, cols);
    const size_t n = (size_t)rows * (size_t)(cols > 0 ? cols : 1);
    const size_t start = f->used;
    f->used += n * 2;
    assert_true(f->used <= f->size);
    for (size_t i = 0; i < n; i++) {
        float value = (float)(rng_uniform(5, table ? 1 : stream, i) - 0.5);
        if (strcmp(name, "model.embed_tokens.weight") == 0)
            value = (float)(rng_uniform(5, 1, i) - 0.5);
        if (cols == 0)
            value += 1;
        if (hit && change->how == POISON && i == n - 1)
            value = NAN;
        const uint16_t bits = half_f32_to_bf16(value);
        memcpy(f->bytes + start + 2 * i, &bits, 2);
    }
    f->header_used +=
        (size_t)snprintf(f->header + f->header_used, sizeof f->header - f->header_used,
                         "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         f->header_used > 1 ? "," : "", name, dtype, shape, start, f->used);
}

/* A whole .safetensors file; free() it. */
static uint8_t *tiny_weights(const struct change *change, size_t *size)
{
    static struct file f;
    f = (struct file){ .size = 1 << 16 };
    f.bytes = malloc(f.size);
    f.header_used = (size_t)snprintf(f.header, sizeof f.header, "{");
    add_tensor(&f, change, "model.embed_tokens.weight", VOCAB, HIDDEN);
    for (int32_t l = 0; l < LAYERS; l++) {
        static const struct {
            const char *name;
            int32_t rows, cols;
        } rows[] = {
            { "input_layernorm.weight", HIDDEN, 0 },
            { "self_attn.q_proj.weight", HEADS * HEAD_DIM, HIDDEN },
            { "self_attn.k_proj.weight", KV * HEAD_DIM, HIDDEN },
            { "self_attn.v_proj.weight", KV * HEAD_DIM, HIDDEN },
            { "self_attn.o_proj.weight", HIDDEN, HEADS * HEAD_DIM },
            { "post_attention_layernorm.weight", HIDDEN, 0 },
            { "mlp.gate_proj.weight", MLP, HIDDEN },
            { "mlp.up_proj.weight", MLP, HIDDEN },
            { "mlp.down_proj.weight", HIDDEN, MLP },
        };
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            char name[96];
            snprintf(name, sizeof name, "model.layers.%d.%s", l, rows[i].name);
            add_tensor(&f, change, name, rows[i].rows, rows[i].cols);
        }
    }
    add_tensor(&f, change, "model.norm.weight", HIDDEN, 0);
    if (!change->tied || change->copy_head)
        add_tensor(&f, change, "lm_head.weight", VOCAB, HIDDEN);
    if (change->extra != NULL)
        add_tensor(&f, change, change->extra, 2, 0);
    f.header[f.header_used++] = '}';
    while ((f.header_used + change->shift) % 8 != 0)
        f.header[f.header_used++] = ' ';
    uint8_t *whole = malloc(8 + f.header_used + f.used);
    const uint64_t length = f.header_used;
    memcpy(whole, &length, 8);
    memcpy(whole + 8, f.header, f.header_used);
    memcpy(whole + 8 + f.header_used, f.bytes, f.used);
    *size = 8 + f.header_used + f.used;
    free(f.bytes);
    return whole;
}

struct tiny {
    uint8_t *weights;
    char config[1024];
    struct hf_folder folder;
    struct backend *be;
    struct model model;
};
static struct model_options options_of(enum weights_mode weights, int32_t group)
{
    return (struct model_options){
        .weights = weights, .group = group, .rows_max = 16, .logit_rows_max = 16
    };
}
static bool tiny_open(struct tiny *t, const struct change *change, bool exact, int32_t threads,
                      const struct model_options *options, const struct hf_file *more,
                      size_t n_more, struct err *err)
{
    size_t size;
    *t = (struct tiny){ 0 };
    t->weights = tiny_weights(change, &size);
    char extra[512];
    snprintf(extra, sizeof extra, "%s%s", change->tied ? ",\"tie_word_embeddings\":true" : "",
             change->extra_config ? change->extra_config : "");
    snprintf(t->config, sizeof t->config, CONFIG, extra);
    struct hf_file files[8] = { { "config.json", t->config, strlen(t->config) },
                                { "model.safetensors", t->weights, size } };
    assert_true(n_more <= 6);
    for (size_t i = 0; i < n_more; i++)
        files[2 + i] = more[i];
    const struct cpu_options cpu = { .n_threads = threads, .exact = exact };
    assert_ok(hf_folder_open_memory(&t->folder, "tiny", files, 2 + n_more, err), err);
    assert_ok(cpu_backend_open(&t->be, &cpu, err), err);
    if (model_open(&t->model, &t->folder, NULL, t->be, options, err))
        return true;
    t->be->ops->close(t->be);
    hf_folder_close(&t->folder);
    free(t->weights);
    return false;
}
static void tiny_close(struct tiny *t)
{
    model_close(&t->model);
    t->be->ops->close(t->be);
    hf_folder_close(&t->folder);
    free(t->weights);
}
/* Logits behind five tokens. */
static void tiny_logits(struct model *model, float out[VOCAB])
{
    static const int32_t tokens[5] = { 1, 7, 39, 0, 12 };
    const int32_t n_pages[KV_GROUPS_MAX] = { 1, 1, 1, 1 };
    struct err err;
    struct kv_cache kv = model->kv_shape;
    struct batch_single single;
    _Atomic uint64_t beat = 0;
    assert_ok(kv_cache_reserve(&kv, model->be, n_pages, &err), &err);
    assert_ok(batch_single_init(&single, 8, 16, kv.n_groups, &err), &err);
    model_forward(model, batch_single_build(&single, tokens, 5, 0, false), &kv, NULL, NULL, &beat);
    assert_ok(model->be->ops->finish(model->be, &err), &err);
    assert_int_equal(beat, model->config.n_layers);
    memcpy(out, view_row(model->logits, 0), VOCAB * sizeof *out);
    for (int32_t i = 0; i < VOCAB; i++)
        assert_true(isfinite(out[i]));
    batch_single_clear(&single);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct change change;
        enum weights_mode weights;
        enum err_code code;
        const char *says;
    } rows[] = {
        { "a missing tensor",
          { .name = "model.layers.1.mlp.up_proj.weight", .how = DROP },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "tiny: tensor model.layers.1.mlp.up_proj.weight is missing; want shape [24, 16]" },
        { "a missing norm",
          { .name = "model.norm.weight", .how = DROP },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "tensor model.norm.weight is missing; want shape [16]" },
        { "a row too many",
          { .name = "model.layers.0.self_attn.k_proj.weight", .how = RESHAPE },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "model.safetensors: tensor model.layers.0.self_attn.k_proj.weight has shape [9, 16], "
          "want [8, 16]" },
        { "more embeddings than the vocabulary",
          { .name = "model.embed_tokens.weight", .how = RESHAPE },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "has shape [41, 16], want [40, 16]" },
        { "a matrix stored flat",
          { .name = "model.layers.0.mlp.down_proj.weight", .how = FLATTEN },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "has shape [384], want [16, 24]" },
        { "integers",
          { .name = "model.layers.0.self_attn.o_proj.weight", .how = RETYPE },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "tensor model.layers.0.self_attn.o_proj.weight is i16, want f32, f16 or bf16" },
        { "a tensor that nothing reads",
          { .extra = "model.layers.0.self_attn.q_norm.weight" },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "tensor model.layers.0.self_attn.q_norm.weight (bf16, [2]) is not part of a llama "
          "model" },
        { "a layer too many",
          { .extra = "model.layers.2.input_layernorm.weight" },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "model.layers.2.input_layernorm.weight" },
        { "biases that config.json asks for",
          { .extra_config = ",\"attention_bias\":true" },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "tensor model.layers.0.self_attn.q_proj.bias is missing; want shape [16]" },
        { "a tied head that differs",
          { .name = "lm_head.weight", .how = POISON, .tied = true, .copy_head = true },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "lm_head.weight differs from model.embed_tokens.weight" },
        { "NaN in a norm",
          { .name = "model.layers.1.input_layernorm.weight", .how = POISON },
          WEIGHTS_AUTO,
          ERR_FORMAT,
          "tensor model.layers.1.input_layernorm.weight: element 15 is not finite" },
        { "NaN in a matrix that is to be quantized",
          { .name = "model.layers.1.mlp.gate_proj.weight", .how = POISON },
          WEIGHTS_INT4,
          ERR_FORMAT,
          "model.safetensors: tensor model.layers.1.mlp.gate_proj.weight: row 23, column 15 is not "
          "finite" },
        { "NaN in the table that goes to int8",
          { .name = "model.embed_tokens.weight", .how = POISON },
          WEIGHTS_INT4,
          ERR_FORMAT,
          "row 39, column 15" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tiny t;
        struct err err = { 0 };
        const struct model_options options = options_of(rows[i].weights, 32);
        if (tiny_open(&t, &rows[i].change, false, 2, &options, NULL, 0, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (err.code != rows[i].code || strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
    }
}

static void test_options(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        bool exact;
        struct model_options options;
        const char *config;
        enum err_code code;
        const char *says;
    } rows[] = {
        { "a group of 48",
          false,
          { .weights = WEIGHTS_INT4, .group = 48, .rows_max = 1, .logit_rows_max = 1 },
          NULL,
          ERR_REQUEST,
          "group 48: want 32, 64, 128" },
        { "a longer context",
          false,
          { .group = 32, .ctx = 65, .rows_max = 1, .logit_rows_max = 1 },
          NULL,
          ERR_REQUEST,
          "context of 65 tokens: this model takes 1 to 64" },
        { "a longer context, dynamic rope",
          false,
          { .group = 32, .ctx = 65, .rows_max = 1, .logit_rows_max = 1 },
          ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}",
          ERR_UNSUPPORTED,
          "\"dynamic\"" },
        { "exact with bf16 pages",
          true,
          { .group = 32, .kv_dtype = DTYPE_BF16, .rows_max = 1, .logit_rows_max = 1 },
          NULL,
          ERR_REQUEST,
          "f32" },
        { "exact with int8 pages",
          true,
          { .group = 32, .kv_dtype = DTYPE_I8, .rows_max = 1, .logit_rows_max = 1 },
          NULL,
          ERR_REQUEST,
          "keeps keys and values in f32, not i8" },
        { "16-bit whole numbers in pages",
          false,
          { .group = 32, .kv_dtype = DTYPE_I16, .rows_max = 1, .logit_rows_max = 1 },
          NULL,
          ERR_UNSUPPORTED,
          "in i16; supported: f32, f16, bf16, i8" },
        { "no rows",
          false,
          { .group = 32, .rows_max = 0, .logit_rows_max = 1 },
          NULL,
          ERR_REQUEST,
          "0 rows" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tiny t;
        struct err err = { 0 };
        const struct change change = { .extra_config = rows[i].config };
        if (tiny_open(&t, &change, rows[i].exact, 1, &rows[i].options, NULL, 0, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if (err.code != rows[i].code || strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
    }
}

/* Mapped or copied, tied or written twice, one thread or two: the same bits. */
static void test_places(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct change change;
        int32_t threads, same_as;
        enum weights_mode weights;
        bool mapped;
    } rows[] = {
        { "aligned: stays in the file", { 0 }, 1, 0, WEIGHTS_AUTO, true },
        { "odd addresses: copied", { .shift = 1 }, 1, 0, WEIGHTS_AUTO, false },
        { "bf16 asked for", { 0 }, 2, 0, WEIGHTS_BF16, true },
        { "a harmless left-over",
          { .extra = "model.layers.0.self_attn.rotary_emb.inv_freq" },
          1,
          0,
          WEIGHTS_AUTO,
          true },
        { "tied", { .tied = true }, 1, 4, WEIGHTS_AUTO, true },
        { "tied and written twice", { .tied = true, .copy_head = true }, 1, 4, WEIGHTS_AUTO, true },
        { "int8", { 0 }, 1, 6, WEIGHTS_INT8, false },
        { "int8, two threads", { 0 }, 2, 6, WEIGHTS_INT8, false },
        { "int8, odd addresses", { .shift = 3 }, 2, 6, WEIGHTS_INT8, false },
        { "int4", { 0 }, 1, 9, WEIGHTS_INT4, false },
        { "int4, two threads", { 0 }, 2, 9, WEIGHTS_INT4, false },
    };
    enum { N = sizeof rows / sizeof *rows };
    float logits[N][VOCAB];
    for (int32_t exact = 0; exact < 2; exact++)
        for (int32_t i = 0; i < N; i++) {
            struct tiny t;
            struct err err;
            const struct model_options options = options_of(rows[i].weights, 32);
            assert_ok(
                tiny_open(&t, &rows[i].change, exact, rows[i].threads, &options, NULL, 0, &err),
                &err);
            struct model_slot slots[32];
            const int32_t n = model_slots(&t.model, slots, 32);
            assert_int_equal(n, 7 * LAYERS + (rows[i].change.tied ? 1 : 2));
            size_t bytes = 0, mapped = 0;
            for (int32_t s = 0; s < n; s++) {
                const bool in_file = strstr(slots[s].resident, "(mapped)") != NULL;
                assert_int_equal(in_file, rows[i].mapped);
                assert_string_equal(slots[s].stored, "bf16");
                assert_int_equal(slots[s].bits == 0, rows[i].weights < WEIGHTS_INT8);
                bytes += slots[s].bytes;
                mapped += in_file ? slots[s].bytes : 0;
            }
            assert_true(t.model.weight_bytes - t.model.weight_anonymous_bytes == mapped);
            assert_true(t.model.weight_bytes >= bytes);
            tiny_logits(&t.model, logits[i]);
            if (memcmp(logits[i], logits[rows[i].same_as], sizeof logits[i]) != 0)
                fail_msg("%s: other bits", rows[i].sentence);
            tiny_close(&t);
        }
}

/* int8 and int4: the table and the head go to int8, or stay with head_auto. */
static void test_slots(void **state)
{
    (void)state;
    for (int32_t head_auto = 0; head_auto < 2; head_auto++) {
        struct tiny t;
        struct err err;
        struct model_options options = options_of(WEIGHTS_INT4, -1);
        options.head_auto = head_auto;
        assert_ok(tiny_open(&t, &(struct change){ 0 }, false, 1, &options, NULL, 0, &err), &err);
        struct model_slot slots[32];
        const int32_t n = model_slots(&t.model, slots, 32);
        for (int32_t s = 0; s < n; s++) {
            const bool table = strstr(slots[s].name, "layers") == NULL;
            assert_int_equal(slots[s].bits, !table ? 4 : head_auto ? 0 : 8);
            assert_int_equal(slots[s].group, table && head_auto ? 0 : slots[s].n_in);
        }
        assert_int_equal(t.model.n_parameters,
                         2 * VOCAB * HIDDEN + HIDDEN +
                             LAYERS * (2 * HIDDEN * HIDDEN + 2 * KV * HEAD_DIM * HIDDEN +
                                       3 * MLP * HIDDEN + 2 * HIDDEN));
        tiny_close(&t);
    }
}

/* Random weights do not depend on threads, and are sane in size. */
static void test_dummy(void **state)
{
    (void)state;
    static const enum weights_mode modes[] = { WEIGHTS_AUTO, WEIGHTS_INT8, WEIGHTS_INT4 };
    char config[1024];
    snprintf(config, sizeof config, CONFIG, "");
    for (size_t i = 0; i < 3; i++) {
        float logits[2][VOCAB];
        for (int32_t threads = 1; threads <= 2; threads++) {
            struct err err;
            struct backend *be;
            struct model model;
            const struct cpu_options cpu = { .n_threads = threads };
            const struct model_options options = options_of(modes[i], 64);
            assert_ok(cpu_backend_open(&be, &cpu, &err), &err);
            assert_ok(model_open(&model, NULL, config, be, &options, &err), &err);
            assert_true(model.tokenizer == NULL && model.chat == NULL);
            assert_true(model.tokenizer_reason[0] != 0 && model.chat_reason[0] != 0);
            assert_true(model.bos == 1 && model.n_eos == 1 && model.eos[0] == 2);
            tiny_logits(&model, logits[threads - 1]);
            model_close(&model);
            be->ops->close(be);
        }
        assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
        double square = 0;
        for (int32_t v = 0; v < VOCAB; v++)
            square += (double)logits[0][v] * (double)logits[0][v];
        assert_true(square / VOCAB > 0.05 && square / VOCAB < 20);
    }
}

#define G(text)                                                                                    \
    {                                                                                              \
        "generation_config.json", text, sizeof text - 1                                            \
    }

static void test_defaults(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct hf_file file;
        float temperature, top_p;
        int32_t top_k, max_tokens, n_eos;
        const char *says; /* a refusal */
    } rows[] = {
        { "nothing said", G("{}"), 1, 1, 0, 0, 1, NULL },
        { "a chat model",
          G("{\"do_sample\":true,\"temperature\":0.6,\"top_p\":0.9,\"top_k\":50,"
            "\"eos_token_id\":[2,5,9]}"),
          0.6f, 0.9f, 50, 0, 3, NULL },
        { "greedy", G("{\"do_sample\":false,\"max_new_tokens\":7}"), 0, 1, 0, 7, 1, NULL },
        { "greedy, but with a temperature", G("{\"do_sample\":false,\"temperature\":0.7}"), 0.7f, 1,
          0, 0, 1, NULL },
        { "another eos: the union", G("{\"eos_token_id\":3}"), 1, 1, 0, 0, 2, NULL },
        { "top_k -1: off", G("{\"top_k\":-1}"), 1, 1, 0, 0, 1, NULL },
        { "top_p 5", G("{\"top_p\":5}"), 0, 0, 0, 0, 0, "generation_config.json: top_p" },
        { "eos outside", G("{\"eos_token_id\":[2,40]}"), 0, 0, 0, 0, 0, "eos_token_id[1]" },
        { "not JSON", G("{"), 0, 0, 0, 0, 0, "generation_config.json" },
        { "a list", G("[]"), 0, 0, 0, 0, 0, "must be an object" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tiny t;
        struct err err = { 0 };
        const struct model_options options = options_of(WEIGHTS_AUTO, 32);
        const bool ok =
            tiny_open(&t, &(struct change){ 0 }, false, 1, &options, &rows[i].file, 1, &err);
        if (ok != (rows[i].says == NULL))
            fail_msg("%s: %s", rows[i].sentence, ok ? "accepted" : err.text);
        if (!ok) {
            if (err.code != ERR_FORMAT || strstr(err.text, rows[i].says) == NULL)
                fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
            continue;
        }
        const struct model_defaults *d = &t.model.defaults;
        if (d->temperature != rows[i].temperature || d->top_p != rows[i].top_p ||
            d->top_k != rows[i].top_k || d->max_tokens != rows[i].max_tokens ||
            t.model.n_eos != rows[i].n_eos)
            fail_msg("%s: temperature %g, top_p %g, top_k %d, max_tokens %d, %d eos",
                     rows[i].sentence, (double)d->temperature, (double)d->top_p, d->top_k,
                     d->max_tokens, t.model.n_eos);
        tiny_close(&t);
    }
}

#define BYTE_LEVEL(vocab)                                                                          \
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":2,\"content\":\"</s>\",\"special\":true,"      \
    "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false}],"              \
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"    \
    "\"trim_offsets\":true,\"use_regex\":true},\"post_processor\":null,\"decoder\":{\"type\":"     \
    "\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"          \
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,"                             \
    "\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,\"fuse_unk\":false,"           \
    "\"byte_fallback\":false,\"vocab\":{" vocab "},\"merges\":[]}}"
#define F(name, text)                                                                              \
    {                                                                                              \
        name, text, sizeof text - 1                                                                \
    }

static void test_texts(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct hf_file files[4];
        const char *no_tokenizer, *no_chat; /* in the reasons; NULL: there is one */
        const char *bos, *eos, *source;
    } rows[] = {
        { "no files",
          { { NULL, NULL, 0 } },
          "no tokenizer.json",
          "no tokenizer.json",
          NULL,
          NULL,
          NULL },
        { "a tokenizer, no template",
          { F("tokenizer.json", BYTE_LEVEL("\"a\":0")) },
          NULL,
          "no chat template",
          NULL,
          NULL,
          NULL },
        { "a broken tokenizer",
          { F("tokenizer.json", "{\"model\":{}}") },
          "tokenizer.json",
          "tokenizer.json",
          NULL,
          NULL,
          NULL },
        { "a tokenizer with more ids than embeddings",
          { F("tokenizer.json", BYTE_LEVEL("\"a\":0,\"b\":40")) },
          "ids up to 40",
          "ids up to 40",
          NULL,
          NULL,
          NULL },
        { "texts and template of tokenizer_config.json",
          { F("tokenizer.json", BYTE_LEVEL("\"a\":0")),
            F("tokenizer_config.json", "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</"
                                       "s>\"},\"chat_template\":\"A\"}"),
            F("special_tokens_map.json", "{\"bos_token\":\"no\"}") },
          NULL,
          NULL,
          "<s>",
          "</s>",
          "A" },
        { "a template file wins; special_tokens_map.json fills in",
          { F("tokenizer.json", BYTE_LEVEL("\"a\":0")),
            F("tokenizer_config.json", "{\"eos_token\":null,\"chat_template\":\"A\"}"),
            F("special_tokens_map.json", "{\"eos_token\":\"</s>\"}"),
            F("chat_template.jinja", "B") },
          NULL,
          NULL,
          NULL,
          "</s>",
          "B" },
        { "the default of several templates",
          { F("tokenizer.json", BYTE_LEVEL("\"a\":0")),
            F("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":"
                                       "\"T\"},{\"name\":\"default\","
                                       "\"template\":\"D\"}]}") },
          NULL,
          NULL,
          NULL,
          NULL,
          "D" },
        { "a broken template",
          { F("tokenizer.json", BYTE_LEVEL("\"a\":0")), F("chat_template.jinja", "{% if %}") },
          NULL,
          "line 1",
          NULL,
          NULL,
          "{% if %}" },
        { "a tokenizer_config.json that is no JSON",
          { F("tokenizer.json", BYTE_LEVEL("\"a\":0")), F("tokenizer_config.json", "{") },
          NULL,
          "tokenizer_config.json",
          NULL,
          NULL,
          NULL },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tiny t;
        struct err err;
        size_t n = 0;
        while (n < 4 && rows[i].files[n].name != NULL)
            n++;
        const struct model_options options = options_of(WEIGHTS_AUTO, 32);
        assert_ok(tiny_open(&t, &(struct change){ 0 }, false, 1, &options, rows[i].files, n, &err),
                  &err);
        const struct model *m = &t.model;
        const char *const found[] = { m->bos_text, m->eos_text, m->chat_source };
        const char *const wanted[] = { rows[i].bos, rows[i].eos, rows[i].source };
        if ((m->tokenizer == NULL) != (rows[i].no_tokenizer != NULL) ||
            (m->chat == NULL) != (rows[i].no_chat != NULL))
            fail_msg("%s: \"%s\", \"%s\"", rows[i].sentence, m->tokenizer_reason, m->chat_reason);
        if (m->tokenizer == NULL)
            assert_non_null(strstr(m->tokenizer_reason, rows[i].no_tokenizer));
        if (m->chat == NULL && strstr(m->chat_reason, rows[i].no_chat) == NULL)
            fail_msg("%s: \"%s\"", rows[i].sentence, m->chat_reason);
        for (int32_t k = 0; k < 3; k++) {
            assert_int_equal(found[k] == NULL, wanted[k] == NULL);
            if (wanted[k] != NULL)
                assert_string_equal(found[k], wanted[k]);
        }
        tiny_close(&t);
    }
}

static void count_progress(void *context, size_t done, size_t total)
{
    size_t *last = context;
    assert_true(done >= *last && done <= total);
    *last = done;
}

static void test_progress(void **state)
{
    (void)state;
    struct tiny t;
    struct err err;
    size_t last = 0;
    struct model_options options = options_of(WEIGHTS_INT8, 32);
    options.progress = count_progress;
    options.progress_context = &last;
    assert_ok(tiny_open(&t, &(struct change){ 0 }, false, 1, &options, NULL, 0, &err), &err);
    assert_true(last > 0 && last <= t.model.weight_bytes);
    const int32_t none[KV_GROUPS_MAX] = { 0 };
    struct kv_cache kv = t.model.kv_shape;
    assert_false(kv_cache_reserve(&kv, t.be, none, &err));
    assert_int_equal(err.code, ERR_MEMORY);
    tiny_close(&t);
}

static void keep_problem(void *context, const char *text)
{
    char *kept = context;
    strncat(kept, text, 500 - strlen(kept));
    strncat(kept, "|", 500 - strlen(kept));
}

/* Looking at every value: what stays in the mapped file too, and all that is damaged at once. */
static void test_check(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct change change;
        const char *problems, *says; /* NULL: fine */
    } rows[] = {
        { "nothing wrong", { .name = NULL }, "", NULL },
        { "a matrix that stays in the file",
          { .name = "model.layers.1.mlp.up_proj.weight", .how = POISON },
          "model.safetensors: tensor model.layers.1.mlp.up_proj.weight: row 23, column 15 is "
          "not finite (NaN or Inf)|",
          "1 of 21 tensors are damaged" },
        { "one that is copied, for its data is not aligned, and the table that is its head",
          { .name = "model.embed_tokens.weight", .how = POISON, .tied = true, .shift = 1 },
          "model.embed_tokens.weight: row 39, column 15 is not finite",
          "1 of 20 tensors are damaged" },
        { "a norm",
          { .name = "model.norm.weight", .how = POISON },
          "model.norm.weight: element 15 is not finite",
          "1 of 21 tensors are damaged" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tiny t;
        struct err err = { 0 };
        char problems[512] = "";
        struct model_options options = options_of(WEIGHTS_AUTO, 32);
        options.problem = keep_problem;
        options.problem_context = problems;
        const bool ok = tiny_open(&t, &rows[i].change, true, 1, &options, NULL, 0, &err);
        if (ok != (rows[i].says == NULL))
            fail_msg("%s: %s", rows[i].sentence, ok ? "accepted" : err.text);
        if (ok)
            tiny_close(&t);
        else if (strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: %s", rows[i].sentence, err.text);
        const char *wanted = rows[i].problems;
        if ((*wanted == 0) != (*problems == 0) || strstr(problems, wanted) == NULL)
            fail_msg("%s: \"%s\"", rows[i].sentence, problems);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_check),
        cmocka_unit_test(test_options),  cmocka_unit_test(test_places),
        cmocka_unit_test(test_slots),    cmocka_unit_test(test_dummy),
        cmocka_unit_test(test_defaults), cmocka_unit_test(test_texts),
        cmocka_unit_test(test_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
