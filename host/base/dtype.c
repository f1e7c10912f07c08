/* dtype.c - what an element type is called and how wide it is. Pure. */
#include "host/base/dtype.h"
#include "host/base/err.h"
#include <string.h>

static const struct {
    size_t bytes;
    const char *name, *safetensors;
} DTYPES[DTYPE_COUNT] = {
    [DTYPE_NONE] = { 0, "none", NULL },
    [DTYPE_F64] = { 8, "f64", "F64" },
    [DTYPE_F32] = { 4, "f32", "F32" },
    [DTYPE_F16] = { 2, "f16", "F16" },
    [DTYPE_BF16] = { 2, "bf16", "BF16" },
    [DTYPE_F8_E4M3] = { 1, "f8_e4m3", "F8_E4M3" },
    [DTYPE_F8_E5M2] = { 1, "f8_e5m2", "F8_E5M2" },
    [DTYPE_F8_E8M0] = { 1, "f8_e8m0", "F8_E8M0" },
    [DTYPE_I64] = { 8, "i64", "I64" },
    [DTYPE_I32] = { 4, "i32", "I32" },
    [DTYPE_I16] = { 2, "i16", "I16" },
    [DTYPE_I8] = { 1, "i8", "I8" },
    [DTYPE_U8] = { 1, "u8", "U8" },
    [DTYPE_U16] = { 2, "u16", "U16" },
    [DTYPE_U32] = { 4, "u32", "U32" },
    [DTYPE_U64] = { 8, "u64", "U64" },
    [DTYPE_BOOL] = { 1, "bool", "BOOL" },
};

size_t dtype_bytes(enum dtype dtype)
{
    CHECK((unsigned)dtype < DTYPE_COUNT);
    return DTYPES[dtype].bytes;
}

const char *dtype_name(enum dtype dtype)
{
    CHECK((unsigned)dtype < DTYPE_COUNT);
    return DTYPES[dtype].name;
}

enum dtype dtype_from_safetensors(const char *name)
{
    for (int i = DTYPE_NONE + 1; i < DTYPE_COUNT; i++)
        if (strcmp(DTYPES[i].safetensors, name) == 0)
            return (enum dtype)i;
    return DTYPE_NONE;
}
