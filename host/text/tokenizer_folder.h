/* tokenizer_folder.h - the tokenizer of a model folder, whatever file it comes from. */
#pragma once
#include "host/format/hf_folder.h"
#include "host/text/tokenizer.h"

/* GGUF metadata, tokenizer.json, or another of tokenizer_files.h. ERR_NOT_FOUND: there is none;
 * other errors as the readers'. */
MUST_USE bool tokenizer_open_folder(struct tokenizer **tokenizer, const struct hf_folder *folder,
                                    struct err *err);
