/* test_packing.c - every packing worked out by hand, and tensors that are not what they say. */
#include "tests/unit/format/packing_examples.h"

/* ---- tests ------------------------------------------------------------------------------------
 */

static void test_by_hand(void **state)
{
    (void)state;
    static float out[32 * 32];
    const struct change none = { 0 };
    for (int32_t k = 0; k < N_EXAMPLES; k++) {
        const struct example *e = &EXAMPLES[k];
        struct err err = { 0 };
        if (!run(e, &none, out, &err))
            fail_msg("%s: %s", e->sentence, err.text);
        for (int32_t i = 0; i < e->n_want; i++)
            if (out[i] != e->want[i])
                fail_msg("%s: weight %d is %g, want %g", e->sentence, i, (double)out[i],
                         (double)e->want[i]);
    }
}

static void test_forged(void **state)
{
    (void)state;
#define NAN32                                                                                      \
    {                                                                                              \
        0, 0, 0xc0, 0x7f                                                                           \
    }
    static const struct {
        const char *sentence, *example;
        struct change change;
        const char *says;
    } rows[] = {
        { "gptq: a row of words too many",
          "gptq v1",
          { "m.qweight", DIM0, .dim = 2 },
          "m.qzeros is i32 [1, 1], want [1, 2]" }, /* 8 bits, then */
        { "gptq: no words", "gptq v1", { "m.qweight", DIM0, .dim = 0 }, "i32 [0, 8]" },
        { "gptq: an output too many", "gptq v1", { "m.qweight", DIM1, .dim = 9 }, "i32 [1, 9]" },
        { "gptq: words of 64 bits",
          "gptq v1",
          { .part = "m.qweight", .how = RETYPE, .dtype = DTYPE_I64 },
          "want i32" },
        { "gptq: no scales",
          "gptq v1",
          { .part = "m.scales", .how = DROP },
          "m.scales is missing" },
        { "gptq: integer scales",
          "gptq v1",
          { .part = "m.scales", .how = RETYPE, .dtype = DTYPE_I16 },
          "want f16" },
        { "gptq: no groups", "gptq v1", { "m.scales", DIM0, .dim = 0 }, "f16 [0, 8]" },
        { "gptq: more groups than inputs",
          "gptq v1",
          { "m.scales", DIM0, .dim = 9 },
          "f16 [9, 8], want 1 groups of 8" },
        { "gptq: zeros of another group count",
          "gptq v1",
          { "m.qzeros", DIM0, .dim = 2 },
          "want [1, 1]" },
        { "gptq: scales are infinite",
          "gptq v1",
          { "m.scales", POKE, .at = 12, .poke = { 0, 0x7c, 0, 0x3c } },
          "row 6, group 0: the scale is not finite" },
        { "gptq: a group that is not there",
          "gptq in act",
          { "m.g_idx", POKE, .at = 4, .poke = { 2 } },
          "puts input 1 into group 2 of 2" },
        { "gptq: a negative group",
          "gptq in act",
          { "m.g_idx", POKE, .at = 4, .poke = { 0xff, 0xff, 0xff, 0xff } },
          "into group -1 of 2" },
        { "gptq: a group that is too full",
          "gptq in act",
          { "m.g_idx", POKE, .at = 4, .poke = { 1 } },
          "puts more than 4 inputs into group 1" },
        { "gptq: g_idx is short", "gptq in act", { "m.g_idx", DIM0, .dim = 7 }, "want [8]" },
        { "awq: a word too few", "awq gemm", { "m.qweight", DIM0, .dim = 1 }, "i32 [1, 1]" },
        { "awq: two words a row",
          "awq gemm",
          { "m.qweight", DIM1, .dim = 2 },
          "want 8 outputs a word" },
        { "awq: no zeros", "awq gemm", { .part = "m.qzeros", .how = DROP }, "m.qzeros is missing" },
        { "gemv: no room for scales", "awq gemv", { "m.scales", DIM1, .dim = 0 }, "f16 [2, 0]" },
        { "gemv: a word too many",
          "awq gemv",
          { "m.qweight", DIM1, .dim = 2 },
          "want 8 inputs a word" },
        { "packed: a word too few",
          "pack-quantized, 3 bits, d",
          { "m.weight_packed", DIM1, .dim = 2 },
          "want 3 words a row for 3 bits" },
        { "packed: another shape",
          "pack-quantized, sym",
          { "m.weight_shape", POKE, .at = 8, .poke = { 9 } },
          "says 2 x 9, want 2 x 8" },
        { "packed: a shape beyond 2^32",
          "pack-quantized, sym",
          { "m.weight_shape", POKE, .at = 12, .poke = { 1 } },
          "says 2 x -1" },
        { "packed: scales of other rows",
          "pack-quantized, sym",
          { "m.weight_scale", DIM0, .dim = 3 },
          "want [2, 1]" },
        { "packed: zeros of other rows",
          "pack-quantized, zeros al",
          { "m.weight_zero_point", DIM0, .dim = 2 },
          "want [1, 2]" },
        { "int: a scale too many",
          "int-quantized, asym",
          { "m.weight_scale", DIM0, .dim = 3 },
          "want [2, 1]" },
        { "int: a zero too few",
          "int-quantized, asym",
          { "m.weight_zero_point", DIM0, .dim = 1 },
          "want as many as there are scales" },
        { "fp8: NaN",
          "fp8, one",
          { "m.weight", POKE, .poke = { 0x38, 0xff, 0, 0 } },
          "row 0, column 1 is not finite (code 0xff)" },
        { "fp8: a scale that is not finite",
          "fp8, one",
          { "m.weight_scale", POKE, .poke = NAN32 },
          "row 0, group 0: the scale is not finite" },
        { "fp8: no scale",
          "fp8, one",
          { .part = "m.weight_scale", .how = DROP },
          "m.weight_scale is missing" },
        { "fp8: blocks of another size",
          "fp8 by",
          { "m.weight_scale_inv", DIM0, .dim = 3 },
          "want [2, 2]" },
        { "mxfp8: 255 is no power of two",
          "mxfp8",
          { "m.weight_scale", POKE, .poke = { 255, 255 } },
          "group 0: the scale is not finite" },
        { "nvfp4: a byte too many", "nvfp4", { "m.weight_packed", DIM1, .dim = 9 }, "want [1, 8]" },
        { "nvfp4: no global scale",
          "nvfp4",
          { .part = "m.weight_global_scale", .how = DROP },
          "m.weight_global_scale is missing" },
        { "nvfp4: a global scale of 0",
          "nvfp4",
          { "m.weight_global_scale", POKE, .poke = { 0 } },
          "weight_global_scale is 0" },
        { "ModelOpt: a negative input scale",
          "ModelOpt",
          { "m.input_scale", POKE, .poke = { 0, 0, 0x80, 0xbf } },
          "value -1 is no scale" },
        { "mxfp4: two scales", "mxfp4", { "m.weight_scale", DIM1, .dim = 2 }, "want [1, 1]" },
        { "bnb: a byte too few",
          "bitsandbytes: b",
          { "m.weight", DIM0, .dim = 2 },
          "want 3 bytes for 2 x 3" },
        { "bnb: no figures",
          "bitsandbytes: b",
          { .part = "m.weight.quant_state.bitsandbytes__fp4", .how = DROP },
          "bitsandbytes__fp4 is missing" },
        { "bnb: figures that are no JSON",
          "bitsandbytes: b",
          { "m.weight.quant_state.bitsandbytes__fp4", POKE, .poke = "nope" },
          "whose text is wrong" },
        { "bnb: another shape",
          "bitsandbytes: b",
          { "m.weight.quant_state.bitsandbytes__fp4", POKE, .at = 43, .poke = "7,9]" },
          "says 7 x 9, want 2 x 3" },
        { "bnb: blocks too few",
          "bitsandbytes: b",
          { "m.weight.absmax", DIM0, .dim = 2 },
          "want [3]" },
        { "bnb: NaN in the table",
          "bitsandbytes: b",
          { "m.weight.quant_map", POKE, .poke = NAN32 },
          "entry 0 is not finite" },
        { "bnb: nested blocks too few",
          "bitsandbytes, d",
          { "m.weight.nested_absmax", DIM0, .dim = 1 },
          "want [2]" },
        { "LLM.int8 in tiles",
          "LLM",
          { "m.weight_format", POKE, .poke = { 2 } },
          "want a u8 of 0" },
        { "LLM.int8: a scale too few", "LLM", { "m.SCB", DIM0, .dim = 1 }, "want [2]" },
        { "hqq: 5 bits", "hqq, 4 bits, axis 1", { "m.nbits", POKE, .poke = { 5 } }, "5 bits" },
        { "hqq: groups that do not divide",
          "hqq, 4 bits, axis 1",
          { "m.group_size", POKE, .poke = { 3 } },
          "group_size 3 does not divide 2 x 2" },
        { "hqq: bytes too many",
          "hqq, 4 bits, axis 1",
          { "m.W_q", DIM0, .dim = 2 },
          "want [1, 2]" },
        { "hqq: a zero too few",
          "hqq, 4 bits, axis 1",
          { "m.zero", DIM0, .dim = 1 },
          "want 2 values" },
        { "hqq: axis 2", "hqq, 4 bits, axis 0", { "m.axis", POKE, .poke = { 2 } }, "axis 2" },
        { "bitnet: code 3",
          "bitnet: t",
          { "m.weight", POKE, .poke = { 0x6c } },
          "row 1, column 0: code 3 is no ternary weight" },
        { "bitnet: rows too many",
          "bitnet: t",
          { "m.weight", DIM0, .dim = 2 },
          "want four rows a byte for 4 rows" },
        { "bitnet: no scale",
          "bitnet: t",
          { .part = "m.weight_scale", .how = DROP },
          "m.weight_scale is missing" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static float out[32 * 32];
        struct err err = { 0 };
        int32_t k = 0;
        while (k < N_EXAMPLES &&
               strncmp(EXAMPLES[k].sentence, rows[i].example, strlen(rows[i].example)) != 0)
            k++;
        assert_true(k < N_EXAMPLES);
        struct change change = rows[i].change;
        if (run(&EXAMPLES[k], &change, out, &err))
            fail_msg("%s: accepted", rows[i].sentence);
        if ((err.code != ERR_FORMAT && err.code != ERR_UNSUPPORTED) ||
            strstr(err.text, rows[i].says) == NULL)
            fail_msg("%s: code %d, \"%s\"", rows[i].sentence, err.code, err.text);
    }
}

/* Plain floats are plain floats, whatever the rules say. */
static void test_not_quantized(void **state)
{
    (void)state;
    static const char *const configs[] = {
        "\"quant_method\":\"gptq\",\"bits\":4",
        "\"quant_method\":\"awq\"",
        "\"quant_method\":\"fp8\"",
        "\"quant_method\":\"bitnet\"",
        "\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true",
        "\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true",
        "\"quant_method\":\"hqq\"",
        "\"quant_method\":\"mxfp4\"",
        CT("pack-quantized", "\"num_bits\":4"),
        CT("int-quantized", "\"num_bits\":8"),
        "\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\"",
    };
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        const struct example e = {
            .sentence = "plain",
            .config = configs[i],
            .n_out = 2,
            .n_in = 2,
            .parts = { { "m.weight", DTYPE_BF16, 2, { 2, 2 }, H(1, 2, 3, 4) } },
        };
        const struct change none = { 0 };
        struct err err = { 0 };
        float out[4];
        assert_false(run(&e, &none, out, &err));
        if (err.code != ERR_NOT_FOUND)
            fail_msg("%s: %s", configs[i], err.text);
    }
}

