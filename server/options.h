/* options.h - one table of options: flags, NIBBLE_* environment twins, config-file keys, --help.
 *
 * Precedence: config file < environment < flag. A value is checked where it is read, and the error
 * names the place ("serve.conf line 3", "NIBBLE_PORT", "--port"), the wanted and the found. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/backend/backend.h"
#include "host/base/err.h"
#include "host/base/log.h"
#include "host/model/model.h"

enum command {
    COMMAND_SERVE,
    COMMAND_COMPLETE,
    COMMAND_TOKENIZE,
    COMMAND_INSPECT,
    COMMAND_EVAL,
    COMMAND_BENCH,
    COMMAND_HEALTH,
    COMMAND_COUNT
};
enum device_kind { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };
enum activations { ACTIVATIONS_AUTO, ACTIVATIONS_EXACT, ACTIVATIONS_INT8 };
enum endpoint_choice { ENDPOINT_CHAT, ENDPOINT_COMPLETIONS };
enum kv_choice { KV_AUTO, KV_BF16, KV_INT8, KV_F32 };
/* AUTO is off: without it a step of 1 to 256 streams costs the host 0.2 to 40 us of planning (the
 * rest of what the GPU waits is its own to measure), and with it a prompt waits a step longer. On
 * becomes the default when a GPU's figures show that it pays: tests/gpu/run.sh overlap. */
enum overlap_choice { OVERLAP_AUTO, OVERLAP_ON, OVERLAP_OFF };
enum { OPTION_LIST_MAX = 32 };

struct option_device {
    enum device_kind kind;
    int32_t index; /* of cuda:N */
};
struct option_memory {
    int64_t bytes;   /* 0: by percent */
    int32_t percent; /* of what is available at start */
};
struct option_texts {
    const char *items[OPTION_LIST_MAX];
    int32_t n;
};
struct option_ints {
    int32_t items[OPTION_LIST_MAX];
    int32_t n;
};

/* Everything that can be asked for; each command reads its own. Texts are owned by the struct, the
 * arguments or the environment; NULL: not given. */
struct options {
    enum command command;
    const char *model; /* NULL: the embedded demo model */
    const char *text;  /* tokenize, eval: second argument */
    const char *url;   /* health, bench */
    const char *config;
    bool help, print_config, check_config, json;
    bool check; /* inspect: every value */

    struct option_device device;
    int32_t isa; /* enum cpu_isa */
    int32_t threads;
    bool graphs, invariant; /* CUDA */
    int32_t overlap;        /* CUDA: enum overlap_choice */
    const char *kernels;    /* CUDA: auto, rule, or the file of kernel times */
    struct option_memory memory;

    int32_t weights, base_weights; /* enum weights_mode */
    int32_t group, base_group;
    bool asymmetric, base_asymmetric;
    int32_t head;                          /* 0: int8 with int4 / int8, 1: auto (as stored) */
    int32_t activations, base_activations; /* enum activations */
    int32_t kv, base_kv;                   /* enum kv_choice */
    int32_t ctx;                           /* 0: what the model allows and memory holds */
    int32_t max_seqs, max_queue;
    int32_t step_tokens; /* 0: auto */
    bool prefix_cache;

    const char *host;
    int32_t port;
    struct option_texts aliases;
    const char *chat_template;                  /* NULL: the model's own */
    const char *tool_parser, *reasoning_parser; /* a format's name, auto or none */
    const char *api_key_file;
    int64_t max_body;
    int32_t drain_ms, head_ms, body_ms, max_connections;
    int32_t log_level; /* enum log_level */
    bool log_json, log_requests;

    const char *prompt;
    int32_t n_tokens;   /* complete: -1: not given */
    double temperature; /* < 0: the model's */
    int64_t seed;       /* < 0: from the system */
    bool chat;
    const char *jsonl;
    bool no_special;
    const char *base;
    int32_t limit; /* 0: all */
    struct option_ints batches, prompts;
    int32_t depth, rounds;
    /* bench --url */
    struct option_ints concurrencies;
    struct option_texts rates, slo;
    int32_t requests, warmup, request_ms; /* requests 0: auto */
    double seconds;                       /* 0: no limit */
    int32_t endpoint;                     /* enum endpoint_choice */
    bool stream, ignore_eos;
    const char *prompt_tokens, *output_tokens, *prompts_file, *json_file, *svg_file;
    int32_t timeout_ms;

    uint8_t sources[112]; /* where each option's value came from, by row of the table */
    char *config_text;    /* the config file; texts point into it */
    char *copies[16];     /* texts that had to be cut out of something constant */
    int32_t n_copies;
};

/* The command called `name`; false with the nearest one's name in the error. */
MUST_USE bool options_command(const char *name, enum command *command, struct err *err);
/* args[0..n): what follows the command's name. `environment` as environ (NULL entry at the end).
 * ERR_REQUEST with one sentence. On false nothing is held. With help set, nothing else was read. */
MUST_USE bool options_parse(struct options *options, enum command command, int n, char *const *args,
                            char *const *environment, struct err *err);
void options_clear(struct options *options);
/* Whether a file, the environment or a flag said something about the option called `name`. */
bool options_given(const struct options *options, const char *name);

struct buf;
/* --help of one command, or of the program. */
void options_help(struct buf *out, enum command command);
void options_help_all(struct buf *out);
/* The options in force as a config file, each with where it came from. */
void options_print(struct buf *out, const struct options *options);
/* "1048576", "4GiB", "512M" (binary units; KB, MB, GB are decimal); false: not such a number. */
bool options_bytes(const char *text, int64_t *bytes);
