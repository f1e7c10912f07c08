/* Tests of repack.cu: f64_repack writes the bytes of the host's layout_pack, whole and in blocks of
 * rows; f64_dequantize gives (code - zero) * scale of every weight, rounded as fp16 rounds. */
#include "host/backend/layout.h"
#include "tests/ops/cuda/f64_case.cuh"

/* ---- repack ------------------------------------------------------------------------------------
 */

struct repack_case {
    int n_out, n_in, group; /* group 0: one scale a row */
};
static const struct repack_case repack_cases[] = {
    { 1, 1, 0 },      { 64, 128, 32 },  { 128, 256, 64 }, { 65, 384, 128 }, { 16, 1024, 256 },
    { 48, 512, 384 }, { 33, 640, 0 },   { 5, 203, 0 },    { 79, 100, 0 },   { 20, 200, 64 },
    { 31, 173, 32 },  { 80, 700, 256 }, { 3, 129, 128 },  { 200, 260, 64 }, { 130, 96, 32 },
};

/* The matrix and its memory; scales of all kinds: whole rows of zeros, subnormal floats, 2^100,
 * negative ones, and some of more than 11 bits, as foreign formats have them. */
struct random_matrix {
    struct matrix m;
    std::vector<uint8_t> codes;
    std::vector<float> scales, zeros;

    random_matrix(const struct repack_case &c, int bits, bool symmetric, bool fractions,
                  uint64_t seed)
    {
        struct random_numbers random = { seed };
        memset(&m, 0, sizeof m);
        m.n_out = c.n_out;
        m.n_in = c.n_in;
        m.kind = CODE_INT;
        m.bits = bits;
        m.group = c.group > 0 ? c.group : c.n_in;
        m.n_groups = (c.n_in + m.group - 1) / m.group;
        m.symmetric = symmetric;
        for (int i = 0; i < c.n_out * c.n_in; i++)
            codes.push_back((uint8_t)random.below(1 << bits));
        for (int r = 0; r < c.n_out; r++)
            for (int g = 0; g < m.n_groups; g++)
                scales.push_back(scale_of(r, random));
        for (int i = 0; i < c.n_out * m.n_groups; i++)
            zeros.push_back((float)random.below(1 << bits) +
                            (fractions ? (float)random.below(4) / 8.0f : 0.0f));
        m.codes = codes.data();
        m.scales = scales.data();
        m.zeros = symmetric ? NULL : zeros.data();
    }
    static float scale_of(int row, struct random_numbers &random)
    {
        const float some = 1.0f + fabsf(random.uniform());
        switch (row % 9) {
        case 2:
            return 0.0f;
        case 3:
            return some * 0x1p-140f;
        case 4:
            return some * 0x1p100f;
        case 5:
            return -some * 0x1p-9f;
        case 6:
            return some * (random.below(2) == 0 ? 0x1p-40f : 0x1p-8f); /* some vanish */
        case 7:
            return some * 0x1p-126f;
        default:
            return (float)(1024 + random.below(1024)) * 0x1p-20f;
        }
    }
};

/* Rows [from, from + n) through the device. */
static void repack_rows(const struct random_matrix &from, const struct layout_f64 &f64, int bits,
                        int row, int n, uint8_t *packed)
{
    const struct matrix &m = from.m;
    const size_t n_in = (size_t)m.n_in, groups = (size_t)m.n_groups, at = (size_t)row;
    const size_t count = (size_t)n;
    const device_array<uint8_t> codes(
        std::vector<uint8_t>(m.codes + at * n_in, m.codes + (at + count) * n_in));
    const device_array<float> scales(
        std::vector<float>(m.scales + at * groups, m.scales + (at + count) * groups));
    const device_array<float> zeros(std::vector<float>(from.zeros.data() + at * groups,
                                                       from.zeros.data() + (at + count) * groups));
    struct repack_op op;
    memset(&op, 0, sizeof op);
    op.kind = f64.kind;
    op.n_out = m.n_out;
    op.n_in = m.n_in;
    op.row_from = row;
    op.n_rows = n;
    op.group = m.group;
    op.bits = bits;
    op.codes = codes.data();
    op.scales = scales.data();
    op.zeros = m.symmetric ? NULL : zeros.data();
    op.units = packed;
    op.row_factor = (float *)(void *)(packed + f64.factors_at);
    CUDA(f64_repack(&harness.launch, &op));
    CUDA(cudaStreamSynchronize(harness.stream)); /* the sources go */
}

