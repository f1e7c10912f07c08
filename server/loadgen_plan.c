/* loadgen_plan.c - what is asked of the server, made from a seed.
 *
 * Prompts are words drawn at random, so that no two share more than a chat template's beginning:
 * a prefix cache must not answer for the model. How many tokens a word is, the server is asked
 * first (load_plan_probe): its usage counts, whatever its tokenizer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <cjson/cJSON.h>
#include "host/base/file.h"
#include "host/base/json.h"
#include "host/base/rng.h"
#include "server/loadgen.h"

enum {
    PROMPTS_MAX = 1 << 20,
    PROMPTS_BYTES_MAX = 1 << 30,
    LENGTH_MAX = 1 << 24,
    /* draws of one request */
    DRAW_PROMPT = 0,
    DRAW_OUTPUT = 1,
    DRAW_GAP = 2,
    DRAW_KINDS = 3,
};

/* Short, common, and one token each for most large vocabularies (with the blank before it). */
static const char *const WORDS[] = {
    "the",  "of",    "and",   "to",   "in",   "is",   "was",  "for",   "that",  "with",  "on",
    "as",   "are",   "they",  "at",   "be",   "this", "from", "have",  "or",    "by",    "one",
    "had",  "not",   "but",   "what", "all",  "were", "when", "we",    "there", "can",   "an",
    "your", "which", "their", "said", "if",   "do",   "will", "each",  "about", "how",   "up",
    "out",  "them",  "then",  "she",  "many", "some", "so",   "these", "would", "other", "into",
    "has",  "more",  "her",   "two",  "like", "him",  "see",  "time",  "could",
};
enum { N_WORDS = sizeof WORDS / sizeof WORDS[0] };

int32_t load_plan_words(void)
{
    return N_WORDS;
}

/* ---- lengths ----------------------------------------------------------------------------------
 */

static bool read_pair(const char *text, double *a, double *b)
{
    char *end;
    *a = strtod(text, &end);
    if (end == text || *end != ':')
        return false;
    text = end + 1;
    *b = strtod(text, &end);
    return end != text && *end == 0 && isfinite(*a) && isfinite(*b);
}

bool load_lengths_read(const char *text, struct load_lengths *lengths, struct err *err)
{
    char *end;
    bool ok;
    *lengths = (struct load_lengths){ LENGTHS_FIXED, 0, 0 };
    if (strncmp(text, "uniform:", 8) == 0) {
        lengths->kind = LENGTHS_UNIFORM;
        ok = read_pair(text + 8, &lengths->a, &lengths->b) && lengths->a >= 1 &&
             lengths->b >= lengths->a && lengths->b <= LENGTH_MAX;
    } else if (strncmp(text, "normal:", 7) == 0) {
        lengths->kind = LENGTHS_NORMAL;
        ok = read_pair(text + 7, &lengths->a, &lengths->b) && lengths->a >= 1 &&
             lengths->a <= LENGTH_MAX && lengths->b >= 0 && lengths->b <= LENGTH_MAX;
    } else {
        lengths->a = strtod(text, &end);
        ok = end != text && *end == 0 && lengths->a >= 1 && lengths->a <= LENGTH_MAX;
    }
    return ok || err_set(err, ERR_REQUEST,
                         "\"%.60s\" is no length: want N, uniform:LOW:HIGH or "
                         "normal:MEAN:DEVIATION, from 1 to %d tokens",
                         text, LENGTH_MAX);
}

int32_t load_lengths_draw(const struct load_lengths *lengths, uint64_t seed, uint64_t stream,
                          uint64_t counter)
{
    double length = lengths->a;
    double u = rng_uniform(seed, stream, 2 * counter);
    double v = rng_uniform(seed, stream, 2 * counter + 1);
    if (lengths->kind == LENGTHS_UNIFORM)
        length = floor(lengths->a + u * (lengths->b - lengths->a + 1)); /* both ends included */
    else if (lengths->kind == LENGTHS_NORMAL) /* Box and Muller 1958; 1 - u is never 0 */
        length = round(lengths->a + lengths->b * sqrt(-2 * log(1 - u)) * cos(2 * M_PI * v));
    if (lengths->kind == LENGTHS_UNIFORM && length > lengths->b)
        length = lengths->b;
    return length < 1 ? 1 : length > LENGTH_MAX ? LENGTH_MAX : (int32_t)length;
}

static uint64_t stream_of(int32_t stage, int32_t kind)
{
    return 1000 + (uint64_t)stage * DRAW_KINDS + (uint64_t)kind;
}

double load_plan_gap(const struct load_plan *plan, int32_t stage, int32_t index, double rate)
{
    double u = rng_uniform(plan->seed, stream_of(stage, DRAW_GAP), (uint64_t)index);
    return -log(1 - u) / rate;
}

