/* libFuzzer entry for quantization configs and packed matrices: the input is a config (one of a
 * table, or JSON of its own), the shape of a matrix, and tensors of any name, type and shape for
 * it. Whatever is accepted must decode to codes in range, an order that is a permutation, and
 * finite scales; nothing may be read beyond a tensor's end.
 *
 *   u8 config (N_CONFIGS: u8 length, JSON), u8 n_out, u8 n_in, then tensors:
 *   u8 suffix, u8 dtype, u8 n_dims, u8 dims [n_dims], u8 length, bytes [length] (repeated to fill)
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/format/packing.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { TENSORS_MAX = 14, DIM_MAX = 80, TENSOR_BYTES_MAX = 1 << 16 };
#define CT(format, weights)                                                                        \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"" format                                \
    "\",\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}}}}"
static const char *const CONFIGS[] = {
    "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":8,\"sym\":false}",
    "{\"quant_method\":\"gptq\",\"bits\":3,\"group_size\":-1,\"checkpoint_format\":\"gptq_v2\"}",
    "{\"quant_method\":\"awq\",\"group_size\":8,\"zero_point\":true}",
    "{\"quant_method\":\"awq\",\"group_size\":8,\"zero_point\":true,\"version\":\"gemv\"}",
    CT("pack-quantized", "\"num_bits\":4,\"group_size\":8,\"symmetric\":false"),
    CT("pack-quantized", "\"num_bits\":3,\"strategy\":\"channel\""),
    CT("int-quantized", "\"num_bits\":8,\"strategy\":\"channel\",\"symmetric\":false"),
    CT("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\""),
    CT("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":16"),
    CT("mxfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":32"),
    "{\"quant_method\":\"fp8\",\"weight_block_size\":[8,8]}",
    "{\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\"}",
    "{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true}",
    "{\"quant_method\":\"bitsandbytes\",\"load_in_8bit\":true}",
    "{\"quant_method\":\"hqq\"}",
    "{\"quant_method\":\"bitnet\"}",
};
enum { N_CONFIGS = sizeof CONFIGS / sizeof *CONFIGS };
static const char *const SUFFIXES[] = {
    "qweight",
    "qzeros",
    "scales",
    "g_idx",
    "weight",
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_shape",
    "weight_g_idx",
    "SCB",
    "weight_zero_point",
    "weight_format",
    "weight_global_scale",
    "weight_scale_2",
    "input_scale",
    "input_global_scale",
    "weight.absmax",
    "weight.quant_map",
    "weight.nested_absmax",
    "weight.nested_quant_map",
    "weight.quant_state.bitsandbytes__nf4",
    "weight.quant_state.bitsandbytes__fp4",
    "W_q",
    "scale",
    "zero",
    "nbits",
    "group_size",
    "axis",
    "view_as_float",
    "quant_zero",
    "shape",
};
enum { N_SUFFIXES = sizeof SUFFIXES / sizeof *SUFFIXES };
static const enum dtype DTYPES[] = {
    DTYPE_F32, DTYPE_F16,     DTYPE_BF16, DTYPE_I32,     DTYPE_U8,
    DTYPE_I8,  DTYPE_F8_E4M3, DTYPE_I64,  DTYPE_F8_E8M0, DTYPE_F64
};
enum { N_DTYPES = sizeof DTYPES / sizeof *DTYPES };

struct input {
    const uint8_t *at, *end;
};
static uint8_t take(struct input *in)
{
    return in->at < in->end ? *in->at++ : 0;
}

static bool read_config(struct input *in, struct quant_spec *spec)
{
    struct err err;
    struct cJSON *tree = NULL;
    char text[300];
    const uint8_t choice = take(in) % (N_CONFIGS + 1);
    size_t length;
    if (choice < N_CONFIGS) {
        length = (size_t)snprintf(text, sizeof text, "%s", CONFIGS[choice]);
    } else {
        length = take(in);
        if (length > (size_t)(in->end - in->at))
            length = (size_t)(in->end - in->at);
        memcpy(text, in->at, length);
        in->at += length;
    }
    if (!json_parse(text, length, &JSON_REQUEST_LIMITS, ERR_FORMAT, &tree, &err))
        return false;
    const struct json_ref root = json_root(tree);
    const bool ok = quant_spec_read_object(spec, &root, "quantize_config.json", "gptq", &err);
    json_free(tree);
    if (ok && quant_spec_check(spec, &err))
        return true;
    if (ok)
        quant_spec_clear(spec);
    CHECK(err.text[0] != 0);
    return false;
}

static bool read_tensor(struct input *in, struct tensor *tensor, char name[64])
{
    *tensor = (struct tensor){ .name = name };
    snprintf(name, 64, "m.%s", SUFFIXES[take(in) % N_SUFFIXES]);
    tensor->dtype = DTYPES[take(in) % N_DTYPES];
    tensor->n_dims = take(in) % 4;
    for (int32_t i = 0; i < tensor->n_dims; i++)
        tensor->dims[i] = take(in) % DIM_MAX;
    tensor->bytes = (size_t)tensor_count(tensor) * dtype_bytes(tensor->dtype);
    size_t length = take(in);
    if (length > (size_t)(in->end - in->at))
        length = (size_t)(in->end - in->at);
    if (tensor->bytes > TENSOR_BYTES_MAX)
        return false;
    uint8_t *data = calloc(tensor->bytes > 0 ? tensor->bytes : 1, 1);
    CHECK(data != NULL);
    for (size_t i = 0; i < tensor->bytes && length > 0; i++)
        data[i] = in->at[i % length];
    in->at += length;
    tensor->data = data;
    return true;
}

static void check_order(const struct packed *packed)
{
    bool seen[256] = { false };
    for (int32_t i = 0; packed->order != NULL && i < packed->form.n_in; i++) {
        CHECK(packed->order[i] >= 0 && packed->order[i] < packed->form.n_in);
        CHECK(!seen[packed->order[i]]);
        seen[packed->order[i]] = true;
    }
}

static void decode(const struct packed *packed)
{
    struct matrix m;
    struct err err;
    bool fits;
    float row[256];
    const int32_t n_out = packed->form.n_out, n_in = packed->form.n_in, half = n_out / 2;
    CHECK(matrix_init_form(&m, &packed->form, &err));
    if (packed_rows(packed, half, n_out - half, &m, half, &err) &&
        packed_rows(packed, 0, half, &m, 0, &err)) {
        for (int32_t i = 0; i < n_out * n_in; i++)
            CHECK(m.codes[i] < 1 << m.bits);
        for (int32_t i = 0; i < n_out * m.n_groups; i++)
            CHECK(isfinite(m.scales[i]) && (m.zeros == NULL || isfinite(m.zeros[i])));
        for (int32_t r = 0; r < n_out; r++)
            matrix_dequantize_row(&m, r, row);
        CHECK(packed_fits_f16(packed, &fits, &err));
    } else {
        CHECK(err.text[0] != 0);
    }
    matrix_clear(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct input in = { bytes, bytes + size };
    struct quant_spec spec;
    struct tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][64];
    struct tensor_dir dir = { 0 };
    struct packed packed;
    struct file_map map;
    struct err err;
    int32_t n = 0;
    if (!read_config(&in, &spec))
        return 0;
    const int32_t n_out = 1 + take(&in) % 72, n_in = 1 + take(&in) % 72;
    while (n < TENSORS_MAX && in.at < in.end) {
        bool twice = false;
        if (!read_tensor(&in, &tensors[n], names[n]))
            continue;
        for (int32_t i = 0; i < n; i++)
            twice = twice || strcmp(names[i], names[n]) == 0;
        if (twice)
            free((uint8_t *)(uintptr_t)tensors[n].data);
        else
            n++;
    }
    file_map_memory(&map, "", 0);
    CHECK(tensor_dir_add(&dir, tensors, n, map, "fuzz", &err));
    if (packed_find(&packed, &dir, &spec, "m", n_out, n_in, &err)) {
        if (packed.packing != PACKING_NONE) {
            check_order(&packed);
            decode(&packed);
        }
        packed_clear(&packed);
    } else {
        CHECK(err.text[0] != 0);
    }
    tensor_dir_clear(&dir);
    quant_spec_clear(&spec);
    for (int32_t i = 0; i < n; i++)
        free((uint8_t *)(uintptr_t)tensors[i].data);
    return 0;
}
