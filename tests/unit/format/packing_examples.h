/* packing_examples.h - one small matrix of every packing, its weights worked out by hand, and a way
 * to load it with one of its tensors spoiled. For test_packing.c and test_packing_forged.c. */
#pragma once
#include "tests/support/support.h"
#include <math.h>
#include "host/base/half.h"
#include "host/format/packing.h"

enum { PARTS_MAX = 8 };
struct part {
    const char *name;
    enum dtype dtype;
    int32_t n_dims;
    int64_t dims[4];
    const void *data;
};
struct example {
    const char *sentence;
    const char *config; /* of quantization_config */
    int32_t n_out, n_in;
    struct part parts[PARTS_MAX];
    int32_t group;  /* of the form */
    float want[36]; /* rows, one after the other; as many as n_want */
    int32_t n_want;
};
#define W(...)   ((const uint32_t[]){ __VA_ARGS__ })
#define H(...)   ((const uint16_t[]){ __VA_ARGS__ })
#define B(...)   ((const uint8_t[]){ __VA_ARGS__ })
#define F(...)   ((const float[]){ __VA_ARGS__ })
#define L(...)   ((const int64_t[]){ __VA_ARGS__ })
#define ONE_F16  0x3c00
#define HALF_F16 0x3800
#define TWO_F16  0x4000
#define ONE_BF16 0x3f80
#define TWO_BF16 0x4000
#define CT(format, weights)                                                                        \
    "\"quant_method\":\"compressed-tensors\",\"format\":\"" format                                 \
    "\",\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}}}"
#define STATE(text) "m.weight.quant_state.bitsandbytes__" text, DTYPE_U8, 1

static const char NF4_STATE[] = "{\"quant_type\":\"nf4\",\"blocksize\":2,\"shape\":[2,3],"
                                "\"nested_blocksize\":2,\"nested_offset\":1.0}";
