/* option_table.c - every option of every command, and what is printed from the table.
 *
 * A row is the whole truth about an option: name, twin names, type, range, default, help. Defaults
 * are written as a user would write them and go through the same reader. Pure. */
#include "server/option_table.h"
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include "host/base/buf.h"

#define SERVE     (1u << COMMAND_SERVE)
#define COMPLETE  (1u << COMMAND_COMPLETE)
#define TOKENIZE  (1u << COMMAND_TOKENIZE)
#define INSPECT   (1u << COMMAND_INSPECT)
#define EVAL      (1u << COMMAND_EVAL)
#define BENCH     (1u << COMMAND_BENCH)
#define HEALTH    (1u << COMMAND_HEALTH)
#define MODEL     (SERVE | COMPLETE | INSPECT | EVAL | BENCH) /* commands that load one */
#define PLAN      (SERVE | INSPECT | COMPLETE)                /* commands that plan KV pages */
#define ALL       (MODEL | TOKENIZE | HEALTH)
#define AT(field) offsetof(struct options, field)

static const struct option_word WEIGHTS[] = {
    { "auto", WEIGHTS_AUTO, NULL },
    { "int4", WEIGHTS_INT4, NULL },
    { "int8", WEIGHTS_INT8, NULL },
    { "bf16", WEIGHTS_BF16, NULL },
    { NULL, 0, NULL },
};
static const struct option_word GROUPS[] = {
    { "32", 32, NULL }, { "64", 64, NULL }, { "128", 128, NULL },
    { "-1", -1, NULL }, { NULL, 0, NULL },
};
static const struct option_word HEADS[] = {
    { "int8", 0, NULL },
    { "auto", 1, NULL },
    { NULL, 0, NULL },
};
static const struct option_word ACTIVATIONS[] = {
    { "auto", ACTIVATIONS_AUTO, NULL },
    { "exact", ACTIVATIONS_EXACT, NULL },
    { "int8", ACTIVATIONS_INT8, NULL },
    { NULL, 0, NULL },
};
static const struct option_word KV[] = {
    { "auto", KV_AUTO, NULL }, { "bf16", KV_BF16, NULL }, { "int8", KV_INT8, NULL },
    { "f32", KV_F32, NULL },   { NULL, 0, NULL },
};
static const struct option_word OVERLAPS[] = {
    { "auto", OVERLAP_AUTO, NULL },
    { "on", OVERLAP_ON, NULL },
    { "off", OVERLAP_OFF, NULL },
    { NULL, 0, NULL },
};
static const struct option_word ISAS[] = {
    { "auto", CPU_ISA_AUTO, NULL },
    { "portable", CPU_ISA_PORTABLE, NULL },
    { "avx2", CPU_ISA_AVX2, NULL },
    { "avx512", CPU_ISA_AVX512, NULL },
    { NULL, 0, NULL },
};
static const struct option_word LEVELS[] = {
    { "debug", LOG_DEBUG, NULL }, { "info", LOG_INFO, NULL }, { "warn", LOG_WARN, NULL },
    { "error", LOG_ERROR, NULL }, { "off", LOG_OFF, NULL },   { NULL, 0, NULL },
};
static const struct option_word ENDPOINTS[] = {
    { "chat", ENDPOINT_CHAT, NULL },
    { "completions", ENDPOINT_COMPLETIONS, NULL },
    { NULL, 0, NULL },
};
static const struct option_word AUTO[] = { { "auto", 0, NULL }, { NULL, 0, NULL } };