static void repack_as(const struct repack_case &c, enum layout layout, int bits, bool symmetric,
                      bool fractions, bool table, int step)
{
    struct random_matrix source(c, bits, symmetric, fractions,
                                (uint64_t)(c.n_out * 1000 + c.n_in + bits));
    static const float values[16] = { -1,   -0.7f, -0.5f, -0.4f, -0.3f, -0.2f, -0.1f, 0,
                                      0.1f, 0.2f,  0.3f,  0.4f,  0.5f,  0.6f,  0.7f,  1 };
    struct layout_shape shape;
    memset(&shape, 0, sizeof shape);
    shape.layout = layout;
    shape.n_out = c.n_out;
    shape.n_in = c.n_in;
    shape.bits = bits;
    shape.group = source.m.group;
    shape.symmetric = symmetric;
    shape.fractions = fractions;
    if (table) {
        shape.kind = source.m.kind = CODE_TABLE;
        source.m.table = values;
        for (int i = 0; i < 16; i++)
            shape.table[i] = f16_bits((double)values[i]);
    }
    struct layout_f64 f64;
    layout_f64_of(&shape, &f64);
    EXPECT(f64.kind.fractions == (fractions && !symmetric) && (f64.kind.table != NULL) == table,
           "kind");
    std::vector<uint8_t> wanted(f64.bytes, 0xa5);
    layout_pack(&shape, &source.m, 0, c.n_out, wanted.data());
    const device_array<uint8_t> packed(f64.bytes);
    for (int row = 0; row < c.n_out; row += step)
        repack_rows(source, f64, bits, row, c.n_out - row < step ? c.n_out - row : step,
                    packed.data());
    const std::vector<uint8_t> found = packed.read();
    for (size_t i = 0; i < f64.bytes; i++)
        EXPECT(found[i] == wanted[i], "byte %zu of %zu (factors at %zu): %02x, wanted %02x", i,
               f64.bytes, f64.factors_at, found[i], wanted[i]);
}

/* Four bits without zeros as a table of 16 too. */
static void test_repack(const struct repack_case &c, enum layout layout, int bits, bool symmetric,
                        bool fractions, int step)
{
    repack_as(c, layout, bits, symmetric, fractions, false, step);
    if (bits == 4 && symmetric)
        repack_as(c, LAYOUT_W4_F64, bits, symmetric, fractions, true, step);
}

/* ---- dequantize --------------------------------------------------------------------------------
 */

static void test_dequantize(const struct f64_shape &shape, int part, int row_from, int row_to)
{
    const struct f64_case w(shape, (uint64_t)(shape.n_in + row_to));
    const struct f64_part_case &p = w.parts[(size_t)part];
    const int cols = f64_pad(shape.n_in, F64_UNIT_COLS);
    const device_array<uint16_t> out((size_t)(row_to - row_from) * (size_t)cols);
    CUDA(f64_dequantize(&harness.launch, &w.matrix, part, row_from, row_to, out.data()));
    const std::vector<uint16_t> found = out.read();
    for (int row = row_from; row < row_to; row++)
        for (int col = 0; col < cols; col++) {
            const int group = col / shape.group, code = w.code_of(p, row, col);
            uint16_t wanted = 0;
            if (row < p.n_out && group < p.n_groups) {
                const size_t at = (size_t)row * (size_t)p.n_groups + (size_t)group;
                const uint16_t value = shape.scheme == F64_TABLE
                                           ? w.table[code]
                                           : f16_bits(code - f16_value(p.zeros[at]));
                wanted = f16_bits(f16_value(value) * f16_value(p.scales[at]));
            }
            const uint16_t bits = found[(size_t)(row - row_from) * (size_t)cols + (size_t)col];
            EXPECT(bits == wanted || ((bits | wanted) & 0x7fff) == 0,
                   "row %d, col %d: %04x, wanted %04x", row, col, bits, wanted);
        }
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    for (const struct repack_case &c : repack_cases)
        for (int bits = 2; bits <= 8; bits++)
            for (int scheme = 0; scheme < 3; scheme++)
                for (int l = 0; l < 2; l++) {
                    const enum layout layout = l == 0 ? LAYOUT_W4_F64 : LAYOUT_W8_F64;
                    if (l == 0 && bits > 4)
                        continue;
                    if (bits != 4 && bits != 8 && (c.n_out > 100 || scheme == 2))
                        continue; /* 4 and 8 stand for the rest */
                    static const char *const names[] = { "symmetric", "zeros", "fractions" };
                    CASE("repack %d bits in %s, %s, n_out=%d n_in=%d group=%d", bits,
                         layout_name(layout), names[scheme], c.n_out, c.n_in, c.group)
                    test_repack(c, layout, bits, scheme == 0, scheme == 2, c.n_out);
                    if (c.n_out <= 64 || bits % 4 != 0)
                        continue;
                    CASE("repack by strips, %d bits in %s, %s, n_out=%d n_in=%d group=%d", bits,
                         layout_name(layout), names[scheme], c.n_out, c.n_in, c.group)
                    test_repack(c, layout, bits, scheme == 0, scheme == 2, 64);
                }
    static const int n_ins[] = { 128, 300, 520 };
    for (int scheme = F64_SYMMETRIC; scheme <= F64_TABLE; scheme++)
        for (int bits = 4; bits <= 8; bits += 4)
            for (int group = 32; group <= 128; group *= 2)
                for (int n_in : n_ins) {
                    if (scheme == F64_TABLE && bits == 8)
                        continue;
                    const struct f64_shape s = { bits, group,        (enum f64_scheme)scheme,
                                                 2,    { 100, 200 }, n_in,
                                                 false };
                    CASE("dequantize %d bits, groups of %d, %s, n_in=%d", bits, group,
                         f64_scheme_name(s.scheme), n_in)
                    {
                        test_dequantize(s, 0, 0, 128);
                        test_dequantize(s, 1, 48, 208);
                    }
                }
    return harness_end();
}
