/* kv_store against double loops: norms, rotation, where rows land in pages and where nothing may.
 */
#include "host/backend/kv_layout.h"
#include "tests/ops/cuda/f64_case.cuh"
#include "tests/ops/cuda/late.cuh"

struct shape {
    const char *name;
    int n_heads, n_kv_heads, dim, rotary; /* rotary 0: no rotation */
    bool interleaved, norms;
    float rope_scale;
    enum dtype kv;
    bool variants; /* sequence 1 has other frequencies */
};
enum { SEQS = 3, PAGES = 12, PAGES_STRIDE = 5 };
static const float EPSILON = 1e-6f;

struct row {
    int position, seq;
};
/* Padding in between; both ends of pages; a page that is not there (sequence 2, page 1). */
static const struct row rows[] = { { 0, 0 },  { 15, 0 }, { -1, 0 }, { 16, 0 }, { 70, 1 },
                                   { 17, 2 }, { 31, 2 }, { 47, 2 }, { -1, 2 } };
enum { ROWS = sizeof rows / sizeof rows[0] };

struct inputs {
    std::vector<float> product, inv_freq, q_gain, k_gain;
    std::vector<int32_t> positions, row_seq, variants, pages;
    int stride;
};
static struct inputs make_inputs(const struct shape &s, int position_add, int pages_stride)
{
    struct random_numbers random = { (uint64_t)(s.dim + s.rotary) };
    struct inputs in;
    in.stride = (s.n_heads + 2 * s.n_kv_heads) * s.dim + 3;
    for (int i = 0; i < ROWS * in.stride; i++)
        in.product.push_back(random.uniform() * 3.0f);
    for (int r = 0; r < ROWS; r++) {
        in.positions.push_back(rows[r].position < 0 ? -1 : rows[r].position + position_add);
        in.row_seq.push_back(rows[r].seq);
        in.variants.push_back(s.variants && rows[r].seq == 1);
        if (rows[r].position < 0) /* what padding holds must not matter */
            in.product[(size_t)(r * in.stride)] = NAN;
    }
    for (int i = 0; i < s.rotary / 2; i++)
        in.inv_freq.push_back((float)pow(10000.0, -2.0 * i / s.rotary));
    for (int i = 0; s.variants && i < s.rotary / 2; i++)
        in.inv_freq.push_back(in.inv_freq[(size_t)i] / (float)(i + 2));
    for (int i = 0; i < s.dim; i++) {
        in.q_gain.push_back(1.0f + random.uniform());
        in.k_gain.push_back(1.0f + random.uniform());
    }
    in.pages.assign((size_t)(SEQS * pages_stride), -1);
    static const int32_t own[SEQS][PAGES_STRIDE] = { { 7, 2, -1, -1, -1 },
                                                     { -1, -1, -1, -1, 11 },
                                                     { -1, -1, 0, -1, -1 } };
    for (int q = 0; q < SEQS; q++)
        for (int i = 0; i < PAGES_STRIDE; i++)
            in.pages[(size_t)(q * pages_stride + position_add / PAGE_TOKENS + i)] = own[q][i];
    return in;
}

/* One head as it should be, before it is narrowed. */
static std::vector<double> head_of(const struct shape &s, const struct inputs &in, int r, int head)
{
    std::vector<double> v((size_t)s.dim);
    double sum = 0;
    for (int i = 0; i < s.dim; i++) {
        v[(size_t)i] = (double)in.product[(size_t)(r * in.stride + head * s.dim + i)];
        sum += v[(size_t)i] * v[(size_t)i];
    }
    if (head >= s.n_heads + s.n_kv_heads)
        return v;
    const std::vector<float> &gain = head < s.n_heads ? in.q_gain : in.k_gain;
    for (int i = 0; i < s.dim && s.norms; i++)
        v[(size_t)i] *= (double)gain[(size_t)i] / sqrt(sum / s.dim + (double)EPSILON);
    for (int i = 0; i < s.rotary / 2; i++) {
        const int at = in.variants[(size_t)r] * (s.rotary / 2) + i;
        const float angle = (float)in.positions[(size_t)r] * in.inv_freq[(size_t)at];
        const double c = cos((double)angle) * (double)s.rope_scale,
                     sn = sin((double)angle) * (double)s.rope_scale;
        const size_t low = (size_t)(s.interleaved ? 2 * i : i);
        const size_t high = (size_t)(s.interleaved ? 2 * i + 1 : i + s.rotary / 2);
        const double a = v[low], b = v[high];
        v[low] = a * c - b * sn;
        v[high] = b * c + a * sn;
    }
    return v;
}

