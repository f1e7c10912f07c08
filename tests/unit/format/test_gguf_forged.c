/* test_gguf_forged.c - GGUF files with one thing wrong: what becomes of each key that is read and
 * each tensor that is named. A row lists what differs from a model of one layer. */
#include "tests/support/gguf_file.h"
#include <math.h>
#include "host/format/gguf_folder.h"

/* "key=VALUE": 12 is u32, 1.5 f32, 'x' a text, [1 2] i32s, [f1 2] f32s, {a|b} texts; nothing behind
 * the sign leaves the key out. A key that begins with a dot belongs to the architecture. */
static void put_value(struct gguf_file *f, const char *arch, const char *setting)
{
    char key[160], text[400];
    const char *value = strchr(setting, '=') + 1;
    snprintf(key, sizeof key, "%s%.*s", setting[0] == '.' ? arch : "", (int)(value - 1 - setting),
             setting);
    if (value[0] == 0)
        return;
    if (value[0] == '\'') {
        snprintf(text, sizeof text, "%.*s", (int)strlen(value) - 2, value + 1);
        gguf_file_text(f, key, text);
    } else if (value[0] == '[') {
        int32_t ints[16], n = 0;
        float floats[16];
        const bool is_float = value[1] == 'f';
        char *at = (char *)(uintptr_t)value + 1 + is_float;
        for (char *end; *at != ']'; at = end + strspn(end, " "), n++) {
            floats[n] = strtof(at, &end);
            ints[n] = (int32_t)strtol(at, NULL, 10);
        }
        if (is_float)
            gguf_file_floats(f, key, floats, n);
        else
            gguf_file_ints(f, key, ints, n);
    } else if (value[0] == '{') {
        const char *texts[24];
        int32_t n = 0;
        snprintf(text, sizeof text, "%.*s", (int)strlen(value) - 2, value + 1);
        for (char *part = strtok(text, "|"); part != NULL; part = strtok(NULL, "|"))
            texts[n++] = part;
        gguf_file_texts(f, key, texts, n);
    } else if (strspn(value, "0123456789") == strlen(value)) {
        gguf_file_int(f, key, (uint32_t)strtoul(value, NULL, 10));
    } else {
        gguf_file_float(f, key, strtof(value, NULL));
    }
}

enum { SETTINGS = 7, TENSORS = 3 };
struct tensor_row {
    const char *name;
    int32_t a, b, c;
    uint32_t type; /* 0: F32 */
};
struct row {
    const char *arch;
    const char *settings[SETTINGS];
    struct tensor_row tensors[TENSORS]; /* instead of token_embd.weight where one has that name */
    const char *wanted; /* in the error's text; "+": in the config; "!": not in it */
};

static bool has_setting(const struct row *row, const char *key)
{
    for (int i = 0; i < SETTINGS && row->settings[i] != NULL; i++)
        if (strncmp(row->settings[i], key, strlen(key)) == 0 &&
            row->settings[i][strlen(key)] == '=')
            return true;
    return false;
}

static void put_model(struct gguf_file *f, const struct row *row)
{
    static const char *const plain[] = { ".context_length=64",      ".embedding_length=16",
                                         ".block_count=1",          ".feed_forward_length=24",
                                         ".attention.head_count=2", ".attention.head_count_kv=1" };
    bool table = true;
    gguf_file_init(f);
    if (row->arch != NULL)
        gguf_file_text(f, "general.architecture", row->arch);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++) {
        char key[64];
        snprintf(key, sizeof key, "%.*s", (int)strcspn(plain[i], "="), plain[i]);
        if (!has_setting(row, key))
            put_value(f, row->arch, plain[i]);
    }
    for (int i = 0; i < SETTINGS && row->settings[i] != NULL; i++)
        put_value(f, row->arch, row->settings[i]);
    for (int i = 0; i < TENSORS && row->tensors[i].name != NULL; i++)
        table = table && strcmp(row->tensors[i].name, "token_embd.weight") != 0;
    if (table)
        gguf_file_tensor(f, "token_embd.weight", 40, 16, 0);
    for (int i = 0; i < TENSORS && row->tensors[i].name != NULL; i++) {
        const struct tensor_row *t = &row->tensors[i];
        if (t->a < 0)
            continue;
        if (t->type == 0) {
            gguf_file_tensor(f, t->name, t->a, t->b, t->c);
        } else { /* F16: zeros */
            const int64_t n = gguf_file_entry(f, t->name, t->type, t->a, t->b, t->c);
            for (int64_t k = 0; k < 2 * n; k++)
                buf_putc(&f->data, 0);
        }
    }
}

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

