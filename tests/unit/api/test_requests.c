/* requests: what bodies become, every field of it. (test_refusals: what is not taken.) */
#include "tests/unit/api/requests.h"

/* ---- every field as text ----------------------------------------------------------------------
 */

struct dump {
    struct buf names[96], values[96];
    int32_t n;
};
static struct buf *field(struct dump *dump, const char *name)
{
    assert_true(dump->n < 96);
    buf_puts(&dump->names[dump->n], name);
    return &dump->values[dump->n++];
}
static void dump_init(struct dump *dump)
{
    for (int32_t i = 0; i < 96; i++) {
        buf_init(&dump->names[i], 64);
        buf_init(&dump->values[i], 1 << 20);
    }
    dump->n = 0;
}
static void dump_clear(struct dump *dump)
{
    for (int32_t i = 0; i < 96; i++) {
        buf_clear(&dump->names[i]);
        buf_clear(&dump->values[i]);
    }
}
static void dump_bool(struct dump *dump, const char *name, bool value)
{
    buf_puts(field(dump, name), value ? "yes" : "no");
}
static void dump_number(struct dump *dump, const char *name, double value)
{
    buf_put_json_number(field(dump, name), value);
}
static void dump_ids(struct buf *out, const int32_t *ids, int32_t n)
{
    for (int32_t i = 0; i < n; i++)
        buf_printf(out, "%s%d", i ? "," : "", ids[i]);
}
static void dump_node(struct dump *dump, const char *name, const cJSON *node)
{
    struct buf *out = field(dump, name);
    if (node == NULL)
        return;
    char *text = cJSON_PrintUnformatted(node);
    assert_non_null(text);
    buf_puts(out, text);
    cJSON_free(text);
}

static void dump_strings(struct buf *out, const struct api_stop *strings, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        buf_putc(out, i ? '|' : '<');
        buf_put(out, strings[i].text, strings[i].length);
    }
}

static void dump_samplers(struct dump *dump, const struct generate *g)
{
    const struct sample_chain *c = &g->chain;
    struct buf *out = field(dump, "allowed");
    for (int32_t i = 0; g->sampling.allowed != NULL && i < PLAIN.vocab; i++)
        if (g->sampling.allowed[i / 32] >> (i % 32) & 1)
            buf_printf(out, "%s%d", out->length ? "," : "", i);
    dump_bool(dump, "chain", g->has_chain);
    out = field(dump, "stages");
    for (int32_t i = 0; i < c->n_stages; i++)
        buf_printf(out, "%d", (int)c->stages[i]);
    if (c->windowed)
        buf_printf(field(dump, "window"), "%d", c->last_n);
    else
        buf_puts(field(dump, "window"), "no");
    dump_number(dump, "dynatemp", (double)c->dynatemp_range);
    dump_number(dump, "exponent", (double)c->dynatemp_exponent);
    dump_number(dump, "sigma", (double)c->top_n_sigma);
    dump_number(dump, "xtc", (double)c->xtc_probability);
    dump_number(dump, "threshold", (double)c->xtc_threshold);
    dump_number(dump, "min_keep", c->min_keep);
    dump_number(dump, "dry", (double)c->dry_multiplier);
    dump_number(dump, "dry_base", (double)c->dry_base);
    dump_number(dump, "dry_allowed", c->dry_allowed_length);
    dump_number(dump, "dry_last_n", c->dry_last_n);
    dump_number(dump, "mirostat", c->mirostat);
    dump_number(dump, "tau", (double)c->mirostat_tau);
    dump_number(dump, "eta", (double)c->mirostat_eta);
    dump_strings(field(dump, "breakers"), g->breakers, g->n_breakers);
    dump_strings(field(dump, "bad_words"), g->bad_words, g->n_bad_words);
}

static void dump_output(struct dump *dump, const struct generate *g)
{
    dump_number(dump, "truncate", g->truncate_prompt);
    dump_number(dump, "prompt_logprobs", g->prompt_logprobs);
    dump_number(dump, "predict_ms", g->predict_ms_max);
    dump_bool(dump, "tight", g->tight_specials);
    dump_bool(dump, "logprobs", g->logprobs);
    dump_bool(dump, "tokens_as_ids", g->tokens_as_ids);
    dump_bool(dump, "timings", g->timings_per_token);
    dump_bool(dump, "progress", g->return_progress);
    dump_bool(dump, "cache", g->cache_prompt);
    dump_strings(field(dump, "response_fields"), g->response_fields, g->n_response_fields);
    buf_puts(field(dump, "request_id"), g->request_id ? g->request_id : "");
}

