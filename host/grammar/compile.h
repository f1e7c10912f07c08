/* compile.h - the end of every compiler: rules -> struct grammar. */
#pragma once
#include "host/grammar/automaton.h"

/* The grammar whose text is what rule `root` matches; closes the workshop, also on failure. The
 * first `n_fixed` rules are the same in every grammar of this `kind` (0: none are). */
MUST_USE bool grammar_finish(struct workshop *work, uint32_t root, uint32_t n_fixed, uint32_t kind,
                             struct grammar **grammar);
/* False, and the error, when the source is too long. */
MUST_USE bool source_fits(size_t length, const struct grammar_limits *limits, struct err *err);
