/* matrix.cpp - warp collectives that compute: shuffles, votes, matrix fragments. The layouts are
 * those of the PTX ISA as device.cuh states them: q = lane % 4, g = lane / 4. */
#include "internal.h"
#include "cuda/device.cuh"

/* ---- shuffles -----------------------------------------------------------------------------------
 */

struct shuffle {
    uint32_t value, result;
    int from;
};
static void compute_shuffle(void *const *deposits, int)
{
    for (int l = 0; l < 32; l++) {
        struct shuffle *s = (struct shuffle *)deposits[l];
        s->result = ((struct shuffle *)deposits[s->from])->value;
    }
}
uint32_t hostcuda_shfl(uint32_t v, int from_lane, HOSTCUDA_AT)
{
    struct shuffle s = { v, 0, from_lane & 31 };
    hostcuda_collective(32, &s, compute_shuffle, false, "shfl", file, line);
    return s.result;
}
static void compute_ballot(void *const *deposits, int)
{
    uint32_t votes = 0;
    for (int l = 0; l < 32; l++)
        votes |= ((struct shuffle *)deposits[l])->value << l;
    for (int l = 0; l < 32; l++)
        ((struct shuffle *)deposits[l])->result = votes;
}
uint32_t hostcuda_ballot(bool p, HOSTCUDA_AT)
{
    struct shuffle s = { p ? 1u : 0u, 0, 0 };
    hostcuda_collective(32, &s, compute_ballot, false, "warp_ballot", file, line);
    return s.result;
}

/* ---- ldmatrix, movmatrix ------------------------------------------------------------------------
 */

struct ldsm {
    const unsigned char *row;
    uint32_t *r;
};
static void count_ldsm(void *const *deposits)
{
    const unsigned char *rows[32];
    for (int l = 0; l < 32; l++)
        rows[l] = ((struct ldsm *)deposits[l])->row;
    for (int i = 0; i < 32; i += 8)
        hc_count_round(hc_self->block->grid->count, rows + i, 8);
}
template <bool trans> static void compute_ldsm(void *const *deposits, int)
{
    uint16_t m[4][8][8];
    for (int i = 0; i < 4; i++)
        for (int row = 0; row < 8; row++)
            memcpy(m[i][row], ((struct ldsm *)deposits[8 * i + row])->row, 16);
    if (hostcuda_counting)
        count_ldsm(deposits);
    for (int l = 0; l < 32; l++) {
        const int q = l & 3, g = l >> 2;
        uint32_t *r = ((struct ldsm *)deposits[l])->r;
        for (int i = 0; i < 4; i++)
            r[i] = trans ? (uint32_t)m[i][2 * q][g] | (uint32_t)m[i][2 * q + 1][g] << 16
                         : (uint32_t)m[i][g][2 * q] | (uint32_t)m[i][g][2 * q + 1] << 16;
    }
}
void hostcuda_ldsm(uint32_t *r, const void *row, bool trans, HOSTCUDA_AT)
{
    struct ldsm s = { (const unsigned char *)row, r };
    if ((hostcuda_shared_at(row, 16, "ldsm_x4", file, line) & 15u) != 0)
        hostcuda_fail(file, line, "ldsm_x4: a row at %p, which is no multiple of 16", row);
    hostcuda_collective(32, &s, trans ? compute_ldsm<true> : compute_ldsm<false>, false, "ldsm_x4",
                        file, line);
}
static void compute_transpose(void *const *deposits, int)
{
    for (int l = 0; l < 32; l++) {
        const int q = l & 3, g = l >> 2;
        uint32_t both[2];
        for (int e = 0; e < 2; e++) { /* element (2q + e, g) is with lane 4 (2q + e) + g / 2 */
            const struct shuffle *s = (struct shuffle *)deposits[4 * (2 * q + e) + g / 2];
            both[e] = s->value >> 16 * (g & 1) & 0xffffu;
        }
        ((struct shuffle *)deposits[l])->result = both[0] | both[1] << 16;
    }
}
uint32_t hostcuda_mat_transpose(uint32_t v, HOSTCUDA_AT)
{
    struct shuffle s = { v, 0, 0 };
    hostcuda_collective(32, &s, compute_transpose, false, "mat_transpose", file, line);
    return s.result;
}