/* clang-format off */
const struct option OPTIONS[] = {
    { "model", 0, OPTION_TEXT, ALL & ~HEALTH, AT(model), "MODEL", NULL,
      "the same as the bare argument", 0, 0, NULL, false },
    { "text", 0, OPTION_TEXT, TOKENIZE | EVAL, AT(text), "TEXT", NULL,
      "the same as the second bare argument", 0, 0, NULL, false },
    { "url", 0, OPTION_TEXT, HEALTH | BENCH, AT(url), "URL", NULL,
      "a server; health: the same as the bare argument", 0, 0, NULL, false },

    { "device", 0, OPTION_DEVICE, MODEL, AT(device), "auto|cpu|cuda[:N]", "auto",
      "where the model runs", 0, 0, NULL, false },
    { "weights", 0, OPTION_CHOICE, MODEL, AT(weights), "auto|int4|int8|bf16", "auto",
      "auto: exactly as stored; int4, int8: quantize while loading", 0, 0, WEIGHTS, false },
    { "group", 0, OPTION_CHOICE, MODEL, AT(group), "32|64|128|-1", "128",
      "inputs that share a scale; -1: one scale a row", 0, 0, GROUPS, false },
    { "asymmetric", 0, OPTION_FLAG, MODEL, AT(asymmetric), NULL, NULL,
      "zero points too", 0, 0, NULL, false },
    { "head", 0, OPTION_CHOICE, MODEL, AT(head), "int8|auto", "int8",
      "embeddings and head with int4 or int8 weights; auto: as stored", 0, 0, HEADS, false },
    { "activations", 0, OPTION_CHOICE, MODEL, AT(activations), "auto|exact|int8", "auto",
      "exact: fp32 activations and KV; auto, int8: the fast arithmetic", 0, 0, ACTIVATIONS, false },
    { "kv", 0, OPTION_CHOICE, MODEL, AT(kv), "auto|bf16|int8|f32", "auto",
      "keys and values; auto: bf16 (f32 with exact); f32: on the CPU alone", 0, 0, KV, false },
    { "ctx", 0, OPTION_INT, MODEL, AT(ctx), "auto|N", "auto",
      "most tokens of a sequence; auto: what model and memory allow", 16, 16 << 20, AUTO, false },
    { "max-seqs", 0, OPTION_INT, SERVE | INSPECT, AT(max_seqs), "N", "64",
      "sequences that run at once", 1, 4096, NULL, false },
    { "step-tokens", 0, OPTION_INT, PLAN | EVAL, AT(step_tokens), "auto|N", "auto",
      "rows of one step; auto: from the measured time of a row", 1, 65536, AUTO, false },
    { "memory", 0, OPTION_MEMORY, MODEL, AT(memory), "BYTES|PERCENT", "80%",
      "for weights, KV pages, activations; percent of what is available", 0, 0, NULL, false },
    { "threads", 0, OPTION_INT, MODEL, AT(threads), "auto|N", "auto",
      "threads of the CPU backend; auto: one a CPU", 1, 64, AUTO, false },
    { "isa", 0, OPTION_CHOICE, MODEL, AT(isa), "auto|portable|avx2|avx512", "auto",
      "instruction set of the CPU backend; auto: the best there is", 0, 0, ISAS, false },
    { "graphs", 0, OPTION_ONOFF, MODEL, AT(graphs), "on|off", "on",
      "CUDA: decode steps as recorded graphs", 0, 0, NULL, false },
    { "overlap", 0, OPTION_CHOICE, SERVE | COMPLETE, AT(overlap), "auto|on|off", "auto",
      "CUDA: plan a step while another runs (auto: off)", 0, 0, OVERLAPS, false },
    { "invariant", 0, OPTION_FLAG, MODEL, AT(invariant), NULL, NULL,
      "CUDA: a row's bits do not depend on what runs beside it", 0, 0, NULL, false },
    { "kernels", 0, OPTION_TEXT, MODEL, AT(kernels), "auto|rule|FILE", "auto",
      "CUDA: kernels as measured, kept in FILE (auto: ~/.cache), or by rule",
      0, 0, NULL, false },

    { "host", 0, OPTION_TEXT, SERVE | HEALTH, AT(host), "ADDRESS", "127.0.0.1",
      "address to listen on; 0.0.0.0: every one", 0, 0, NULL, false },
    { "port", 0, OPTION_INT, SERVE | HEALTH, AT(port), "N", "8080",
      "TCP port; 0: any free one", 0, 65535, NULL, false },
    { "alias", 0, OPTION_LIST, SERVE, AT(aliases), "NAME", NULL,
      "name of the model in the API; repeat, or commas, for several", 0, 0, NULL, false },
    { "chat-template", 0, OPTION_TEXT, SERVE | COMPLETE, AT(chat_template), "FILE", NULL,
      "a chat template (Jinja) instead of the model's own", 0, 0, NULL, false },
    { "tool-parser", 0, OPTION_TEXT, SERVE, AT(tool_parser), "NAME", "auto",
      "form of the model's tool calls: auto (by template), none, hermes, ...",
      0, 0, NULL, false },
    { "reasoning-parser", 0, OPTION_TEXT, SERVE, AT(reasoning_parser), "NAME", "auto",
      "what becomes reasoning_content: auto (by template), none, think, ...",
      0, 0, NULL, false },
    { "api-key-file", 0, OPTION_TEXT, SERVE | BENCH, AT(api_key_file), "FILE", NULL,
      "one key a line, # comments; needed by all, or (bench) the first sent",
      0, 0, NULL, false },
    { "max-queue", 0, OPTION_INT, SERVE, AT(max_queue), "N", "512",
      "sequences that may wait; then 429", 1, 65536, NULL, false },
    { "max-body", 0, OPTION_BYTES, SERVE, AT(max_body), "BYTES", "1MiB",
      "largest request body; then 413", 1024, 1 << 30, NULL, false },
    { "max-connections", 0, OPTION_INT, SERVE, AT(max_connections), "N", "4096",
      "TCP connections", 1, 65000, NULL, false },
    { "drain-ms", 0, OPTION_INT, SERVE, AT(drain_ms), "MS", "30000",
      "how long SIGTERM lets streams go on", 0, 86400000, NULL, false },
    { "head-ms", 0, OPTION_INT, SERVE, AT(head_ms), "MS", "15000",
      "idle connections and slow request heads are cut after this", 100, 86400000, NULL, false },
    { "body-ms", 0, OPTION_INT, SERVE, AT(body_ms), "MS", "30000",
      "a request body must be complete after this", 100, 86400000, NULL, false },
    { "prefix-cache", 0, OPTION_ONOFF, SERVE, AT(prefix_cache), "on|off", "on",
      "share computed prompt pages between requests", 0, 0, NULL, false },
    { "log-level", 0, OPTION_CHOICE, SERVE, AT(log_level), "debug|info|warn|error|off", "info",
      "least level that is written to standard error", 0, 0, LEVELS, false },
    { "log-json", 0, OPTION_FLAG, SERVE, AT(log_json), NULL, NULL,
      "log lines as JSON", 0, 0, NULL, false },
    { "log-requests", 0, OPTION_FLAG, SERVE, AT(log_requests), NULL, NULL,
      "one line a request (never its text)", 0, 0, NULL, false },

    { "prompt", 'p', OPTION_TEXT, COMPLETE, AT(prompt), "TEXT", NULL,
      "what to continue; - reads standard input", 0, 0, NULL, false },
    { "n-tokens", 'n', OPTION_INT, COMPLETE, AT(n_tokens), "N", NULL,
      "most tokens to write (128; up to the context with --chat)", 1, 16 << 20, NULL, false },
    { "temperature", 0, OPTION_DOUBLE, COMPLETE | BENCH, AT(temperature), "T", NULL,
      "0: always the most likely token (else the model's own)", 0, 100, NULL, false },
    { "seed", 0, OPTION_LONG, COMPLETE | BENCH, AT(seed), "N", NULL,
      "same seed, same text; bench --url: same requests", 0, INT64_MAX, NULL, false },
    { "chat", 0, OPTION_FLAG, COMPLETE, AT(chat), NULL, NULL,
      "the prompt is a user's message: apply the chat template", 0, 0, NULL, false },

    { "jsonl", 0, OPTION_TEXT, TOKENIZE, AT(jsonl), "FILE", NULL,
      "one JSON string a line in, one JSON list of ids a line out", 0, 0, NULL, false },
    { "no-special", 0, OPTION_FLAG, TOKENIZE, AT(no_special), NULL, NULL,
      "do not add what the post-processor adds (BOS)", 0, 0, NULL, false },

    { "base", 0, OPTION_TEXT, EVAL, AT(base), "MODEL", NULL,
      "compare with this model (default: the same one)", 0, 0, NULL, false },
    { "base-weights", 0, OPTION_CHOICE, EVAL, AT(base_weights), "auto|int4|int8|bf16", "auto",
      "its weights", 0, 0, WEIGHTS, false },
    { "base-group", 0, OPTION_CHOICE, EVAL, AT(base_group), "32|64|128|-1", "128",
      "its group", 0, 0, GROUPS, false },
    { "base-asymmetric", 0, OPTION_FLAG, EVAL, AT(base_asymmetric), NULL, NULL,
      "its zero points", 0, 0, NULL, false },
    { "base-activations", 0, OPTION_CHOICE, EVAL, AT(base_activations), "auto|exact|int8", "auto",
      "its arithmetic", 0, 0, ACTIVATIONS, false },
    { "base-kv", 0, OPTION_CHOICE, EVAL, AT(base_kv), "auto|bf16|int8", "auto",
      "its keys and values", 0, 0, KV, false },
    { "limit", 0, OPTION_INT, EVAL, AT(limit), "N", NULL,
      "documents to score (all)", 1, INT32_MAX, NULL, false },

    { "batch", 0, OPTION_INTS, BENCH, AT(batches), "N,N,...", "1,2,4,8,16",
      "sequences that decode at once", 1, 1024, NULL, false },
    { "chunk", 0, OPTION_INTS, BENCH, AT(prompts), "N,N,...", "64,128,512",
      "rows of a prefill step", 1, 16384, NULL, false },
    { "depth", 0, OPTION_INT, BENCH, AT(depth), "N", "0",
      "tokens of context behind each decoding sequence", 0, 16 << 20, NULL, false },
    { "rounds", 0, OPTION_INT, BENCH, AT(rounds), "N", "5",
      "rounds of (machine's limits, every case); medians are shown", 1, 1000, NULL, false },

    { "concurrency", 0, OPTION_INTS, BENCH, AT(concurrencies), "N,N,...", "1,2,4,8,16",
      "--url: requests in flight, one stage after the other", 1, 16384, NULL, false },
    { "rate", 0, OPTION_LIST, BENCH, AT(rates), "R,R,...", NULL,
      "--url: arrivals a second instead (Poisson), whatever is in flight", 0, 0, NULL, false },
    { "requests", 0, OPTION_INT, BENCH, AT(requests), "auto|N", "auto",
      "--url: of a stage; auto: 8 a client, 10 s of a rate, at least 32", 1, 1 << 24, AUTO, false },
    { "seconds", 0, OPTION_DOUBLE, BENCH, AT(seconds), "S", "0",
      "--url: a stage starts no request after this; 0: no limit", 0, 1000000, NULL, false },
    { "warmup", 0, OPTION_INT, BENCH, AT(warmup), "N", "2",
      "--url: requests before the first stage that are not counted", 0, 1 << 20, NULL, false },
    { "endpoint", 0, OPTION_CHOICE, BENCH, AT(endpoint), "chat|completions", "chat",
      "--url: what is asked", 0, 0, ENDPOINTS, false },
    { "stream", 0, OPTION_ONOFF, BENCH, AT(stream), "on|off", "on",
      "--url: replies as they are made", 0, 0, NULL, false },
    { "prompt-tokens", 0, OPTION_TEXT, BENCH, AT(prompt_tokens), "LENGTHS", "128",
      "--url: N, uniform:LOW:HIGH or normal:MEAN:DEVIATION", 0, 0, NULL, false },
    { "output-tokens", 0, OPTION_TEXT, BENCH, AT(output_tokens), "LENGTHS", "64",
      "--url: likewise, as max_tokens", 0, 0, NULL, false },
    { "ignore-eos", 0, OPTION_ONOFF, BENCH, AT(ignore_eos), "on|off", "on",
      "--url: ask for replies of exactly that length", 0, 0, NULL, false },
    { "prompts", 0, OPTION_TEXT, BENCH, AT(prompts_file), "FILE", NULL,
      "--url: JSON lines with \"prompt\" or \"messages\", perhaps \"max_tokens\"", 0, 0, NULL, false },
    { "slo", 0, OPTION_LIST, BENCH, AT(slo), "NAME=MS,...", NULL,
      "--url: ttft, tpot, itl, e2e; requests within all of them are goodput", 0, 0, NULL, false },
    { "request-ms", 0, OPTION_INT, BENCH, AT(request_ms), "MS", "600000",
      "--url: a request that takes longer is an error", 1, 86400000, NULL, false },
    { "json-file", 0, OPTION_TEXT, BENCH, AT(json_file), "FILE", NULL,
      "--url: the figures as JSON, beside the table", 0, 0, NULL, false },
    { "svg", 0, OPTION_TEXT, BENCH, AT(svg_file), "FILE", NULL,
      "--url: the curves over the stages", 0, 0, NULL, false },

    { "timeout-ms", 0, OPTION_INT, HEALTH, AT(timeout_ms), "MS", "3000",
      "give up after this", 1, 600000, NULL, false },

    { "check", 0, OPTION_FLAG, INSPECT, AT(check), NULL, NULL,
      "look at every value: finite, codes and indices in range", 0, 0, NULL, false },
    { "json", 0, OPTION_FLAG, TOKENIZE | INSPECT | EVAL | BENCH, AT(json), NULL, NULL,
      "print one JSON object", 0, 0, NULL, false },
    { "config", 0, OPTION_TEXT, ALL, AT(config), "FILE", NULL,
      "read `key = value` lines (keys: the names of these flags)", 0, 0, NULL, false },
    { "print-config", 0, OPTION_FLAG, ALL, AT(print_config), NULL, NULL,
      "print the options in force as such a file, and exit", 0, 0, NULL, true },
    { "check-config", 0, OPTION_FLAG, ALL, AT(check_config), NULL, NULL,
      "check the options, and exit", 0, 0, NULL, true },
    { "help", 'h', OPTION_FLAG, ALL, AT(help), NULL, NULL,
      "this page", 0, 0, NULL, true },
};
const int32_t N_OPTIONS = (int32_t)(sizeof OPTIONS / sizeof OPTIONS[0]);
_Static_assert(sizeof OPTIONS / sizeof OPTIONS[0] <= sizeof((struct options *)0)->sources,
               "one source byte a row");

