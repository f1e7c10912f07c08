/* dtype.c - what an element type is called and how wide it is. Pure. */
#include "host/base/dtype.h"
#include "host/base/err.h"
#include <string.h>

static const struct {
    size_t bytes; /* of a block */
    const char *name, *safetensors;
    int32_t block; /* 0: one element */
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
    [DTYPE_Q4_0] = { 18, "Q4_0", NULL, 32 },
    [DTYPE_Q4_1] = { 20, "Q4_1", NULL, 32 },
    [DTYPE_Q5_0] = { 22, "Q5_0", NULL, 32 },
    [DTYPE_Q5_1] = { 24, "Q5_1", NULL, 32 },
    [DTYPE_Q8_0] = { 34, "Q8_0", NULL, 32 },
    [DTYPE_Q2_K] = { 84, "Q2_K", NULL, 256 },
    [DTYPE_Q3_K] = { 110, "Q3_K", NULL, 256 },
    [DTYPE_Q4_K] = { 144, "Q4_K", NULL, 256 },
    [DTYPE_Q5_K] = { 176, "Q5_K", NULL, 256 },
    [DTYPE_Q6_K] = { 210, "Q6_K", NULL, 256 },
    [DTYPE_IQ4_NL] = { 18, "IQ4_NL", NULL, 32 },
    [DTYPE_IQ4_XS] = { 136, "IQ4_XS", NULL, 256 },
    [DTYPE_MXFP4] = { 17, "MXFP4", NULL, 32 },
    [DTYPE_TQ1_0] = { 54, "TQ1_0", NULL, 256 },
    [DTYPE_TQ2_0] = { 66, "TQ2_0", NULL, 256 },
};

size_t dtype_bytes(enum dtype dtype)
{
    CHECK((unsigned)dtype < DTYPE_COUNT);
    CHECK(DTYPES[dtype].block == 0);
    return DTYPES[dtype].bytes;
}

int32_t dtype_block(enum dtype dtype)
{
    CHECK((unsigned)dtype < DTYPE_COUNT);
    return DTYPES[dtype].block != 0 ? DTYPES[dtype].block : dtype != DTYPE_NONE;
}

size_t dtype_block_bytes(enum dtype dtype)
{
    CHECK((unsigned)dtype < DTYPE_COUNT);
    return DTYPES[dtype].bytes;
}

size_t dtype_row_bytes(enum dtype dtype, size_t n)
{
    const size_t block = (size_t)dtype_block(dtype);
    CHECK(block != 0 && n % block == 0);
    return n / block * DTYPES[dtype].bytes;
}

const char *dtype_name(enum dtype dtype)
{
    CHECK((unsigned)dtype < DTYPE_COUNT);
    return DTYPES[dtype].name;
}

enum dtype dtype_from_safetensors(const char *name)
{
    for (int i = DTYPE_NONE + 1; i < DTYPE_COUNT; i++)
        if (DTYPES[i].safetensors != NULL && strcmp(DTYPES[i].safetensors, name) == 0)
            return (enum dtype)i;
    return DTYPE_NONE;
}
