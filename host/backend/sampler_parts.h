/* sampler_parts.h - what sampler.c and sampler_chain.c share. Private to the sampler.
 *
 * Candidates are kept in ascending id order throughout. */
#pragma once
#include <string.h>
#include "host/backend/sampler.h"

/* Bins of the first selection pass: 16 KB of sums stay in L1, and a vocabulary of 128k leaves a few
 * hundred candidates in the bin that is cut. */
enum { BINS = 2048 };
static const float GREEDY_BELOW = 1e-5f;

/* A candidate while a border is sought: ordered by key descending, then id ascending. */
struct ranked {
    double key, weight;
    int32_t id;
};
struct sampler {
    int32_t vocab;
    int32_t *counts;       /* [vocab] occurrences in the output */
    uint8_t *seen;         /* [vocab] in prompt or output */
    float *work;           /* [vocab] changed logits; -infinity: excluded */
    double *x;             /* [vocab] candidates: logit, later logit / temperature - greatest */
    double *weight;        /* [vocab] e^x, not normalized */
    double *key;           /* [vocab] what a filter ranks by */
    int32_t *id;           /* [vocab] of each candidate, ascending */
    struct ranked *ranked; /* [vocab] */
    int32_t n;             /* candidates */
    double bins[BINS];
};

/* e^x for x <= 0 within 1 ulp, 0 below -708, in plain operations that vectorize:
 * x = n ln 2 + r, e^r = 1 + r + r^2 q(r) with q through ten Chebyshev nodes (1.3e-17). */
static inline double exp_double(double x)
{
    const double round = 0x1.8p52;
    const double y = x > -708.0 ? x : -708.0;
    const double shifted = y * 0x1.71547652b82fep0 + round;
    const double n = shifted - round;
    const double r = (y - n * 0x1.62e42fefa38p-1) - n * 0x1.ef35793c7673p-45;
    double q = 2.510038549551032e-08;
    q = q * r + 2.7620088445409746e-07;
    q = q * r + 2.7557268459997064e-06;
    q = q * r + 2.4801521295954376e-05;
    q = q * r + 0.00019841269863053618;
    q = q * r + 0.0013888888917213717;
    q = q * r + 0.008333333333330062;
    q = q * r + 0.04166666666662413;
    q = q * r + 0.16666666666666669;
    q = q * r + 0.5;
    const double p = 1.0 + (r + r * r * q);
    /* The low bits of `shifted` are n; adding n << 52 multiplies by 2^n. */
    uint64_t bits, power;
    double result;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&power, &shifted, sizeof power);
    bits += power << 52;
    memcpy(&result, &bits, sizeof result);
    return x >= -708.0 ? result : 0.0;
}

/* The candidate at which the weights, summed in order of key descending and id ascending, reach
 * `target`. weights NULL: each is 1. Keys are finite. */
struct ranked sampler_border(struct sampler *s, const double *key, const double *weights,
                             double target);
/* Candidates stay that do not come after `last`; with ties, all whose key equals its. */
void sampler_cut_after(struct sampler *s, const double *key, struct ranked last, bool ties);
/* Occurrences of history[from, n_prompt + n_output) into `seen`, and into `counts` those from
 * count_from on; and both to zero again. */
void sampler_mark(struct sampler *s, const struct sample_row *row, int32_t from,
                  int32_t count_from);
void sampler_unmark(struct sampler *s, const struct sample_row *row, int32_t from);
/* -infinity in `work` for what the row may not draw: bans, mask, allowed. */
void sampler_exclude(struct sampler *s, const struct sample_row *row);

/* sampler_chain.c: candidates of a row with a chain, with their weights; false when there are none.
 * xtc: whether its chance has come up. */
bool chain_candidates(struct sampler *s, const float *logits, const struct sample_row *row,
                      bool xtc);
bool chain_has_xtc(const struct sample_chain *chain);
/* What was drawn of the candidates, for the next time. */
void chain_drawn(const struct sampler *s, const struct sample_row *row, int32_t token);
