/* forms.h - random matrices as the checkpoints' formats make them, one form a format: what
 * LAYOUT_CHUNKS_C16 is for. For tests and benches. */
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/half.h"
#include "host/base/rng.h"
#include "host/format/matrix.h"
#include "host/backend/layout_chunks.h"

enum form_table { FORM_CODES, FORM_E2M1, FORM_E2M1_DOUBLED, FORM_IQ4, FORM_NF4, FORM_E4M3 };
enum form_offset { FORM_SYMMETRIC, FORM_ZEROS, FORM_FRACTIONS, FORM_ONES, FORM_MINS };
struct form {
    const char *name;
    int32_t bits, group; /* group 0: one scale a row */
    enum form_table table;
    enum form_offset offset;
    enum layout_scales scales; /* the cheapest that holds them */
    double file_bits;          /* a weight in the file, n_in large */
};

/* clang-format off */
static const struct form forms[] = {
    { "Q4_0", 4, 32, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_F16, 4.5 },
    { "Q4_1", 4, 32, FORM_CODES, FORM_MINS, LAYOUT_SCALES_F16, 5 },
    { "Q5_0", 5, 32, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_F16, 5.5 },
    { "Q5_1", 5, 32, FORM_CODES, FORM_MINS, LAYOUT_SCALES_F16, 6 },
    { "Q8_0", 8, 32, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_F16, 8.5 },
    { "Q2_K", 2, 16, FORM_CODES, FORM_MINS, LAYOUT_SCALES_I8, 2.625 },
    { "Q3_K", 3, 16, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_I8, 3.4375 },
    { "Q4_K", 4, 32, FORM_CODES, FORM_MINS, LAYOUT_SCALES_I8, 4.5 },
    { "Q5_K", 5, 32, FORM_CODES, FORM_MINS, LAYOUT_SCALES_I8, 5.5 },
    { "Q6_K", 6, 16, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_I8, 6.5625 },
    { "IQ4_NL", 4, 32, FORM_IQ4, FORM_SYMMETRIC, LAYOUT_SCALES_F16, 4.5 },
    { "IQ4_XS", 4, 32, FORM_IQ4, FORM_SYMMETRIC, LAYOUT_SCALES_I8, 4.25 },
    { "MXFP4", 4, 32, FORM_E2M1_DOUBLED, FORM_SYMMETRIC, LAYOUT_SCALES_E8, 4.25 },
    { "NVFP4", 4, 16, FORM_E2M1, FORM_SYMMETRIC, LAYOUT_SCALES_F16, 4.5 },
    { "TQ2_0", 2, 256, FORM_CODES, FORM_ONES, LAYOUT_SCALES_F16, 2.0625 },
    { "BitNet", 2, 0, FORM_CODES, FORM_ONES, LAYOUT_SCALES_F16, 2 },
    { "NF4", 4, 64, FORM_NF4, FORM_SYMMETRIC, LAYOUT_SCALES_F32, 4.5 },
    { "FP8 row", 8, 0, FORM_E4M3, FORM_SYMMETRIC, LAYOUT_SCALES_F32, 8 },
    { "FP8 block", 8, 128, FORM_E4M3, FORM_SYMMETRIC, LAYOUT_SCALES_F32, 8 },
    { "MXFP8", 8, 32, FORM_E4M3, FORM_SYMMETRIC, LAYOUT_SCALES_E8, 8.25 },
    { "GPTQ 2 bits g64", 2, 64, FORM_CODES, FORM_ZEROS, LAYOUT_SCALES_F16, 2.28125 },
    { "GPTQ 3 bits g128", 3, 128, FORM_CODES, FORM_ZEROS, LAYOUT_SCALES_F16, 3.15 },
    { "GPTQ 4 bits g32", 4, 32, FORM_CODES, FORM_ZEROS, LAYOUT_SCALES_F16, 4.625 },
    { "HQQ 4 bits g64", 4, 64, FORM_CODES, FORM_FRACTIONS, LAYOUT_SCALES_F32, 5 },
    { "W8A8 row f32", 8, 0, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_F32, 8 },
    { "W8 g16", 8, 16, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_F32, 10 },
    { "7 bits g128", 7, 128, FORM_CODES, FORM_SYMMETRIC, LAYOUT_SCALES_F16, 7.125 },
};
/* clang-format on */
enum { N_FORMS = sizeof forms / sizeof *forms };

