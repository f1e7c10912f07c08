/* test_quantized.c - quantized checkpoints as the tools write them: every dequantized matrix that
 * the reference holds, bit for bit, and the logits of the whole model with exact activations.
 *
 * A few folders are checked in; NIBBLE_ORACLE has them all. Rows are decoded in pieces of odd
 * sizes: the pieces must not show. */
#include "tests/oracle/model_run.h"

#include <math.h>
#include "host/base/json.h"
#include "host/base/rng.h"
#include "host/format/packing.h"

/* ulp: how far a product that other programs round in another order may be off. */
static const struct {
    const char *name;
    int32_t ulp;
} FOLDERS[] = {
    { "awq_gemm_g128", 0 },
    { "awq_gemm_g32_qwen2", 0 },
    { "awq_gemm_g64_skip", 0 },
    { "bitnet_packed_autobitlinear", 0 },
    { "bitnet_packed_bitlinear", 0 },
    { "bnb_fp4", 0 },
    { "bnb_int8", 1 },
    { "bnb_nf4", 0 },
    { "bnb_nf4_double", 0 },
    { "ct_fp8_block", 0 },
    { "ct_fp8_dynamic", 0 },
    { "ct_fp8_static", 0 },
    { "ct_int8_w8a8", 0 },
    { "ct_mxfp4a16", 0 },
    { "ct_nvfp4", 0 },
    { "ct_nvfp4a16", 0 },
    { "ct_pack_w4_channel_asym", 0 },
    { "ct_pack_w4_channel_sym", 0 },
    { "ct_pack_w4_g128_sym_qwen2", 0 },
    { "ct_pack_w4_g32_actorder", 0 },
    { "ct_pack_w4_g32_asym", 0 },
    { "ct_pack_w4_g32_sym", 0 },
    { "ct_pack_w8_channel_sym", 0 },
    { "ct_pack_w8_g32_asym", 0 },
    { "fp8_block128", 0 },
    { "gpt_oss_mxfp4", 0 },
    { "gptq_v1_b2_g32_asym", 0 },
    { "gptq_v1_b3_g128_sym", 0 },
    { "gptq_v1_b4_g128_asym_zerobias", 0 },
    { "gptq_v1_b4_g128_sym", 0 },
    { "gptq_v1_b4_g32_sym_descact", 0 },
    { "gptq_v1_b4_g32_sym_qwen3moe", 0 },
    { "gptq_v1_b4_gm1_sym", 0 },
    { "gptq_v1_b8_g128_sym", 0 },
    { "gptq_v1_b8_gm1_asym", 0 },
    { "gptq_v2_b2_g128_sym", 0 },
    { "gptq_v2_b3_g32_asym_descact", 0 },
    { "gptq_v2_b4_g32_asym_descact_qwen2", 0 },
    { "gptq_v2_b8_g32_asym", 0 },
};
enum { N_FOLDERS = sizeof FOLDERS / sizeof *FOLDERS, PROMPTS = 3, GREEDY = 24, TOKENS_MAX = 128 };
static const double NMSE_MAX = 1e-9;
static const float MARGIN_MIN = 1e-3f;

static bool is_there(int32_t k)
{
    return file_exists(oracle_path("quantized/%s/config.json", FOLDERS[k].name));
}

static void say_skipped(int32_t n)
{
    if (n > 0)
        print_message("%d folders are not here; set NIBBLE_ORACLE for them\n", n);
}

/* ---- weights ----------------------------------------------------------------------------------
 */

static int64_t ulps_between(float a, float b)
{
    int32_t x, y;
    memcpy(&x, &a, sizeof x);
    memcpy(&y, &b, sizeof y);
    const int64_t p = x < 0 ? -(int64_t)(x & INT32_MAX) : x;
    const int64_t q = y < 0 ? -(int64_t)(y & INT32_MAX) : y;
    return p > q ? p - q : q - p;
}

