/* test_packing_forged.c - each tensor of each packing left out, of another type, of other
 * dimensions; and what only a config and tensors that disagree can show. */
#include "tests/unit/format/packing_examples.h"

/* Rows that are refused have no weights to name. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

/* Refused by the name of a tensor of this matrix (or of the matrix), or read as finite weights. */
static bool survives(const struct example *e, const struct change *change, const char *what)
{
    static float out[32 * 32];
    struct err err = { 0 };
    if (run(e, change, out, &err)) {
        for (int32_t i = 0; i < e->n_out * e->n_in; i++)
            if (!isfinite(out[i]))
                fail_msg("%s, %s %s: weight %d is %g", e->sentence, change->part, what, i,
                         (double)out[i]);
        return true;
    }
    if (err.code == ERR_NOT_FOUND)
        return false; /* the tensor that tells: a matrix of floats, then */
    if ((err.code != ERR_FORMAT && err.code != ERR_UNSUPPORTED) ||
        (strstr(err.text, "tensor m.") == NULL && strncmp(err.text, "m: ", 3) != 0 &&
         strncmp(err.text, "row ", 4) != 0))
        fail_msg("%s, %s %s: code %d, \"%s\"", e->sentence, change->part, what, err.code, err.text);
    return false;
}

static void test_every_tensor(void **state)
{
    (void)state;
    int32_t n_refused = 0, n_read = 0;
    for (int32_t k = 0; k < N_EXAMPLES; k++)
        for (int32_t p = 0; p < PARTS_MAX && EXAMPLES[k].parts[p].name != NULL; p++) {
            const struct part *part = &EXAMPLES[k].parts[p];
            const struct {
                const char *what;
                struct change change;
            } spoiled[] = {
                { "left out", { .how = DROP } },
                { "as i16", { .how = RETYPE, .dtype = DTYPE_I16 } },
                { "as f64", { .how = RETYPE, .dtype = DTYPE_F64 } },
                { "of no dimension", { .how = DIMS, .dim = 0 } },
                { "of one dimension", { .how = DIMS, .dim = 1 } },
                { "of three dimensions", { .how = DIMS, .dim = 3 } },
                { "with no rows", { .how = DIM0, .dim = 0 } },
                { "with a row more", { .how = DIM0, .dim = part->dims[0] + 1 } },
                { "with many rows", { .how = DIM0, .dim = 100 } },
                { "with no columns", { .how = DIM1, .dim = 0 } },
                { "with a column more", { .how = DIM1, .dim = part->dims[1] + 1 } },
                { "with many columns", { .how = DIM1, .dim = 100 } },
            };
            for (size_t i = 0; i < sizeof spoiled / sizeof *spoiled; i++) {
                struct change change = spoiled[i].change;
                change.part = part->name;
                if (survives(&EXAMPLES[k], &change, spoiled[i].what))
                    n_read++;
                else
                    n_refused++;
            }
        }
    print_message("%d refused, %d read\n", n_refused, n_read);
    assert_true(n_refused > 3 * n_read);
}

#define ONES16 ((const uint16_t[64]){ [0 ... 63] = ONE_F16 })
#define ONES32 ((const float[64]){ [0 ... 63] = 1 })
#define ZEROS  ((const uint32_t[64]){ 0 })
#define GPTQ   "\"quant_method\":\"gptq\",\"sym\":true"
#define AWQ    "\"quant_method\":\"awq\",\"group_size\":4"
#define GEMV   AWQ ",\"version\":\"gemv\""
#define HQQ    "\"quant_method\":\"hqq\""
#define STATIC "\"quant_method\":\"fp8\",\"activation_scheme\":\"static\""
#define NF4(text)                                                                                  \
    {                                                                                              \
        { "m.weight", DTYPE_U8, 1, { 3 }, ZEROS },                                                 \
            { "m.weight.absmax", DTYPE_F32, 1, { 3 }, ZEROS },                                     \
            { "m.weight.quant_map", DTYPE_F32, 1, { 16 }, UP16 },                                  \
        {                                                                                          \
            STATE("nf4"), { sizeof text - 1 }, text                                                \
        }                                                                                          \
    }
