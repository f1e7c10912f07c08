/* hf_folder.h - a Hugging Face model folder: texts and tensors, from disk or from memory.
 *
 * Accepts a folder, or a single .safetensors file (its neighbours config.json etc. are then read
 * from the same folder). Weights: model.safetensors, or model.safetensors.index.json with shards
 * (names without path separators only; every tensor of the index must be in the shard it names).
 * A .gguf file becomes a folder in memory (gguf_folder.h). Missing optional texts have size 0. */
#pragma once
#include "host/format/gguf.h"
#include "host/format/tensor_dir.h"

struct hf_text {
    char *bytes; /* NUL behind; owned unless from memory; NULL when absent */
    size_t size;
    bool owned;
};
struct hf_folder {
    char *path;                      /* as given, for messages and the default model id */
    struct hf_text config;           /* config.json: required */
    struct hf_text generation;       /* generation_config.json */
    struct hf_text tokenizer;        /* tokenizer.json; else tekken.json, tokenizer.model, */
                                     /* tiktoken.model or *.tiktoken, the first there is   */
    char tokenizer_name[256];        /* which of them; "" when there is none */
    struct hf_text tokenizer_config; /* tokenizer_config.json */
    struct hf_text special_tokens;   /* special_tokens_map.json */
    struct hf_text quantize;         /* quantize_config.json (GPTQ), quant_config.json (AWQ) or */
    const char
        *quantize_name; /* hf_quant_config.json (ModelOpt), the first there is; static; NULL */
    struct hf_text chat_template; /* chat_template.jinja (or chat_template.json's text) */
    struct tensor_dir tensors;
    /* GGUF alone: the metadata of the (first) file, owned; its vocabulary becomes the tokenizer. */
    struct gguf *gguf;
    /* GGUF alone: why there are no config and tensors, only a tokenizer (a vocabulary file, a
     * family that is not supported); ERR_NONE where there are. */
    struct err config_missing;
};
struct hf_file {
    const char *name; /* "config.json" */
    const void *bytes;
    size_t size;
};
/* On false nothing is held. ERR_NOT_FOUND: no such path; ERR_UNSUPPORTED: PyTorch pickles;
 * ERR_FORMAT: a file is not what it says it is. Symbolic links are followed (download caches are
 * made of them); FIFOs, devices and sockets are refused without being opened.
 *
 * Everything is checked against the size that a file has when it is opened. A file that is cut
 * short by somebody else while it is mapped makes the kernel send SIGBUS at the next touch of a
 * lost page. There is no answer to that down here: a reader of memory cannot return an error. What
 * happens then is the process's business (by default it dies, which is right for a server whose
 * weights are gone). Replace model files by rename, never in place. */
MUST_USE bool hf_folder_open(struct hf_folder *folder, const char *path, struct err *err);
/* The embedded model: files live for ever, with a NUL behind each text. `label` stands for the path
 * in messages. The same rules as on disk, an index and shards included. */
MUST_USE bool hf_folder_open_memory(struct hf_folder *folder, const char *label,
                                    const struct hf_file *files, size_t n_files, struct err *err);
/* The tokenizer alone: config.json and weights need not be there and are not read. `path`: a
 * folder, a tokenizer file of any of those names (or another .json, .model or .tiktoken), or a
 * .gguf file. ERR_NOT_FOUND: no tokenizer. */
MUST_USE bool hf_folder_open_tokenizer(struct hf_folder *folder, const char *path, struct err *err);
void hf_folder_close(struct hf_folder *folder);