/* Rows in pieces of 1, 2, 3 .. rows against `want` (at `stride`, `step` floats apart). */
static int64_t compare_rows(const struct packed *packed, const float *want, size_t row_step,
                            size_t col_step)
{
    struct err err;
    struct matrix block;
    struct matrix_form form = packed->form;
    const int32_t n_out = form.n_out, n_in = form.n_in;
    int64_t worst = 0;
    float *row = malloc((size_t)n_in * sizeof *row);
    assert_non_null(row);
    form.n_out = n_out < 40 ? n_out : 40;
    assert_ok(matrix_init_form(&block, &form, &err), &err);
    for (int32_t at = 0, piece = 1; at < n_out; at += piece, piece = piece % 37 + 1) {
        piece = piece < n_out - at ? piece : n_out - at;
        piece = piece < form.n_out ? piece : form.n_out;
        const int32_t shift = form.n_out - piece;
        assert_ok(packed_rows(packed, at, piece, &block, shift, &err), &err);
        for (int32_t r = 0; r < piece; r++) {
            matrix_dequantize_row(&block, shift + r, row);
            for (int32_t i = 0; i < n_in; i++) {
                const size_t from = (size_t)(at + r) * row_step + (size_t)i * col_step;
                const int64_t ulps = ulps_between(row[i], want[from]);
                worst = worst > ulps ? worst : ulps;
            }
        }
    }
    free(row);
    matrix_clear(&block);
    return worst;
}

/* One "dequant.PARAM": [n_out][n_in], or the experts' [E][n_in][n_out]. */
static int64_t check_param(const struct hf_folder *folder, const struct quant_spec *spec,
                           const struct tensor *want, const char *folder_name)
{
    struct err err;
    struct packed packed;
    char module[128];
    int64_t worst = 0;
    const float *values = (const float *)(const void *)want->data;
    snprintf(module, sizeof module, "%s", want->name + strlen("dequant."));
    if (want->n_dims == 3) {
        const int32_t n = (int32_t)want->dims[0], n_in = (int32_t)want->dims[1];
        const int32_t n_out = (int32_t)want->dims[2];
        for (int32_t e = 0; e < n; e++) {
            assert_ok(
                packed_find_mxfp4_slice(&packed, &folder->tensors, module, n, e, n_out, n_in, &err),
                &err);
            const int64_t ulps = compare_rows(
                &packed, values + (size_t)e * (size_t)n_in * (size_t)n_out, 1, (size_t)n_out);
            worst = worst > ulps ? worst : ulps;
            packed_clear(&packed);
        }
        return worst;
    }
    module[strlen(module) - strlen(".weight")] = 0;
    const int32_t n_out = (int32_t)want->dims[0], n_in = (int32_t)want->dims[1];
    assert_ok(packed_find(&packed, &folder->tensors, spec, module, n_out, n_in, &err), &err);
    if (packed.packing == PACKING_NONE)
        fail_msg("%s: %s does not count as quantized", folder_name, module);
    worst = compare_rows(&packed, values, (size_t)n_in, 1);
    packed_clear(&packed);
    return worst;
}

static void read_spec(struct quant_spec *spec, const struct hf_folder *folder)
{
    struct err err;
    struct cJSON *tree = NULL;
    assert_ok(json_parse(folder->config.bytes, folder->config.size, &JSON_FILE_LIMITS, ERR_FORMAT,
                         &tree, &err),
              &err);
    const struct json_ref root = json_root(tree);
    assert_ok(quant_spec_read(spec, &root, &err), &err);
    assert_ok(quant_spec_check(spec, &err), &err);
    json_free(tree);
}