/* ---- prompts from a file ----------------------------------------------------------------------
 */

static bool put_members(struct load_prompt *prompt, const struct json_ref *line, bool chat,
                        struct err *err)
{
    struct json_ref messages, text;
    bool has_messages = json_get(line, "messages", &messages);
    bool has_text = json_get(line, "prompt", &text);
    struct buf out;
    buf_init(&out, PROMPTS_BYTES_MAX);
    const struct cJSON *node = has_messages ? messages.node : text.node;
    if (has_messages == has_text)
        return err_set(err, ERR_REQUEST, "want one of \"prompt\" and \"messages\"");
    if (has_messages && !chat)
        return err_set(err, ERR_REQUEST, "\"messages\" needs --endpoint chat");
    if (has_text && chat && !json_is_string(&text))
        return err_set(err, ERR_REQUEST, "a prompt of token ids needs --endpoint completions");
    char *printed = cJSON_PrintUnformatted(node);
    if (printed == NULL)
        return err_set(err, ERR_MEMORY, "no memory for a prompt");
    if (has_text && chat)
        buf_printf(&out, "\"messages\":[{\"role\":\"user\",\"content\":%s}]", printed);
    else
        buf_printf(&out, "\"%s\":%s", has_text ? "prompt" : "messages", printed);
    cJSON_free(printed);
    prompt->members = out.failed ? NULL : strdup(buf_text(&out));
    buf_clear(&out);
    return prompt->members != NULL || err_set(err, ERR_MEMORY, "no memory for a prompt");
}

static bool read_prompt(struct load_plan *plan, const char *line, size_t length, struct err *err)
{
    struct cJSON *root = NULL;
    struct load_prompt prompt = { 0 };
    int64_t max_tokens = 0;
    if (!json_parse(line, length, &JSON_FILE_LIMITS, ERR_REQUEST, &root, err))
        return false;
    struct json_ref at = json_root(root);
    bool ok = json_is_object(&at) || err_set(err, ERR_REQUEST, "want an object");
    ok = ok && put_members(&prompt, &at, plan->chat, err) &&
         json_opt_int(&at, "output_tokens", 1, LENGTH_MAX, &max_tokens, err) &&
         json_opt_int(&at, "max_completion_tokens", 1, LENGTH_MAX, &max_tokens, err) &&
         json_opt_int(&at, "max_tokens", 1, LENGTH_MAX, &max_tokens, err);
    json_free(root);
    prompt.max_tokens = (int32_t)max_tokens;
    if (!ok) {
        free(prompt.members);
        return false;
    }
    plan->prompts[plan->n_prompts++] = prompt;
    return true;
}

static bool read_prompts(struct load_plan *plan, const char *path, struct err *err)
{
    char *text = NULL;
    size_t size = 0;
    if (!file_read(path, PROMPTS_BYTES_MAX, &text, &size, err))
        return false;
    size_t n_lines = 1;
    for (size_t i = 0; i < size; i++)
        n_lines += text[i] == '\n';
    bool ok = n_lines <= PROMPTS_MAX ||
              err_set(err, ERR_TOO_LARGE, "%s: more than %d lines", path, PROMPTS_MAX);
    if (ok && (plan->prompts = calloc(n_lines, sizeof *plan->prompts)) == NULL)
        ok = err_set(err, ERR_MEMORY, "no memory for %zu prompts", n_lines);
    int line = 1;
    for (char *at = text, *end; ok && at < text + size; at = end + 1, line++) {
        end = memchr(at, '\n', (size_t)(text + size - at));
        if (end == NULL)
            end = text + size;
        size_t length = (size_t)(end - at);
        if (strspn(at, " \t\r") >= length)
            continue;
        ok = read_prompt(plan, at, length, err);
        if (!ok)
            err_prefix(err, "%s line %d: ", path, line);
    }
    free(text);
    return ok && (plan->n_prompts > 0 || err_set(err, ERR_REQUEST, "%s: holds no prompt", path));
}

/* ---- the service level objective --------------------------------------------------------------
 */

static bool read_limits(const struct option_texts *list, struct load_limits *limits,
                        struct err *err)
{
    const struct {
        const char *name;
        double *value;
    } rows[] = { { "ttft=", &limits->ttft },
                 { "tpot=", &limits->tpot },
                 { "itl=", &limits->itl },
                 { "e2e=", &limits->e2e } };
    for (int32_t i = 0; i < list->n; i++) {
        bool known = false;
        for (size_t k = 0; k < sizeof rows / sizeof rows[0] && !known; k++) {
            size_t n = strlen(rows[k].name);
            char *end;
            if (strncmp(list->items[i], rows[k].name, n) != 0)
                continue;
            double ms = strtod(list->items[i] + n, &end);
            known = end != list->items[i] + n && *end == 0 && ms > 0 && isfinite(ms);
            *rows[k].value = ms * 1e-3;
        }
        if (!known)
            return err_set(err, ERR_REQUEST,
                           "--slo \"%.60s\": want ttft=MS, tpot=MS, itl=MS or e2e=MS",
                           list->items[i]);
    }
    return true;
}

