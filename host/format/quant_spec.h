/* quant_spec.h - what a checkpoint's config says about how its weights are quantized.
 *
 * Source: `quantization_config` of config.json (transformers), `compression_config` (older
 * compressed-tensors), quantize_config.json (GPTQ before transformers knew it), `quantization` of
 * hf_quant_config.json (ModelOpt). Read once, then asked per module: quant_spec_scheme. What cannot
 * be loaded is refused by quant_spec_check, with the reason and the way out. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"
#include "host/base/json.h"
#include "host/format/act_scheme.h"

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
/* How one matrix lies in the file; each is drawn at the top of its packing_*.c. */
enum packing {
    PACKING_NONE,
    PACKING_GPTQ,     /* zeros are stored less one */
    PACKING_GPTQ_V2,  /* zeros are stored as they are */
    PACKING_AWQ_GEMM, /* along the outputs, nibbles in the order 0 2 4 6 1 3 5 7 */
    PACKING_AWQ_GEMV, /* along the inputs, in order */
    PACKING_CT_PACK,  /* compressed-tensors pack-quantized */
    PACKING_CT_INT,   /* int-quantized: one signed byte a weight */
    PACKING_FP8,      /* E4M3 or E5M2, scales of any grid */
    PACKING_NVFP4,    /* E2M1 in groups of 16, E4M3 scales, one global scale */
    PACKING_MXFP4,    /* E2M1 in groups of 32, E8M0 scales */
    PACKING_BNB4,     /* bitsandbytes nf4 and fp4 */
    PACKING_BNB8,     /* bitsandbytes LLM.int8 */
    PACKING_HQQ,
    PACKING_BITNET, /* four ternary rows a byte */
    PACKING_COUNT
};
const char *packing_name(enum packing packing); /* "gptq", "awq gemv", ... */

struct quant_scheme {
    enum packing packing;
    int32_t bits;                   /* 0: the tensors say */
    int32_t group;                  /* inputs per scale; -1: one scale a row; 0: the tensors say */
    int32_t block_rows, block_cols; /* FP8: weights that share a scale; 0: not by blocks */
    bool symmetric;
    bool divide; /* the last scale divides: BitNet's bitlinear, the global one of CT's nvfp4 */
    struct act_quant act;
};
enum { QUANT_SCHEMES_MAX = 64 };
struct quant_rule; /* quant_rules.h */
struct quant_spec {
    enum quant_method method;
    char name[48];     /* quant_method as written, cut to fit, control bytes as '?' ; "" for none */
    const char *key;   /* where it was found: "quantization_config"; static; NULL for none */
    int32_t bits;      /* of a weight; 0: not stated */
    int32_t group;     /* inputs per scale; -1: one scale a row; 0: not stated, or not by groups */
    bool symmetric;    /* no zero points; true when not stated */
    char refusal[256]; /* why this one cannot be loaded, and what to do instead; "": it can */
    /* schemes[0] is that of modules which no rule names, unless rules_only. Owned. */
    struct quant_scheme *schemes; /* [n_schemes] */
    struct quant_rule *rules;     /* [n_rules], the first that matches counts */
    int32_t n_schemes, n_rules;
    bool rules_only;
};
/* `config` is the root of config.json. ERR_FORMAT when the object is there but says nothing usable
 * (no method, or a count of the wrong type or range); then there is nothing to clear. */
MUST_USE bool quant_spec_read(struct quant_spec *spec, const struct json_ref *config,
                              struct err *err);
/* The same for a file of its own: `object` is what quantization_config would be, `key` the file's
 * name (static), `method` what it is if it does not say. */
MUST_USE bool quant_spec_read_object(struct quant_spec *spec, const struct json_ref *object,
                                     const char *key, const char *method, struct err *err);
void quant_spec_clear(struct quant_spec *spec);
/* True when the weights can be loaded; else ERR_UNSUPPORTED with the scheme's name and figures. */
MUST_USE bool quant_spec_check(const struct quant_spec *spec, struct err *err);
/* How `module` ("model.layers.0.mlp.up_proj", parts of fused matrices by their unfused names) is
 * quantized; *scheme NULL: it is not. Borrowed. ERR_UNSUPPORTED: a rule's pattern ran out of steps.
 */
MUST_USE bool quant_spec_scheme(const struct quant_spec *spec, const char *module,
                                const struct quant_scheme **scheme, struct err *err);
