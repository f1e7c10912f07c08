/* dtype.h - element types of tensors and activations. */
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
    DTYPE_COUNT
};
/* Bytes of one element; 0 for DTYPE_NONE. */
size_t dtype_bytes(enum dtype dtype);
/* "bf16", "f32", ... as inspect prints them. */
const char *dtype_name(enum dtype dtype);
/* From safetensors' spelling ("BF16", "F8_E4M3"); DTYPE_NONE when unknown. */
enum dtype dtype_from_safetensors(const char *name);
#ifdef __cplusplus
}
#endif