static const float UP16[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
static const float NESTED[256] = { 1, 2, 4 };
static const uint8_t NV_BYTES[8] = { 0x2f }, MX_BYTES[16] = { 0x2f };

static const struct example EXAMPLES[] = {
    { "gptq v1: zeros are stored less one",
      "\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":-1,\"sym\":false",
      8,
      8,
      { { "m.qweight",
          DTYPE_I32,
          2,
          { 1, 8 },
          W(0x76543210, 0x88888888, 0x88888888, 0x88888888, 0x88888888, 0x88888888, 0x88888888,
            0x88888888) },
        { "m.qzeros", DTYPE_I32, 2, { 1, 1 }, W(0x77777770) },
        { "m.scales",
          DTYPE_F16,
          2,
          { 1, 8 },
          H(HALF_F16, ONE_F16, ONE_F16, ONE_F16, ONE_F16, ONE_F16, ONE_F16, ONE_F16) } },
      8,
      { -0.5f, 0, 0.5f, 1, 1.5f, 2, 2.5f, 3, 0, 0, 0, 0, 0, 0, 0, 0 },
      16 },
    { "gptq v2: zeros as they are",
      "\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":-1,\"sym\":false,\"checkpoint_format\":"
      "\"gptq_v2\"",
      8,
      8,
      { { "m.qweight", DTYPE_I32, 2, { 1, 8 }, W(0x76543210, 0, 0, 0, 0, 0, 0, 0x0000000f) },
        { "m.qzeros", DTYPE_I32, 2, { 1, 1 }, W(0) },
        { "m.scales",
          DTYPE_BF16,
          2,
          { 1, 8 },
          H(TWO_BF16, ONE_BF16, ONE_BF16, ONE_BF16, ONE_BF16, ONE_BF16, ONE_BF16, ONE_BF16) } },
      8,
      { 0, 2, 4, 6, 8, 10, 12, 14, 0 },
      9 },
    { "gptq in activation order",
      "\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":4,\"desc_act\":true,\"sym\":true",
      8,
      8,
      { { "m.qweight", DTYPE_I32, 2, { 1, 8 }, W(0x76543210, 0, 0, 0, 0, 0, 0, 0) },
        { "m.qzeros", DTYPE_I32, 2, { 2, 1 }, W(0x77777777, 0x77777777) },
        { "m.scales",
          DTYPE_F16,
          2,
          { 2, 8 },
          H(ONE_F16, 0, 0, 0, 0, 0, 0, 0, TWO_F16, 0, 0, 0, 0, 0, 0, 0) },
        { "m.g_idx", DTYPE_I32, 1, { 8 }, W(1, 0, 1, 0, 1, 0, 1, 0) } },
      4,
      { -16, -7, -12, -5, -8, -3, -4, -1 },
      8 },
    { "gptq of 3 bits: codes across words",
      "\"quant_method\":\"gptq\",\"bits\":3,\"group_size\":-1,\"sym\":false,\"checkpoint_format\":"
      "\"gptq_v2\"",
      32,
      32,
      { { "m.qweight",
          DTYPE_I32,
          2,
          { 3, 32 },
          ((const uint32_t[96]){ [0] = 0x88fac688, [32] = 0xc688fac6, [64] = 0xfac688fa }) },
        { "m.qzeros", DTYPE_I32, 2, { 1, 3 }, W(0, 0, 0) },
        { "m.scales", DTYPE_F16, 2, { 1, 32 }, ((const uint16_t[32]){ [0 ... 31] = ONE_F16 }) } },
      32,
      { 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1,
        2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0, 0 },
      36 },
    { "awq gemm: outputs in their own order",
      "\"quant_method\":\"awq\",\"bits\":4,\"group_size\":-1,\"zero_point\":true",
      8,
      2,
      { { "m.qweight", DTYPE_I32, 2, { 2, 1 }, W(0x76543210, 0) },
        { "m.qzeros", DTYPE_I32, 2, { 1, 1 }, W(0) },
        { "m.scales", DTYPE_F16, 2, { 1, 8 }, ((const uint16_t[8]){ [0 ... 7] = ONE_F16 }) } },
      2,
      { 0, 0, 4, 0, 1, 0, 5, 0, 2, 0, 6, 0, 3, 0, 7, 0 },
      16 },
    { "awq gemv: inputs in order, padded scales",
      "\"quant_method\":\"awq\",\"bits\":4,\"group_size\":-1,\"zero_point\":true,\"version\":"
      "\"gemv\"",
      2,
      8,
      { { "m.qweight", DTYPE_I32, 2, { 2, 1 }, W(0x76543210, 0) },
        { "m.qzeros", DTYPE_I32, 2, { 2, 1 }, W(0xfffffff1, 0) },
        { "m.scales",
          DTYPE_F16,
          2,
          { 2, 8 },
          H(HALF_F16, 9, 9, 9, 9, 9, 9, 9, ONE_F16, 9, 9, 9, 9, 9, 9, 9) } },
      8,
      { -0.5f, 0, 0.5f, 1, 1.5f, 2, 2.5f, 3, 0, 0, 0, 0, 0, 0, 0, 0 },
      16 },
    { "pack-quantized, symmetric",
      CT("pack-quantized", "\"num_bits\":4,\"strategy\":\"channel\""),
      2,
      8,
      { { "m.weight_packed", DTYPE_I32, 2, { 2, 1 }, W(0x76543210, 0x88888888) },
        { "m.weight_scale", DTYPE_BF16, 2, { 2, 1 }, H(TWO_BF16, ONE_BF16) },
        { "m.weight_shape", DTYPE_I64, 1, { 2 }, L(2, 8) } },
      8,
      { -16, -14, -12, -10, -8, -6, -4, -2, 0, 0, 0, 0, 0, 0, 0, 0 },
      16 },
    { "pack-quantized, zeros along the outputs",
      CT("pack-quantized", "\"num_bits\":4,\"group_size\":4,\"symmetric\":false"),
      2,
      8,
      { { "m.weight_packed", DTYPE_I32, 2, { 2, 1 }, W(0x76543210, 0x88888888) },
        { "m.weight_scale", DTYPE_F32, 2, { 2, 2 }, F(1, 1, 1, 1) },
        { "m.weight_zero_point", DTYPE_I32, 2, { 1, 2 }, W(0x81, 0x82) } },
      4,
      { -1, 0, 1, 2, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0 },
      16 },
    { "pack-quantized, zeros as bytes",
      CT("pack-quantized", "\"num_bits\":4,\"group_size\":4,\"symmetric\":false"),
      1,
      8,
      { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, W(0x76543210) },
        { "m.weight_scale", DTYPE_F32, 2, { 1, 2 }, F(1, 2) },
        { "m.weight_zero_point", DTYPE_I8, 2, { 1, 2 }, B(0xf9, 0) } },
      4,
      { -1, 0, 1, 2, -8, -6, -4, -2 },
      8 },
    { "pack-quantized, 3 bits, dense",
      CT("pack-quantized", "\"num_bits\":3,\"strategy\":\"channel\""),
      1,
      32,
      { { "m.weight_packed", DTYPE_I32, 2, { 1, 3 }, W(0x88fac688, 0xc688fac6, 0xfac688fa) },
        { "m.weight_scale", DTYPE_F32, 2, { 1, 1 }, F(1) } },
      32,
      { -4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3 },
      16 },
    { "pack-quantized, 3 bits, ten a word",
      CT("pack-quantized", "\"num_bits\":3,\"strategy\":\"channel\""),
      1,
      32,
      { { "m.weight_packed", DTYPE_I32, 2, { 1, 4 }, W(0x08fac688, 0x1a23eb1a, 0x2c688fac, 0x3e) },
        { "m.weight_scale", DTYPE_F32, 2, { 1, 1 }, F(1) } },
      32,
      { -4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3,
        -4, -3, -2, -1, 0, 1, 2, 3, -4, -3, -2, -1, 0, 1, 2, 3 },
      32 },
    { "int-quantized, one scale",
      CT("int-quantized", "\"num_bits\":8,\"strategy\":\"tensor\""),
      2,
      2,
      { { "m.weight", DTYPE_I8, 2, { 2, 2 }, B(0x80, 0xff, 0, 0x7f) },
        { "m.weight_scale", DTYPE_BF16, 1, { 1 }, H(TWO_BF16) } },
      2,
      { -256, -2, 0, 254 },
      4 },
    { "int-quantized, asymmetric",
      CT("int-quantized", "\"num_bits\":8,\"strategy\":\"channel\",\"symmetric\":false"),
      2,
      2,
      { { "m.weight", DTYPE_I8, 2, { 2, 2 }, B(0x80, 0xff, 0, 0x7f) },
        { "m.weight_scale", DTYPE_BF16, 2, { 2, 1 }, H(TWO_BF16, ONE_BF16) },
        { "m.weight_zero_point", DTYPE_I8, 2, { 2, 1 }, B(0xff, 1) } },
      2,
      { -254, 0, -1, 126 },
      4 },
    { "fp8, one scale",
      "\"quant_method\":\"fp8\"",
      2,
      2,
      { { "m.weight", DTYPE_F8_E4M3, 2, { 2, 2 }, B(0x38, 0xb8, 0x7e, 0x01) },
        { "m.weight_scale", DTYPE_F32, 0, { 0 }, F(2) } },
      2,
      { 2, -2, 896, 0x1p-8f },
      4 },
    { "fp8 by blocks of 2 x 2, cut at the edges",
      "\"quant_method\":\"fp8\",\"weight_block_size\":[2,2]",
      3,
      3,
      { { "m.weight", DTYPE_F8_E4M3, 2, { 3, 3 }, ((const uint8_t[9]){ [0 ... 8] = 0x38 }) },
        { "m.weight_scale_inv", DTYPE_F32, 2, { 2, 2 }, F(1, 2, 3, 4) } },
      2,
      { 1, 1, 2, 1, 1, 2, 3, 3, 4 },
      9 },
    { "mxfp8: powers of two a group",
      CT("mxfp8-quantized", "\"num_bits\":8,\"type\":\"float\",\"group_size\":2"),
      1,
      4,
      { { "m.weight", DTYPE_F8_E4M3, 2, { 1, 4 }, B(0x38, 0x38, 0x38, 0xb8) },
        { "m.weight_scale", DTYPE_U8, 2, { 1, 2 }, B(128, 126) } },
      2,
      { 2, 2, 0.5f, -0.5f },
      4 },
    { "nvfp4: the global scale divides",
      CT("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":16"),
      1,
      16,
      { { "m.weight_packed", DTYPE_U8, 2, { 1, 8 }, NV_BYTES },
        { "m.weight_scale", DTYPE_F8_E4M3, 2, { 1, 1 }, B(0x38) },
        { "m.weight_global_scale", DTYPE_F32, 1, { 1 }, F(0.5f) } },
      16,
      { -12, 2, 0, 0 },
      4 },
    { "ModelOpt's nvfp4: the second scale multiplies",
      "\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\"",
      1,
      16,
      { { "m.weight", DTYPE_U8, 2, { 1, 8 }, NV_BYTES },
        { "m.weight_scale", DTYPE_F8_E4M3, 2, { 1, 1 }, B(0x38) },
        { "m.weight_scale_2", DTYPE_F32, 0, { 0 }, F(0.5f) },
        { "m.input_scale", DTYPE_F32, 0, { 0 }, F(0.25f) } },
      16,
      { -3, 0.5f, 0, 0 },
      4 },
    { "mxfp4",
      CT("mxfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":32"),
      1,
      32,
      { { "m.weight_packed", DTYPE_U8, 2, { 1, 16 }, MX_BYTES },
        { "m.weight_scale", DTYPE_U8, 2, { 1, 1 }, B(128) } },
      32,
      { -12, 2, 0, 0 },
      4 },
    { "bitsandbytes: blocks across rows",
      "\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true",
      2,
      3,
      { { "m.weight", DTYPE_U8, 2, { 3, 1 }, B(0x1e, 0x23, 0x45) },
        { "m.weight.absmax", DTYPE_F32, 1, { 3 }, F(1, 10, 100) },
        { "m.weight.quant_map", DTYPE_F32, 1, { 16 }, UP16 },
        { STATE("fp4"), { sizeof NF4_STATE - 1 }, NF4_STATE } },
      1,
      { 1, 14, 20, 30, 400, 500 },
      6 },
    { "bitsandbytes, double",
      "\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true",
      2,
      3,
      { { "m.weight", DTYPE_U8, 2, { 3, 1 }, B(0x1e, 0x23, 0x45) },
        { "m.weight.absmax", DTYPE_U8, 1, { 3 }, B(0, 1, 2) },
        { "m.weight.quant_map", DTYPE_F32, 1, { 16 }, UP16 },
        { "m.weight.nested_absmax", DTYPE_F32, 1, { 2 }, F(10, 100) },
        { "m.weight.nested_quant_map", DTYPE_F32, 1, { 256 }, NESTED },
        { STATE("nf4"), { sizeof NF4_STATE - 1 }, NF4_STATE } },
      1,
      { 11, 154, 42, 63, 1604, 2005 },
      6 },
    { "LLM.int8",
      "\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true",
      2,
      2,
      { { "m.weight", DTYPE_I8, 2, { 2, 2 }, B(0x81, 0xff, 0, 0x7f) },
        { "m.SCB", DTYPE_F32, 1, { 2 }, F(63.5f, 254) },
        { "m.weight_format", DTYPE_U8, 0, { 0 }, B(0) } },
      2,
      { -63.5f, -0.5f, 0, 254 },
      4 },
    { "hqq, 4 bits, axis 1",
      "\"quant_method\":\"hqq\"",
      2,
      2,
      { { "m.W_q", DTYPE_U8, 2, { 1, 2 }, B(0x5a, 0x01) },
        { "m.scale", DTYPE_F32, 2, { 2, 1 }, F(0.5f, 2) },
        { "m.zero", DTYPE_F32, 2, { 2, 1 }, F(1.5f, 0) },
        { "m.nbits", DTYPE_I32, 0, { 0 }, W(4) },
        { "m.group_size", DTYPE_I32, 0, { 0 }, W(2) } },
      2,
      { 1.75f, -0.75f, 20, 2 },
      4 },
    { "hqq, 4 bits, axis 0",
      "\"quant_method\":\"hqq\"",
      2,
      2,
      { { "m.W_q", DTYPE_U8, 2, { 1, 2 }, B(0x5a, 0x01) },
        { "m.scale", DTYPE_F32, 2, { 1, 2 }, F(0.5f, 2) },
        { "m.zero", DTYPE_F32, 2, { 1, 2 }, F(1.5f, 0) },
        { "m.nbits", DTYPE_U8, 0, { 0 }, B(4) },
        { "m.group_size", DTYPE_I32, 0, { 0 }, W(2) },
        { "m.axis", DTYPE_I32, 0, { 0 }, W(0) } },
      1,
      { 1.75f, 0, 4.25f, 2 },
      4 },
    { "hqq, 2 bits",
      "\"quant_method\":\"hqq\"",
      2,
      4,
      { { "m.W_q", DTYPE_U8, 2, { 1, 2 }, B(0x1b, 0xe4) },
        { "m.scale", DTYPE_F16, 2, { 4, 1 }, H(ONE_F16, ONE_F16, ONE_F16, TWO_F16) },
        { "m.zero", DTYPE_F16, 2, { 4, 1 }, H(0, 0, 0, ONE_F16) },
        { "m.nbits", DTYPE_I32, 0, { 0 }, W(2) },
        { "m.group_size", DTYPE_I32, 0, { 0 }, W(2) } },
      2,
      { 0, 3, 1, 2, 2, 1, 4, -2 },
      8 },
    { "hqq, 3 bits in words",
      "\"quant_method\":\"hqq\"",
      1,
      20,
      { { "m.W_q", DTYPE_I32, 2, { 1, 2 }, W(0x014e5dc1, 0) },
        { "m.scale", DTYPE_F32, 2, { 10, 1 }, F(1, 1, 1, 1, 1, 1, 1, 1, 1, 1) },
        { "m.zero", DTYPE_F32, 2, { 10, 1 }, F(0, 0, 0, 0, 0, 0, 0, 0, 0, 0) },
        { "m.nbits", DTYPE_I32, 0, { 0 }, W(3) },
        { "m.group_size", DTYPE_I32, 0, { 0 }, W(2) } },
      2,
      { 0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0, 7, 0, 0, 0, 1, 0 },
      20 },
    { "bitnet: the scale divides",
      "\"quant_method\":\"bitnet\"",
      4,
      1,
      { { "m.weight", DTYPE_U8, 2, { 1, 1 }, B(0x64) },
        { "m.weight_scale", DTYPE_F32, 1, { 1 }, F(0.5f) } },
      1,
      { -2, 0, 2, 0 },
      4 },
    { "bitnet, autobitlinear: it multiplies",
      "\"quant_method\":\"bitnet\",\"linear_class\":\"autobitlinear\"",
      4,
      1,
      { { "m.weight", DTYPE_U8, 2, { 1, 1 }, B(0x64) },
        { "m.weight_scale", DTYPE_F32, 1, { 1 }, F(0.5f) } },
      1,
      { -0.5f, 0, 0.5f, 0 },
      4 },
};
enum { N_EXAMPLES = sizeof EXAMPLES / sizeof *EXAMPLES };

/* ---- helpers ----------------------------------------------------------------------------------
 */

/* Something to spoil before the tensors are looked up. */
struct change {
    const char *part; /* "m.scales"; NULL: nothing */
    enum { DROP = 1, RETYPE, DIMS, DIM0, DIM1, POKE } how;
    enum dtype dtype; /* RETYPE */
    int64_t dim;      /* DIMS: how many; DIM0, DIM1: what it is then */
    size_t at;        /* POKE: `poke` in byte `at` */
    uint8_t poke[4];
};

static inline void read_config(struct quant_spec *spec, const char *config)
{
    char text[1024];
    struct cJSON *tree = NULL;
    struct err err;
    snprintf(text, sizeof text, "{\"quantization_config\":{%s}}", config);
    assert_ok(json_parse(text, strlen(text), &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err), &err);
    const struct json_ref root = json_root(tree);
    assert_ok(quant_spec_read(spec, &root, &err), &err);
    assert_ok(quant_spec_check(spec, &err), &err);
    json_free(tree);
}

/* The tensors as one file that ends where they do, so that a byte too many is seen. */
static inline void make_dir(struct tensor_dir *dir, const struct example *example,
                            const struct change *change, uint8_t *copies[PARTS_MAX])
{
    struct tensor tensors[PARTS_MAX];
    struct file_map map;
    struct err err;
    int32_t n = 0;
    *dir = (struct tensor_dir){ 0 };
    for (int32_t i = 0; i < PARTS_MAX && example->parts[i].name != NULL; i++) {
        const struct part *part = &example->parts[i];
        const bool hit = change->part != NULL && strcmp(change->part, part->name) == 0;
        if (hit && change->how == DROP)
            continue;
        struct tensor *tensor = &tensors[n];
        *tensor = (struct tensor){ .name = part->name, .dtype = part->dtype };
        tensor->n_dims = part->n_dims;
        memcpy(tensor->dims, part->dims, sizeof part->dims);
        const size_t stored = (size_t)tensor_count(tensor) * dtype_bytes(part->dtype);
        if (hit && change->how == RETYPE)
            tensor->dtype = change->dtype;
        if (hit && change->how == DIMS) {
            for (; tensor->n_dims < change->dim; tensor->n_dims++)
                tensor->dims[tensor->n_dims] = 1;
            tensor->n_dims = (int32_t)change->dim;
        }
        if (hit && (change->how == DIM0 || change->how == DIM1))
            tensor->dims[change->how == DIM1] = change->dim;
        tensor->bytes = (size_t)tensor_count(tensor) * dtype_bytes(tensor->dtype);
        copies[i] = calloc(tensor->bytes + sizeof change->poke, 1);
        assert_non_null(copies[i]);
        memcpy(copies[i], part->data, stored < tensor->bytes ? stored : tensor->bytes);
        if (hit && change->how == POKE)
            memcpy(copies[i] + change->at, change->poke, sizeof change->poke);
        /* the allocation ends with the tensor */
        copies[i] = realloc(copies[i], tensor->bytes > 0 ? tensor->bytes : 1);
        tensor->data = copies[i];
        n++;
    }
    file_map_memory(&map, "", 0);
    assert_ok(tensor_dir_add(dir, tensors, n, map, "test.safetensors", &err), &err);
}

static inline bool run(const struct example *example, const struct change *change, float *out,
                       struct err *err)
{
    uint8_t *copies[PARTS_MAX] = { 0 };
    struct tensor_dir dir;
    struct quant_spec spec;
    struct packed packed;
    struct matrix m = { 0 };
    bool fits;
    read_config(&spec, example->config);
    make_dir(&dir, example, change, copies);
    bool ok = packed_find(&packed, &dir, &spec, "m", example->n_out, example->n_in, err);
    if (ok && packed.packing == PACKING_NONE) {
        ok = err_set(err, ERR_NOT_FOUND, "not quantized");
    } else if (ok) {
        if (change->part == NULL && example->n_want > 0) {
            assert_int_equal(packed.form.group, example->group);
            assert_int_equal(packed.n_tensors, dir.n_tensors);
        }
        struct matrix_form form = packed.form;
        form.n_out = example->n_out;
        ok = matrix_init_form(&m, &form, err) &&
             packed_rows(&packed, 0, example->n_out, &m, 0, err) &&
             packed_fits_f16(&packed, &fits, err);
        for (int32_t r = 0; ok && r < example->n_out; r++)
            matrix_dequantize_row(&m, r, out + (size_t)r * (size_t)example->n_in);
        matrix_clear(&m);
        packed_clear(&packed);
    }
    tensor_dir_clear(&dir);
    quant_spec_clear(&spec);
    for (int32_t i = 0; i < PARTS_MAX; i++)
        free(copies[i]);
    return ok;
}