static void test_weights(void **state)
{
    (void)state;
    int32_t skipped = 0, n = 0;
    for (int32_t k = 0; k < N_FOLDERS; k++) {
        const char *name = FOLDERS[k].name;
        struct err err;
        struct hf_folder folder;
        struct quant_spec spec;
        struct tensor_dir expect;
        if (!is_there(k)) {
            skipped++;
            continue;
        }
        assert_ok(hf_folder_open(&folder, oracle_path("quantized/%s", name), &err), &err);
        read_spec(&spec, &folder);
        expect_open(&expect, oracle_path("quantized/%s/expect.safetensors", name));
        for (int32_t i = 0; i < expect.n_tensors; i++) {
            if (strncmp(expect.tensors[i].name, "dequant.", 8) != 0)
                continue;
            const int64_t ulps = check_param(&folder, &spec, &expect.tensors[i], name);
            if (ulps > FOLDERS[k].ulp)
                fail_msg("%s: %s is off by %lld units in the last place", name,
                         expect.tensors[i].name, (long long)ulps);
            n++;
        }
        tensor_dir_clear(&expect);
        quant_spec_clear(&spec);
        hf_folder_close(&folder);
    }
    assert_true(n > 0);
    print_message("%d matrices as the reference has them\n", n);
    say_skipped(skipped);
}

/* ---- logits -----------------------------------------------------------------------------------
 */

static int32_t check_prompt(struct model_run *run, const struct tensor_dir *expect, int32_t i,
                            const char *name, double nmse_max, double *worst)
{
    const int32_t vocab = run->model.vocab;
    int64_t n, n_logits, n_greedy;
    const int32_t *ids = expect_find(expect, DTYPE_I32, &n, "input_ids_%d", i);
    const float *wanted = expect_find(expect, DTYPE_F32, &n_logits, "logits_%d", i);
    const int32_t *greedy = expect_find(expect, DTYPE_I32, &n_greedy, "ids_greedy_%d", i);
    const float *margin = expect_find(expect, DTYPE_F32, &n_greedy, "margin_%d", i);
    int32_t tokens[TOKENS_MAX], close = 0;
    const int32_t total = (int32_t)n + GREEDY;
    assert_true(n_logits == n * vocab && n_greedy == GREEDY && total <= TOKENS_MAX);
    float *logits = malloc((size_t)total * (size_t)vocab * sizeof *logits);
    assert_non_null(logits);
    memcpy(tokens, ids, (size_t)n * sizeof *tokens);
    memcpy(tokens + n, greedy, GREEDY * sizeof *tokens);
    model_run_logits(run, tokens, total, total, logits, NULL, NULL);
    const double found = nmse(logits, wanted, n_logits);
    if (!(found <= nmse_max))
        fail_msg("%s, prompt %d: NMSE %.3g", name, i, found);
    *worst = fmax(*worst, found);
    for (int32_t s = 0; s < GREEDY && nmse_max == NMSE_MAX; s++) {
        const float *row = logits + (n - 1 + s) * vocab;
        int32_t best = 0;
        for (int32_t t = 1; t < vocab; t++)
            best = row[t] > row[best] ? t : best;
        if (margin[s] <= MARGIN_MIN)
            close++;
        else if (best != greedy[s])
            fail_msg("%s, prompt %d, step %d: token %d, want %d", name, i, s, best, greedy[s]);
    }
    free(logits);
    return close;
}

/* False, with the reason printed, when the model's family is not supported. */
static bool open_folder(struct model_run *run, const char *name, bool exact)
{
    struct err err;
    /* Keys and values in fp32: rounding them sends activations over the edges of their codes. */
    const struct model_setup setup = {
        .exact = exact, .pages = true, .n_threads = 2, .kv = DTYPE_F32
    };
    if (model_run_open(run, oracle_path("quantized/%s", name), NULL, &setup, &err))
        return true;
    if (err.code != ERR_UNSUPPORTED)
        fail_msg("%s: %s", name, err.text);
    print_message("not run: %s\n", err.text);
    return false;
}

static void test_exact(void **state)
{
    (void)state;
    double worst = 0;
    int32_t skipped = 0, close = 0, n = 0;
    for (int32_t k = 0; k < N_FOLDERS; k++) {
        struct model_run run;
        struct tensor_dir expect;
        if (!is_there(k)) {
            skipped++;
            continue;
        }
        if (!open_folder(&run, FOLDERS[k].name, true))
            continue;
        expect_open(&expect, oracle_path("quantized/%s/expect.safetensors", FOLDERS[k].name));
        for (int32_t i = 0; i < PROMPTS; i++)
            close += check_prompt(&run, &expect, i, FOLDERS[k].name, NMSE_MAX, &worst);
        tensor_dir_clear(&expect);
        model_run_close(&run);
        n++;
    }
    assert_true(n > 0);
    print_message("exact: %d checkpoints, worst NMSE %.2g; %d near ties among %d greedy tokens\n",
                  n, worst, close, n * PROMPTS * GREEDY);
    say_skipped(skipped);
}

