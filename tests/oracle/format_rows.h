/* format_rows.h - the README's table "format x device", one entry a row: what belongs to it, and
 * what its cells say. test_placement.c checks README, code and loads on the CPU;
 * test_cuda_formats.c loads on the CUDA backend. */
#pragma once
#include "host/model/placement.h"

enum { ROW_FILES_MAX = 10, ROW_TYPES_MAX = 4 };
struct format_row {
    const char *label; /* as in the README */
    enum placement cpu, cuda;
    enum dtype types[ROW_TYPES_MAX]; /* blocks of GGUF; else: */
    struct matrix_form form;
    bool order, fractions;
    /* Reference data of this row: folders of quantized/, files of gguf/. */
    const char *files[ROW_FILES_MAX];
};
#define INTEGERS(b, g, s)                                                                          \
    {                                                                                              \
        .kind = CODE_INT, .bits = b, .group = g, .symmetric = s                                    \
    }
#define TABLE(b, g)                                                                                \
    {                                                                                              \
        .kind = CODE_TABLE, .bits = b, .group = g, .symmetric = true                               \
    }
static const struct format_row FORMAT_ROWS[] = {
    { .label = "GPTQ, 2 to 8 bits (v1, v2; AutoRound)",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(4, 128, false),
      .files = { "gptq_v1_b2_g32_asym", "gptq_v1_b3_g128_sym", "gptq_v1_b4_g128_asym_zerobias",
                 "gptq_v1_b4_g128_sym", "gptq_v1_b4_gm1_sym", "gptq_v1_b8_g128_sym",
                 "gptq_v1_b8_gm1_asym", "gptq_v2_b2_g128_sym", "gptq_v2_b8_g32_asym",
                 "gptq_v1_b4_g32_sym_qwen3moe" } },
    { .label = "GPTQ in activation order",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(4, 32, false),
      .order = true,
      .files = { "gptq_v1_b4_g32_sym_descact", "gptq_v2_b3_g32_asym_descact",
                 "gptq_v2_b4_g32_asym_descact_qwen2" } },
    { .label = "AWQ",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(4, 128, false),
      .files = { "awq_gemm_g128", "awq_gemm_g32_qwen2", "awq_gemm_g64_skip" } },
    { .label = "compressed-tensors, packed integers",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(4, 32, false),
      .files = { "ct_pack_w4_channel_asym", "ct_pack_w4_channel_sym", "ct_pack_w4_g128_sym_qwen2",
                 "ct_pack_w4_g32_asym", "ct_pack_w4_g32_sym", "ct_pack_w8_channel_sym",
                 "ct_pack_w8_g32_asym" } },
    { .label = "compressed-tensors in activation order",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(4, 32, true),
      .order = true,
      .files = { "ct_pack_w4_g32_actorder" } },
    { .label = "compressed-tensors W8A8",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(8, 4096, true),
      .files = { "ct_int8_w8a8" } },
    { .label = "FP8 by tensor, row or block",
      .cpu = PLACEMENT_TABLE,
      .cuda = PLACEMENT_DEQUANTIZED,
      .form = TABLE(8, 128),
      .files = { "ct_fp8_block", "ct_fp8_dynamic", "ct_fp8_static", "fp8_block128" } },
    { .label = "NVFP4",
      .cpu = PLACEMENT_TABLE,
      .cuda = PLACEMENT_DEQUANTIZED,
      .form = TABLE(4, 16),
      .files = { "ct_nvfp4", "ct_nvfp4a16" } },
    { .label = "MXFP4 (gpt-oss too)",
      .cpu = PLACEMENT_TABLE,
      .cuda = PLACEMENT_TABLE,
      .form = TABLE(4, 32),
      .files = { "ct_mxfp4a16", "gpt_oss_mxfp4" } },
    { .label = "bitsandbytes nf4, fp4",
      .cpu = PLACEMENT_TABLE,
      .cuda = PLACEMENT_TABLE,
      .form = TABLE(4, 64),
      .files = { "bnb_nf4", "bnb_nf4_double", "bnb_fp4" } },
    { .label = "bitsandbytes int8",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(8, 4096, true),
      .files = { "bnb_int8" } },
    { .label = "HQQ, 4 and 8 bits",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(4, 64, false),
      .fractions = true },
    { .label = "BitNet, packed ternary",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .form = INTEGERS(2, 4096, false),
      .files = { "bitnet_packed_autobitlinear", "bitnet_packed_bitlinear" } },
    { .label = "GGUF Q4_0, Q5_0, Q8_0",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .types = { DTYPE_Q4_0, DTYPE_Q5_0, DTYPE_Q8_0 },
      .files = { "llama-Q4_0", "llama-Q5_0", "llama-Q8_0", "qwen2-Q8_0" } },
    { .label = "GGUF Q4_1, Q5_1, Q4_K, Q5_K",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .types = { DTYPE_Q4_1, DTYPE_Q5_1, DTYPE_Q4_K, DTYPE_Q5_K },
      .files = { "llama-Q4_1", "llama-Q5_1", "llama-Q4_K", "llama-Q5_K" } },
    { .label = "GGUF Q2_K, Q3_K, Q6_K",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_DEQUANTIZED,
      .types = { DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q6_K },
      .files = { "llama-Q2_K", "llama-Q3_K", "llama-Q6_K" } },
    { .label = "GGUF IQ4_NL, IQ4_XS, MXFP4",
      .cpu = PLACEMENT_TABLE,
      .cuda = PLACEMENT_TABLE,
      .types = { DTYPE_IQ4_NL, DTYPE_IQ4_XS, DTYPE_MXFP4 },
      .files = { "llama-IQ4_NL", "llama-IQ4_XS", "llama-MXFP4" } },
    { .label = "GGUF TQ1_0, TQ2_0",
      .cpu = PLACEMENT_FUSED,
      .cuda = PLACEMENT_FUSED,
      .types = { DTYPE_TQ1_0, DTYPE_TQ2_0 },
      .files = { "llama-TQ1_0", "llama-TQ2_0" } },
};
#undef INTEGERS
#undef TABLE
enum { N_FORMAT_ROWS = sizeof FORMAT_ROWS / sizeof *FORMAT_ROWS };