#define MODEL_NOTE                                                                                \
    "MODEL: a Hugging Face folder, a .safetensors file, dummy:NAME for random weights of a known\n" \
    "shape (llama-3.2-1b, llama-3.1-8b, qwen2.5-0.5b, or the path of a config.json); none, or\n"    \
    "demo: for the small demo model inside this program.\n"
const struct command_spec COMMANDS[COMMAND_COUNT] = {
    [COMMAND_SERVE] = { "serve", "[MODEL]", "answer OpenAI-shaped requests over HTTP",
                        { "model", NULL }, MODEL_NOTE },
    [COMMAND_COMPLETE] = { "complete", "[MODEL] -p TEXT", "one completion on the terminal, no HTTP",
                           { "model", NULL }, MODEL_NOTE },
    [COMMAND_TOKENIZE] = { "tokenize", "[MODEL [TEXT]]", "ids and pieces of a text",
                           { "model", "text" }, MODEL_NOTE "Without TEXT, standard input is read.\n" },
    [COMMAND_INSPECT] = { "inspect", "[MODEL]", "configuration, tensors, formats, memory plan",
                          { "model", NULL }, MODEL_NOTE },
    [COMMAND_EVAL] = { "eval", "MODEL TEXTFILE", "perplexity; KL divergence to a second configuration",
                       { "model", "text" },
                       MODEL_NOTE "TEXTFILE: documents separated by a blank line.\n" },
    [COMMAND_BENCH] = { "bench", "[MODEL]", "rates of a model here; with --url, load on any server",
                        { "model", NULL },
                        MODEL_NOTE "With --url, MODEL is the name that requests carry (none: the first "
                        "of /v1/models).\n" },
    [COMMAND_HEALTH] = { "health", "[URL]", "ask a running server whether it is well (exit 0 or 1)",
                         { "url", NULL },
                         "URL: http://HOST[:PORT][/PATH]; none: --host, --port and /health.\n" },
};
/* clang-format on */