/* A token of a block of pages, byte by byte; marks what it takes. */
static void check_head(const struct shape &s, const std::vector<uint8_t> &memory, size_t block,
                       int token, const std::vector<double> &want, std::vector<bool> &written)
{
    const size_t dim = (size_t)s.dim, bytes = s.kv == DTYPE_I8 ? 1 : 2;
    const size_t first = block + (size_t)token * dim * bytes;
    float scale = 1;
    double most = 0;
    for (const double v : want)
        most = fmax(most, fabs(v));
    if (s.kv == DTYPE_I8) {
        const size_t at = block + PAGE_TOKENS * dim + (size_t)token * sizeof scale;
        memcpy(&scale, &memory[at], sizeof scale);
        for (size_t i = 0; i < sizeof scale; i++)
            written[at + i] = true;
        EXPECT_NEAR(scale, most / 127, most * 1e-6 + 1e-7);
    }
    for (size_t i = 0; i < dim; i++) {
        uint16_t bits = 0;
        memcpy(&bits, &memory[first + i * bytes], bytes);
        for (size_t b = 0; b < bytes; b++)
            written[first + i * bytes + b] = true;
        const double v = s.kv == DTYPE_I8     ? (double)scale * (int8_t)bits
                         : s.kv == DTYPE_BF16 ? bf16_value(bits)
                                              : f16_value(bits);
        const double half_step = s.kv == DTYPE_I8     ? most / 254 * 1.0001
                                 : s.kv == DTYPE_BF16 ? fabs(want[i]) * 0x1p-8
                                                      : fabs(want[i]) * 0x1p-11;
        EXPECT_NEAR(v, want[i], half_step + 1e-5);
        EXPECT(s.kv != DTYPE_I8 || (int8_t)bits != -128, "a code of -128");
    }
}

/* int8: exact halves go to the even code; a head of zeros, and one that is not finite. */
static void test_int8_edges(void)
{
    enum { DIM = 40, HEADS = 4 };
    static const float heads[HEADS] = { 127.0f, 0.0f, INFINITY, NAN };
    std::vector<float> product((1 + 2 * HEADS) * DIM, 0.0f);
    for (int h = 0; h < HEADS; h++) {
        float *k = &product[(size_t)((1 + h) * DIM)];
        for (int i = 0; i < DIM && heads[h] != 0.0f; i++)
            k[i] = (float)i - 19.5f;
        k[33] = -heads[h];
    }
    const size_t block = (size_t)kv_block_bytes(DTYPE_I8, DIM);
    device_array<float> from(product);
    device_array<int32_t> zero(std::vector<int32_t>(1, 0));
    device_array<uint16_t> q(DIM);
    device_array<uint8_t> memory(2 * HEADS * block);
    struct qkv_out out;
    memset(&out, 0, sizeof out);
    out.q = q.data();
    out.q_stride = DIM;
    out.k_pages = memory.data();
    out.v_pages = memory.data() + HEADS * block;
    out.kv_dtype = DTYPE_I8;
    out.n_pages = out.n_heads = out.pages_stride = 1;
    out.n_kv_heads = HEADS;
    out.head_dim = DIM;
    out.positions = out.row_seq = out.pages = zero.data();
    CUDA(kv_store(&harness.launch, from.data(), (1 + 2 * HEADS) * DIM, 1, &out));
    const std::vector<uint8_t> found = memory.read();
    float scales[2 * HEADS];
    for (size_t h = 0; h < 2 * HEADS; h++)
        memcpy(&scales[h], &found[h * block + PAGE_TOKENS * DIM], sizeof scales[h]);
    for (int i = 0; i < DIM; i++) {
        const int want = i == 33 ? -127 : i % 2 == 0 ? i - 20 : i - 19; /* of i - 19.5 */
        const int code = (int8_t)found[(size_t)i];
        EXPECT(code == want, "feature %d: code %d, wanted %d", i, code, want);
        EXPECT(found[block + (size_t)i] == 0 && found[2 * block + (size_t)i] == 0, "codes left");
    }
    EXPECT(scales[0] == 1.0f && scales[1] == 0.0f, "scales %g, %g", scales[0], scales[1]);
    EXPECT(isnan(scales[2]) && isnan(scales[3]), "scales %g, %g", scales[2], scales[3]);
}