#define BNB "\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true"
#define HQQ_PARTS(w_type, rows, n)                                                                 \
    { "m.W_q", w_type, 2, { rows, 2 }, ZEROS }, { "m.scale", DTYPE_F32, 1, { n }, ONES32 },        \
    {                                                                                              \
        "m.zero", DTYPE_F32, 1, { n }, ZEROS                                                       \
    }
/* Config and tensors that disagree, each with the error; and some that agree in an unusual way,
 * with the weights that come out. */
static const struct {
    const char *says; /* NULL: read */
    struct example e;
} ROWS[] = {
    /* gptq */
    { NULL,
      { "an order that was never filled in",
        GPTQ ",\"bits\":4,\"group_size\":4",
        8,
        8,
        { { "m.qweight", DTYPE_I32, 2, { 1, 8 }, W(0x76543210, 0, 0, 0, 0, 0, 0, 0) },
          { "m.qzeros", DTYPE_I32, 2, { 2, 1 }, W(0x77777777, 0x77777777) },
          { "m.scales", DTYPE_F16, 2, { 2, 8 }, ONES16 },
          { "m.g_idx", DTYPE_I32, 1, { 8 }, W(-1u, -1u, -1u, -1u, -1u, -1u, -1u, -1u) } },
        4,
        { -8, -7, -6, -5, -4, -3, -2, -1 },
        8 } },
    { NULL,
      { "an order that is none",
        GPTQ ",\"bits\":4,\"group_size\":4",
        8,
        8,
        { { "m.qweight", DTYPE_I32, 2, { 1, 8 }, W(0x76543210, 0, 0, 0, 0, 0, 0, 0) },
          { "m.qzeros", DTYPE_I32, 2, { 2, 1 }, W(0x77777777, 0x77777777) },
          { "m.scales", DTYPE_F16, 2, { 2, 8 }, ONES16 },
          { "m.g_idx", DTYPE_I32, 1, { 8 }, W(0, 0, 0, 0, 1, 1, 1, 1) } },
        4,
        { -8, -7, -6, -5, -4, -3, -2, -1 },
        8 } },
    { NULL,
      { "an order whose last group is short",
        GPTQ ",\"bits\":4,\"group_size\":6",
        8,
        8,
        { { "m.qweight", DTYPE_I32, 2, { 1, 8 }, W(0x76543210, 0, 0, 0, 0, 0, 0, 0) },
          { "m.qzeros", DTYPE_I32, 2, { 2, 1 }, W(0x77777777, 0x77777777) },
          { "m.scales",
            DTYPE_F16,
            2,
            { 2, 8 },
            H(ONE_F16, 0, 0, 0, 0, 0, 0, 0, TWO_F16, 0, 0, 0, 0, 0, 0, 0) },
          { "m.g_idx", DTYPE_I32, 1, { 8 }, W(1, 0, 0, 0, 0, 0, 0, 1) } },
        6,
        { -16, -7, -6, -5, -4, -3, -2, -2 },
        8 } },
    { "m.g_idx is i32 [8], and puts more than 2 inputs into group 1",
      { "a short group that is too full",
        GPTQ ",\"bits\":4,\"group_size\":6",
        8,
        8,
        { { "m.qweight", DTYPE_I32, 2, { 1, 8 }, ZEROS },
          { "m.qzeros", DTYPE_I32, 2, { 2, 1 }, W(0x77777777, 0x77777777) },
          { "m.scales", DTYPE_F16, 2, { 2, 8 }, ONES16 },
          { "m.g_idx", DTYPE_I32, 1, { 8 }, W(1, 1, 0, 0, 0, 0, 0, 1) } } } },
    { NULL,
      { "2 bits, groups wider than the matrix",
        GPTQ ",\"bits\":2,\"group_size\":128",
        16,
        16,
        { { "m.qweight", DTYPE_I32, 2, { 1, 16 }, ((const uint32_t[16]){ 0xe4e4e4e4 }) },
          { "m.qzeros", DTYPE_I32, 2, { 1, 1 }, W(0x55555555) },
          { "m.scales", DTYPE_F16, 2, { 1, 16 }, ONES16 } },
        16,
        { -2, -1, 0, 1, -2, -1, 0, 1, -2, -1, 0, 1, -2, -1, 0, 1, -2 },
        17 } },
    { "m.qweight is i32 [1, 8], want 10 inputs of 2, 3, 4 or 8 bits in whole words",
      { "codes that fill no words",
        GPTQ,
        8,
        10,
        { { "m.qweight", DTYPE_I32, 2, { 1, 8 }, ZEROS } } } },
    { "m.qweight is i32 [5, 8], want 8 inputs of 2, 3, 4 or 8 bits in whole words",
      { "20 bits", GPTQ, 8, 8, { { "m.qweight", DTYPE_I32, 2, { 5, 8 }, ZEROS } } } },
    { "m.qweight is i32 [1, 4], want zeros of 4 outputs in whole words",
      { "zeros that fill no words",
        GPTQ,
        4,
        8,
        { { "m.qweight", DTYPE_I32, 2, { 1, 4 }, ZEROS } } } },
    /* awq */
    { NULL,
      { "awq without zeros, groups wider than the matrix",
        "\"quant_method\":\"awq\",\"group_size\":128,\"zero_point\":false",
        8,
        2,
        { { "m.qweight", DTYPE_I32, 2, { 2, 1 }, W(0x76543210, 0) },
          { "m.scales", DTYPE_F16, 2, { 1, 8 }, ONES16 } },
        2,
        { -8, -8, -4, -8, -7, -8, -3, -8 },
        8 } },
    { NULL,
      { "awq said to be symmetric, with zeros all the same",
        "\"quant_method\":\"awq\",\"group_size\":2,\"zero_point\":false",
        8,
        2,
        { { "m.qweight", DTYPE_I32, 2, { 2, 1 }, W(0x76543210, 0) },
          { "m.qzeros", DTYPE_I32, 2, { 1, 1 }, W(0) },
          { "m.scales", DTYPE_F16, 2, { 1, 8 }, ONES16 } },
        2,
        { 0, 0, 4, 0, 1, 0, 5, 0 },
        8 } },
    { NULL,
      { "gemv without zeros",
        GEMV ",\"zero_point\":false",
        1,
        8,
        { { "m.qweight", DTYPE_I32, 2, { 1, 1 }, W(0x76543210) },
          { "m.scales", DTYPE_F16, 2, { 1, 2 }, ONES16 } },
        4,
        { -8, -7, -6, -5, -4, -3, -2, -1 },
        8 } },
    { "m: AWQ with 8 bits; want 4",
      { "awq of 8 bits",
        AWQ ",\"bits\":8",
        8,
        4,
        { { "m.qweight", DTYPE_I32, 2, { 4, 1 }, ZEROS } } } },
    { "m: AWQ with 3 bits; want 4",
      { "gemv of 3 bits",
        GEMV ",\"bits\":3",
        8,
        8,
        { { "m.qweight", DTYPE_I32, 2, { 8, 1 }, ZEROS } } } },
    { "m.qweight is i32 [4, 1], want 8 outputs a word for 6 outputs",
      { "awq of 6 outputs", AWQ, 6, 4, { { "m.qweight", DTYPE_I32, 2, { 4, 1 }, ZEROS } } } },
    { "m.qweight is i32 [4, 1], want 8 inputs a word for 6 inputs",
      { "gemv of 6 inputs", GEMV, 4, 6, { { "m.qweight", DTYPE_I32, 2, { 4, 1 }, ZEROS } } } },
    { "m.scales is f16 [1, 1], want 2 scales a row or more",
      { "gemv, a scale too few",
        GEMV,
        1,
        8,
        { { "m.qweight", DTYPE_I32, 2, { 1, 1 }, ZEROS },
          { "m.scales", DTYPE_F16, 2, { 1, 1 }, ONES16 } } } },
    { "m.qzeros is i32 [1, 1], want 16 zeros a row or more",
      { "gemv, zeros too few",
        GEMV ",\"zero_point\":true",
        1,
        64,
        { { "m.qweight", DTYPE_I32, 2, { 1, 8 }, ZEROS },
          { "m.scales", DTYPE_F16, 2, { 1, 16 }, ONES16 },
          { "m.qzeros", DTYPE_I32, 2, { 1, 1 }, ZEROS } } } },
    /* compressed-tensors */
    { NULL,
      { "packed in activation order, shape in 32 bits",
        CT("pack-quantized", "\"num_bits\":4,\"group_size\":4"),
        1,
        8,
        { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, W(0x76543210) },
          { "m.weight_scale", DTYPE_F32, 2, { 1, 2 }, F(1, 2) },
          { "m.weight_shape", DTYPE_I32, 1, { 2 }, W(1, 8) },
          { "m.weight_g_idx", DTYPE_I32, 1, { 8 }, W(1, 0, 1, 0, 1, 0, 1, 0) } },
        4,
        { -16, -7, -12, -5, -8, -3, -4, -1 },
        8 } },
    { NULL,
      { "packed, 3 bits, in activation order",
        CT("pack-quantized", "\"num_bits\":3,\"group_size\":16"),
        1,
        32,
        { { "m.weight_packed", DTYPE_I32, 2, { 1, 3 }, W(0x88fac688, 0xc688fac6, 0xfac688fa) },
          { "m.weight_scale", DTYPE_F32, 2, { 1, 2 }, F(1, 2) },
          { "m.weight_g_idx",
            DTYPE_I32,
            1,
            { 32 },
            ((const uint32_t[32]){ [0] = 1, [2] = 1, [4] = 1, [6] = 1, [17 ... 28] = 1 }) } },
        16,
        { -8, -3, -4, -1, 0, 1, 4, 3, -4, -3, -2, -1, 0, 1, 2, 3, -4, -6 },
        18 } },
    { NULL,
      { "packed, groups wider than the matrix",
        CT("pack-quantized", "\"num_bits\":4,\"group_size\":128"),
        1,
        8,
        { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, W(0x76543210) },
          { "m.weight_scale", DTYPE_F32, 2, { 1, 1 }, F(1) } },
        8,
        { -8, -7, -6, -5, -4, -3, -2, -1 },
        8 } },
    { "m.weight_g_idx is i32 [7], want [8]",
      { "packed, an order too short",
        CT("pack-quantized", "\"num_bits\":4,\"group_size\":4"),
        1,
        8,
        { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, ZEROS },
          { "m.weight_scale", DTYPE_F32, 2, { 1, 2 }, ONES32 },
          { "m.weight_g_idx", DTYPE_I32, 1, { 7 }, ZEROS } } } },
    { "m.weight_g_idx is i32 [8], and puts input 0 into group 2 of 2",
      { "packed, a group that is not there",
        CT("pack-quantized", "\"num_bits\":4,\"group_size\":4"),
        1,
        8,
        { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, ZEROS },
          { "m.weight_scale", DTYPE_F32, 2, { 1, 2 }, ONES32 },
          { "m.weight_g_idx", DTYPE_I32, 1, { 8 }, W(2, 0, 0, 0, 0, 0, 0, 0) } } } },
    { "m.weight_shape is i64 [2], and says 3 x 8, want 1 x 8",
      { "packed, other rows by its shape",
        CT("pack-quantized", "\"num_bits\":4"),
        1,
        8,
        { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, ZEROS },
          { "m.weight_shape", DTYPE_I64, 1, { 2 }, L(3, 8) } } } },
    { "m: pack-quantized with 1 bits; want 2 to 8",
      { "packed, 1 bit",
        CT("pack-quantized", "\"num_bits\":1"),
        1,
        32,
        { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, ZEROS } } } },
    { "m: pack-quantized with 9 bits; want 2 to 8",
      { "packed, 9 bits",
        CT("pack-quantized", "\"num_bits\":9"),
        1,
        32,
        { { "m.weight_packed", DTYPE_I32, 2, { 1, 9 }, ZEROS } } } },
    { "m.weight_zero_point is i32 [1, 1], want [1, 1]",
      { "packed, one scale and zeros a row",
        CT("pack-quantized", "\"num_bits\":4,\"symmetric\":false"),
        2,
        8,
        { { "m.weight_packed", DTYPE_I32, 2, { 2, 1 }, ZEROS },
          { "m.weight_scale", DTYPE_F32, 1, { 1 }, ONES32 },
          { "m.weight_zero_point", DTYPE_I32, 2, { 1, 1 }, ZEROS } } } },
    /* fp8, fp4 */
    { NULL,
      { "fp8 with 5 bits of exponent",
        STATIC,
        1,
        4,
        { { "m.weight", DTYPE_F8_E5M2, 2, { 1, 4 }, B(0x3c, 0xbc, 0x7b, 0x01) },
          { "m.weight_scale", DTYPE_F32, 0, { 0 }, F(1) } },
        4,
        { 1, -1, 57344, 0x1p-16f },
        4 } },
    { "row 0, column 2 is not finite (code 0x7c)",
      { "fp8 with 5 bits, infinite",
        STATIC,
        1,
        4,
        { { "m.weight", DTYPE_F8_E5M2, 2, { 1, 4 }, B(0x3c, 0xbc, 0x7c, 0x01) },
          { "m.weight_scale", DTYPE_F32, 0, { 0 }, F(1) } } } },
    { NULL,
      { "fp8 with one scale for its inputs",
        STATIC,
        1,
        1,
        { { "m.weight", DTYPE_F8_E4M3, 2, { 1, 1 }, B(0x38) },
          { "m.weight_scale", DTYPE_F32, 0, { 0 }, F(2) },
          { "m.input_scale", DTYPE_F32, 0, { 0 }, F(0.5f) } },
        1,
        { 2 },
        1 } },
    { "m.input_scale is f32 [], and its value 0 is no scale",
      { "fp8, inputs of scale 0",
        STATIC,
        1,
        1,
        { { "m.weight", DTYPE_F8_E4M3, 2, { 1, 1 }, B(0x38) },
          { "m.weight_scale", DTYPE_F32, 0, { 0 }, F(2) },
          { "m.input_scale", DTYPE_F32, 0, { 0 }, F(0) } } } },
    { "m.input_scale is f32 [], and its value 1.4013e-45 is no scale",
      { "fp8, inputs of a scale whose inverse is infinite",
        STATIC,
        1,
        1,
        { { "m.weight", DTYPE_F8_E4M3, 2, { 1, 1 }, B(0x38) },
          { "m.weight_scale", DTYPE_F32, 0, { 0 }, F(2) },
          { "m.input_scale", DTYPE_F32, 0, { 0 }, W(1) } } } },
    { NULL,
      { "fp8 in groups wider than the matrix",
        CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"group_size\":128"),
        2,
        4,
        { { "m.weight",
            DTYPE_F8_E4M3,
            2,
            { 2, 4 },
            B(0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38, 0x38) },
          { "m.weight_scale", DTYPE_F32, 2, { 2, 1 }, F(1, 2) } },
        4,
        { 1, 1, 1, 1, 2, 2, 2, 2 },
        8 } },
    { NULL,
      { "fp8 in blocks wider than the matrix",
        "\"quant_method\":\"fp8\",\"weight_block_size\":[1,128]",
        2,
        2,
        { { "m.weight", DTYPE_F8_E4M3, 2, { 2, 2 }, B(0x38, 0x38, 0x38, 0x38) },
          { "m.weight_scale_inv", DTYPE_F32, 2, { 2, 1 }, F(1, 2) } },
        2,
        { 1, 1, 2, 2 },
        4 } },
    { "m: 8 inputs, want a multiple of 16",
      { "nvfp4 of 8 inputs",
        CT("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\""),
        1,
        8,
        { { "m.weight_packed", DTYPE_U8, 2, { 1, 4 }, ZEROS } } } },
    /* bitsandbytes */
    { "whose text is wrong: must be an object",
      { "figures that are a list", BNB, 2, 3, NF4("[1]") } },
    { "whose text is wrong: blocksize must be",
      { "blocks of nothing", BNB, 2, 3, NF4("{\"blocksize\":0}") } },
    { "whose text is wrong: nested_blocksize must be",
      { "nested blocks of nothing", BNB, 2, 3, NF4("{\"nested_blocksize\":0}") } },
    { "whose text is wrong: nested_offset must be",
      { "an offset in words", BNB, 2, 3, NF4("{\"nested_offset\":\"x\"}") } },
    { "whose text is wrong: shape must be [rows, columns]", { "no shape", BNB, 2, 3, NF4("{}") } },
    { "whose text is wrong: shape must be [rows, columns]",
      { "a shape that is a number", BNB, 2, 3, NF4("{\"shape\":6}") } },
    { "whose text is wrong: shape[0] must be",
      { "a shape in words", BNB, 2, 3, NF4("{\"shape\":[\"a\",3]}") } },
    { "whose text is wrong: shape must be [rows, columns]",
      { "a shape of three", BNB, 2, 3, NF4("{\"shape\":[2,3,1]}") } },
    { "and says 2 x 4, want 2 x 3", { "other columns", BNB, 2, 3, NF4("{\"shape\":[2,4]}") } },
    { "m.weight_format is u8 [2], want a u8 of 0",
      { "two formats",
        "\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true",
        1,
        1,
        { { "m.SCB", DTYPE_F32, 1, { 1 }, ONES32 },
          { "m.weight_format", DTYPE_U8, 1, { 2 }, ZEROS } } } },
    /* bitnet, hqq */
    { "m.weight is u8 [1, 1], want four rows a byte for 3 rows",
      { "bitnet of 3 rows",
        "\"quant_method\":\"bitnet\"",
        3,
        1,
        { { "m.weight", DTYPE_U8, 2, { 1, 1 }, ZEROS },
          { "m.weight_scale", DTYPE_F32, 1, { 1 }, ONES32 } } } },
    { "row 0, group 0: the scale is not finite",
      { "bitnet divided by 0",
        "\"quant_method\":\"bitnet\"",
        4,
        1,
        { { "m.weight", DTYPE_U8, 2, { 1, 1 }, ZEROS },
          { "m.weight_scale", DTYPE_F32, 1, { 1 }, ZEROS } } } },
    { NULL,
      { "hqq of 8 bits, by rows, numbers of 64 bits",
        HQQ,
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 2, 2),
          { "m.nbits", DTYPE_I64, 0, { 0 }, L(8) },
          { "m.axis", DTYPE_I64, 0, { 0 }, L(1) } },
        2,
        { 0, 0, 0, 0 },
        4 } },
    { NULL,
      { "hqq of 8 bits, by columns",
        HQQ ",\"bits\":8",
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 2, 2), { "m.axis", DTYPE_U8, 0, { 0 }, B(0) } },
        1,
        { 0, 0, 0, 0 },
        4 } },
    { "m: HQQ with 4294967300 bits, axis 1 is not supported",
      { "hqq of 2^32 + 4 bits",
        HQQ,
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2), { "m.nbits", DTYPE_I64, 0, { 0 }, L(4294967300) } } } },
    { "m.nbits is i32 [2], want one element",
      { "hqq of two widths",
        HQQ,
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2), { "m.nbits", DTYPE_I32, 1, { 2 }, ZEROS } } } },
    { "m: HQQ with 4 bits, axis 1, viewed as floats is not supported",
      { "hqq as floats",
        HQQ ",\"bits\":4",
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2), { "m.view_as_float", DTYPE_BOOL, 0, { 0 }, B(1) } } } },
    { "m: HQQ with 4 bits, axis 1, scales quantized again is not supported",
      { "hqq, quantized scales",
        HQQ ",\"bits\":4",
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2), { "m.quant_scale", DTYPE_BOOL, 0, { 0 }, B(1) } } } },
    { "m: HQQ with 4 bits, axis 1, scales quantized again is not supported",
      { "hqq, quantized zeros",
        HQQ ",\"bits\":4",
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2), { "m.quant_zero", DTYPE_BOOL, 0, { 0 }, B(1) } } } },
    { "m.view_as_float is f32 [], want i32",
      { "hqq, a flag as a float",
        HQQ ",\"bits\":4",
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2), { "m.view_as_float", DTYPE_F32, 0, { 0 }, ONES32 } } } },
    { "m.quant_scale is f32 [], want i32",
      { "hqq, another",
        HQQ ",\"bits\":4",
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2), { "m.quant_scale", DTYPE_F32, 0, { 0 }, ONES32 } } } },
    { "m.quant_zero is f32 [], want i32",
      { "hqq, the third",
        HQQ ",\"bits\":4",
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2), { "m.quant_zero", DTYPE_F32, 0, { 0 }, ONES32 } } } },
    { "m: group_size 5 does not divide 2 x 2",
      { "hqq, a group of all and more",
        HQQ ",\"bits\":4,\"group_size\":5",
        2,
        2,
        { HQQ_PARTS(DTYPE_U8, 1, 2) } } },
    { "m.W_q is u8 [1, 2], which does not hold 3-bit codes",
      { "hqq, 3 bits in bytes", HQQ ",\"bits\":3", 2, 2, { HQQ_PARTS(DTYPE_U8, 1, 2) } } },
    { "m.W_q is i32 [1, 2], which does not hold 4-bit codes",
      { "hqq, 4 bits in words", HQQ ",\"bits\":4", 2, 2, { HQQ_PARTS(DTYPE_I32, 1, 2) } } },
    { "m.W_q is u8 [2, 2], which does not hold 4-bit codes",
      { "hqq, a row that has half a byte",
        HQQ ",\"bits\":4",
        3,
        2,
        { HQQ_PARTS(DTYPE_U8, 2, 3) } } },
    { "row 1, group 0: the zero is not finite",
      { "hqq, a zero that is none",
        HQQ ",\"bits\":8",
        2,
        2,
        { { "m.W_q", DTYPE_U8, 2, { 2, 2 }, ZEROS },
          { "m.scale", DTYPE_F32, 1, { 2 }, ONES32 },
          { "m.zero", DTYPE_F32, 1, { 2 }, F(0, NAN) } } } },
};