const struct option *option_find(const char *name, size_t n)
{
    for (int32_t i = 0; i < N_OPTIONS; i++) {
        const char *known = OPTIONS[i].name;
        size_t k = 0;
        while (k < n && known[k] && (name[k] == known[k] || (name[k] == '_' && known[k] == '-')))
            k++;
        if (k == n && known[k] == 0)
            return &OPTIONS[i];
    }
    return NULL;
}

const char *option_environment(const struct option *option, char *text, size_t size)
{
    size_t n = (size_t)snprintf(text, size, "NIBBLE_%s", option->name);
    CHECK(n < size);
    for (size_t i = 0; i < n; i++)
        text[i] = text[i] == '-' ? '_' : (char)toupper((unsigned char)text[i]);
    return text;
}

/* ---- help -------------------------------------------------------------------------------------
 */

void options_help(struct buf *out, enum command command)
{
    const struct command_spec *spec = &COMMANDS[command];
    buf_printf(out, "nibble %s %s [options]: %s\n\n%s\n", spec->name, spec->arguments,
               spec->summary, spec->notes);
    for (int32_t i = 0; i < N_OPTIONS; i++) {
        const struct option *option = &OPTIONS[i];
        if (!(option->commands & 1u << command))
            continue;
        char left[64];
        int n = snprintf(left, sizeof left, "--%s%s%s", option->name, option->value ? " " : "",
                         option->value ? option->value : "");
        if (option->letter != 0)
            snprintf(left + n, sizeof left - (size_t)n, ", -%c", option->letter);
        buf_printf(out, "  %-37s %s", left, option->help);
        if (option->initial != NULL)
            buf_printf(out, " [%s]", option->initial);
        buf_puts(out, "\n");
    }
    buf_puts(out,
             "\nEvery option can stand in a --config file (key = value, # comments) and in the\n"
             "environment (--max-seqs is NIBBLE_MAX_SEQS). File < environment < flag.\n");
}

