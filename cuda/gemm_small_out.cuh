/* gemm_small_out.cuh - K1: from the sums of an item to where its outputs go, and the sums over
 * blocks. Included by gemm_small.cuh alone. */
#pragma once
#include "cuda/epilogue.cuh"
#include "cuda/gemm_small_parts.cuh"
#include "cuda/rope.cuh"

/* ---- epilogue ---------------------------------------------------------------------------------
 * Sums lie as the lanes have them, [token tile][lane][4]; output i of a tile is float i. */

DEVICE int out_row(int i)
{
    return (i >> 4 & 7) | (i & 2) << 2;
}
DEVICE int out_token(int i)
{
    return (i >> 7 << 3) | (i >> 1 & 6) | (i & 1);
}
/* Output value before scale and cap; rows beyond the part's end: 0. */
DEVICE float factored(const struct step &s, int row, float v)
{
    if (row >= s.n_rows)
        return 0.0f;
    v *= s.row_factor[row];
    return s.bias != NULL ? v + s.bias[row] : v;
}
/* Feature d of a head: q to its row, k and v to the page. */
DEVICE void qkv_put(const struct qkv_out &qkv, const struct place &place, int token, int head,
                    int d, float v)
{
    if (head < qkv.n_heads) {
        qkv.q[(int64_t)token * qkv.q_stride + head * qkv.head_dim + d] = bf16_of(v);
        return;
    }
    if (place.page < 0)
        return;
    int kv_head = head - qkv.n_heads;
    uint16_t *pages = (uint16_t *)qkv.k_pages;
    if (kv_head >= qkv.n_kv_heads) {
        kv_head -= qkv.n_kv_heads;
        pages = (uint16_t *)qkv.v_pages;
    }
    const int64_t block = (int64_t)place.page * 2 * qkv.n_kv_heads + kv_head;
    pages[(block * PAGE_TOKENS + place.position % PAGE_TOKENS) * qkv.head_dim + d] =
        qkv.kv_dtype == DTYPE_F16 ? f16_of(v) : bf16_of(v);
}
/* Pairs (2i, 2i + 1) of a tile: rows that differ in bit 0 are 16 lanes apart. All lanes. */
DEVICE float rotated_neighbour(const struct qkv_out &qkv, const struct place &place, int head,
                               int d, float v)
{
    const float other = shfl_xor_f32(v, 16);
    if (!qkv.interleaved || qkv.inv_freq == NULL || d >= qkv.rotary_dim ||
        head >= qkv.n_heads + qkv.n_kv_heads)
        return v;
    const struct rotation r = rotation_of(place.position, qkv.inv_freq[d / 2], qkv.rope_scale);
    return (d & 1) != 0 ? rotated_high(other, v, r) : rotated_low(v, other, r);
}
/* Both of a pair of outputs of [q | k | v], one after the other: the registers are full of x. Whole
 * warps. */
DEVICE void qkv_item(const struct small_args &a, const struct place &place,
                     const struct step *steps, int row, int token, float v, float w)
{
    const struct qkv_out &qkv = a.qkv;
    const int head = steps[0].col >> 16;
    if (steps[0].rotated) {
        const int d = (steps[0].col & 0xffff) + row;
        const struct rotation r = rotation_of(place.position, qkv.inv_freq[d], qkv.rope_scale);
        const float low = rotated_low(v, w, r);
        w = rotated_high(v, w, r);
        v = low;
    }
#pragma unroll 1
    for (int i = 0; i < 2; i++) {
        const int d = (steps[i].col & 0xffff) + row;
        const float y = rotated_neighbour(qkv, place, head, d, i == 0 ? v : w);
        if (token < a.rows)
            qkv_put(qkv, place, token, head, d, place.position < 0 ? 0.0f : y);
    }
}
/* Output i of an item: v of its first tile, w of its second (or v of its only one). Whole warps. */
DEVICE void item_out(const struct small_args &a, const struct place *places,
                     const struct step *steps, int i, float v, float w)
{
    const int row = out_row(i), token = out_token(i);
    v = factored(steps[0], row, v);
    if (a.item_tiles == 2)
        w = factored(steps[1], row, w);
    if (a.is_qkv) {
        qkv_item(a, places[token], steps, row, token, v, w);
        return;
    }
    v = out_value(a.out, v);
    if (a.item_tiles == 2)
        v = gate_of(a.out.gate, v) * out_value(a.out, w);
    if (row < steps[0].n_rows && token < a.rows)
        out_store(a.out, token, steps[0].col + row, v);
}
DEVICE void places_fill(const struct small_args &a, struct place *places, int n)
{
    const int token = (int)threadIdx.x;
    if (!a.is_qkv || token >= n)
        return;
    struct place p = { -1, -1 };
    if (token < a.rows && a.qkv.positions[token] >= 0) {
        p.position = a.qkv.positions[token];
        p.page = a.qkv.pages[(int64_t)a.qkv.row_seq[token] * a.qkv.pages_stride +
                             p.position / PAGE_TOKENS];
    }
    places[token] = p;
}

/* ---- sums over blocks -------------------------------------------------------------------------
 * Every block of an item writes its sums; the last to take the item's ticket adds them in the
 * order of the splits. The ticket of a tile is taken one tile later and looked at two later, behind
 * barriers that are there anyway: nobody waits for the round trip to L2. */

DEVICE float *partial_at(const struct small_args &a, int split, int tile, int outs)
{
    return a.partial + ((int64_t)split * (a.n_items * a.item_tiles) + tile) * outs;
}
DEVICE float partial_sum(const struct small_args &a, int tile, int outs, int i)
{
    float v = 0.0f;
#pragma unroll 1
    for (int from = 0; from < a.splits; from += 4) { /* four loads on their way at once */
        float part[4];
#pragma unroll
        for (int s = 0; s < 4; s++)
            part[s] =
                from + s < a.splits ? ld_other_f32(partial_at(a, from + s, tile, outs) + i) : 0.0f;
#pragma unroll
        for (int s = 0; s < 4; s++)
            v += part[s];
    }
    return v;
}
/* Takes the ticket of an item whose sums all threads have written, before a barrier. One thread. */
DEVICE void item_ticket(const struct small_args &a, int item, uint32_t *last)
{
    device_fence();
    const bool is_last = ticket(&a.tickets[item], 1) == (uint32_t)(a.splits - 1);
    if (is_last)
        st_release(&a.tickets[item], 0); /* for the next launch */
    *last = is_last ? 1u : 0u;
}