static void test_rows(void **state)
{
    (void)state;
    static float out[32 * 32];
    const struct change none = { 0 };
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        const struct example *e = &ROWS[i].e;
        struct err err = { 0 };
        const bool ok = run(e, &none, out, &err);
        if (ok != (ROWS[i].says == NULL))
            fail_msg("%s: %s", e->sentence, ok ? "accepted" : err.text);
        if (!ok && strstr(err.text, ROWS[i].says) == NULL)
            fail_msg("%s: %s", e->sentence, err.text);
        for (int32_t k = 0; ok && k < e->n_want; k++)
            if (out[k] != e->want[k])
                fail_msg("%s: weight %d is %g, want %g", e->sentence, k, (double)out[k],
                         (double)e->want[k]);
    }
}

/* packed_find with what no loader asks for: names that are too long, rules that never end, matrices
 * of 2^32 weights. */
static void test_odd_calls(void **state)
{
    (void)state;
    static char module[300];
    memset(module, 'a', sizeof module - 1);
    const struct {
        const char *config, *says; /* NULL: not quantized */
        int32_t side;
        struct part part;
    } rows[] = {
        { "\"quant_method\":\"gptq\"", NULL, 8, { "m.qweight", DTYPE_I32, 2, { 1, 8 }, ZEROS } },
        { "\"quant_method\":\"gptq\",\"dynamic\":{\"(a|aa)+(a|aa)+(a|aa)+[!?]\":{}}",
          "takes more than 100000 steps",
          8,
          { "m.qweight", DTYPE_I32, 2, { 1, 8 }, ZEROS } },
        { "\"quant_method\":\"bitnet\"", NULL, 8, { "n.weight", DTYPE_U8, 2, { 1, 8 }, ZEROS } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct example e = { .config = rows[i].config, .parts = { rows[i].part } };
        const struct change none = { 0 };
        uint8_t *copies[PARTS_MAX] = { 0 };
        struct tensor_dir dir;
        struct quant_spec spec;
        struct packed packed;
        struct err err = { 0 };
        read_config(&spec, rows[i].config);
        make_dir(&dir, &e, &none, copies);
        const bool ok = packed_find(&packed, &dir, &spec, module, rows[i].side, rows[i].side, &err);
        assert_int_equal(ok, rows[i].says == NULL);
        if (ok)
            assert_int_equal(packed.packing, PACKING_NONE);
        else
            assert_non_null(strstr(err.text, rows[i].says));
        tensor_dir_clear(&dir);
        quant_spec_clear(&spec);
        free(copies[0]);
    }
    const struct example huge = {
        .config = HQQ ",\"bits\":4",
        .parts = { { "m.W_q", DTYPE_U8, 2, { 1, 2 }, ZEROS },
                   { "m.group_size", DTYPE_I64, 0, { 0 }, L(INT64_C(1) << 32) } }
    };
    const struct change none = { 0 };
    uint8_t *copies[PARTS_MAX] = { 0 };
    struct tensor_dir dir;
    struct quant_spec spec;
    struct packed packed;
    struct err err = { 0 };
    read_config(&spec, huge.config);
    make_dir(&dir, &huge, &none, copies);
    assert_false(packed_find(&packed, &dir, &spec, "m", 1 << 16, 1 << 16, &err));
    assert_string_equal(err.text, "m: group_size 4294967296");
    /* A scheme of which nothing is known finds nothing. */
    spec.schemes[0].packing = PACKING_NONE;
    assert_ok(packed_find(&packed, &dir, &spec, "m", 2, 2, &err), &err);
    assert_int_equal(packed.packing, PACKING_NONE);
    tensor_dir_clear(&dir);
    quant_spec_clear(&spec);
    free(copies[0]);
    free(copies[1]);
}

/* Scales and zeros that fp16 holds, after one factor a row, and others. */
static void test_fits_f16(void **state)
{
    (void)state;
    enum { MANY = 130 };
    static uint8_t codes[MANY];
    static float scales[MANY];
    for (int i = 0; i < MANY; i++)
        scales[i] = i == 128 ? 0x1p-100f : 1;
    static const char INT[] = CT("int-quantized", "\"num_bits\":8,\"strategy\":\"channel\"");
    static const char PACK[] = CT("pack-quantized", "\"num_bits\":4,\"group_size\":4");
    const struct {
        const char *says; /* "yes", "no", or the error */
        struct example e;
    } rows[] = {
        { "yes", /* one factor a row: any single scale fits */
          { "rows of one scale",
            INT,
            MANY,
            1,
            { { "m.weight", DTYPE_I8, 2, { MANY, 1 }, codes },
              { "m.weight_scale", DTYPE_F32, 2, { MANY, 1 }, scales } } } },
        { "no",
          { "two scales that share no factor",
            PACK,
            1,
            8,
            { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, ZEROS },
              { "m.weight_scale", DTYPE_F32, 2, { 1, 2 }, F(1, 1.0f + 0x1p-20f) } } } },
        { "row 0, group 1: the scale is not finite (NaN or Inf)",
          { "a scale that is none",
            PACK,
            1,
            8,
            { { "m.weight_packed", DTYPE_I32, 2, { 1, 1 }, ZEROS },
              { "m.weight_scale", DTYPE_F32, 2, { 1, 2 }, F(1, NAN) } } } },
        { "yes",
          { "zeros in halves",
            HQQ ",\"bits\":8",
            2,
            2,
            { { "m.W_q", DTYPE_U8, 2, { 2, 2 }, ZEROS },
              { "m.scale", DTYPE_F32, 1, { 2 }, ONES32 },
              { "m.zero", DTYPE_F32, 1, { 2 }, F(0.5f, 1.5f) } } } },
        { "no",
          { "zeros in tenths",
            HQQ ",\"bits\":8",
            2,
            2,
            { { "m.W_q", DTYPE_U8, 2, { 2, 2 }, ZEROS },
              { "m.scale", DTYPE_F32, 1, { 2 }, ONES32 },
              { "m.zero", DTYPE_F32, 1, { 2 }, F(0.1f, 1.5f) } } } },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const struct example *e = &rows[i].e;
        const struct change none = { 0 };
        uint8_t *copies[PARTS_MAX] = { 0 };
        struct tensor_dir dir;
        struct quant_spec spec;
        struct packed packed;
        struct err err = { 0 };
        bool lossless = false;
        read_config(&spec, e->config);
        make_dir(&dir, e, &none, copies);
        assert_ok(packed_find(&packed, &dir, &spec, "m", e->n_out, e->n_in, &err), &err);
        const char *got = !packed_fits_f16(&packed, &lossless, &err) ? err.text
                          : lossless                                 ? "yes"
                                                                     : "no";
        if (strcmp(got, rows[i].says) != 0)
            fail_msg("%s: %s", e->sentence, got);
        packed_clear(&packed);
        tensor_dir_clear(&dir);
        quant_spec_clear(&spec);
        for (int32_t k = 0; k < PARTS_MAX; k++)
            free(copies[k]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_tensor),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_odd_calls),
        cmocka_unit_test(test_fits_f16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