/* ---- products -----------------------------------------------------------------------------------
 */

struct mma {
    void *d;
    const uint32_t *a;
    uint32_t b0, b1;
};
/* 24 bits and an exponent, the rest cut off: what an aligned adder of a tensor core keeps, roughly.
 */
static float cut(double v)
{
    const float f = (float)v;
    return fabs((double)f) > fabs(v) ? nextafterf(f, 0.0f) : f;
}
float hostcuda_dot(const float *a, const float *b, int n, float c)
{
    double sum = c;
    for (int k = 0; k < n; k++)
        sum += (double)a[k] * (double)b[k];
    return hc_settings.truncate ? cut(sum) : (float)sum;
}
/* What the loops of a product work on, and how the registers of 32 lanes are its elements. */
struct halves {
    uint16_t a[16][16], b[16][8];
    float d[16][8];
};
struct bytes {
    int16_t a[16][32], b[32][8];
    int32_t d[16][8];
};
#define INLINE static inline __attribute__((always_inline))
INLINE void take_halves(struct halves *m, void *const *deposits)
{
    for (int l = 0; l < 32; l++) {
        const struct mma *s = (const struct mma *)deposits[l];
        const int q = l & 3, g = l >> 2;
        for (int r = 0; r < 4; r++)
            memcpy(&m->a[g + 8 * (r & 1)][2 * q + 8 * (r >> 1)], &s->a[r], 4);
        for (int e = 0; e < 2; e++) {
            m->b[2 * q + e][g] = (uint16_t)(s->b0 >> 16 * e);
            m->b[2 * q + 8 + e][g] = (uint16_t)(s->b1 >> 16 * e);
        }
        memcpy(&m->d[g][2 * q], s->d, 8);
        memcpy(&m->d[g + 8][2 * q], (const float *)s->d + 2, 8);
    }
}
/* As f32_of_f16, without branches. */
INLINE float half_value(uint16_t h, bool bf16)
{
    if (bf16)
        return f32_of_bits((uint32_t)h << 16);
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, a = (uint32_t)(h & 0x7fff) << 13;
    const uint32_t finite = f32_bits(f32_of_bits(a) * 0x1p112f);
    return f32_of_bits(sign | (a >= 0x0f800000u ? a | 0x7f800000u : finite));
}
/* Sums in double, k by k, one rounding at the end. */
INLINE void multiply_halves(struct halves *m, bool bf16)
{
    float a[16][16], b[16][8];
    for (int i = 0; i < 16; i++)
        for (int k = 0; k < 16; k++)
            a[i][k] = half_value(m->a[i][k], bf16);
    for (int k = 0; k < 16; k++)
        for (int j = 0; j < 8; j++)
            b[k][j] = half_value(m->b[k][j], bf16);
    for (int i = 0; i < 16; i++) {
        double sum[8];
        for (int j = 0; j < 8; j++)
            sum[j] = (double)m->d[i][j];
        for (int k = 0; k < 16; k++)
            for (int j = 0; j < 8; j++)
                sum[j] += (double)a[i][k] * (double)b[k][j];
        for (int j = 0; j < 8; j++)
            m->d[i][j] = (float)sum[j];
        if (hc_settings.truncate)
            for (int j = 0; j < 8; j++)
                m->d[i][j] = cut(sum[j]);
    }
}
INLINE void multiply_bytes(struct bytes *m)
{
    for (int i = 0; i < 16; i++) {
        uint32_t sum[8];
        for (int j = 0; j < 8; j++)
            sum[j] = (uint32_t)m->d[i][j];
        for (int k = 0; k < 32; k++)
            for (int j = 0; j < 8; j++)
                sum[j] += (uint32_t)(m->a[i][k] * m->b[k][j]);
        for (int j = 0; j < 8; j++)
            m->d[i][j] = (int32_t)sum[j];
    }
}
/* The loops for what this machine has; the numbers are the same. */
#define WIDE __attribute__((target("avx2")))
static void f16_plain(struct halves *m)
{
    multiply_halves(m, false);
}
static void bf16_plain(struct halves *m)
{
    multiply_halves(m, true);
}
static void bytes_plain(struct bytes *m)
{
    multiply_bytes(m);
}
WIDE static void f16_wide(struct halves *m)
{
    multiply_halves(m, false);
}
WIDE static void bf16_wide(struct halves *m)
{
    multiply_halves(m, true);
}
WIDE static void bytes_wide(struct bytes *m)
{
    multiply_bytes(m);
}
static const bool wide_loops = __builtin_cpu_supports("avx2") != 0;

