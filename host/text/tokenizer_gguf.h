/* tokenizer_gguf.h - the tokenizer of a .gguf file, from its metadata (tokenizer.ggml.*).
 *
 * Kinds (tokenizer.ggml.model): gpt2 (byte-level BPE, pre-tokenizer by name), llama (sentencepiece
 * BPE), t5 (sentencepiece unigram). Defaults of what a file leaves out are llama.cpp's. */
#pragma once
#include "host/format/gguf.h"
#include "host/text/tokenizer.h"

/* Nothing of `gguf` is kept. ERR_NOT_FOUND: the file has no vocabulary; ERR_UNSUPPORTED: another
 * kind, by name; ERR_FORMAT: the key, what was wanted and what was found. */
MUST_USE bool tokenizer_open_gguf(struct tokenizer **tokenizer, const struct gguf *gguf,
                                  struct err *err);