void options_help_all(struct buf *out)
{
    buf_puts(out, "nibble " NIBBLE_VERSION ": large language models with 8-bit and 4-bit weights, "
                  "served from one program\n\n");
    for (int32_t i = 0; i < COMMAND_COUNT; i++)
        buf_printf(out, "  nibble %-9s%-17s %s\n", COMMANDS[i].name, COMMANDS[i].arguments,
                   COMMANDS[i].summary);
    buf_puts(out,
             "\n`nibble COMMAND --help` lists the options of a command.\n"
             "`nibble serve` without MODEL serves the small demo model inside this program.\n");
}

/* ---- the options in force ---------------------------------------------------------------------
 */

/* As a config file would have it: quoted when a reader could take it for something else. */
static void print_text(struct buf *out, const char *text)
{
    size_t n = strlen(text);
    bool plain = n > 0 && !strpbrk(text, "\"\\#,\n\t") && text[0] != ' ' && text[n - 1] != ' ';
    if (plain) {
        buf_puts(out, text);
        return;
    }
    buf_putc(out, '"');
    for (; *text; text++) {
        if (*text == '\n') {
            buf_puts(out, "\\n");
            continue;
        }
        if (*text == '"' || *text == '\\')
            buf_putc(out, '\\');
        buf_putc(out, *text);
    }
    buf_putc(out, '"');
}

