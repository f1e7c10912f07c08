/* pieces.h - what stream.c takes from pieces.c. */
#pragma once
#include "server/exchange.h"

struct reply_head exchange_head(const struct exchange *x);
struct reply_usage exchange_usage(const struct exchange *x);
/* So far: of all prompts and choices together. */
struct reply_timings exchange_timings(const struct exchange *x);
/* The choice's text and kept tokens as a piece; *memory is to be freed. False: no memory. */
MUST_USE bool exchange_piece(const struct exchange *x, const struct choice *c,
                             struct reply_piece *piece, void **memory);
void exchange_no_memory(struct exchange *x);