template <bool bf16> static void compute_mma(void *const *deposits, int)
{
    struct halves m;
    take_halves(&m, deposits);
    if (wide_loops)
        (bf16 ? bf16_wide : f16_wide)(&m);
    else
        (bf16 ? bf16_plain : f16_plain)(&m);
    for (int l = 0; l < 32; l++) {
        float *to = (float *)((const struct mma *)deposits[l])->d;
        memcpy(to, &m.d[l >> 2][2 * (l & 3)], 8);
        memcpy(to + 2, &m.d[(l >> 2) + 8][2 * (l & 3)], 8);
    }
}
template <bool signed_a> static void compute_mma_bytes(void *const *deposits, int)
{
    struct bytes m;
    for (int l = 0; l < 32; l++) {
        const struct mma *s = (const struct mma *)deposits[l];
        const int q = l & 3, g = l >> 2;
        for (int e = 0; e < 4; e++) {
            for (int r = 0; r < 4; r++) {
                const uint8_t v = (uint8_t)(s->a[r] >> 8 * e);
                m.a[g + 8 * (r & 1)][4 * q + 16 * (r >> 1) + e] = signed_a ? (int8_t)v : v;
            }
            m.b[4 * q + e][g] = (int8_t)(s->b0 >> 8 * e);
            m.b[4 * q + 16 + e][g] = (int8_t)(s->b1 >> 8 * e);
        }
        memcpy(&m.d[g][2 * q], s->d, 8);
        memcpy(&m.d[g + 8][2 * q], (const int32_t *)s->d + 2, 8);
    }
    if (wide_loops)
        bytes_wide(&m);
    else
        bytes_plain(&m);
    for (int l = 0; l < 32; l++) {
        int32_t *to = (int32_t *)((const struct mma *)deposits[l])->d;
        memcpy(to, &m.d[l >> 2][2 * (l & 3)], 8);
        memcpy(to + 2, &m.d[(l >> 2) + 8][2 * (l & 3)], 8);
    }
}
void hostcuda_mma(enum hostcuda_mma type, void *d, const uint32_t *a, uint32_t b0, uint32_t b1,
                  HOSTCUDA_AT)
{
    static const struct {
        hostcuda_compute compute;
        const char *name;
    } types[] = {
        [HOSTCUDA_F16] = { compute_mma<false>, "mma_f16" },
        [HOSTCUDA_BF16] = { compute_mma<true>, "mma_bf16" },
        [HOSTCUDA_U8S8] = { compute_mma_bytes<false>, "mma_u8s8" },
        [HOSTCUDA_S8S8] = { compute_mma_bytes<true>, "mma_s8" },
    };
    struct mma s = { d, a, b0, b1 };
    hostcuda_collective(32, &s, types[type].compute, false, types[type].name, file, line);
}
