/* dtype.h - element types of tensors and activations, and GGUF's block types, where a fixed number
 * of neighbouring weights shares scales and has no bytes of its own. */
#pragma once
#include <stdint.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

enum dtype {
    DTYPE_NONE,
    DTYPE_F64,
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_F8_E4M3,
    DTYPE_F8_E5M2,
    DTYPE_F8_E8M0,
    DTYPE_I64,
    DTYPE_I32,
    DTYPE_I16,
    DTYPE_I8,
    DTYPE_U8,
    DTYPE_U16,
    DTYPE_U32,
    DTYPE_U64,
    DTYPE_BOOL,
    /* Blocks, drawn in host/format/gguf_blocks.h. */
    DTYPE_Q4_0,
    DTYPE_Q4_1,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_Q8_0,
    DTYPE_Q2_K,
    DTYPE_Q3_K,
    DTYPE_Q4_K,
    DTYPE_Q5_K,
    DTYPE_Q6_K,
    DTYPE_IQ4_NL,
    DTYPE_IQ4_XS,
    DTYPE_MXFP4,
    DTYPE_TQ1_0,
    DTYPE_TQ2_0,
    DTYPE_COUNT
};
/* Bytes of one element; 0 for DTYPE_NONE. An element of a block has none: CHECKed. */
size_t dtype_bytes(enum dtype dtype);
/* Elements of a block (1 for plain types, 0 for NONE) and its bytes. A row is whole blocks. */
int32_t dtype_block(enum dtype dtype);
size_t dtype_block_bytes(enum dtype dtype);
/* Bytes of n neighbouring elements, whole blocks (CHECKed). n * 8 must fit size_t. */
size_t dtype_row_bytes(enum dtype dtype, size_t n);
/* "bf16", "f32", ... as inspect prints them. */
const char *dtype_name(enum dtype dtype);
/* From safetensors' spelling ("BF16", "F8_E4M3"); DTYPE_NONE when unknown. */
enum dtype dtype_from_safetensors(const char *name);
#ifdef __cplusplus
}
#endif