/* gpt-oss: experts behind each other; every number of the shape counts. */
static void test_slices(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        int64_t blocks[4], scales[3];
        const char *says; /* NULL: fine */
    } rows[] = {
        { "as it should be", { 2, 3, 1, 16 }, { 2, 3, 1 }, NULL },
        { "an expert too few", { 1, 3, 1, 16 }, { 2, 3, 1 }, "want u8 [2, 3, 1, 16]" },
        { "blocks of 8", { 2, 3, 2, 8 }, { 2, 3, 1 }, "want u8 [2, 3, 1, 16]" },
        { "blocks of three dimensions", { 2, 3, 16, 0 }, { 2, 3, 1 }, "want u8 [2, 3, 1, 16]" },
        { "no scales", { 2, 3, 1, 16 }, { 0, 0, 0 }, "tensor e.w_scales is missing" },
        { "scales of another row", { 2, 3, 1, 16 }, { 2, 2, 1 }, "want u8 [2, 3, 1]" },
    };
    static uint8_t blocks[96], scales[6] = { 127, 127, 127, 127, 128, 126 };
    blocks[(3 + 1) * 16] = 0x2f;      /* expert 1, row 1: -6, 1 */
    blocks[(3 + 2) * 16 + 15] = 0x70; /* expert 1, row 2: last input 6 */
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct tensor tensors[2] = { { .name = "e.w_blocks", .dtype = DTYPE_U8, .n_dims = 4 },
                                     { .name = "e.w_scales", .dtype = DTYPE_U8, .n_dims = 3 } };
        struct tensor_dir dir = { 0 };
        struct file_map map;
        struct packed packed;
        struct matrix m;
        struct err err = { 0 };
        float out[32];
        memcpy(tensors[0].dims, rows[i].blocks, sizeof rows[i].blocks);
        memcpy(tensors[1].dims, rows[i].scales, sizeof rows[i].scales);
        if (rows[i].blocks[3] == 0)
            tensors[0].n_dims = 3;
        const int32_t n_tensors = rows[i].scales[0] == 0 ? 1 : 2;
        tensors[0].data = blocks;
        tensors[1].data = scales;
        tensors[0].bytes = (size_t)tensor_count(&tensors[0]);
        tensors[1].bytes = (size_t)tensor_count(&tensors[1]);
        file_map_memory(&map, "", 0);
        assert_ok(tensor_dir_add(&dir, tensors, n_tensors, map, "test", &err), &err);
        const bool ok = packed_find_mxfp4_slice(&packed, &dir, "e.w", 2, 1, 3, 32, &err);
        if (rows[i].says != NULL) {
            if (ok || strstr(err.text, rows[i].says) == NULL)
                fail_msg("%s: %s", rows[i].sentence, ok ? "accepted" : err.text);
            tensor_dir_clear(&dir);
            continue;
        }
        assert_ok(ok, &err);
        assert_ok(matrix_init_form(&m, &packed.form, &err), &err);
        assert_ok(packed_rows(&packed, 0, 3, &m, 0, &err), &err);
        matrix_dequantize_row(&m, 0, out);
        assert_true(out[0] == 0 && out[31] == 0);
        matrix_dequantize_row(&m, 1, out);
        assert_true(out[0] == -12 && out[1] == 2 && out[2] == 0);
        matrix_dequantize_row(&m, 2, out);
        assert_true(out[30] == 0 && out[31] == 3);
        matrix_clear(&m);
        packed_clear(&packed);
        assert_false(packed_find_mxfp4_slice(&packed, &dir, "e.w", 2, 1, 3, 40, &err));
        assert_string_equal(err.text, "e.w: 40 inputs, want a multiple of 32");
        assert_ok(packed_find_mxfp4_slice(&packed, &dir, "e.other", 2, 1, 3, 32, &err), &err);
        assert_int_equal(packed.packing, PACKING_NONE);
        tensor_dir_clear(&dir);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_forged),
        cmocka_unit_test(test_not_quantized),
        cmocka_unit_test(test_slices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
