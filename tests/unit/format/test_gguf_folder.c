/* GGUF as a model folder: the config that is written, names, what happens to rows and experts,
 * files in parts, and refusals. */
#include "tests/support/gguf_file.h"
#include "host/base/json.h"
#include "host/format/gguf_folder.h"

/* A llama of one layer; `skip` leaves one key out. */
static void put_llama(struct gguf_file *f, const char *skip)
{
    static const struct {
        const char *key;
        uint32_t value;
    } ints[] = { { "llama.context_length", 64 },       { "llama.embedding_length", 16 },
                 { "llama.block_count", 1 },           { "llama.feed_forward_length", 24 },
                 { "llama.attention.head_count", 2 },  { "llama.attention.head_count_kv", 1 },
                 { "tokenizer.ggml.bos_token_id", 1 }, { "tokenizer.ggml.eos_token_id", 2 } };
    gguf_file_text(f, "general.architecture", "llama");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        if (skip == NULL || strcmp(skip, ints[i].key) != 0)
            gguf_file_int(f, ints[i].key, ints[i].value);
    gguf_file_float(f, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

static void put_tensors(struct gguf_file *f)
{
    gguf_file_tensor(f, "token_embd.weight", 40, 16, 0);
    gguf_file_tensor(f, "blk.0.attn_q.weight", 16, 16, 0);
    gguf_file_tensor(f, "blk.0.attn_k.weight", 8, 16, 0);
    gguf_file_tensor(f, "blk.0.attn_v.weight", 8, 16, 0);
    gguf_file_tensor(f, "output_norm.weight", 16, 0, 0);
}

/* Opens a file that lives in guarded memory; free both afterwards. */
static bool open_file(struct hf_folder *folder, struct gguf_file *f, void **memory, size_t *size,
                      struct err *err)
{
    struct file_map map;
    uint8_t *bytes = gguf_file_bytes(f, size);
    *memory = guard_copy(bytes, *size);
    free(bytes);
    file_map_memory(&map, *memory, *size);
    *folder = (struct hf_folder){ 0 };
    return gguf_folder_open_map(folder, map, "m.gguf", err);
}

/* A number of the config; -99 when it is not there. */
static double config_number(const struct hf_folder *folder, const char *key)
{
    struct cJSON *tree;
    struct err err;
    double value = -99;
    assert_ok(json_parse(folder->config.bytes, folder->config.size, &JSON_FILE_LIMITS, ERR_FORMAT,
                         &tree, &err),
              &err);
    const struct json_ref root = json_root(tree);
    struct json_ref item;
    bool flag = false;
    if (json_get(&root, key, &item) && json_is_bool(&item)) {
        assert_ok(json_bool(&item, &flag, &err), &err);
        value = flag;
    } else {
        assert_ok(json_opt_double(&root, key, -1e300, 1e300, &value, &err), &err);
    }
    json_free(tree);
    return value;
}

static void test_llama(void **state)
{
    (void)state;
    struct gguf_file f;
    struct hf_folder folder;
    struct err err;
    void *memory;
    size_t size;
    gguf_file_init(&f);
    put_llama(&f, NULL);
    put_tensors(&f);
    gguf_file_tensor(&f, "output.weight", 40, 16, 0);
    assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
    assert_int_equal(folder.config_missing.code, ERR_NONE);
    static const struct {
        const char *key;
        double value;
    } wanted[] = { { "vocab_size", 40 },
                   { "hidden_size", 16 },
                   { "num_hidden_layers", 1 },
                   { "num_attention_heads", 2 },
                   { "num_key_value_heads", 1 },
                   { "head_dim", 8 },
                   { "intermediate_size", 24 },
                   { "max_position_embeddings", 64 },
                   { "rms_norm_eps", (double)1e-5f },
                   { "rope_theta", 10000 },
                   { "tie_word_embeddings", 0 },
                   { "attention_bias", 0 },
                   { "bos_token_id", 1 },
                   { "num_local_experts", -99 },
                   { "sliding_window", -99 } };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++)
        if (config_number(&folder, wanted[i].key) != wanted[i].value)
            fail_msg("%s is %g, want %g", wanted[i].key, config_number(&folder, wanted[i].key),
                     wanted[i].value);
    assert_non_null(strstr(folder.config.bytes, "\"LlamaForCausalLM\""));
    assert_non_null(strstr(folder.config.bytes, "\"eos_token_id\": [2]"));
    const struct tensor *q = tensor_dir_find(&folder.tensors, "model.layers.0.self_attn.q_proj"
                                                              ".weight");
    const struct tensor *v = tensor_dir_find(&folder.tensors, "model.layers.0.self_attn.v_proj"
                                                              ".weight");
    assert_true(q != NULL && v != NULL);
    assert_int_equal(q->pairs, 8);
    assert_int_equal(v->pairs, 0);
    assert_non_null(tensor_dir_find(&folder.tensors, "model.embed_tokens.weight"));
    assert_non_null(tensor_dir_find(&folder.tensors, "lm_head.weight"));
    assert_non_null(tensor_dir_find(&folder.tensors, "model.norm.weight"));
    assert_string_equal(folder.tensors.labels[0], "m.gguf");
    hf_folder_close(&folder);
    guard_free(memory, size);
}

/* Half-split row r of a head of 8 is at: 0 2 4 6 (first halves of the pairs), 1 3 5 7. */
static void test_pairs(void **state)
{
    (void)state;
    static const int64_t stored[16] = { 0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15 };
    for (int64_t r = 0; r < 16; r++) {
        assert_int_equal(tensor_row(8, r), stored[r]);
        assert_int_equal(tensor_row(0, r), r);
    }
}

static void test_experts(void **state)
{
    (void)state;
    struct gguf_file f;
    struct hf_folder folder;
    struct err err;
    void *memory;
    size_t size;
    gguf_file_init(&f);
    put_llama(&f, NULL);
    gguf_file_int(&f, "llama.expert_count", 3);
    gguf_file_int(&f, "llama.expert_used_count", 2);
    put_tensors(&f);
    gguf_file_tensor(&f, "blk.0.ffn_up_exps.weight", 3, 4, 16);
    gguf_file_tensor(&f, "blk.0.ffn_up_exps.bias", 3, 4, 0);
    gguf_file_tensor(&f, "blk.0.ffn_gate_inp.weight", 3, 16, 0);
    gguf_file_tensor(&f, "blk.0.ffn_gate_inp_shexp.weight", 16, 0, 0);
    assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
    assert_int_equal(folder.config_missing.code, ERR_NONE);
    assert_non_null(strstr(folder.config.bytes, "\"MixtralForCausalLM\""));
    assert_true(config_number(&folder, "num_local_experts") == 3);
    assert_true(config_number(&folder, "num_experts_per_tok") == 2);
    assert_true(config_number(&folder, "tie_word_embeddings") == 1);
    for (int e = 0; e < 3; e++) {
        char name[96];
        float first;
        snprintf(name, sizeof name, "model.layers.0.block_sparse_moe.experts.%d.w3.weight", e);
        const struct tensor *t = tensor_dir_find(&folder.tensors, name);
        assert_non_null(t);
        assert_true(t->n_dims == 2 && t->dims[0] == 4 && t->dims[1] == 16 && t->bytes == 256);
        memcpy(&first, t->data, sizeof first);
        assert_true(first == (float)(64 * e + 1));
        snprintf(name, sizeof name, "model.layers.0.block_sparse_moe.experts.%d.w3.bias", e);
        t = tensor_dir_find(&folder.tensors, name);
        assert_true(t != NULL && t->n_dims == 1 && t->dims[0] == 4);
    }
    assert_non_null(
        tensor_dir_find(&folder.tensors, "model.layers.0.block_sparse_moe.gate.weight"));
    hf_folder_close(&folder);
    guard_free(memory, size);
}

/* Ends of turns count beside eos; control tokens alone. */
static void test_ends(void **state)
{
    (void)state;
    static const char *const tokens[] = { "<unk>", "<s>", "</s>", "<|im_end|>", "<|eot_id|>", "a" };
    static const int32_t types[] = { 2, 3, 3, 3, 1, 1 };
    struct gguf_file f;
    struct hf_folder folder;
    struct err err;
    void *memory;
    size_t size;
    gguf_file_init(&f);
    put_llama(&f, NULL);
    gguf_file_texts(&f, "tokenizer.ggml.tokens", tokens, 6);
    gguf_file_ints(&f, "tokenizer.ggml.token_type", types, 6);
    gguf_file_text(&f, "tokenizer.chat_template", "{{ \"x\" }}");
    put_tensors(&f);
    assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
    assert_non_null(strstr(folder.config.bytes, "\"eos_token_id\": [2, 3]"));
    assert_non_null(strstr(folder.tokenizer_config.bytes, "\"bos_token\": \"<s>\""));
    assert_non_null(
        strstr(folder.tokenizer_config.bytes, "\"chat_template\": \"{{ \\\"x\\\" }}\""));
    assert_non_null(folder.gguf);
    hf_folder_close(&folder);
    guard_free(memory, size);
}

/* What keeps a model from being run is kept for model_open: the vocabulary is still good. */
static const struct {
    const char *sentence;
    const char *skip;                      /* a key of put_llama */
    const char *text_key, *text, *int_key; /* keys more */
    uint32_t value;
    const char *tensor; /* a tensor more, [2] */
    enum err_code code;
    const char *wanted;
} REFUSED[] = {
    { "no width", "llama.embedding_length", 0, 0, 0, 0, 0, ERR_FORMAT,
      "metadata llama.embedding_length is missing" },
    { "no heads", "llama.attention.head_count", 0, 0, 0, 0, 0, ERR_FORMAT,
      "metadata llama.attention.head_count is missing" },
    { "zero layers", "llama.block_count", 0, 0, "llama.block_count", 0, 0, ERR_FORMAT,
      "metadata llama.block_count: is 0, want 1 or more" },
    { "too many heads", "llama.attention.head_count", 0, 0, "llama.attention.head_count",
      UINT32_MAX, 0, ERR_FORMAT, "is 4294967295, want 0 to 16777216" },
    { "a text for a number", "llama.block_count", "llama.block_count", "1", 0, 0, 0, ERR_FORMAT,
      "metadata llama.block_count: is string, want an integer" },
    { "keys and values of two widths", 0, 0, 0, "llama.attention.value_length", 4, 0,
      ERR_UNSUPPORTED, "attention.key_length 8 with attention.value_length 4" },
    { "a rope of its own", 0, "llama.rope.scaling.type", "su", 0, 0, 0, ERR_UNSUPPORTED,
      "metadata llama.rope.scaling.type: is \"su\", want none, linear or yarn" },
    { "yarn without its length", 0, "llama.rope.scaling.type", "yarn", 0, 0, 0, ERR_FORMAT,
      "metadata llama.rope.scaling.original_context_length is missing" },
    { "experts without a number", 0, 0, 0, "llama.expert_count", 2, 0, ERR_FORMAT,
      "metadata llama.expert_used_count is missing" },
    { "long factors without short ones", 0, 0, 0, 0, 0, "rope_factors_long.weight", ERR_FORMAT,
      "tensor rope_factors_short.weight is missing" },
    { "experts in a vector", 0, 0, 0, 0, 0, "blk.0.ffn_up_exps.weight", ERR_FORMAT,
      "tensor blk.0.ffn_up_exps.weight: 2 experts in 1 dimensions, want at most 1024 in 2 or 3" },
    { "one name twice", 0, 0, 0, 0, 0, "model.embed_tokens.weight", ERR_FORMAT,
      "two tensors are model.embed_tokens.weight" },
};

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof REFUSED / sizeof *REFUSED; i++) {
        struct gguf_file f;
        struct hf_folder folder;
        struct err err;
        void *memory;
        size_t size;
        gguf_file_init(&f);
        put_llama(&f, REFUSED[i].skip);
        if (REFUSED[i].text_key != NULL)
            gguf_file_text(&f, REFUSED[i].text_key, REFUSED[i].text);
        if (REFUSED[i].int_key != NULL)
            gguf_file_int(&f, REFUSED[i].int_key, REFUSED[i].value);
        put_tensors(&f);
        if (REFUSED[i].tensor != NULL)
            gguf_file_tensor(&f, REFUSED[i].tensor, 2, 0, 0);
        assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
        const struct err *why = &folder.config_missing;
        if (why->code != REFUSED[i].code || strstr(why->text, REFUSED[i].wanted) == NULL)
            fail_msg("%s: code %d, \"%s\"", REFUSED[i].sentence, why->code, why->text);
        assert_int_equal(folder.config.size, 0);
        assert_non_null(folder.gguf);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

static void test_other_files(void **state)
{
    (void)state;
    static const struct {
        const char *architecture; /* NULL: not said */
        bool tensors;
        enum err_code code;
        const char *text;
    } rows[] = {
        { "llama", false, ERR_UNSUPPORTED, "holds a vocabulary, and no tensors" },
        { NULL, true, ERR_FORMAT, "metadata general.architecture is missing" },
        { "mam\nba", true, ERR_UNSUPPORTED, "general.architecture \"mam?ba\"; supported: llama" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct gguf_file f;
        struct hf_folder folder;
        struct err err;
        void *memory;
        size_t size;
        gguf_file_init(&f);
        if (rows[i].architecture != NULL)
            gguf_file_text(&f, "general.architecture", rows[i].architecture);
        if (rows[i].tensors)
            put_tensors(&f);
        assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
        const struct err *why = &folder.config_missing;
        if (why->code != rows[i].code || strstr(why->text, rows[i].text) == NULL)
            fail_msg("code %d, \"%s\"", why->code, why->text);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

/* ---- parts ------------------------------------------------------------------------------------
 */

/* Part `number` (from 1) of `count` as said inside; its first tensor is `tensor`. */
static void write_part(const char *path, int32_t number, int32_t count, int32_t total,
                       const char *tensor)
{
    struct gguf_file f;
    size_t size;
    gguf_file_init(&f);
    if (number == 1)
        put_llama(&f, NULL);
    gguf_file_int(&f, "split.no", (uint32_t)(number - 1));
    gguf_file_int(&f, "split.count", (uint32_t)count);
    gguf_file_int(&f, "split.tensors.count", (uint32_t)total);
    if (number == 1)
        put_tensors(&f);
    gguf_file_tensor(&f, tensor, 16, 0, 0);
    uint8_t *bytes = gguf_file_bytes(&f, &size);
    write_file(path, bytes, size);
    free(bytes);
}

static void expect_error(const char *path, enum err_code code, const char *text)
{
    struct hf_folder folder;
    struct err err;
    assert_false(hf_folder_open(&folder, path, &err));
    if (err.code != code || strstr(err.text, text) == NULL)
        fail_msg("%s: code %d, \"%s\"", path, err.code, err.text);
}

static void test_parts(void **state)
{
    (void)state;
    char first[600], second[600], third[600];
    struct hf_folder folder;
    struct err err;
    snprintf(first, sizeof first, "%s/m-00001-of-00002.gguf", temp_dir());
    snprintf(second, sizeof second, "%s/m-00002-of-00002.gguf", temp_dir());
    snprintf(third, sizeof third, "%s/single.gguf", temp_dir());
    write_part(first, 1, 2, 7, "blk.0.attn_norm.weight");
    expect_error(first, ERR_NOT_FOUND, "m-00002-of-00002.gguf: No such file");
    write_part(second, 2, 2, 7, "blk.0.ffn_norm.weight");
    for (int i = 0; i < 2; i++) { /* any part will do */
        assert_ok(hf_folder_open(&folder, i == 0 ? first : second, &err), &err);
        assert_int_equal(folder.config_missing.code, ERR_NONE);
        assert_int_equal(folder.tensors.n_files, 2);
        assert_int_equal(folder.tensors.n_tensors, 7);
        const struct tensor *t =
            tensor_dir_find(&folder.tensors, "model.layers.0.post_attention_layernorm.weight");
        assert_true(t != NULL && t->file == 1);
        assert_string_equal(folder.tensors.labels[1], "m-00002-of-00002.gguf");
        hf_folder_close(&folder);
    }
    write_part(second, 2, 2, 8, "blk.0.attn_norm.weight");
    assert_ok(hf_folder_open(&folder, first, &err), &err);
    assert_non_null(strstr(folder.config_missing.text,
                           "tensor \"model.layers.0.input_layernorm.weight\" is already in "
                           "m-00001-of-00002.gguf"));
    hf_folder_close(&folder);
    write_part(first, 1, 2, 8, "blk.0.attn_norm.weight");
    expect_error(first, ERR_FORMAT, "split.tensors.count is 8, the parts have 7");
    write_part(second, 1, 2, 7, "blk.0.ffn_norm.weight");
    expect_error(first, ERR_FORMAT, "split.no 0 of split.count 2, want 1 of 2 as its name says");
    write_part(second, 2, 3, 7, "blk.0.ffn_norm.weight");
    expect_error(first, ERR_FORMAT, "split.no 1 of split.count 3, want 1 of 2");
    write_part(third, 1, 2, 7, "blk.0.attn_norm.weight");
    expect_error(third, ERR_FORMAT, "want the names NAME-00001-of-00002.gguf");
    snprintf(third, sizeof third, "%s/m-00003-of-00002.gguf", temp_dir());
    write_part(third, 1, 1, 7, "blk.0.attn_norm.weight");
    expect_error(third, ERR_FORMAT, "part 3 of 2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama),   cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_experts), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_other_files),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