#define EXPERTS ".expert_count=2", ".expert_used_count=1"
#define YARN    ".rope.scaling.type='yarn'", ".rope.scaling.factor=2"
#define LONG                                                                                       \
    { "rope_factors_short.weight", 4, 0, 0, 0 },                                                   \
    {                                                                                              \
        "rope_factors_long.weight", 4, 0, 0, 0                                                     \
    }
static const struct row CONFIGS[] = {
    /* types: a text in place of a number */
    { "llama",
      { EXPERTS, ".expert_feed_forward_length='x'" },
      { { 0 } },
      "metadata llama.expert_feed_forward_length: is string, want an integer" },
    { "llama",
      { EXPERTS, ".expert_shared_feed_forward_length='x'" },
      { { 0 } },
      "metadata llama.expert_shared_feed_forward_length: is string, want an integer" },
    { "llama",
      { ".expert_count=2", ".expert_used_count='x'" },
      { { 0 } },
      "metadata llama.expert_used_count: is string, want an integer" },
    { "llama",
      { ".rope.scaling.original_context_length='x'", YARN },
      { { 0 } },
      "metadata llama.rope.scaling.original_context_length: is string, want an integer" },
    { "llama",
      { ".rope.scaling.original_context_length=16", ".rope.scaling.yarn_beta_fast='x'", YARN },
      { { 0 } },
      "metadata llama.rope.scaling.yarn_beta_fast: is string, want a number" },
    { "llama",
      { ".rope.scaling.original_context_length=16", ".rope.scaling.yarn_beta_slow='x'", YARN },
      { { 0 } },
      "metadata llama.rope.scaling.yarn_beta_slow: is string, want a number" },
    { "phi3",
      { ".rope.scaling.original_context_length='x'" },
      { LONG },
      "metadata phi3.rope.scaling.original_context_length: is string, want an integer" },
    { "phi3",
      { ".rope.scaling.attn_factor='x'" },
      { LONG },
      "metadata phi3.rope.scaling.attn_factor: is string, want a number" },
    { "phi3",
      { NULL },
      { { "rope_factors_short.weight", 4, 0, 0, 0 }, { "rope_factors_long.weight", 2, 2, 0, 0 } },
      "tensor rope_factors_long.weight: want a vector of at most 512 f32" },
    { "llama",
      { NULL },
      { { "rope_freqs.weight", 513, 0, 0, 0 } },
      "tensor rope_freqs.weight: want a vector of at most 512 f32" },
    { "llama",
      { NULL },
      { { "rope_freqs.weight", 4, 0, 0, 1 } },
      "tensor rope_freqs.weight: want a vector of at most 512 f32" },
    { "llama",
      { ".expert_count='x'" },
      { { 0 } },
      "metadata llama.expert_count: is string, want an integer" },
    { "llama",
      { ".rope.freq_base=nan" },
      { { 0 } },
      "metadata llama.rope.freq_base: is not finite (NaN or Inf)" },
    { "llama",
      { ".rope.freq_base=inf" },
      { { 0 } },
      "metadata llama.rope.freq_base: is not finite (NaN or Inf)" },
    { "llama",
      { ".rope.freq_base=[f1 2]" },
      { { 0 } },
      "metadata llama.rope.freq_base: is an array of f32, want a number" },
    { "llama",
      { ".rope.scaling.type={a|b}" },
      { { 0 } },
      "metadata llama.rope.scaling.type: is an array of string, want a text" },
    /* values */
    { "llama",
      { ".attention.head_count=[]" },
      { { 0 } },
      "metadata llama.attention.head_count: is an array of i32, want an integer" },
    { "llama",
      { ".attention.head_count=[20000000 20000000]" },
      { { 0 } },
      "metadata llama.attention.head_count: is 20000000, want 0 to 16777216" },
    { "llama",
      { ".embedding_length=1" },
      { { 0 } },
      "attention.key_length 0 with attention.value_length 0; want the same" },
    { "llama",
      { ".attention.key_length=8", ".attention.value_length=8" },
      { { 0 } },
      "+\"head_dim\": 8" },
    { "llama",
      { ".rope.scaling.type='abcd'" },
      { { 0 } },
      "is \"abcd\", want none, linear or yarn" },
    { "llama",
      { ".rope.scaling.type='abcdef'" },
      { { 0 } },
      "is \"abcdef\", want none, linear or yarn" },
    { "llama",
      { ".rope.scaling.type='aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeee'" },
      { { 0 } },
      "is \"aaaaaaaaaabbbbbbbbbbccccccccccdddddddddd\", want none, linear or yarn" },
    { "glm4", { NULL }, { { 0 } }, "+\"partial_rotary_factor\": 1," },
    { "llama", { ".rope.dimension_count=8" }, { { 0 } }, "!partial_rotary_factor" },
    /* the experts' width, where only the tensor says it */
    { "qwen2moe", { EXPERTS }, { { 0 } }, "+\"moe_intermediate_size\": 0" },
    { "qwen2moe",
      { EXPERTS },
      { { "blk.0.ffn_gate_exps.weight", 2, 4, 16, 0 } },
      "+\"moe_intermediate_size\": 4" },
    { "qwen2moe",
      { EXPERTS },
      { { "blk.0.ffn_gate_exps.weight", 2, 4, 0, 0 } },
      "+\"moe_intermediate_size\": 0" },
    /* the table */
    { "llama",
      { NULL },
      { { "token_embd.weight", -1, 0, 0, 0 }, { "output.weight", 4, 4, 0, 0 } },
      "tensor token_embd.weight: want a table of at most 16777216 rows" },
    { "llama",
      { NULL },
      { { "token_embd.weight", 40, 0, 0, 0 } },
      "tensor token_embd.weight: want a table of at most 16777216 rows" },
    /* beginning and end of a text */
    { "llama", { "tokenizer.ggml.bos_token_id=40" }, { { 0 } }, "+\"bos_token_id\": -1" },
    { "llama", { "tokenizer.ggml.eos_token_id=40" }, { { 0 } }, "+\"eos_token_id\": -1" },
    { "llama",
      { "tokenizer.ggml.eot_token_id='x'" },
      { { 0 } },
      "metadata tokenizer.ggml.eot_token_id: is string, want an integer" },
    { "llama",
      { "tokenizer.ggml.eot_token_id=3", "tokenizer.ggml.tokens='x'" },
      { { 0 } },
      "+\"eos_token_id\": [3]" },
    { "llama",
      { "tokenizer.ggml.tokens=[1 2]", "tokenizer.ggml.token_type=[3 3]" },
      { { 0 } },
      "+\"eos_token_id\": -1" },
    { "llama", { "tokenizer.ggml.tokens={<EOT>|a}" }, { { 0 } }, "+\"eos_token_id\": -1" },
    { "llama",
      { "tokenizer.ggml.tokens={<EOT>|a}", "tokenizer.ggml.token_type=3" },
      { { 0 } },
      "+\"eos_token_id\": -1" },
    { "llama",
      { "tokenizer.ggml.tokens={<EOT>|a}", "tokenizer.ggml.token_type=[f3 3]" },
      { { 0 } },
      "+\"eos_token_id\": -1" },
    { "llama",
      { "tokenizer.ggml.tokens={<EOT>|a}", "tokenizer.ggml.token_type=[3]" },
      { { 0 } },
      "+\"eos_token_id\": -1" },
    { "llama",
      { "tokenizer.ggml.tokens={a|<EOT>}", "tokenizer.ggml.token_type=[3 3]" },
      { { "token_embd.weight", 1, 16, 0, 0 } },
      "+\"eos_token_id\": -1" },
    { "llama",
      { "tokenizer.ggml.tokens={<EOT>|<EOT>|<EOT>|<EOT>|<EOT>|<EOT>|<EOT>|<EOT>|<EOT>|<EOT>|"
        "<EOT>|<EOT>|<EOT>|<EOT>}",
        "tokenizer.ggml.token_type=[3 3 3 3 3 3 3 3 3 3 3 3 3 3]" },
      { { 0 } },
      "+\"eos_token_id\": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]" },
};