/* ---- all together -----------------------------------------------------------------------------
 */

bool load_plan_open(struct load_plan *plan, const struct options *o, struct err *err)
{
    *plan = (struct load_plan){
        .chat = o->endpoint == ENDPOINT_CHAT,
        .stream = o->stream,
        .ignore_eos = o->ignore_eos,
        .temperature = o->temperature,
        .seed = o->seed < 0 ? 1 : (uint64_t)o->seed,
        .tokens_per_word = 1,
    };
    if (!load_lengths_read(o->prompt_tokens, &plan->prompt, err)) {
        err_prefix(err, "--prompt-tokens: ");
        return false;
    }
    if (!load_lengths_read(o->output_tokens, &plan->output, err)) {
        err_prefix(err, "--output-tokens: ");
        return false;
    }
    if (read_limits(&o->slo, &plan->limits, err) &&
        (o->prompts_file == NULL || read_prompts(plan, o->prompts_file, err)))
        return true;
    load_plan_close(plan);
    return false;
}

void load_plan_close(struct load_plan *plan)
{
    for (int32_t i = 0; i < plan->n_prompts; i++)
        free(plan->prompts[i].members);
    free(plan->prompts);
    plan->prompts = NULL;
    plan->n_prompts = 0;
}

static void open_text(const struct load_plan *plan, struct buf *out)
{
    buf_puts(out, plan->chat ? "\"messages\":[{\"role\":\"user\",\"content\":\"" : "\"prompt\":\"");
}

static void close_text(const struct load_plan *plan, struct buf *out)
{
    buf_puts(out, plan->chat ? "\"}]" : "\"");
}

/* As many words as the server will make the wanted tokens of. */
static void put_words(const struct load_plan *plan, int32_t stage, int32_t index, struct buf *out)
{
    int32_t n_tokens = load_lengths_draw(&plan->prompt, plan->seed, stream_of(stage, DRAW_PROMPT),
                                         (uint64_t)index);
    double n = round(((double)n_tokens - plan->tokens_around) / plan->tokens_per_word);
    uint64_t stream = (uint64_t)1 << 62 | (uint64_t)stage << 32 | (uint32_t)index;
    open_text(plan, out);
    for (int32_t i = 0; i == 0 || i < (int32_t)n; i++) {
        uint32_t word = rng_philox(plan->seed, stream, (uint64_t)i).v[0] % N_WORDS;
        buf_puts(out, i > 0 ? " " : "");
        buf_puts(out, WORDS[word]);
    }
    close_text(plan, out);
}

static void put_model(const char *model, struct buf *out)
{
    buf_puts(out, "{\"model\":");
    buf_put_json_string(out, model, strlen(model));
    buf_putc(out, ',');
}

void load_plan_body(const struct load_plan *plan, int32_t stage, int32_t index, const char *model,
                    struct buf *out)
{
    int32_t max_tokens = 0;
    buf_reset(out);
    put_model(model, out);
    if (plan->n_prompts > 0) {
        const struct load_prompt *prompt = &plan->prompts[index % plan->n_prompts];
        buf_puts(out, prompt->members);
        max_tokens = prompt->max_tokens;
    } else {
        put_words(plan, stage, index, out);
    }
    if (max_tokens == 0)
        max_tokens = load_lengths_draw(&plan->output, plan->seed, stream_of(stage, DRAW_OUTPUT),
                                       (uint64_t)index);
    buf_printf(out, ",\"max_tokens\":%d", (int)max_tokens);
    if (plan->ignore_eos)
        buf_puts(out, ",\"ignore_eos\":true");
    if (plan->temperature >= 0) {
        buf_puts(out, ",\"temperature\":");
        buf_put_json_number(out, plan->temperature);
    }
    if (plan->stream)
        buf_puts(out, ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
    buf_putc(out, '}');
}

void load_plan_probe(const struct load_plan *plan, int32_t times, const char *model,
                     struct buf *out)
{
    buf_reset(out);
    put_model(model, out);
    open_text(plan, out);
    for (int32_t i = 0; i < times * N_WORDS; i++) {
        buf_puts(out, i > 0 ? " " : "");
        buf_puts(out, WORDS[i % N_WORDS]);
    }
    close_text(plan, out);
    buf_puts(out, ",\"max_tokens\":1}");
}