static void test(const struct shape &s, int position_add)
{
    const int pages_stride = PAGES_STRIDE + position_add / PAGE_TOKENS;
    const struct inputs in = make_inputs(s, position_add, pages_stride);
    const int q_stride = s.n_heads * s.dim + 1 + s.dim % 3; /* even and odd */
    const size_t block = (size_t)kv_block_bytes(s.kv, s.dim);
    const size_t page = 2 * (size_t)s.n_kv_heads * block;
    device_array<float> product(in.product), inv_freq(in.inv_freq), q_gain(in.q_gain),
        k_gain(in.k_gain);
    device_array<int32_t> positions(in.positions), row_seq(in.row_seq), variants(in.variants),
        pages(in.pages);
    device_array<uint16_t> q((size_t)(ROWS * q_stride));
    device_array<uint8_t> memory(PAGES * page);
    struct qkv_out out;
    memset(&out, 0, sizeof out);
    out.q = q.data();
    out.q_stride = q_stride;
    out.k_pages = memory.data();
    out.v_pages = memory.data() + page / 2; /* K of all heads, then V */
    out.kv_dtype = s.kv;
    out.n_pages = PAGES;
    out.n_heads = s.n_heads;
    out.n_kv_heads = s.n_kv_heads;
    out.head_dim = s.dim;
    out.positions = positions.data();
    out.row_seq = row_seq.data();
    out.pages = pages.data();
    out.pages_stride = pages_stride;
    out.inv_freq = s.rotary > 0 ? inv_freq.data() : NULL;
    out.rope_variant = s.variants ? variants.data() : NULL;
    out.rotary_dim = s.rotary;
    out.rope_scale = s.rope_scale;
    out.interleaved = s.interleaved;
    out.q_gain = s.norms ? q_gain.data() : NULL;
    out.k_gain = s.norms ? k_gain.data() : NULL;
    out.epsilon = EPSILON;
    const struct late product_late(product);
    CUDA(kv_store(&harness.launch, product.data(), in.stride, ROWS, &out));

    const std::vector<uint16_t> found_q = q.read();
    const std::vector<uint8_t> found = memory.read();
    std::vector<bool> written(found.size(), false);
    for (int r = 0; r < ROWS; r++) {
        const int position = in.positions[(size_t)r];
        for (int h = 0; h < s.n_heads + 2 * s.n_kv_heads; h++) {
            const std::vector<double> want = head_of(s, in, r, h);
            const bool is_q = h < s.n_heads;
            const int32_t p =
                position < 0
                    ? -1
                    : in.pages[(size_t)(rows[r].seq * pages_stride + position / PAGE_TOKENS)];
            if (!is_q && p < 0)
                continue;
            if (!is_q) { /* k heads, then v heads, as they follow q */
                check_head(s, found, (size_t)p * page + (size_t)(h - s.n_heads) * block,
                           position % PAGE_TOKENS, want, written);
                continue;
            }
            for (int i = 0; i < s.dim; i++) {
                const double v = bf16_value(found_q[(size_t)(r * q_stride + h * s.dim + i)]);
                if (position < 0)
                    EXPECT(v == 0, "padding row %d: q is %g", r, v);
                else
                    EXPECT_NEAR(v, want[(size_t)i], fabs(want[(size_t)i]) * 0x1p-8 + 1e-5);
            }
        }
        for (int i = s.n_heads * s.dim; i < q_stride; i++)
            EXPECT(found_q[(size_t)(r * q_stride + i)] == 0xffff, "row %d: wrote behind q", r);
    }
    int stray = 0;
    for (size_t i = 0; i < found.size(); i++)
        stray += !written[i] && found[i] != 0xff;
    EXPECT(stray == 0, "%d bytes of pages written that belong to nobody", stray);
}

int main(int argc, char **argv)
{
    harness_init(argc, argv);
    static const struct shape shapes[] = {
        { "plain", 4, 2, 64, 0, false, false, 1.0f, DTYPE_BF16, false },
        { "rotated", 4, 2, 64, 64, false, false, 1.0f, DTYPE_BF16, false },
        { "normed and rotated", 6, 2, 128, 128, false, true, 1.0f, DTYPE_F16, false },
        { "partly rotated, scaled", 3, 3, 80, 20, false, false, 1.3f, DTYPE_BF16, false },
        { "interleaved", 5, 1, 96, 64, true, false, 1.0f, DTYPE_F16, false },
        { "interleaved, normed", 2, 1, 64, 64, true, true, 0.7f, DTYPE_BF16, false },
        { "norm alone", 7, 7, 40, 0, false, true, 1.0f, DTYPE_BF16, false },
        { "odd heads", 3, 1, 33, 10, false, true, 1.0f, DTYPE_F16, false },
        { "two variants", 4, 2, 64, 64, false, false, 1.2f, DTYPE_BF16, true },
        { "two variants, in part, interleaved", 3, 1, 96, 64, true, true, 1.0f, DTYPE_F16, true },
        { "two variants in int8", 3, 1, 96, 64, true, true, 1.0f, DTYPE_I8, true },
        { "wide heads", 2, 1, 512, 512, false, true, 1.0f, DTYPE_BF16, false },
        { "int8", 4, 2, 128, 128, false, false, 1.0f, DTYPE_I8, false },
        { "int8, normed, interleaved", 6, 2, 80, 40, true, true, 1.2f, DTYPE_I8, false },
        { "int8, odd heads", 3, 3, 33, 10, false, true, 1.0f, DTYPE_I8, false },
        { "int8, wide heads", 2, 1, 512, 512, false, true, 1.0f, DTYPE_I8, false },
    };
    for (const struct shape &s : shapes)
        for (int far : { 0, 1 << 10, 1 << 20 })
            CASE("%s, positions from %d", s.name, far) test(s, far);
    CASE("int8: ties, zeros and what is no number") test_int8_edges();
    return harness_end();
}
