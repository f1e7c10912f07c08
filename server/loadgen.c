/* loadgen.c - `nibble bench --url`: what to ask the server first, the ladder, the reports. */
#include "server/loadgen.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/file.h"
#include "host/base/json.h"
#include "server/commands.h"

enum {
    REQUESTS_MIN = 32, /* of a stage, where --requests does not say */
    REQUESTS_A_CLIENT = 8,
    OPEN_SECONDS = 10,
    REQUESTS_MAX = 1 << 24,
    SAMPLE_WORDS = 1,      /* times the list of words in the first probe ... */
    SAMPLE_WORDS_MORE = 3, /* ... and in the second */
    INTERRUPTED = 130,     /* as a shell says SIGINT */
};

static bool read_base(struct loadgen *load, struct err *err)
{
    if (!url_read(load->options->url, &load->url, err))
        return false;
    const char *path = load->url.path[0] != 0 ? load->url.path : "/v1";
    size_t n = strlen(path);
    while (n > 0 && path[n - 1] == '/')
        n--;
    snprintf(load->base, sizeof load->base, "%.*s", (int)n, path);
    return true;
}

/* The first key of the file. */
static bool read_key(struct loadgen *load, struct err *err)
{
    const char *path = load->options->api_key_file;
    char *text = NULL;
    size_t size = 0;
    if (path == NULL)
        return true;
    if (!file_read(path, 1 << 20, &text, &size, err))
        return false;
    for (char *at = text; at < text + size && load->key[0] == 0; at += strcspn(at, "\n") + 1) {
        at += strspn(at, " \t");
        size_t n = strcspn(at, " \t\r\n#");
        if (n > 0 && n < sizeof load->key)
            memcpy(load->key, at, n);
    }
    explicit_bzero(text, size);
    free(text);
    for (const char *c = load->key; *c; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c >= 127)
            return err_set(err, ERR_FORMAT, "%s: the key has a blank or control byte", path);
    return load->key[0] != 0 || err_set(err, ERR_FORMAT, "%s: holds no key", path);
}

static bool add_stages(struct loadgen *load, struct err *err)
{
    const struct options *o = load->options;
    bool open = o->rates.n > 0;
    if (open && options_given(o, "concurrency"))
        return err_set(err, ERR_REQUEST, "--concurrency and --rate exclude each other");
    load->n_stages = open ? o->rates.n : o->concurrencies.n;
    for (int32_t i = 0; i < load->n_stages; i++) {
        struct load_stage *stage = &load->stages[i];
        double wanted;
        *stage = (struct load_stage){ .seconds_max = o->seconds };
        if (open) {
            char *end;
            stage->rate = strtod(o->rates.items[i], &end);
            if (*end != 0 || !(stage->rate > 0 && stage->rate <= 1e6))
                return err_set(err, ERR_REQUEST, "--rate \"%.40s\": want requests a second",
                               o->rates.items[i]);
            wanted = stage->rate * (o->seconds > 0 ? 2 * o->seconds : OPEN_SECONDS);
        } else {
            stage->concurrency = o->concurrencies.items[i];
            wanted = o->seconds > 0 ? REQUESTS_MAX / 16 : REQUESTS_A_CLIENT * stage->concurrency;
        }
        if (o->requests > 0)
            wanted = o->requests;
        wanted = wanted < REQUESTS_MIN && o->requests == 0 ? REQUESTS_MIN : wanted;
        stage->n_requests = wanted < REQUESTS_MAX ? (int32_t)wanted : REQUESTS_MAX;
    }
    return true;
}

/* ---- what to ask first ------------------------------------------------------------------------
 */

static bool find_model(struct loadgen *load, struct load_loop *loop, struct err *err)
{
    char path[320];
    struct buf reply;
    struct cJSON *root = NULL;
    struct json_ref list, first, id;
    const char *name = load->options->model;
    if (name != NULL) {
        snprintf(load->model, sizeof load->model, "%.255s", name);
        return true;
    }
    buf_init(&reply, LOAD_REPLY_MAX);
    snprintf(path, sizeof path, "%s/models", load->base);
    bool ok =
        load_loop_ask(loop, "GET", path, NULL, &reply, err) &&
        json_parse(buf_text(&reply), reply.length, &JSON_REQUEST_LIMITS, ERR_FORMAT, &root, err);
    if (ok) {
        struct json_ref at = json_root(root);
        ok = json_get(&at, "data", &list) && json_first(&list, &first) &&
             json_get(&first, "id", &id) && json_string(&id, &name, err);
        if (ok)
            snprintf(load->model, sizeof load->model, "%.255s", name);
        else
            err_set(err, ERR_FORMAT, "%s lists no model; name it: nibble bench NAME --url ...",
                    path);
    }
    json_free(root);
    buf_clear(&reply);
    return ok;
}