static void test_configs(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof CONFIGS / sizeof *CONFIGS; i++) {
        const struct row *row = &CONFIGS[i];
        struct gguf_file f;
        struct hf_folder folder;
        struct err err;
        void *memory;
        size_t size;
        put_model(&f, row);
        assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
        const struct err *why = &folder.config_missing;
        const bool is_config = row->wanted[0] == '+' || row->wanted[0] == '!';
        const char *text = is_config ? folder.config.bytes : why->text;
        if (is_config != (why->code == ERR_NONE) ||
            (strstr(text, row->wanted + is_config) != NULL) == (row->wanted[0] == '!'))
            fail_msg("row %zu, want %s: code %d, %s", i, row->wanted, why->code,
                     why->code == ERR_NONE ? text : why->text);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

/* What the tokenizer needs: the file is not opened at all. */
static const struct row WHOLE[] = {
    { "llama",
      { "tokenizer.ggml.bos_token_id='x'" },
      { { 0 } },
      "m.gguf: metadata tokenizer.ggml.bos_token_id: is string, want an integer" },
    { "llama",
      { "tokenizer.ggml.padding_token_id='x'" },
      { { 0 } },
      "m.gguf: metadata tokenizer.ggml.padding_token_id: is string, want an integer" },
    { "llama",
      { "tokenizer.chat_template=1" },
      { { 0 } },
      "m.gguf: metadata tokenizer.chat_template: is u32, want a text" },
    { "llama",
      { "split.count='x'" },
      { { 0 } },
      "m.gguf: metadata split.count: is string, want an integer" },
    { "llama",
      { "split.no='x'" },
      { { 0 } },
      "m.gguf: metadata split.no: is string, want an integer" },
    { "llama",
      { "split.count=2" },
      { { 0 } },
      "m.gguf: is part 1 of 2 by split.no and split.count; want the names "
      "NAME-00001-of-00002.gguf" },
    { "llama", { "split.count=0" }, { { 0 } }, "+{\n  \"tokenizer_class\": \"GGUF\"\n}\n" },
    /* a token that is not there has no text */
    { "llama",
      { "tokenizer.ggml.bos_token_id=0", "tokenizer.ggml.tokens=[1 2]" },
      { { 0 } },
      "!bos_token" },
    { "llama",
      { "tokenizer.ggml.bos_token_id=0", "tokenizer.ggml.tokens='x'" },
      { { 0 } },
      "!bos_token" },
    { "llama",
      { "tokenizer.ggml.bos_token_id=2", "tokenizer.ggml.tokens={a|b}" },
      { { 0 } },
      "!bos_token" },
    { "llama",
      { "tokenizer.ggml.bos_token_id=1", "tokenizer.ggml.tokens={a|b}" },
      { { 0 } },
      "+\"bos_token\": \"b\"" },
};

static void test_open(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof WHOLE / sizeof *WHOLE; i++) {
        const struct row *row = &WHOLE[i];
        struct gguf_file f;
        struct hf_folder folder;
        struct err err = { 0 };
        void *memory;
        size_t size;
        put_model(&f, row);
        const bool good = open_file(&folder, &f, &memory, &size, &err);
        const bool is_config = row->wanted[0] == '+' || row->wanted[0] == '!';
        const char *text = good ? folder.tokenizer_config.bytes : err.text;
        if (good != is_config ||
            (strstr(text, row->wanted + is_config) != NULL) == (row->wanted[0] == '!'))
            fail_msg("row %zu, want %s: %s", i, row->wanted, text);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

static void test_architectures(void **state)
{
    (void)state;
    static const struct {
        const char *setting, *wanted;
    } rows[] = {
        { "general.architecture=3", "metadata general.architecture: is u32, want a text" },
        { "general.architecture='a\x7f'", "general.architecture \"a?\"; supported: llama, qwen2" },
        { "general.architecture="
          "'aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggg'",
          "\"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggg\"; supported" },
        { "general.architecture='qwen4'", "general.architecture \"qwen4\"; supported" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row row = { NULL, { rows[i].setting }, { { 0 } }, NULL };
        struct gguf_file f;
        struct hf_folder folder;
        struct err err = { 0 };
        void *memory;
        size_t size;
        put_model(&f, &row);
        assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
        if (strstr(folder.config_missing.text, rows[i].wanted) == NULL)
            fail_msg("%s: %s", rows[i].setting, folder.config_missing.text);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
}

/* Names that look like a layer's tensor and are not stay as they are; the loader refuses them. */
static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *gguf, *name;
        int32_t a, b, c;
        const char *wanted; /* NULL: accepted */
    } rows[] = {
        { "llama", "blk.+1.attn_q.weight", "blk.+1.attn_q.weight", 4, 4, 0, NULL },
        { "llama", "blk.:.attn_q.weight", "blk.:.attn_q.weight", 4, 4, 0, NULL },
        { "llama", "blk.1attn_q.weight", "blk.1attn_q.weight", 4, 4, 0, NULL },
        { "llama", "blk.1048577.attn_q.weight", "blk.1048577.attn_q.weight", 4, 4, 0, NULL },
        { "llama", "blk.1048576.attn_v.weight", "model.layers.1048576.self_attn.v_proj.weight", 4,
          4, 0, NULL },
        { "llama", "blk.0.token_embd.weight", "blk.0.token_embd.weight", 4, 4, 0, NULL },
        { "llama", "attn_q.weight", "attn_q.weight", 4, 4, 0, NULL },
        { "llama", "attn_q", "attn_q", 4, 4, 0, NULL },
        { "llama", "blk.0.attn_q.scale", "blk.0.attn_q.scale", 4, 4, 0, NULL },
        { "gpt-oss", "blk.0.attn_sinks.weight", "model.layers.0.self_attn.sinks", 2, 0, 0, NULL },
        { "llama", "blk.0.ffn_up_exps.weight",
          "model.layers.0.block_sparse_moe.experts.99.w3.weight", 100, 1, 1, NULL },
        { "qwen2moe", "blk.0.ffn_gate_inp_shexp.weight",
          "model.layers.0.mlp.shared_expert_gate.weight", 1, 16, 0, NULL },
        { "llama", "blk.0.ffn_up_exps.weight", "", 1025, 1, 1,
          "tensor blk.0.ffn_up_exps.weight: 1025 experts in 3 dimensions, want at most 1024 in 2 "
          "or "
          "3" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row row = {
            rows[i].arch, { NULL }, { { rows[i].gguf, rows[i].a, rows[i].b, rows[i].c, 0 } }, NULL
        };
        struct gguf_file f;
        struct hf_folder folder;
        struct err err = { 0 };
        void *memory;
        size_t size;
        put_model(&f, &row);
        assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
        const struct err *why = &folder.config_missing;
        if (rows[i].wanted == NULL ? tensor_dir_find(&folder.tensors, rows[i].name) == NULL
                                   : strstr(why->text, rows[i].wanted) == NULL)
            fail_msg("%s: %s", rows[i].gguf, why->text);
        hf_folder_close(&folder);
        guard_free(memory, size);
    }
    /* Heads of an odd width have no pairs: rows stay where they are. */
    const struct row odd = {
        "llama", { ".attention.key_length=3" }, { { "blk.0.attn_q.weight", 6, 16, 0, 0 } }, NULL
    };
    struct gguf_file f;
    struct hf_folder folder;
    struct err err = { 0 };
    void *memory;
    size_t size;
    put_model(&f, &odd);
    assert_ok(open_file(&folder, &f, &memory, &size, &err), &err);
    const struct tensor *q =
        tensor_dir_find(&folder.tensors, "model.layers.0.self_attn.q_proj.weight");
    assert_true(q != NULL && q->pairs == 0);
    hf_folder_close(&folder);
    guard_free(memory, size);
}

/* Four dimensions of experts, offsets that nearly fill 64 bits, headers that end in a number. */
static void test_headers(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        uint64_t dims[5]; /* of F64 vectors, one after another */
        const char *wanted;
    } rows[] = {
        { "four dimensions of 2^59 - 1: their end has no number",
          { (UINT64_C(1) << 59) - 1, (UINT64_C(1) << 59) - 1, (UINT64_C(1) << 59) - 1,
            (UINT64_C(1) << 59) - 1 },
          "tensor d: 4611686018427387896 bytes at offset 13835058055282163712: too large to "
          "count" },
        { "the sum itself overflows",
          { (UINT64_C(1) << 59) - 1, (UINT64_C(1) << 59) - 1, (UINT64_C(1) << 59) - 1, 4,
            (UINT64_C(1) << 59) - 1 },
          "tensor e: 4611686018427387896 bytes at offset 13835058055282163744: too large to "
          "count" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct gguf_file f;
        struct hf_folder folder;
        struct err err = { 0 };
        void *memory;
        size_t size;
        uint64_t offset = 0;
        gguf_file_init(&f);
        for (int k = 0; k < 5 && rows[i].dims[k] != 0; k++) {
            gguf_put_text(&f.tensors, (const char[]){ (char)('a' + k), 0 });
            gguf_put(&f.tensors, 1, 4);
            gguf_put(&f.tensors, rows[i].dims[k], 8);
            gguf_put(&f.tensors, 28, 4);
            gguf_put(&f.tensors, offset, 8);
            offset = (offset + rows[i].dims[k] * 8 + 31) / 32 * 32;
            f.n_tensors++;
        }
        assert_false(open_file(&folder, &f, &memory, &size, &err));
        if (strstr(err.text, rows[i].wanted) == NULL)
            fail_msg("%s: %s", rows[i].sentence, err.text);
        guard_free(memory, size);
    }
    /* A name that leaves no bytes for what follows it. */
    static const struct {
        size_t behind; /* bytes behind the name */
        const char *wanted;
    } cuts[] = { { 0, "number of dimensions: want 4 bytes, the file has 0 left" },
                 { 3, "number of dimensions: want 4 bytes, the file has 3 left" },
                 { 4, "dimension: want 8 bytes, the file has 0 left" },
                 { 11, "dimension: want 8 bytes, the file has 7 left" },
                 { 12, "type: want 4 bytes, the file has 0 left" },
                 { 16, "offset: want 8 bytes, the file has 0 left" } };
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        struct file_map map;
        struct gguf gguf;
        struct err err;
        struct buf out;
        buf_init(&out, 4096);
        buf_puts(&out, "GGUF");
        gguf_put(&out, 3, 4);
        gguf_put(&out, 1, 8);
        gguf_put(&out, 0, 8);
        gguf_put_text(&out, "a_name_of_some_forty_bytes_so_that_the_count_is_believed");
        gguf_put(&out, 1, 4);
        gguf_put(&out, 3, 8);
        gguf_put(&out, 0, 4);
        gguf_put(&out, 0, 8);
        const size_t size = 24 + 8 + 56 + cuts[i].behind;
        void *copy = guard_copy(out.bytes, size);
        file_map_memory(&map, copy, size);
        assert_false(gguf_read(&gguf, map, "m", &err));
        if (strstr(err.text, cuts[i].wanted) == NULL)
            fail_msg("%zu bytes: %s", cuts[i].behind, err.text);
        guard_free(copy, size);
        buf_clear(&out);
    }
}

/* Getters of the types that no config has as arrays. */
static void test_getters(void **state)
{
    (void)state;
    struct gguf_file f;
    struct file_map map;
    struct gguf gguf;
    struct err err;
    size_t size;
    bool flag = true;
    gguf_file_init(&f);
    gguf_file_key(&f, "flags", GGUF_ARRAY);
    gguf_put(&f.values, GGUF_BOOL, 4);
    gguf_put(&f.values, 1, 8);
    gguf_put(&f.values, 1, 1);
    gguf_file_bool(&f, "no", false);
    uint8_t *bytes = gguf_file_bytes(&f, &size);
    file_map_memory(&map, bytes, size);
    assert_ok(gguf_read(&gguf, map, "m", &err), &err);
    assert_false(gguf_opt_bool(&gguf, "flags", &flag, &err));
    assert_string_equal(err.text, "metadata flags: is an array of bool, want a bool");
    assert_ok(gguf_opt_bool(&gguf, "no", &flag, &err), &err);
    assert_false(flag);
    gguf_clear(&gguf);
    free(bytes);
}

/* Paths that name parts. */
static void test_parts(void **state)
{
    (void)state;
    static const struct {
        const char *name, *wanted;
    } rows[] = {
        { "m-00001-of-00000.gguf", "part 1 of 0, want at most 1024 parts" },
        { "m-00001-of-01025.gguf", "part 1 of 1025, want at most 1024 parts" },
        { "m-00000-of-00002.gguf", "part 0 of 2, want at most 1024 parts" },
        { "m-00003-of-00002.gguf", "part 3 of 2, want at most 1024 parts" },
        { "m-0000a-of-00002.gguf",
          "m-0000a-of-00002.gguf: metadata split.tensors.count: is string" },
        { "m-00001+of-00002.gguf",
          "m-00001+of-00002.gguf: metadata split.tensors.count: is string" },
    };
    struct hf_folder folder;
    struct err err;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct row row = { "llama", { "split.tensors.count='x'" }, { { 0 } }, NULL };
        struct gguf_file f;
        char path[600];
        size_t size;
        put_model(&f, &row);
        uint8_t *bytes = gguf_file_bytes(&f, &size);
        snprintf(path, sizeof path, "%s/%s", temp_dir(), rows[i].name);
        write_file(path, bytes, size);
        free(bytes);
        assert_false(hf_folder_open(&folder, path, &err));
        if (strstr(err.text, rows[i].wanted) == NULL)
            fail_msg("%s: %s", rows[i].name, err.text);
    }
    assert_false(hf_folder_open(&folder, "no.gguf", &err)); /* shorter than the form of a part */
    assert_non_null(strstr(err.text, "no.gguf: No such file"));
    /* Parts that do not say how many tensors there are. */
    for (int part = 0; part < 2; part++) {
        char path[600], number[32];
        snprintf(number, sizeof number, "split.no=%d", part);
        const struct row row = { "llama",
                                 { "split.count=2", number },
                                 { { part == 0 ? "token_embd.weight" : "output.weight", 4, 4, 0,
                                     0 },
                                   { "token_embd.weight", -1, 0, 0, 0 } },
                                 NULL };
        struct gguf_file f;
        size_t size;
        put_model(&f, &row);
        uint8_t *bytes = gguf_file_bytes(&f, &size);
        snprintf(path, sizeof path, "%s/n-0000%d-of-00002.gguf", temp_dir(), part + 1);
        write_file(path, bytes, size);
        free(bytes);
        if (part == 1) {
            assert_ok(hf_folder_open(&folder, path, &err), &err);
            assert_int_equal(folder.tensors.n_tensors, 2);
            hf_folder_close(&folder);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_configs),       cmocka_unit_test(test_open),
        cmocka_unit_test(test_architectures), cmocka_unit_test(test_names),
        cmocka_unit_test(test_headers),       cmocka_unit_test(test_getters),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
