/* act_scheme.h - the name of what a checkpoint's scheme does to the inputs of a linear layer; what
 * each does exactly: host/backend/act_quant.h. Read from configs (quant_spec.h), kept with weights
 * (struct weight_part). */
#pragma once
#ifdef __cplusplus
extern "C" {
#endif

enum act_scheme {
    ACT_EXACT, /* as they are (or as the backend's own fast arithmetic takes them) */
    ACT_INT8_TOKEN,
    ACT_BITNET,
    ACT_FP8_TOKEN,
    ACT_FP8_TENSOR,
    ACT_FP8_BLOCK,
    ACT_NVFP4,
    ACT_LLM_INT8,
};
struct act_quant {
    enum act_scheme scheme;
    float scale; /* FP8_TENSOR, NVFP4, LLM_INT8; positive and finite. Else 0 */
};
#ifdef __cplusplus
}
#endif