static inline const float *form_table_of(const struct form *form)
{
    static float e2m1[16], doubled[16], e4m3[256];
    static const float iq4[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                   1,    13,   25,  38,  53,  69,  89,  113 };
    static const float nf4[16] = { -1,
                                   -0.6961928009986877f,
                                   -0.5250730514526367f,
                                   -0.39491748809814453f,
                                   -0.28444138169288635f,
                                   -0.18477343022823334f,
                                   -0.09105003625154495f,
                                   0,
                                   0.07958029955625534f,
                                   0.16093020141124725f,
                                   0.24611230194568634f,
                                   0.33791524171829224f,
                                   0.44070982933044434f,
                                   0.5626170039176941f,
                                   0.7229568362236023f,
                                   1 };
    for (int32_t i = 0; i < 16; i++) {
        e2m1[i] = half_e2m1_to_f32((uint8_t)i);
        doubled[i] = 2 * e2m1[i];
    }
    for (int32_t i = 0; i < 256; i++)
        e4m3[i] = half_e4m3_to_f32((uint8_t)i);
    const float *const tables[] = { NULL, e2m1, doubled, iq4, nf4, e4m3 };
    return tables[form->table];
}

static inline struct layout_shape form_shape(const struct form *form, int32_t n_out, int32_t n_in)
{
    return (struct layout_shape){
        .layout = LAYOUT_CHUNKS_C16,
        .n_out = n_out,
        .n_in = n_in,
        .bits = form->bits,
        .group = form->group && form->group < n_in ? form->group : n_in,
        .symmetric = form->offset == FORM_SYMMETRIC,
        .kind = form->table == FORM_CODES ? CODE_INT : CODE_TABLE,
        .mins = form->offset == FORM_MINS,
        .scales = form->scales,
    };
}

static inline uint32_t form_random(uint64_t seed, uint64_t at)
{
    return rng_philox(seed, 77, at).v[0];
}
/* A scale as the form has them: g, row decide what it shares. */
static inline float form_scale(const struct form *form, uint64_t seed, int32_t row, int32_t g,
                               bool min)
{
    const uint64_t at = (uint64_t)row << 20 | (uint64_t)g << 1 | min;
    const uint32_t random = form_random(seed, at);
    const float mantissa = (float)(1024 + random % 1024);
    if (form->scales == LAYOUT_SCALES_E8)
        return ldexpf(1, (int)(random % 12) - 10);
    if (form->scales == LAYOUT_SCALES_I8) {
        const int32_t per_block = 256 / form->group;
        const uint64_t block = (uint64_t)(row * 1000 + g / per_block) << 1 | min;
        const float d = (float)(1024 + form_random(seed + 1, block) % 1024) * 0x1p-19f;
        return d * (float)(int32_t)(random % 64) * (!min && random & 128 ? -1.0f : 1.0f);
    }
    if (form->scales == LAYOUT_SCALES_F32)
        return (float)(0x800000 + random % 0x7fffff) * 0x1p-30f;
    if (form->table == FORM_E2M1) /* E4M3 times a float */
        return half_e4m3_to_f32((uint8_t)(8 + random % 112)) * (0.001f / 3.7f);
    return mantissa * 0x1p-18f;
}

/* Random codes, scales, zeros and mins; the matrix is cleared by the caller. False: no memory. */
static inline bool form_matrix(const struct form *form, int32_t n_out, int32_t n_in, uint64_t seed,
                               struct matrix *m, struct err *err)
{
    const struct layout_shape shape = form_shape(form, n_out, n_in);
    const struct matrix_form want = { .n_out = n_out,
                                      .n_in = n_in,
                                      .kind = shape.kind,
                                      .bits = form->bits,
                                      .group = shape.group,
                                      .symmetric = shape.symmetric,
                                      .mins = shape.mins };
    if (!matrix_init_form(m, &want, err))
        return false;
    m->table = form_table_of(form);
    for (int64_t i = 0; i < (int64_t)n_out * n_in; i++) {
        uint32_t code = form_random(seed + 2, (uint64_t)i) & ((1u << form->bits) - 1);
        if (form->offset == FORM_ONES)
            code = code % 3;
        if (form->table == FORM_E4M3) /* as many as a normal distribution has */
            code = half_f32_to_e4m3((float)((double)code - 127.5) *
                                    (float)(form_random(seed + 3, (uint64_t)i) % 128 + 1) / 40);
        m->codes[i] = (uint8_t)code;
    }
    for (int32_t row = 0; row < n_out; row++) {
        for (int32_t g = 0; g < m->n_groups; g++) {
            const int64_t at = (int64_t)row * m->n_groups + g;
            const uint32_t random = form_random(seed + 4, (uint64_t)at);
            m->scales[at] = form_scale(form, seed, row, g, false);
            if (m->mins)
                m->mins[at] = form_scale(form, seed, row, g, true);
            if (m->zeros)
                m->zeros[at] = form->offset == FORM_ONES ? 1
                               : form->offset == FORM_ZEROS
                                   ? (float)(random & ((1u << form->bits) - 1))
                                   : (float)(random % 1024) / 64;
        }
    }
    return true;
}
