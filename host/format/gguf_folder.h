/* gguf_folder.h - a GGUF model as what the rest of nibble reads: a model folder.
 *
 * PATH is one .gguf file, or any part of one that was split ("name-00001-of-00003.gguf"; all parts
 * must lie beside it, and the first one's metadata counts). config.json and tokenizer_config.json
 * (chat template, texts of special tokens) are written in memory from the metadata, tensors get
 * their Hugging Face names; the vocabulary stays in folder->gguf. A file without tensors has no
 * config: folder->config_missing says why. For hf_folder.c, which closes what is opened here. */
#pragma once
#include "host/format/hf_folder.h"

/* `folder` is zeroed but for its path. On false what is there is freed by hf_folder_close. */
MUST_USE bool gguf_folder_open(struct hf_folder *folder, const char *path, struct err *err);
/* The same from one mapped file (tests, fuzzing). Takes the mapping over, also on false. */
MUST_USE bool gguf_folder_open_map(struct hf_folder *folder, struct file_map map, const char *label,
                                   struct err *err);