/* Activations as the scheme (or, where it has none, the backend) quantizes them. */
static double rms_of(struct model_run *run, const struct tensor_dir *expect, int32_t i,
                     const char *logits_name)
{
    int64_t n, n_logits;
    const int32_t vocab = run->model.vocab;
    const int32_t *ids = expect_find(expect, DTYPE_I32, &n, "input_ids_%d", i);
    const float *wanted = expect_find(expect, DTYPE_F32, &n_logits, "%s_%d", logits_name, i);
    float *logits = malloc((size_t)n_logits * sizeof *logits);
    double sum = 0;
    assert_true(logits != NULL && n_logits == n * vocab);
    model_run_logits(run, ids, (int32_t)n, (int32_t)n, logits, NULL, NULL);
    for (int64_t k = 0; k < n_logits; k++)
        sum += ((double)logits[k] - (double)wanted[k]) * ((double)logits[k] - (double)wanted[k]);
    free(logits);
    return sqrt(sum / (double)n_logits);
}

static void test_auto(void **state)
{
    (void)state;
    /* Of logits with a standard deviation of 1 to 4. Where the scheme leaves activations alone, the
     * backend's own int8 activations are what is off; a wrong layout would be off by 1 and more. */
    static const double SCHEME_MAX = 0.05, OWN_MAX = 0.4; /* 0.32 where experts are chosen */
    int32_t skipped = 0, n = 0, fast = 0;
    double worst = 0, worst_scheme = 0;
    for (int32_t k = 0; k < N_FOLDERS; k++) {
        struct model_run run;
        struct tensor_dir expect;
        if (!is_there(k)) {
            skipped++;
            continue;
        }
        if (!open_folder(&run, FOLDERS[k].name, false))
            continue;
        expect_open(&expect, oracle_path("quantized/%s/expect.safetensors", FOLDERS[k].name));
        const bool scheme = tensor_dir_find(&expect, "logits_fakeact_0") != NULL;
        for (int32_t i = 0; i < PROMPTS; i++) {
            const double rms = rms_of(&run, &expect, i, scheme ? "logits_fakeact" : "logits");
            if (!(rms < (scheme ? SCHEME_MAX : OWN_MAX)))
                fail_msg("%s, prompt %d: rms %.3g", FOLDERS[k].name, i, rms);
            if (scheme)
                worst_scheme = fmax(worst_scheme, rms);
            else
                worst = fmax(worst, rms);
        }
        struct model_slot slots[64];
        const int32_t n_slots = model_slots(&run.model, slots, 64);
        for (int32_t s = 0; s < n_slots && s < 64; s++)
            fast += slots[s].bits != 0 && strncmp(slots[s].resident, "codes", 5) != 0;
        tensor_dir_clear(&expect);
        model_run_close(&run);
        n++;
    }
    assert_true(n > 0 && fast > 0);
    print_message("auto: %d checkpoints, rms %.2g, of schemes that quantize activations %.2g; %d "
                  "matrices in fast layouts\n",
                  n, worst, worst_scheme, fast);
    say_skipped(skipped);
}

/* ---- parts of one matrix in different formats ---------------------------------------------------
 */