static void dump_generate(struct dump *dump, const struct generate *g)
{
    dump_init(dump);
    buf_puts(field(dump, "kind"), g->kind == API_CHAT ? "chat" : "completion");
    dump_bool(dump, "stream", g->stream);
    dump_bool(dump, "include_usage", g->include_usage);
    dump_bool(dump, "continuous_usage", g->continuous_usage);
    dump_number(dump, "n", g->n);
    dump_number(dump, "n_seqs", g->n_seqs);
    dump_number(dump, "max_tokens", g->max_tokens);
    dump_number(dump, "min_tokens", g->min_tokens);
    dump_bool(dump, "ignore_eos", g->ignore_eos);
    dump_bool(dump, "echo", g->echo);
    dump_bool(dump, "return_token_ids", g->return_token_ids);
    dump_bool(dump, "skip_special", g->skip_special);
    dump_bool(dump, "include_stop", g->include_stop);
    dump_bool(dump, "add_special", g->add_special);
    dump_bool(dump, "random_seed", g->random_seed);
    const struct sample_params *s = &g->sampling;
    dump_number(dump, "temperature", (double)s->temperature);
    dump_number(dump, "top_k", s->top_k);
    dump_number(dump, "top_p", (double)s->top_p);
    dump_number(dump, "min_p", (double)s->min_p);
    dump_number(dump, "typical_p", (double)s->typical_p);
    dump_number(dump, "repetition", (double)s->repetition_penalty);
    dump_number(dump, "presence", (double)s->presence_penalty);
    dump_number(dump, "frequency", (double)s->frequency_penalty);
    buf_printf(field(dump, "seed"), "%lld", (long long)s->seed);
    struct buf *out = field(dump, "biases");
    for (int32_t i = 0; i < g->n_biases; i++) {
        buf_puts(out, i ? "," : "");
        if (g->biases[i].text != NULL)
            buf_printf(out, "'%s':%g", g->biases[i].text, (double)g->biases[i].bias);
        else
            buf_printf(out, "%d:%g", g->biases[i].token, (double)g->biases[i].bias);
    }
    assert_true(s->biases == NULL && s->chain == NULL); /* the prep worker makes these */
    dump_samplers(dump, g);
    dump_number(dump, "n_top", s->n_top);
    out = field(dump, "stops");
    for (int32_t i = 0; i < g->n_stops; i++) {
        buf_putc(out, i ? '|' : '<');
        buf_put(out, g->stops[i].text, g->stops[i].length);
    }
    dump_ids(field(dump, "stop_tokens"), g->stop_tokens, g->n_stop_tokens);
    out = field(dump, "prompts");
    for (int32_t i = 0; i < g->n_prompts; i++) {
        const struct api_prompt *prompt = &g->prompts[i];
        buf_putc(out, i ? '|' : '<');
        if (prompt->text != NULL)
            buf_put(out, prompt->text, prompt->length);
        else
            dump_ids(out, prompt->ids, prompt->n_ids);
    }
    dump_node(dump, "messages", g->messages);
    dump_node(dump, "tools", g->tools);
    dump_node(dump, "documents", g->documents);
    dump_node(dump, "variables", g->variables);
    dump_bool(dump, "generation_prompt", g->add_generation_prompt);
    dump_bool(dump, "continue_final", g->continue_final_message);
    buf_puts(field(dump, "salt"), g->cache_salt ? g->cache_salt : "");
    dump_number(dump, "priority", g->priority);
    dump_output(dump, g);
    dump_number(dump, "n_unknown", g->n_unknown);
}

/* What differs from the defaults, as "name=value name=value"; all of it with defaults NULL. */
static void differences(const struct dump *dump, const struct dump *defaults, struct buf *out)
{
    for (int32_t i = 0; i < dump->n; i++) {
        if (defaults != NULL &&
            strcmp(buf_text(&dump->values[i]), buf_text(&defaults->values[i])) == 0)
            continue;
        buf_printf(out, "%s%s=%s", out->length ? " " : "", buf_text(&dump->names[i]),
                   buf_text(&dump->values[i]));
    }
}

/* ---- chat and completions ---------------------------------------------------------------------
 */

#define SAMPLERS                                                                                   \
    "allowed= chain=no stages=0123456789 window=no dynatemp=0 exponent=1 sigma=-1 xtc=0 "          \
    "threshold=0.10000000149011612 min_keep=0 dry=0 dry_base=1.75 dry_allowed=2 dry_last_n=64 "    \
    "mirostat=0 tau=5 eta=0.10000000149011612 breakers=<\n|:|\"|* bad_words= "