/* Prompt tokens by the server's count; 0 when it does not say. */
static bool probe(struct loadgen *load, struct load_loop *loop, int32_t times, double *n_tokens,
                  struct err *err)
{
    char path[320];
    struct buf body, reply;
    struct cJSON *root = NULL;
    struct json_ref usage;
    int64_t n = 0;
    buf_init(&body, 1 << 20);
    buf_init(&reply, LOAD_REPLY_MAX);
    load_plan_probe(&load->plan, times, load->model, &body);
    snprintf(path, sizeof path, "%s/%s", load->base,
             load->plan.chat ? "chat/completions" : "completions");
    bool ok =
        load_loop_ask(loop, "POST", path, &body, &reply, err) &&
        json_parse(buf_text(&reply), reply.length, &JSON_REQUEST_LIMITS, ERR_FORMAT, &root, err);
    if (ok) {
        struct json_ref at = json_root(root);
        ok = !json_get(&at, "usage", &usage) ||
             json_opt_int(&usage, "prompt_tokens", 0, INT32_MAX, &n, err);
        *n_tokens = (double)n;
    }
    json_free(root);
    buf_clear(&body);
    buf_clear(&reply);
    return ok;
}

/* tokens = around + words * per_word, through two points. */
static bool calibrate(struct loadgen *load, struct load_loop *loop, struct err *err)
{
    struct load_plan *plan = &load->plan;
    double few, many;
    if (plan->n_prompts > 0)
        return true;
    if (!probe(load, loop, SAMPLE_WORDS, &few, err) ||
        !probe(load, loop, SAMPLE_WORDS_MORE, &many, err))
        return false;
    if (many > few && few > 0) {
        double words = load_plan_words();
        plan->tokens_per_word = (many - few) / (words * (SAMPLE_WORDS_MORE - SAMPLE_WORDS));
        plan->tokens_around = few - plan->tokens_per_word * words * SAMPLE_WORDS;
    } else {
        fputs("nibble: the server does not count prompt tokens: lengths are in words\n", stderr);
    }
    return true;
}

/* Requests that are not counted: what a server does once, it does here. */
static bool warm_up(struct loadgen *load, struct load_loop *loop, struct err *err)
{
    struct load_stage *stage = &load->stages[LOAD_STAGES_MAX];
    if (load->options->warmup == 0)
        return true;
    *stage = (struct load_stage){ .concurrency = 1, .n_requests = load->options->warmup };
    bool ok = load_loop_stage(loop, LOAD_STAGES_MAX, err);
    if (ok && stage->n_ok == 0 && !load->stopped)
        ok = err_set(err, ERR_UNAVAILABLE, "every request of the warm-up failed: %s",
                     stage->first_error);
    return ok;
}

/* ---- the command ------------------------------------------------------------------------------
 */

static bool write_file(const char *path, const struct buf *out, struct err *err)
{
    if (out->failed)
        return err_set(err, ERR_MEMORY, "%s: no memory for it", path);
    FILE *file = fopen(path, "w");
    bool ok = file != NULL && fwrite(buf_text(out), 1, out->length, file) == out->length;
    if (file != NULL && fclose(file) != 0)
        ok = false;
    return ok || err_set(err, ERR_IO, "%s: %s", path, strerror(errno));
}

static bool report(const struct loadgen *load, struct err *err)
{
    const struct options *o = load->options;
    struct load_summary *summaries = calloc(LOAD_STAGES_MAX, sizeof *summaries);
    struct buf out;
    bool ok = summaries != NULL || err_set(err, ERR_MEMORY, "no memory for the report");
    buf_init(&out, 64 << 20);
    for (int32_t i = 0; ok && i < load->n_run; i++)
        ok = load_summarize(&load->stages[i], &load->plan.limits, &summaries[i], err);
    if (ok && o->json_file != NULL) {
        load_write_json(&out, load, summaries);
        ok = write_file(o->json_file, &out, err);
        buf_reset(&out);
    }
    if (ok && o->svg_file != NULL) {
        load_write_svg(&out, load, summaries);
        ok = write_file(o->svg_file, &out, err);
        buf_reset(&out);
    }
    if (ok) {
        if (o->json)
            load_write_json(&out, load, summaries);
        else
            load_write_table(&out, load, summaries);
        ok = command_print(&out) == 0 || err_set(err, ERR_IO, "the report is not whole");
    }
    buf_clear(&out);
    free(summaries);
    return ok;
}

static bool run_stages(struct loadgen *load, struct load_loop *loop, struct err *err)
{
    for (int32_t i = 0; i < load->n_stages && !load->stopped; i++) {
        load->n_run = i + 1;
        if (!load_loop_stage(loop, i, err))
            return false;
    }
    return true;
}

int load_command(const struct options *o)
{
    struct err err;
    struct load_loop *loop = NULL;
    struct loadgen *load = calloc(1, sizeof *load);
    if (load == NULL) {
        err_set(&err, ERR_MEMORY, "no memory for the bench");
        return command_fail(&err);
    }
    load->options = o;
    bool ok = read_base(load, &err) && read_key(load, &err) && add_stages(load, &err) &&
              load_plan_open(&load->plan, o, &err) && load_loop_open(&loop, load, &err) &&
              find_model(load, loop, &err) && calibrate(load, loop, &err) &&
              warm_up(load, loop, &err) && run_stages(load, loop, &err);
    /* A run that was stopped, or ran out of memory half way, still tells what it has. */
    if (load->n_run > 0) {
        struct err late;
        if (!report(load, &late) && ok) {
            err = late;
            ok = false;
        }
    }
    int status = ok ? 0 : command_fail(&err);
    if (load->stopped)
        status = INTERRUPTED;
    load_loop_close(loop);
    load_plan_close(&load->plan);
    for (int32_t i = 0; i <= LOAD_STAGES_MAX; i++) {
        free(load->stages[i].records);
        free(load->stages[i].gaps);
    }
    free(load);
    return status;
}