static void print_bytes(struct buf *out, int64_t bytes)
{
    static const char *const UNITS[] = { "", "KiB", "MiB", "GiB" };
    int unit = 0;
    for (; unit < 3 && bytes > 0 && bytes % 1024 == 0; unit++)
        bytes /= 1024;
    buf_printf(out, "%lld%s", (long long)bytes, UNITS[unit]);
}

static void print_number(struct buf *out, const struct option *option, int64_t value)
{
    for (const struct option_word *word = option->words; word && word->word; word++)
        if (word->value == value && word->refused == NULL) {
            buf_puts(out, word->word);
            return;
        }
    buf_printf(out, "%lld", (long long)value);
}

static void print_value(struct buf *out, const struct option *option, const void *field)
{
    switch (option->type) {
    case OPTION_FLAG:
    case OPTION_ONOFF:
        buf_puts(out, *(const bool *)field ? "on" : "off");
        return;
    case OPTION_TEXT:
        print_text(out, *(const char *const *)field);
        return;
    case OPTION_LIST: {
        const struct option_texts *list = field;
        for (int32_t i = 0; i < list->n; i++) {
            buf_puts(out, i > 0 ? "," : "");
            print_text(out, list->items[i]);
        }
        return;
    }
    case OPTION_INTS: {
        const struct option_ints *list = field;
        for (int32_t i = 0; i < list->n; i++)
            buf_printf(out, "%s%d", i > 0 ? "," : "", (int)list->items[i]);
        return;
    }
    case OPTION_INT:
    case OPTION_CHOICE:
        print_number(out, option, *(const int32_t *)field);
        return;
    case OPTION_LONG:
        print_number(out, option, *(const int64_t *)field);
        return;
    case OPTION_DOUBLE:
        buf_put_json_number(out, *(const double *)field);
        return;
    case OPTION_BYTES:
        print_bytes(out, *(const int64_t *)field);
        return;
    case OPTION_MEMORY: {
        const struct option_memory *memory = field;
        if (memory->bytes > 0)
            print_bytes(out, memory->bytes);
        else
            buf_printf(out, "%d%%", (int)memory->percent);
        return;
    }
    case OPTION_DEVICE: {
        const struct option_device *device = field;
        buf_puts(out, device->kind == DEVICE_AUTO  ? "auto"
                      : device->kind == DEVICE_CPU ? "cpu"
                                                   : "cuda");
        if (device->kind == DEVICE_CUDA)
            buf_printf(out, ":%d", (int)device->index);
        return;
    }
    }
}

void options_print(struct buf *out, const struct options *options)
{
    static const char *const SOURCES[] = { "default", "file", "environment", "flag" };
    for (int32_t i = 0; i < N_OPTIONS; i++) {
        const struct option *option = &OPTIONS[i];
        if (!(option->commands & 1u << options->command) || option->only_here)
            continue;
        if (options->sources[i] == SOURCE_DEFAULT && option->initial == NULL &&
            option->type != OPTION_FLAG) {
            buf_printf(out, "# %s: not given\n", option->name);
            continue;
        }
        if (option->offset == AT(config)) {
            buf_printf(out, "# read from %s\n", options->config);
            continue;
        }
        size_t before = out->length;
        buf_printf(out, "%s = ", option->name);
        print_value(out, option, (const char *)options + option->offset);
        int pad = 40 - (int)(out->length - before);
        buf_printf(out, "%*s # %s\n", pad > 0 ? pad : 0, "", SOURCES[options->sources[i]]);
    }
}