/* Which checkpoint each module comes from, and what its config group says. */
static const struct {
    const char *module, *folder, *format, *weights;
} MIX[] = {
    { "self_attn.q_proj", "ct_pack_w4_g32_asym", "pack-quantized",
      "\"num_bits\":4,\"group_size\":32,\"symmetric\":false" },
    { "self_attn.k_proj", "ct_nvfp4", "nvfp4-pack-quantized",
      "\"num_bits\":4,\"type\":\"float\",\"group_size\":16,\"strategy\":\"tensor_group\"" },
    { "self_attn.v_proj", "ct_fp8_block", "float-quantized",
      "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\",\"block_structure\":[128,128]" },
    { "self_attn.o_proj", "ct_int8_w8a8", "int-quantized",
      "\"num_bits\":8,\"strategy\":\"channel\"" },
    { "mlp.gate_proj", "ct_int8_w8a8", "int-quantized", "\"num_bits\":8,\"strategy\":\"channel\"" },
    { "mlp.up_proj", "ct_pack_w4_g32_actorder", "pack-quantized",
      "\"num_bits\":4,\"group_size\":32" },
    { "mlp.down_proj", "ct_mxfp4a16", "mxfp4-pack-quantized",
      "\"num_bits\":4,\"type\":\"float\",\"group_size\":32" },
};
enum { N_MIX = sizeof MIX / sizeof *MIX, FILE_MAX = 4 << 20 };