#define OUTPUT                                                                                     \
    "truncate=0 prompt_logprobs=-1 predict_ms=0 tight=no logprobs=no tokens_as_ids=no timings=no " \
    "progress=no cache=yes response_fields= request_id= "

static void test_defaults(void **state)
{
    (void)state;
    static const struct {
        enum endpoint endpoint;
        const char *body, *all;
    } rows[] = {
        { CHAT, "{" M "}",
          "kind=chat stream=no include_usage=no continuous_usage=no n=1 n_seqs=1 max_tokens=-1 "
          "min_tokens=0 ignore_eos=no echo=no return_token_ids=no skip_special=yes include_stop=no "
          "add_special=no random_seed=yes temperature=0.5 top_k=40 top_p=0.75 min_p=0.125 "
          "typical_p=0.875 repetition=1.25 presence=0 frequency=0 seed=-1 biases= " SAMPLERS
          "n_top=-1 stops= "
          "stop_tokens= prompts= messages=[{\"role\":\"user\",\"content\":\"hi\"}] tools= "
          "documents= variables= generation_prompt=yes continue_final=no salt= priority=0 " OUTPUT
          "n_unknown=0" },
        { COMPLETION, "{" P "}",
          "kind=completion stream=no include_usage=no continuous_usage=no n=1 n_seqs=1 "
          "max_tokens=16 min_tokens=0 ignore_eos=no echo=no return_token_ids=no skip_special=yes "
          "include_stop=no add_special=yes random_seed=yes temperature=0.5 top_k=40 top_p=0.75 "
          "min_p=0.125 typical_p=0.875 repetition=1.25 presence=0 frequency=0 seed=-1 "
          "biases= " SAMPLERS
          "n_top=-1 stops= stop_tokens= prompts=<hi messages= tools= documents= variables= "
          "generation_prompt=no continue_final=no salt= priority=0 " OUTPUT "n_unknown=0" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct generate g;
        struct dump dump;
        struct arena arena;
        struct buf text;
        struct err err = { 0 };
        arena_init(&arena, 1 << 20);
        buf_init(&text, 1 << 20);
        cJSON *root = parse_json(rows[i].body);
        assert_ok(parse(rows[i].endpoint, &g, root, &PLAIN, &arena, &err), &err);
        dump_generate(&dump, &g);
        differences(&dump, NULL, &text);
        assert_string_equal(buf_text(&text), rows[i].all);
        dump_clear(&dump);
        buf_clear(&text);
        json_free(root);
        arena_clear(&arena);
    }
}

static const struct {
    const char *name;
    enum endpoint endpoint;
    enum which model;
    const char *body, *differs; /* from the defaults of its endpoint */
} VALID[] = {
    /* the fields of both */
    { "the alias", CHAT, PLAIN_MODEL, "{\"model\":\"nibble\"," M "}", "" },
    { "another of its names", COMPLETION, PLAIN_MODEL, "{\"model\":\"demo\"," P "}", "" },
    { "model null", COMPLETION, PLAIN_MODEL, "{\"model\":null," P "}", "" },
    { "a stream", CHAT, PLAIN_MODEL, "{\"stream\":true," M "}", "stream=yes" },
    { "a stream with usage", CHAT, PLAIN_MODEL,
      "{\"stream\":true,\"stream_options\":{\"include_usage\":true}," M "}",
      "stream=yes include_usage=yes" },
    { "a stream with usage in every chunk", COMPLETION, PLAIN_MODEL,
      "{\"stream\":true,\"stream_options\":{\"include_usage\":true,"
      "\"continuous_usage_stats\":true}," P "}",
      "stream=yes include_usage=yes continuous_usage=yes" },
    { "no stream, options null", CHAT, PLAIN_MODEL,
      "{\"stream\":false,\"stream_options\":null," M "}", "" },
    { "an empty stream_options", CHAT, PLAIN_MODEL, "{\"stream\":true,\"stream_options\":{}," M "}",
      "stream=yes" },
    { "n", CHAT, PLAIN_MODEL, "{\"n\":3," M "}", "n=3 n_seqs=3" },
    { "the largest n", CHAT, PLAIN_MODEL, "{\"n\":128," M "}", "n=128 n_seqs=128" },
    { "n as 2.0", CHAT, PLAIN_MODEL, "{\"n\":2.0," M "}", "n=2 n_seqs=2" },
    { "best_of equal to n", COMPLETION, PLAIN_MODEL, "{\"n\":2,\"best_of\":2," P "}",
      "n=2 n_seqs=2" },
    { "best_of wants log-probabilities for itself", COMPLETION, PLAIN_MODEL,
      "{\"n\":2,\"best_of\":5," P "}", "n=2 n_seqs=5 n_top=0" },
    { "best_of beside log-probabilities", CHAT, PLAIN_MODEL,
      "{\"best_of\":3,\"logprobs\":true,\"top_logprobs\":2," M "}",
      "n_seqs=3 n_top=2 logprobs=yes" },
    { "max_tokens", CHAT, PLAIN_MODEL, "{\"max_tokens\":7," M "}", "max_tokens=7" },
    { "max_completion_tokens", CHAT, PLAIN_MODEL, "{\"max_completion_tokens\":8," M "}",
      "max_tokens=8" },
    { "both: the newer name wins", CHAT, PLAIN_MODEL,
      "{\"max_completion_tokens\":8,\"max_tokens\":9," M "}", "max_tokens=8" },
    { "max_tokens null", COMPLETION, PLAIN_MODEL, "{\"max_tokens\":null," P "}", "" },
    { "max_tokens over the context", COMPLETION, PLAIN_MODEL, "{\"max_tokens\":2000000000," P "}",
      "max_tokens=2000000000" },
    { "no token at all", COMPLETION, PLAIN_MODEL, "{\"max_tokens\":0," P "}", "max_tokens=0" },
    { "a default for chat", CHAT, MAX_32, "{" M "}", "max_tokens=32" },
    { "a default for chat, overridden", CHAT, MAX_32, "{\"max_tokens\":64," M "}",
      "max_tokens=64" },
    { "16 for completions all the same", COMPLETION, MAX_32, "{" P "}", "" },
    { "min_tokens", CHAT, PLAIN_MODEL, "{\"min_tokens\":100," M "}", "min_tokens=100" },
    { "min_tokens equal to max_tokens", COMPLETION, PLAIN_MODEL,
      "{\"min_tokens\":16,\"ignore_eos\":true," P "}", "min_tokens=16 ignore_eos=yes" },
    { "token ids and special tokens shown", COMPLETION, PLAIN_MODEL,
      "{\"return_token_ids\":true,\"skip_special_tokens\":false,"
      "\"include_stop_str_in_output\":true," P "}",
      "return_token_ids=yes skip_special=no include_stop=yes" },
    { "all of the sampling", COMPLETION, PLAIN_MODEL,
      "{\"temperature\":0,\"top_k\":-1,\"top_p\":1,\"min_p\":0,\"typical_p\":1,"
      "\"repetition_penalty\":2,\"presence_penalty\":-2,\"frequency_penalty\":0.5,\"seed\":7," P
      "}",
      "random_seed=no temperature=0 top_k=-1 top_p=1 min_p=0 typical_p=1 repetition=2 "
      "presence=-2 frequency=0.5 seed=7" },
    { "llama.cpp's repeat_penalty", COMPLETION, PLAIN_MODEL, "{\"repeat_penalty\":1.5," P "}",
      "repetition=1.5" },
    { "nulls leave the defaults", CHAT, PLAIN_MODEL,
      "{\"temperature\":null,\"top_p\":null,\"seed\":null,\"stop\":null,\"logit_bias\":null,"
      "\"n\":null,\"tools\":null,\"logprobs\":null,\"stop_token_ids\":null," M "}",
      "" },
    { "seed -1 is a random one", CHAT, PLAIN_MODEL, "{\"seed\":-1," M "}", "" },
    { "another negative seed is a seed", CHAT, PLAIN_MODEL, "{\"seed\":-2," M "}",
      "random_seed=no seed=-2" },
    { "seed 0", CHAT, PLAIN_MODEL, "{\"seed\":0," M "}", "random_seed=no seed=0" },
    { "a seed of 2^62", CHAT, PLAIN_MODEL, "{\"seed\":4611686018427387904," M "}",
      "random_seed=no seed=4611686018427387904" },
    { "a seed of 2^53 + 1", CHAT, PLAIN_MODEL, "{\"seed\":9007199254740993," M "}",
      "random_seed=no seed=9007199254740993" },
    { "the largest seed", CHAT, PLAIN_MODEL, "{\"seed\":9223372036854775807," M "}",
      "random_seed=no seed=9223372036854775807" },
    { "the most negative seed", CHAT, PLAIN_MODEL, "{\"seed\":-9223372036854775808," M "}",
      "random_seed=no seed=-9223372036854775808" },
    { "a bias or two", CHAT, PLAIN_MODEL, "{\"logit_bias\":{\"5\":-100,\"999\":1.5}," M "}",
      "biases=5:-100,999:1.5" },
    { "biases as pairs, of texts, never", COMPLETION, PLAIN_MODEL,
      "{\"logit_bias\":[[5,-0.5],[\"a b\",2],[7,false]]," P "}", "biases=5:-0.5,'a b':2,7:-inf" },
    { "never in an object", COMPLETION, PLAIN_MODEL, "{\"logit_bias\":{\"7\":false}," P "}",
      "biases=7:-inf" },
    { "allowed tokens", COMPLETION, PLAIN_MODEL, "{\"allowed_token_ids\":[999,0,5,5]," P "}",
      "allowed=0,5,999" },
    { "bad words", CHAT, PLAIN_MODEL, "{\"bad_words\":[\"x\",\" y\"]," M "}", "bad_words=<x| y" },
    { "a window of penalties", CHAT, PLAIN_MODEL, "{\"repeat_last_n\":64," M "}",
      "chain=yes window=64" },
    { "the same without penalties", CHAT, PLAIN_MODEL,
      "{\"repeat_last_n\":64,\"repeat_penalty\":1," M "}", "repetition=1 window=64" },
    { "dynatemp", CHAT, PLAIN_MODEL, "{\"dynatemp_range\":0.5,\"dynatemp_exponent\":2," M "}",
      "chain=yes dynatemp=0.5 exponent=2" },
    { "top_n_sigma", CHAT, PLAIN_MODEL, "{\"top_n_sigma\":1.5," M "}", "chain=yes sigma=1.5" },
    { "xtc", CHAT, PLAIN_MODEL, "{\"xtc_probability\":0.5,\"xtc_threshold\":0.25," M "}",
      "chain=yes xtc=0.5 threshold=0.25" },
    { "xtc with a threshold that is off", CHAT, PLAIN_MODEL,
      "{\"xtc_probability\":0.5,\"xtc_threshold\":0.75," M "}", "threshold=0.75" },
    { "min_keep 1 changes nothing", CHAT, PLAIN_MODEL, "{\"min_keep\":1," M "}", "min_keep=1" },
    { "min_keep", CHAT, PLAIN_MODEL, "{\"min_keep\":2," M "}", "chain=yes min_keep=2" },
    { "DRY", CHAT, PLAIN_MODEL,
      "{\"dry_multiplier\":0.5,\"dry_base\":2,\"dry_allowed_length\":3,"
      "\"dry_penalty_last_n\":-1,\"dry_sequence_breakers\":[\"\\n\",\"--\"]," M "}",
      "chain=yes dry=0.5 dry_base=2 dry_allowed=3 dry_last_n=-1 breakers=<\n|--" },
    { "mirostat", CHAT, PLAIN_MODEL,
      "{\"mirostat\":2,\"mirostat_tau\":4,\"mirostat_eta\":0.5," M "}",
      "chain=yes stages=0123 mirostat=2 tau=4 eta=0.5" },
    { "an order by names", CHAT, PLAIN_MODEL,
      "{\"samplers\":[\"top_k\",\"typ_p\",\"temperature\"]," M "}", "chain=yes stages=2583" },
    { "an order by letters", CHAT, PLAIN_MODEL, "{\"samplers\":\"edskypmxt\"," M "}",
      "chain=yes stages=2014586793" },
    { "no sampler at all", CHAT, PLAIN_MODEL, "{\"samplers\":[]," M "}", "chain=yes stages=2" },
    { "a prompt's end", COMPLETION, PLAIN_MODEL, "{\"truncate_prompt_tokens\":99," P "}",
      "truncate=99" },
    { "what of a prompt fits", CHAT, PLAIN_MODEL, "{\"truncate_prompt_tokens\":-1," M "}",
      "truncate=-1" },
    { "log-probabilities of the prompt", CHAT, PLAIN_MODEL, "{\"prompt_logprobs\":20," M "}",
      "prompt_logprobs=20" },
    { "how the reply looks", CHAT, PLAIN_MODEL,
      "{\"return_tokens_as_token_ids\":true,\"timings_per_token\":true,\"return_progress\":true,"
      "\"t_max_predict_ms\":250,\"cache_prompt\":false,\"request_id\":\"a-1\"," M "}",
      "predict_ms=250 tokens_as_ids=yes timings=yes progress=yes cache=no request_id=a-1" },
    { "special tokens in a row", CHAT, PLAIN_MODEL,
      "{\"skip_special_tokens\":false,\"spaces_between_special_tokens\":false," M "}",
      "skip_special=no tight=yes" },
    { "special tokens in a row, not shown", CHAT, PLAIN_MODEL,
      "{\"spaces_between_special_tokens\":false," M "}", "" },
    { "members of the reply", CHAT, PLAIN_MODEL,
      "{\"response_fields\":[\"usage\",\"timings/prompt_n\"]," M "}",
      "response_fields=<usage|timings/prompt_n" },
    { "BOS in front of a template's text", CHAT, PLAIN_MODEL, "{\"add_special_tokens\":true," M "}",
      "add_special=yes" },
    { "an empty bias", CHAT, PLAIN_MODEL, "{\"logit_bias\":{}," M "}", "" },
    { "one stop string", CHAT, PLAIN_MODEL, "{\"stop\":\"END\"," M "}", "stops=<END" },
    { "several stop strings", CHAT, PLAIN_MODEL, "{\"stop\":[\"\\n\\n\",\"\xc3\xa9\",\" \"]," M "}",
      "stops=<\n\n|\xc3\xa9| " },
    { "an empty list of stop strings", CHAT, PLAIN_MODEL, "{\"stop\":[]," M "}", "" },
    { "stop tokens", COMPLETION, PLAIN_MODEL, "{\"stop_token_ids\":[0,999]," P "}",
      "stop_tokens=0,999" },
    { "salt and priority", COMPLETION, PLAIN_MODEL,
      "{\"cache_salt\":\"tenant\",\"priority\":-3," P "}", "salt=tenant priority=-3" },
    { "harmless fields of others", CHAT, PLAIN_MODEL,
      "{\"user\":\"u\",\"metadata\":{\"a\":\"b\"},\"store\":false,\"service_tier\":\"auto\","
      "\"parallel_tool_calls\":true,\"cache_prompt\":true,\"id_slot\":-1,"
      "\"response_format\":{\"type\":\"text\"}," M "}",
      "" },
    { "neutral values of what is not honoured", COMPLETION, PLAIN_MODEL,
      "{\"suffix\":\"\",\"grammar\":\"\",\"use_beam_search\":false,\"length_penalty\":1,"
      "\"mirostat\":0,\"xtc_probability\":0.0,\"dry_multiplier\":0,\"bad_words\":[],\"lora\":[],"
      "\"spaces_between_special_tokens\":true,\"guided_json\":null,\"prompt_logprobs\":null,"
      "\"timings_per_token\":false,\"dynatemp_range\":0,\"top_n_sigma\":-1," P "}",
      "" },
    { "unknown fields are counted", COMPLETION, PLAIN_MODEL,
      "{\"foo\":1,\"bar\":{\"n\":5},\"Temperature\":9,\"n_kept\":null," P "}", "n_unknown=4" },

    /* chat */
    { "log-probabilities without tops", CHAT, PLAIN_MODEL, "{\"logprobs\":true," M "}",
      "n_top=0 logprobs=yes" },
    { "log-probabilities with tops", CHAT, PLAIN_MODEL,
      "{\"logprobs\":true,\"top_logprobs\":20," M "}", "n_top=20 logprobs=yes" },
    { "logprobs false, top_logprobs 0", CHAT, PLAIN_MODEL,
      "{\"logprobs\":false,\"top_logprobs\":0," M "}", "" },
    { "echo false", CHAT, PLAIN_MODEL, "{\"echo\":false," M "}", "" },
    { "no generation prompt", CHAT, PLAIN_MODEL, "{\"add_generation_prompt\":false," M "}",
      "generation_prompt=no" },
    { "the final message goes on", CHAT, PLAIN_MODEL, "{\"continue_final_message\":true," M "}",
      "generation_prompt=no continue_final=yes" },
    { "the final message goes on, said twice", CHAT, PLAIN_MODEL,
      "{\"continue_final_message\":true,\"add_generation_prompt\":false," M "}",
      "generation_prompt=no continue_final=yes" },
    { "variables of the template", CHAT, PLAIN_MODEL,
      "{\"chat_template_kwargs\":{\"enable_thinking\":false,\"depth\":[1,{\"messages\":2}]}," M "}",
      "variables={\"enable_thinking\":false,\"depth\":[1,{\"messages\":2}]}" },
    { "documents", CHAT, PLAIN_MODEL, "{\"documents\":[{\"text\":\"d\"}]," M "}",
      "documents=[{\"text\":\"d\"}]" },
    { "tools that may not be called", CHAT, PLAIN_MODEL,
      "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],"
      "\"tool_choice\":\"none\"," M "}",
      "tools=[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]" },
    { "no tools, choice auto", CHAT, PLAIN_MODEL, "{\"tools\":[],\"tool_choice\":\"auto\"," M "}",
      "" },
    { "every role", CHAT, PLAIN_MODEL,
      "{\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"developer\","
      "\"content\":\"d\"},{\"role\":\"user\",\"content\":\"\"},{\"role\":\"assistant\"},"
      "{\"role\":\"tool\",\"content\":\"t\"}]}",
      "messages=[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"developer\",\"content\":\"d\"}"
      ",{\"role\":\"user\",\"content\":\"\"},{\"role\":\"assistant\"},{\"role\":\"tool\","
      "\"content\":\"t\"}]" },
    { "text parts become one string", CHAT, PLAIN_MODEL,
      "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
      "{\"type\":\"text\",\"text\":\"b\\u00e9\"}]},{\"role\":\"user\",\"content\":[]}]}",
      "messages=[{\"role\":\"user\",\"content\":\"a\\nb\xc3\xa9\"},"
      "{\"role\":\"user\",\"content\":\"\"}]" },
    { "an assistant that called", CHAT, PLAIN_MODEL,
      "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\","
      "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}},{\"function\":{\"name\":\"g\","
      "\"arguments\":{\"x\":1}}},{\"function\":{\"name\":\"h\"}}]}]}",
      "messages=[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\","
      "\"function\":{\"name\":\"f\",\"arguments\":{}}},{\"function\":{\"name\":\"g\","
      "\"arguments\":{\"x\":1}}},{\"function\":{\"name\":\"h\",\"arguments\":{}}}]}]" },
    { "prompt null beside messages", CHAT, PLAIN_MODEL, "{\"prompt\":null," M "}", "" },

    /* completions */
    { "several texts", COMPLETION, PLAIN_MODEL, "{\"prompt\":[\"a\",\"\",\"b\"]}",
      "prompts=<a||b" },
    { "an empty text", COMPLETION, PLAIN_MODEL, "{\"prompt\":\"\"}", "prompts=<" },
    { "token ids", COMPLETION, PLAIN_MODEL, "{\"prompt\":[0,5,999]}", "prompts=<0,5,999" },
    { "lists of token ids", COMPLETION, PLAIN_MODEL, "{\"prompt\":[[1],[2,3]],\"n\":2}",
      "n=2 n_seqs=2 prompts=<1|2,3" },
    { "token ids without a tokenizer", COMPLETION, NO_TOKENIZER, "{\"prompt\":[1,2]}",
      "prompts=<1,2" },
    { "no BOS before the text", COMPLETION, PLAIN_MODEL, "{\"add_special_tokens\":false," P "}",
      "add_special=no" },
    { "echo with log-probabilities", COMPLETION, PLAIN_MODEL,
      "{\"echo\":true,\"logprobs\":5,\"max_tokens\":0," P "}",
      "max_tokens=0 echo=yes n_top=5 logprobs=yes" },
    { "logprobs 0", COMPLETION, PLAIN_MODEL, "{\"logprobs\":0," P "}", "n_top=0 logprobs=yes" },
    { "logprobs true", COMPLETION, PLAIN_MODEL, "{\"logprobs\":true," P "}",
      "n_top=0 logprobs=yes" },
    { "logprobs false", COMPLETION, PLAIN_MODEL, "{\"logprobs\":false," P "}", "" },
    { "no chat template is no matter", COMPLETION, NO_CHAT, "{" P "}", "" },
    { "messages null beside a prompt", COMPLETION, PLAIN_MODEL, "{\"messages\":null," P "}", "" },
};

static void test_valid(void **state)
{
    (void)state;
    static const char *const smallest[] = { "{" M "}", "{" P "}" };
    struct dump defaults[2];
    struct arena kept;
    struct err err = { 0 };
    cJSON *roots[2];
    arena_init(&kept, 1 << 20);
    for (int32_t i = 0; i < 2; i++) {
        struct generate g;
        roots[i] = parse_json(smallest[i]);
        assert_ok(parse((enum endpoint)i, &g, roots[i], &PLAIN, &kept, &err), &err);
        dump_generate(&defaults[i], &g);
    }
    for (size_t i = 0; i < sizeof VALID / sizeof VALID[0]; i++) {
        struct api_model model = model_of(VALID[i].model);
        struct arena arena;
        struct generate g;
        arena_init(&arena, 1 << 20);
        cJSON *root = parse_json(VALID[i].body);
        if (!parse(VALID[i].endpoint, &g, root, &model, &arena, &err))
            fail_msg("%s: %s (%s)", VALID[i].name, err.text, err.field);
        struct dump dump;
        struct buf text;
        buf_init(&text, 1 << 20);
        dump_generate(&dump, &g);
        differences(&dump, &defaults[VALID[i].endpoint], &text);
        if (strcmp(buf_text(&text), VALID[i].differs) != 0)
            fail_msg("%s: \"%s\", want \"%s\"", VALID[i].name, buf_text(&text), VALID[i].differs);
        buf_clear(&text);
        dump_clear(&dump);
        json_free(root);
        arena_clear(&arena);

        /* With no memory at all: the same, or said so. */
        root = parse_json(VALID[i].body);
        arena_init(&arena, 0);
        err = (struct err){ 0 };
        if (!parse(VALID[i].endpoint, &g, root, &model, &arena, &err) && err.code != ERR_MEMORY)
            fail_msg("%s, no memory: %s", VALID[i].name, err.text);
        json_free(root);
        arena_clear(&arena);
    }
    for (int32_t i = 0; i < 2; i++) {
        dump_clear(&defaults[i]);
        json_free(roots[i]);
    }
    arena_clear(&kept);
}

/* ---- the small routes -------------------------------------------------------------------------
 */

static void test_tokenize(void **state)
{
    (void)state;
    static const struct {
        const char *name, *body, *text; /* text NULL: messages */
        bool add_special, parse_special, with_pieces, with_strings;
        bool generation_prompt;
    } rows[] = {
        { "vLLM's form", "{\"prompt\":\"hi\"}", "hi", true, true, false, false, false },
        { "vLLM's form, bare", "{\"prompt\":\"hi\",\"add_special_tokens\":false}", "hi", false,
          true, false, false, false },
        { "vLLM's form with strings", "{\"prompt\":\"\",\"return_token_strs\":true}", "", true,
          true, false, true, false },
        { "llama-server's form", "{\"content\":\"h\xc3\xa9\"}", "h\xc3\xa9", false, true, false,
          false, false },
        { "llama-server's form in full",
          "{\"content\":\"a\",\"add_special\":true,\"parse_special\":false,\"with_pieces\":true}",
          "a", true, false, true, false, false },
        { "messages", "{" M "}", NULL, false, true, false, false, true },
        { "messages, no generation prompt", "{" M ",\"add_generation_prompt\":false}", NULL, false,
          true, false, false, false },
        { "messages go before a prompt", "{" M "," P "}", NULL, false, true, false, false, true },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct tokenize_request request;
        struct arena arena;
        struct err err = { 0 };
        arena_init(&arena, 1 << 20);
        cJSON *root = parse_json(rows[i].body);
        if (!api_parse_tokenize(&request, root, &PLAIN, &arena, &err))
            fail_msg("%s: %s", rows[i].name, err.text);
        if (rows[i].text != NULL) {
            assert_int_equal(request.length, strlen(rows[i].text));
            assert_memory_equal(request.text, rows[i].text, request.length);
            assert_null(request.chat.messages);
        } else {
            assert_null(request.text);
            assert_non_null(request.chat.messages);
            assert_int_equal(request.chat.kind, API_CHAT);
        }
        assert_int_equal(request.add_special, rows[i].add_special);
        assert_int_equal(request.parse_special, rows[i].parse_special);
        assert_int_equal(request.with_pieces, rows[i].with_pieces);
        assert_int_equal(request.with_strings, rows[i].with_strings);
        assert_int_equal(request.chat.add_generation_prompt, rows[i].generation_prompt);
        json_free(root);
        arena_clear(&arena);
    }
}

static void test_detokenize_and_template(void **state)
{
    (void)state;
    struct arena arena;
    struct err err = { 0 };
    struct detokenize_request request;
    arena_init(&arena, 1 << 20);
    cJSON *root = parse_json("{\"tokens\":[3,0,999]}");
    assert_ok(api_parse_detokenize(&request, root, &PLAIN, &arena, &err), &err);
    assert_int_equal(request.n_ids, 3);
    assert_int_equal(request.ids[0], 3);
    assert_int_equal(request.ids[1], 0);
    assert_int_equal(request.ids[2], 999);
    json_free(root);
    root = parse_json("{\"tokens\":[]}");
    assert_ok(api_parse_detokenize(&request, root, &PLAIN, &arena, &err), &err);
    assert_int_equal(request.n_ids, 0);
    json_free(root);
    struct generate g;
    root = parse_json("{" M ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":"
                      "\"f\"}}],\"continue_final_message\":true}");
    assert_ok(api_parse_apply_template(&g, root, &PLAIN, &arena, &err), &err);
    assert_int_equal(g.kind, API_CHAT);
    assert_true(g.continue_final_message);
    assert_false(g.add_generation_prompt);
    assert_int_equal(cJSON_GetArraySize(g.tools), 1); /* shown, whatever tool_choice says */
    assert_int_equal(cJSON_GetArraySize(g.messages), 1);
    json_free(root);
    arena_clear(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_valid),
        cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_detokenize_and_template),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
