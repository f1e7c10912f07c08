/* quant_spec.h - what a checkpoint's config says about how its weights are quantized.
 *
 * Source: `quantization_config` of config.json (transformers), `compression_config` (older
 * compressed-tensors). Recognizing a scheme is not reading it: quant_spec_check says which ones can
 * be loaded, and names the others. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/base/json.h"

enum quant_method {
    QUANT_NONE, /* weights as they are: no such key, or null */
    QUANT_GPTQ,
    QUANT_AWQ,
    QUANT_COMPRESSED_TENSORS,
    QUANT_FP8, /* 8-bit floats, per tensor or per block of 128 x 128 */
    QUANT_FBGEMM_FP8,
    QUANT_BITSANDBYTES,
    QUANT_BITNET,
    QUANT_MXFP4,
    QUANT_MODELOPT,
    QUANT_HQQ,
    QUANT_AUTO_ROUND,
    QUANT_TORCHAO,
    QUANT_QUANTO,
    QUANT_AQLM,
    QUANT_EETQ,
    QUANT_OTHER, /* a name we have never heard of */
};
struct quant_spec {
    enum quant_method method;
    char name[48];   /* quant_method as written, cut to fit, control bytes as '?' ; "" for none */
    const char *key; /* where it was found: "quantization_config"; static; NULL for none */
    int32_t bits;    /* of a weight; 0: not stated */
    int32_t group;   /* inputs per scale; -1: one scale a row; 0: not stated, or not by groups */
    bool symmetric;  /* no zero points; true when not stated */
};
/* `config` is the root of config.json. ERR_FORMAT when the object is there but says nothing usable
 * (no method, or a count of the wrong type or range). */
MUST_USE bool quant_spec_read(struct quant_spec *spec, const struct json_ref *config,
                              struct err *err);
/* True when the weights can be loaded; else ERR_UNSUPPORTED with the scheme's name and figures. */
MUST_USE bool quant_spec_check(const struct quant_spec *spec, struct err *err);
