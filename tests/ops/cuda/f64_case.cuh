/* f64_case.cuh - random matrices in layout F64 with their exact weights, and activations as the
 * products take them: what tests of matrix kernels share.
 *
 *   struct f64_shape shape = { 4, 128, F64_SYMMETRIC, 1, { 100 }, 300, false };
 *   struct f64_case w(shape, 1);           // w.matrix has device pointers
 *   struct rows_f16 x(5, shape.n_in, 2);   // x.data, x.scale on the device
 *   double bound;
 *   double v = w.dot(out, x.exact, row, &bound);   // sum of w . x, and of |w . x|
 *
 * The packer is written from the drawing in layout_f64.h, not from the loader: it places each code
 * by the bit that the drawing gives it. Weights are exact in double; activations too (after
 * rounding to what the kernel is given). */
#pragma once
#include <algorithm>
#include "tests/ops/cuda/harness.cuh"

/* ---- 16-bit floats on the host, by definition ---------------------------------------------------
 */

static inline double f16_value(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double sign = bits & 0x8000 ? -1.0 : 1.0;
    if (exponent == 31)
        return mantissa != 0 ? (double)NAN : sign * (double)INFINITY;
    return exponent == 0 ? sign * ldexp(mantissa, -24)
                         : sign * ldexp(1024 + mantissa, exponent - 25);
}
/* To nearest even; finite values below 65520 only. */
static inline uint16_t f16_bits(double v)
{
    const uint16_t sign = signbit(v) ? 0x8000 : 0;
    const double a = fabs(v);
    int exponent = 0;
    frexp(a, &exponent); /* a = f * 2^exponent, f in [0.5, 1) */
    const int e = std::max(exponent - 1, -14);
    const double units = nearbyint(ldexp(a, 10 - e)); /* of 2^(e - 10), at most 2048 */
    /* normal: exponent field e + 15 and 1024 <= units; a carry to 2048 moves the exponent by itself
     */
    const int bits = units < 1024 ? (int)units : ((e + 15) << 10) + (int)units - 1024;
    return (uint16_t)(sign | bits);
}
static inline double bf16_value(uint16_t bits)
{
    const uint32_t word = (uint32_t)bits << 16;
    float v;
    memcpy(&v, &word, 4);
    return (double)v;
}
static inline uint16_t bf16_bits(double v)
{
    const float f = (float)v;
    uint32_t word;
    memcpy(&word, &f, 4);
    return (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
}

/* ---- matrices ---------------------------------------------------------------------------------
 */

enum f64_scheme { F64_SYMMETRIC, F64_ZEROS, F64_FRACTIONS, F64_TABLE };
static inline const char *f64_scheme_name(enum f64_scheme scheme)
{
    static const char *const names[] = { "symmetric", "zeros", "fractions", "table" };
    return names[scheme];
}
struct f64_shape {
    int bits, group;
    enum f64_scheme scheme;
    int n_parts;
    int n_out[WEIGHT_PARTS_MAX];
    int n_in;
    bool bias;
};
/* -1 .. 1 as nf4 spreads them (rounded; the kernels take any 16 values). */
static const double f64_table_values[16] = { -1.0,    -0.6962, -0.5251, -0.3949, -0.2844, -0.1848,
                                             -0.0911, 0.0,     0.0796,  0.1609,  0.2461,  0.3379,
                                             0.4407,  0.5626,  0.723,   1.0 };

/* One part, and what it was made of, as a loader would have it. */
struct f64_part_case {
    int n_out, n_groups;           /* groups that n_in touches */
    std::vector<uint8_t> codes;    /* [n_out][n_in] */
    std::vector<uint16_t> scales;  /* fp16 [n_out][n_groups] */
    std::vector<uint16_t> zeros;   /* fp16 [n_out][n_groups]; the fixed one when symmetric */
    std::vector<float> row_factor; /* [n_out padded to 64], powers of two */
    std::vector<float> bias;       /* [n_out] or empty */
    std::vector<uint8_t> units;
};

struct f64_case {
    struct f64_shape shape;
    uint16_t table[16];
    std::vector<struct f64_part_case> parts;
    std::vector<device_array<uint8_t> *> units_device;
    std::vector<device_array<float> *> floats_device;
    struct f64_matrix matrix;
    std::vector<double> weights; /* [n_out of all parts][n_in], row factor included */

    f64_case(const struct f64_shape &s, uint64_t seed) : shape(s)
    {
        for (int i = 0; i < 16; i++)
            table[i] = f16_bits(f64_table_values[i]);
        memset(&matrix, 0, sizeof matrix);
        matrix.kind = kind();
        matrix.n_in = s.n_in;
        matrix.n_parts = s.n_parts;
        struct random_numbers random = { seed };
        for (int p = 0; p < s.n_parts; p++) {
            parts.push_back(make_part(s.n_out[p], random));
            pack(parts.back());
            upload(p);
            keep_weights(parts.back());
            matrix.n_out += s.n_out[p];
        }
    }
    f64_case(const f64_case &) = delete;
    f64_case &operator=(const f64_case &) = delete;
    ~f64_case()
    {
        for (device_array<uint8_t> *a : units_device)
            delete a;
        for (device_array<float> *a : floats_device)
            delete a;
    }

    struct f64_kind kind() const
    {
        struct f64_kind k;
        k.bits = shape.bits;
        k.group = shape.group;
        k.zeros = shape.scheme == F64_ZEROS || shape.scheme == F64_FRACTIONS;
        k.fractions = shape.scheme == F64_FRACTIONS;
        k.table = shape.scheme == F64_TABLE ? table : NULL;
        return k;
    }
    /* sum of w[out][i] x[i], and of its absolute values; `out` counts over all parts */
    double dot(int out, const std::vector<double> &x, int row, double *absolute) const
    {
        const size_t n_in = (size_t)shape.n_in;
        const double *w = &weights[(size_t)out * n_in], *xr = &x[(size_t)row * n_in];
        double sum = 0, all = 0;
        for (size_t i = 0; i < n_in; i++) {
            sum += w[i] * xr[i];
            all += fabs(w[i] * xr[i]);
        }
        *absolute = all;
        return sum;
    }
    double bias_of(int out) const
    {
        for (const struct f64_part_case &p : parts) {
            if (out < p.n_out)
                return p.bias.empty() ? 0.0 : (double)p.bias[(size_t)out];
            out -= p.n_out;
        }
        return 0.0;
    }

    struct f64_part_case make_part(int n_out, struct random_numbers &random) const
    {
        struct f64_part_case p;
        const int n_codes = 1 << shape.bits;
        const size_t rows = (size_t)n_out, n_in = (size_t)shape.n_in;
        p.n_out = n_out;
        p.n_groups = (shape.n_in + shape.group - 1) / shape.group;
        p.codes.resize(rows * n_in);
        for (uint8_t &c : p.codes)
            c = (uint8_t)random.below(n_codes);
        p.scales.resize(rows * (size_t)p.n_groups);
        for (uint16_t &s : p.scales) /* [1/64, 1/8), a sixteenth of them negative */
            s = f16_bits(ldexp(1.0 + 0.999 * fabs((double)random.uniform()), -4 - random.below(3)) *
                         (random.below(16) == 0 ? -1.0 : 1.0));
        p.zeros.resize(p.scales.size());
        for (uint16_t &z : p.zeros)
            z = f16_bits(zero_of(random));
        p.row_factor.assign((size_t)f64_pad(n_out, F64_STRIP_ROWS), 0.0f);
        for (size_t r = 0; r < rows; r++)
            p.row_factor[r] = ldexpf(1.0f, random.below(5) - 2);
        if (shape.bias)
            for (size_t r = 0; r < rows; r++)
                p.bias.push_back(random.uniform());
        return p;
    }
    double zero_of(struct random_numbers &random) const
    {
        const int n_codes = 1 << shape.bits;
        if (shape.scheme == F64_ZEROS)
            return random.below(n_codes);
        if (shape.scheme == F64_FRACTIONS) /* what fp16 holds: the rounding is f16_bits' */
            return (0.5 + 0.5 * (double)random.uniform()) * (n_codes - 1);
        return n_codes / 2;
    }

    /* code of (row r, input k) of the unit, as the drawing has it: at which bit of the codes */
    int code_bit(int r, int k) const
    {
        const int g = r % 8, high = r / 8, k16 = k / 16, in16 = k % 16;
        const int q = in16 % 8 / 2, odd = in16 % 2, upper = in16 / 8; /* k = 2q + odd + 8 upper */
        const int lane = g * 4 + q;
        if (shape.bits == 4) { /* atom of 64 inputs; word t of the lane's 16 bytes: k16 tile t */
            const int nibble = high + 2 * upper + 4 * odd;
            return (k16 / 4 * F64_ATOM_BYTES + lane * 16 + k16 % 4 * 4) * 8 + nibble * 4;
        }
        /* atom of 32 inputs; words: tile 0 row g, row g+8, tile 1 row g, row g+8 */
        const int byte = 2 * odd + upper; /* 2q, 2q+8, 2q+1, 2q+9 */
        return (k16 / 2 * F64_ATOM_BYTES + lane * 16 + k16 % 2 * 8 + high * 4 + byte) * 8;
    }
    void pack(struct f64_part_case &p) const
    {
        const struct f64_kind k = kind();
        const int n_in = shape.n_in, blocks = f64_blocks(n_in),
                  unit_groups = F64_UNIT_COLS / k.group;
        p.units.assign(f64_bytes(k, p.n_out, n_in), 0);
        for (int row = 0; row < f64_pad(p.n_out, F64_STRIP_ROWS); row++) {
            for (int block = 0; block < blocks; block++) {
                uint8_t *unit = &p.units[f64_unit_at(k, n_in, row / F64_UNIT_ROWS, block)];
                uint16_t *scales = (uint16_t *)(void *)(unit + f64_code_bytes(k.bits));
                for (int i = 0; i < unit_groups; i++) {
                    const int group = block * unit_groups + i;
                    const bool inside = row < p.n_out && group < p.n_groups;
                    const size_t from = (size_t)row * (size_t)p.n_groups + (size_t)group;
                    const int at = i * 16 + 2 * (row % 8) + row % 16 / 8;
                    scales[at] = inside ? p.scales[from] : (uint16_t)0;
                    if (k.zeros)
                        scales[unit_groups * 16 + at] = inside ? p.zeros[from] : f16_bits(0);
                }
                for (int c = 0; c < F64_UNIT_COLS; c++) {
                    const int col = block * F64_UNIT_COLS + c;
                    const int bit = code_bit(row % F64_UNIT_ROWS, c);
                    unit[bit / 8] = (uint8_t)(unit[bit / 8] | code_of(p, row, col) << bit % 8);
                }
            }
        }
    }
    int code_of(const struct f64_part_case &p, int row, int col) const
    {
        if (row < p.n_out && col < shape.n_in)
            return p.codes[(size_t)row * (size_t)shape.n_in + (size_t)col];
        const int group = col / shape.group; /* padding: the code nearest to the zero */
        if (row < p.n_out && group < p.n_groups)
            return (int)f16_value(p.zeros[(size_t)row * (size_t)p.n_groups + (size_t)group]);
        return shape.scheme == F64_SYMMETRIC ? 1 << (shape.bits - 1) : 0;
    }
    void upload(int p)
    {
        struct f64_part_case &part = parts[(size_t)p];
        struct f64_part *to = &matrix.parts[p];
        units_device.push_back(new device_array<uint8_t>(part.units));
        floats_device.push_back(new device_array<float>(part.row_factor));
        to->units = units_device.back()->data();
        to->row_factor = floats_device.back()->data();
        to->n_out = part.n_out;
        if (!part.bias.empty()) {
            floats_device.push_back(new device_array<float>(part.bias));
            to->bias = floats_device.back()->data();
        }
    }
    void keep_weights(const struct f64_part_case &p)
    {
        const size_t n_in = (size_t)shape.n_in;
        for (size_t r = 0; r < (size_t)p.n_out; r++)
            for (size_t i = 0; i < n_in; i++) {
                const size_t group = r * (size_t)p.n_groups + i / (size_t)shape.group;
                const int code = p.codes[r * n_in + i];
                const double v = shape.scheme == F64_TABLE ? f16_value(table[code])
                                                           : code - f16_value(p.zeros[group]);
                weights.push_back(v * f16_value(p.scales[group]) * (double)p.row_factor[r]);
            }
    }
};

/* ---- activations ------------------------------------------------------------------------------
 */

/* As prepare_f16 makes them: fp16 [rows][n_in padded to 128], largest in [256, 512) before
 * x_scale, a power of two; one input in 64 is 16 times larger than the rest (outliers). */
struct rows_f16 {
    int rows, n_in, stride;
    std::vector<double> exact; /* [rows][n_in], scale included */
    std::vector<uint16_t> bits;
    std::vector<float> scales;
    device_array<uint16_t> *data_device;
    device_array<float> *scale_device;

    rows_f16(int n_rows, int n_cols, uint64_t seed) : rows(n_rows), n_in(n_cols)
    {
        struct random_numbers random = { seed };
        stride = f64_pad(n_in, F64_UNIT_COLS);
        bits.assign((size_t)rows * (size_t)stride, 0);
        for (int r = 0; r < rows; r++) {
            const float scale = ldexpf(1.0f, random.below(5) - 10);
            scales.push_back(scale);
            for (int i = 0; i < n_in; i++) {
                const double v =
                    500.0 * (double)random.uniform() / (random.below(64) == 0 ? 1 : 16);
                const uint16_t h = f16_bits(v);
                bits[(size_t)r * (size_t)stride + (size_t)i] = h;
                exact.push_back(f16_value(h) * (double)scale);
            }
        }
        data_device = new device_array<uint16_t>(bits);
        scale_device = new device_array<float>(scales);
    }
    rows_f16(const rows_f16 &) = delete;
    rows_f16 &operator=(const rows_f16 &) = delete;
    ~rows_f16()
    {
        delete data_device;
        delete scale_device;
    }
};

/* As prepare_s8 makes them: int8 [rows][n_in padded to 128] in the order of F64's integer path, one
 * scale per (row, 128 inputs), the sum of each 32 codes. */
struct rows_s8 {
    int rows, n_in, stride;
    std::vector<double> exact; /* [rows][n_in], scale included */
    std::vector<int8_t> codes;
    std::vector<float> scales;
    std::vector<int32_t> sums;
    device_array<int8_t> *data_device;
    device_array<float> *scale_device;
    device_array<int32_t> *sum_device;

    rows_s8(int n_rows, int n_cols, uint64_t seed) : rows(n_rows), n_in(n_cols)
    {
        struct random_numbers random = { seed };
        stride = f64_pad(n_in, F64_UNIT_COLS);
        const size_t width = (size_t)stride;
        codes.assign((size_t)rows * width, 0);
        scales.assign((size_t)rows * width / 128, 0.0f);
        sums.assign((size_t)rows * width / 32, 0);
        exact.assign((size_t)rows * (size_t)n_in, 0.0);
        for (size_t r = 0; r < (size_t)rows; r++) {
            for (size_t c = 0; c < width / 128; c++)
                scales[r * width / 128 + c] =
                    ldexpf(1.0f + fabsf(random.uniform()), -9 + random.below(3));
            for (size_t i = 0; i < (size_t)n_in; i++) {
                const int code = random.below(255) - 127;
                codes[r * width + i / 16 * 16 + place(i % 16)] = (int8_t)code;
                sums[r * width / 32 + i / 32] += code;
                exact[r * (size_t)n_in + i] = code * (double)scales[r * width / 128 + i / 128];
            }
        }
        data_device = new device_array<int8_t>(codes);
        scale_device = new device_array<float>(scales);
        sum_device = new device_array<int32_t>(sums);
    }
    rows_s8(const rows_s8 &) = delete;
    rows_s8 &operator=(const rows_s8 &) = delete;
    ~rows_s8()
    {
        delete data_device;
        delete scale_device;
        delete sum_device;
    }
    /* byte 4q + j of each 16 holds k = (2q, 2q+8, 2q+1, 2q+9)[j] */
    static size_t place(size_t k)
    {
        return 4 * (k % 8 / 2) + 2 * (k % 2) + k / 8;
    }
};

/* ---- what a product may be off by ---------------------------------------------------------------
 *
 * Sums in fp32 of n terms, each addition rounded (or cut off, as tensor cores do): n 2^-23 of the
 * sum of absolute values. A k16 tile of an MMA counts as 16 additions at worst; measured errors are
 * far below that, so we allow a quarter: 4 a tile, 3 a group's fold, 8 for factors and bias. */
static inline double product_bound(int n_in, int group, double absolute)
{
    const double tiles = (n_in + 15) / 16, groups = (n_in + group - 1) / group;
    return (4 * tiles + 3 * groups + 8) * ldexp(absolute, -23);
}
/* Half a unit in the last place of an output of this dtype. */
static inline double rounding_bound(enum dtype dtype, double v)
{
    return ldexp(fabs(v), dtype == DTYPE_BF16 ? -8 : -24) + 1e-30;
}
static inline double gate_exact(enum gate gate, double v)
{
    switch (gate) {
    case GATE_SILU:
        return v / (1.0 + exp(-v));
    case GATE_GELU:
        return 0.5 * v * (1.0 + erf(v * sqrt(0.5)));
    case GATE_GELU_TANH:
        return 0.5 * v * (1.0 + tanh(sqrt(2.0 / M_PI) * (v + 0.044715 * v * v * v)));
    default:
        return v > 0 ? v * v : 0.0;
    }
}
/* |gate'| over [v - e, v + e] is at most this: all but RELU2 have slopes below 1.13. */
static inline double gate_slope(enum gate gate, double v, double e)
{
    return gate == GATE_RELU2 ? 2 * (fabs(v) + e) : 1.13;
}