/* A .safetensors file in the making: header text, then data. */
struct writer {
    char header[16384];
    size_t header_used, used;
    uint8_t *data; /* [FILE_MAX] */
};
static void put_tensor(struct writer *w, const char *name, const char *dtype, const int64_t *dims,
                       int32_t n_dims, const void *data, size_t bytes)
{
    char shape[64] = "";
    for (int32_t i = 0; i < n_dims; i++)
        snprintf(shape + strlen(shape), sizeof shape - strlen(shape), i ? ",%lld" : "%lld",
                 (long long)dims[i]);
    assert_true(w->used + bytes <= FILE_MAX);
    memcpy(w->data + w->used, data, bytes);
    w->header_used +=
        (size_t)snprintf(w->header + w->header_used, sizeof w->header - w->header_used,
                         "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         w->header_used ? "," : "{", name, dtype, shape, w->used, w->used + bytes);
    w->used += bytes;
    assert_true(w->header_used < sizeof w->header - 16);
}
static void put_copy(struct writer *w, const struct tensor *t)
{
    static const char *const names[DTYPE_COUNT] = {
        [DTYPE_F32] = "F32", [DTYPE_F16] = "F16", [DTYPE_BF16] = "BF16", [DTYPE_I64] = "I64",
        [DTYPE_I32] = "I32", [DTYPE_I8] = "I8",   [DTYPE_U8] = "U8",     [DTYPE_F8_E4M3] = "F8_E4M3"
    };
    assert_non_null(names[t->dtype]);
    put_tensor(w, t->name, names[t->dtype], t->dims, t->n_dims, t->data, t->bytes);
}
/* The whole file; free() it. */
static uint8_t *finish_file(struct writer *w, size_t *size)
{
    w->header[w->header_used++] = '}';
    while (w->header_used % 8 != 0)
        w->header[w->header_used++] = ' ';
    const uint64_t length = w->header_used;
    *size = 8 + w->header_used + w->used;
    uint8_t *file = malloc(*size);
    assert_non_null(file);
    memcpy(file, &length, 8);
    memcpy(file + 8, w->header, w->header_used);
    memcpy(file + 8 + w->header_used, w->data, w->used);
    free(w->data);
    return file;
}

static const char *mix_config(char *text, size_t size)
{
    size_t n = (size_t)snprintf(text, size,
                                "\"quantization_config\":{\"quant_method\":"
                                "\"compressed-tensors\",\"format\":\"mixed-precision\","
                                "\"config_groups\":{\"head\":{\"targets\":[\"lm_head\"],"
                                "\"format\":\"int-quantized\",\"weights\":{"
                                "\"num_bits\":8,\"strategy\":\"channel\"}}");
    for (int32_t k = 0; k < N_MIX; k++)
        n += (size_t)snprintf(text + n, size - n,
                              ",\"g%d\":{\"targets\":[\"re:.*%s\"],\"format\":\"%s\",\"weights\":{"
                              "%s}}",
                              k, MIX[k].module, MIX[k].format, MIX[k].weights);
    assert_true(n + 3 < size);
    return strcat(text, "}}");
}

/* A quantized head: the first rows of int8 gate_proj. */
static void put_head(struct writer *mixed, const struct tensor_dir *dir, const float *w)
{
    enum { VOCAB = 192, N_IN = 128 };
    static const int64_t shape[2] = { VOCAB, N_IN }, scales_shape[2] = { VOCAB, 1 };
    const struct tensor *codes = tensor_dir_find(dir, "model.layers.0.mlp.gate_proj.weight");
    const struct tensor *scales = tensor_dir_find(dir, "model.layers.0.mlp.gate_proj.weight_scale");
    assert_true(codes != NULL && scales != NULL && codes->dims[0] >= VOCAB);
    if (w != NULL) {
        put_tensor(mixed, "lm_head.weight", "F32", shape, 2, w, VOCAB * N_IN * sizeof *w);
        return;
    }
    put_tensor(mixed, "lm_head.weight", "I8", shape, 2, codes->data, VOCAB * N_IN);
    put_tensor(mixed, "lm_head.weight_scale", "BF16", scales_shape, 2, scales->data, VOCAB * 2);
}

/* The mix, and the same weights as plain floats. */
static void write_mix(struct writer *mixed, struct writer *plain, const char *config)
{
    for (int32_t k = 0; k < N_MIX; k++) {
        struct hf_folder folder;
        struct quant_spec spec;
        struct packed packed;
        struct matrix m;
        struct err err;
        struct cJSON *tree = NULL;
        char module[96], name[112], text[4200];
        snprintf(text, sizeof text, "{%s}", config);
        assert_ok(json_parse(text, strlen(text), &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err), &err);
        const struct json_ref root = json_root(tree);
        assert_ok(quant_spec_read(&spec, &root, &err), &err);
        json_free(tree);
        assert_ok(hf_folder_open(&folder, oracle_path("quantized/%s", MIX[k].folder), &err), &err);
        snprintf(module, sizeof module, "model.layers.0.%s", MIX[k].module);
        for (int32_t i = 0; i < folder.tensors.n_tensors; i++) {
            const struct tensor *t = &folder.tensors.tensors[i];
            if (strncmp(t->name, module, strlen(module)) == 0)
                put_copy(mixed, t);
            if (k == 0 && strstr(t->name, "_proj") == NULL) { /* norms and the table */
                put_copy(mixed, t);
                put_copy(plain, t);
            }
        }
        const int64_t dims[2] = { strstr(module, "k_proj") || strstr(module, "v_proj") ? 64
                                  : strstr(module, "gate") || strstr(module, "up")     ? 256
                                                                                       : 128,
                                  strstr(module, "down") ? 256 : 128 };
        assert_ok(packed_find(&packed, &folder.tensors, &spec, module, (int32_t)dims[0],
                              (int32_t)dims[1], &err),
                  &err);
        assert_true(packed.packing != PACKING_NONE);
        assert_ok(matrix_init_form(&m, &packed.form, &err), &err);
        assert_ok(packed_rows(&packed, 0, m.n_out, &m, 0, &err), &err);
        float *w = malloc((size_t)(dims[0] * dims[1]) * sizeof *w);
        assert_non_null(w);
        for (int32_t r = 0; r < m.n_out; r++)
            matrix_dequantize_row(&m, r, w + (size_t)r * (size_t)m.n_in);
        snprintf(name, sizeof name, "%s.weight", module);
        put_tensor(plain, name, "F32", dims, 2, w, (size_t)(dims[0] * dims[1]) * sizeof *w);
        if (strstr(module, "gate_proj")) {
            put_head(mixed, &folder.tensors, NULL);
            put_head(plain, &folder.tensors, w);
        }
        free(w);
        matrix_clear(&m);
        packed_clear(&packed);
        quant_spec_clear(&spec);
        hf_folder_close(&folder);
    }
}

static void mix_logits(const char *config, const uint8_t *weights, size_t size, bool exact,
                       float *logits, int32_t *vocab)
{
    enum { N = 40 };
    struct model_run run = { 0 };
    struct err err;
    int32_t tokens[N];
    const struct hf_file files[2] = { { "config.json", config, strlen(config) },
                                      { "model.safetensors", weights, size } };
    const struct cpu_options cpu = { .n_threads = 2, .exact = exact };
    const struct model_options options = { .rows_max = N,
                                           .logit_rows_max = N,
                                           .kv_dtype = DTYPE_F32 };
    const int32_t n_pages[KV_GROUPS_MAX] = { 8, 8, 8, 8 };
    assert_ok(hf_folder_open_memory(&run.folder, "mix", files, 2, &err), &err);
    assert_ok(cpu_backend_open(&run.be, &cpu, &err), &err);
    assert_ok(model_open(&run.model, &run.folder, NULL, run.be, &options, &err), &err);
    run.kv = run.model.kv_shape;
    assert_ok(kv_cache_reserve(&run.kv, run.be, n_pages, &err), &err);
    assert_ok(batch_single_init(&run.single, N, N, run.kv.n_groups, &err), &err);
    *vocab = run.model.vocab;
    for (int32_t i = 0; i < N; i++)
        tokens[i] = (i * 37 + 5) % *vocab;
    model_run_logits(&run, tokens, N, N, logits, NULL, NULL);
    model_run_close(&run);
}

/* q, k and v, gate and up in formats, bits, groups and orders of their own; a quantized head. */
static void test_mixed_parts(void **state)
{
    (void)state;
    static float mixed_logits[40 * 512], plain_logits[40 * 512], auto_logits[40 * 512];
    static struct writer mixed, plain;
    char quant[4096], base[8192], config[8192];
    struct err err;
    char *text;
    size_t length, sizes[2];
    int32_t vocab;
    mixed.data = malloc(FILE_MAX);
    plain.data = malloc(FILE_MAX);
    assert_true(mixed.data != NULL && plain.data != NULL);
    mix_config(quant, sizeof quant);
    write_mix(&mixed, &plain, quant);
    uint8_t *mixed_file = finish_file(&mixed, &sizes[0]);
    uint8_t *plain_file = finish_file(&plain, &sizes[1]);
    /* the config of one of them, with another key in place of its quantization */
    assert_ok(file_read(oracle_path("quantized/ct_pack_w4_g32_asym/config.json"), sizeof base,
                        &text, &length, &err),
              &err);
    snprintf(base, sizeof base, "%s", text);
    free(text);
    char *key = strstr(base, "\"quantization_config\"");
    assert_non_null(key);
    char *tied = strstr(base, "\"tie_word_embeddings\": true");
    assert_non_null(tied);
    memcpy(tied, "\"tie_word_embeddings\":false", 27);
    memcpy(key, "\"unread_config______\"", 21);
    mix_logits(base, plain_file, sizes[1], true, plain_logits, &vocab);
    snprintf(config, sizeof config, "{%s,%s", quant, strchr(base, '{') + 1);
    mix_logits(config, mixed_file, sizes[0], true, mixed_logits, &vocab);
    const double found = nmse(mixed_logits, plain_logits, (int64_t)40 * vocab);
    mix_logits(config, mixed_file, sizes[0], false, auto_logits, &vocab);
    const double found_auto = nmse(auto_logits, plain_logits, (int64_t)40 * vocab);
    print_message("mixed parts: NMSE %.2g, with int8 activations %.2g\n", found, found_auto);
    assert_true(found <= NMSE_MAX && found_auto < 5e-2);
    free(mixed_file);
    free(plain_file);
}

/* ---- mutated checkpoints ----------------------------------------------------------------------
 */

/* A few bytes of one file changed; what still loads must answer four tokens without a fault. */
static bool run_mutant(const struct hf_file files[2])
{
    struct model_run run = { 0 };
    struct err err = { 0 };
    float *logits = NULL;
    const struct cpu_options cpu = { .n_threads = 1 };
    const struct model_options options = { .ctx = 16, .rows_max = 4, .logit_rows_max = 4 };
    const int32_t n_pages[KV_GROUPS_MAX] = { 2, 2, 2, 2 };
    bool ok = hf_folder_open_memory(&run.folder, "mutant", files, 2, &err);
    if (!ok)
        goto refused;
    assert_ok(cpu_backend_open(&run.be, &cpu, &err), &err);
    ok = model_open(&run.model, &run.folder, NULL, run.be, &options, &err);
    if (ok) {
        const int32_t top = run.model.vocab - 1, tokens[4] = { 0, top / 2, top, 1 < top };
        run.kv = run.model.kv_shape;
        assert_ok(kv_cache_reserve(&run.kv, run.be, n_pages, &err), &err);
        assert_ok(batch_single_init(&run.single, 4, 16, run.kv.n_groups, &err), &err);
        logits = malloc(4 * (size_t)run.model.vocab * sizeof *logits);
        assert_non_null(logits);
        model_run_logits(&run, tokens, 4, 4, logits, NULL, NULL);
        free(logits);
        model_run_close(&run);
        return true;
    }
    run.be->ops->close(run.be);
    hf_folder_close(&run.folder);
refused:
    assert_true(err.code != ERR_NONE && err.text[0] != 0);
    return false;
}

static void mutate(uint8_t *bytes, size_t from, size_t to, uint64_t seed, uint64_t *at)
{
    const int32_t n = 1 + (int32_t)(rng_philox(seed, 1, (*at)++).v[0] % 4);
    for (int32_t i = 0; i < n; i++) {
        const struct rng4 random = rng_philox(seed, 2, (*at)++);
        uint8_t *byte = bytes + from + random.v[0] % (to - from);
        switch (random.v[1] % 3) {
        case 0: /* a bit */
            *byte = (uint8_t)(*byte ^ 1u << random.v[2] % 8);
            break;
        case 1: /* a digit, in texts */
            *byte = (uint8_t)('0' + random.v[2] % 10);
            break;
        default:
            *byte = (uint8_t)random.v[2];
        }
    }
}

static void test_mutants(void **state)
{
    (void)state;
    enum { EACH = 24 }; /* a third each in config.json, in the header, in the data */
    int32_t loaded = 0, refused = 0;
    for (int32_t k = 0; k < N_FOLDERS; k++) {
        char *config, *weights;
        size_t config_size, size;
        struct err err;
        if (!is_there(k))
            continue;
        const char *name = FOLDERS[k].name;
        assert_ok(file_read(oracle_path("quantized/%s/config.json", name), 1 << 20, &config,
                            &config_size, &err),
                  &err);
        assert_ok(file_read(oracle_path("quantized/%s/model.safetensors", name), 16 << 20, &weights,
                            &size, &err),
                  &err);
        uint64_t header, at = 0;
        memcpy(&header, weights, sizeof header);
        for (int32_t m = 0; m < EACH; m++) {
            char *bad_config = malloc(config_size + 1);
            uint8_t *bad = malloc(size); /* ends where the file ends */
            assert_true(bad_config != NULL && bad != NULL);
            memcpy(bad_config, config, config_size + 1);
            memcpy(bad, weights, size);
            const uint64_t seed = (uint64_t)k;
            if (m % 3 == 0)
                mutate((uint8_t *)bad_config, 0, config_size, seed, &at);
            else if (m % 3 == 1)
                mutate(bad, 0, 8 + (size_t)header, seed, &at);
            else
                mutate(bad, 8 + (size_t)header, size, seed, &at);
            const struct hf_file files[2] = { { "config.json", bad_config, config_size },
                                              { "model.safetensors", bad, size } };
            if (run_mutant(files))
                loaded++;
            else
                refused++;
            free(bad_config);
            free(bad);
        }
        free(config);
        free(weights);
    }
    print_message("%d mutants loaded and answered, %d were refused\n", loaded, refused);
    assert_true(loaded > 0 && refused > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights), cmocka_unit_test(test_exact),
        cmocka_unit_test(test_auto),    cmocka_unit_test(test_mixed_parts),
        cmocka_unit_test(test_mutants),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
