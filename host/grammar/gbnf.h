/* gbnf.h - llama.cpp's grammar notation.
 *
 *     root ::= "(" ws expr ws ")"      # a rule on one line, or more inside of ( ) and behind | ::=
 *     digit ::= [0-9]  [^"\\]  .       classes, their negations (one well-formed character), any
 * one
 *     "\n" "\x41" "\u00e9" "\U0001F600" "\t" "\r" "\\" "\"" "\[" "\]"
 *     x* x+ x? x{3} x{3,} x{3,5} x{,5}  a | b  ( ... )
 *
 * Rule names are letters, digits, '-' and '_'. The text is what `root` matches. Refused by name: a
 * rule without a definition or with two, left recursion, tokens (<...>). */
#pragma once
#include "host/grammar/charset.h"

/* The rule `root`, by number; 0 when it failed. */
uint32_t gbnf_parse(struct workshop *work, const char *text, size_t length);
