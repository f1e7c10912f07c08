/* tags.c - free text in which tags come up (tool calls among prose).
 *
 * The free text is an automaton over the triggers (Aho-Corasick: the state is the longest beginning
 * of a trigger that the text ends with), and completing a trigger leaves it for the tags that begin
 * so. Free text is any bytes. With at_least_one there are two copies of it: before the first tag,
 * and after. */
#include "host/base/json.h"
#include "host/grammar/compile.h"
#include "host/grammar/schema.h"
#include <string.h>

enum { TRIGGER_BYTES_MAX = 4096, NO_TRIGGER = -1 };

/* One beginning of a trigger. */
struct node {
    uint32_t
        next[256];   /* a node, complete with the ways back; only bytes of the trie until linked */
    uint32_t back;   /* the longest proper ending of it that is a node too */
    int32_t trigger; /* complete here */
};
struct tags {
    struct workshop *work;
    const struct grammar_tags *in;
    const struct grammar_text *triggers;
    size_t n_triggers;
    struct node *nodes;
    uint32_t n_nodes;
    uint32_t *afters; /* [n_triggers] what follows a trigger: the rest of a tag */
    struct net_edge *edges;
    uint32_t n_edges, capacity;
};

static void put_edge(struct tags *t, uint32_t from, uint32_t to, uint32_t label)
{
    t->edges = scratch_grow(t->work, t->edges, t->n_edges, &t->capacity, sizeof *t->edges);
    if (work_step(t->work, 1))
        t->edges[t->n_edges++] = (struct net_edge){ from, to, label };
}

static bool check_texts(struct tags *t)
{
    size_t total = 0;
    for (size_t i = 0; i < t->in->n_tags; i++) {
        const struct grammar_tag *tag = &t->in->tags[i];
        if (tag->begin.length == 0 ||
            text_not_utf8(tag->begin.bytes, tag->begin.length) < tag->begin.length ||
            text_not_utf8(tag->end.bytes, tag->end.length) < tag->end.length) {
            work_refuse(t->work, ERR_REQUEST,
                        "structures[%zu]: want a begin that is not empty, and UTF-8", i);
            return false;
        }
    }
    for (size_t i = 0; i < t->n_triggers; i++) {
        total += t->triggers[i].length;
        if (t->triggers[i].length == 0 || total > TRIGGER_BYTES_MAX) {
            work_refuse(
                t->work, ERR_REQUEST,
                "triggers[%zu]: want texts that are not empty, of at most %d bytes together", i,
                TRIGGER_BYTES_MAX);
            return false;
        }
    }
    return true;
}

static bool begins_with(const struct grammar_text *text, const struct grammar_text *head)
{
    return head->length <= text->length && memcmp(text->bytes, head->bytes, head->length) == 0;
}

static void build_trie(struct tags *t)
{
    size_t n = 1;
    for (size_t i = 0; i < t->n_triggers; i++)
        n += t->triggers[i].length;
    t->nodes = scratch_take(t->work, n, sizeof *t->nodes);
    if (!work_step(t->work, (int64_t)n * 256))
        return;
    t->nodes[0].trigger = NO_TRIGGER;
    t->n_nodes = 1;
    for (size_t i = 0; i < t->n_triggers; i++) {
        uint32_t at = 0;
        for (size_t k = 0; k < t->triggers[i].length; k++) {
            uint8_t byte = (uint8_t)t->triggers[i].bytes[k];
            if (t->nodes[at].next[byte] == 0) {
                t->nodes[t->n_nodes].trigger = NO_TRIGGER;
                t->nodes[at].next[byte] = t->n_nodes++;
            }
            at = t->nodes[at].next[byte];
        }
        if (t->nodes[at].trigger == NO_TRIGGER)
            t->nodes[at].trigger = (int32_t)i;
    }
}

/* Nodes nearest to the root first; `back` of a node is nearer than it. */
static void link_trie(struct tags *t)
{
    uint32_t *queue = scratch_take(t->work, t->n_nodes, sizeof *queue), n = 0;
    if (t->work->failed)
        return;
    queue[n++] = 0;
    for (uint32_t i = 0; i < n && work_step(t->work, 256); i++) {
        struct node *node = &t->nodes[queue[i]];
        for (int byte = 0; byte < 256; byte++) {
            uint32_t child = node->next[byte];
            uint32_t other = queue[i] == 0 ? 0 : t->nodes[node->back].next[byte];
            if (child == 0) {
                node->next[byte] = other;
                continue;
            }
            t->nodes[child].back = other;
            queue[n++] = child;
        }
        if (queue[i] != 0 && node->trigger == NO_TRIGGER)
            node->trigger = t->nodes[node->back].trigger; /* one that ends inside of another */
    }
}

/* begin, body, end of every tag that begins with the trigger, without the trigger. */
static void make_afters(struct tags *t, const uint32_t *bodies)
{
    struct workshop *work = t->work;
    t->afters = scratch_take(work, t->n_triggers, sizeof *t->afters);
    for (size_t i = 0; i < t->n_triggers && !work->failed; i++) {
        uint32_t forms = EXPR_NONE;
        for (size_t k = 0; k < t->in->n_tags && work_step(work, 1); k++) {
            const struct grammar_tag *tag = &t->in->tags[k];
            const struct grammar_text *trigger = &t->triggers[i];
            if (!begins_with(&tag->begin, trigger))
                continue;
            uint32_t rest = expr_text(work, tag->begin.bytes + trigger->length,
                                      tag->begin.length - trigger->length);
            uint32_t end = expr_text(work, tag->end.bytes, tag->end.length);
            forms = expr_alt2(work, forms, expr_seq(work, (uint32_t[]){ rest, bodies[k], end }, 3));
        }
        t->afters[i] = forms;
        if (forms == EXPR_NONE)
            work_refuse(work, ERR_REQUEST, "triggers[%zu]: no structure begins with it", i);
    }
    for (size_t k = 0; k < t->in->n_tags && !work->failed; k++) {
        bool found = false;
        for (size_t i = 0; i < t->n_triggers; i++)
            found |= begins_with(&t->in->tags[k].begin, &t->triggers[i]);
        if (!found)
            work_refuse(work, ERR_REQUEST, "structures[%zu]: begins with none of the triggers", k);
    }
}

/* A copy of the free text from `base`; completing trigger i leads to afters + i. */
static void put_free_text(struct tags *t, uint32_t base, uint32_t afters, bool may_end)
{
    for (uint32_t i = 0; i < t->n_nodes && !t->work->failed; i++) {
        const struct node *node = &t->nodes[i];
        if (node->trigger != NO_TRIGGER)
            continue; /* left as soon as it is reached */
        if (may_end)
            put_edge(t, base + i, 1, EXPR_EMPTY);
        for (int low = 0, next; low < 256; low = next) {
            uint32_t to = node->next[low];
            for (next = low + 1; next < 256 && node->next[next] == to;)
                next++;
            int32_t trigger = t->nodes[to].trigger;
            put_edge(t, base + i, trigger == NO_TRIGGER ? base + to : afters + (uint32_t)trigger,
                     expr_range(t->work, (uint8_t)low, (uint8_t)(next - 1)));
        }
    }
}

static uint32_t free_text(struct tags *t)
{
    struct workshop *work = t->work;
    uint32_t n = t->n_nodes, triggers = (uint32_t)t->n_triggers;
    /* 0 begins, 1 ends; the text before the first tag (where one is wanted); the text; triggers. */
    uint32_t first = 2, text = t->in->at_least_one ? first + n : first, after = text + n;
    put_edge(t, 0, first, EXPR_EMPTY);
    if (t->in->at_least_one)
        put_free_text(t, first, after, false);
    put_free_text(t, text, after, true);
    for (uint32_t i = 0; i < triggers && !work->failed; i++)
        put_edge(t, after + i, t->in->stop_after_first ? 1 : text, t->afters[i]);
    return work->failed ? EXPR_NONE : expr_net(work, after + triggers, t->edges, t->n_edges);
}

static uint32_t tags_alone(struct tags *t, const uint32_t *bodies)
{
    struct workshop *work = t->work;
    uint32_t tag = EXPR_NONE;
    for (size_t k = 0; k < t->in->n_tags && work_step(work, 1); k++) {
        const struct grammar_tag *in = &t->in->tags[k];
        uint32_t begin = expr_text(work, in->begin.bytes, in->begin.length);
        uint32_t end = expr_text(work, in->end.bytes, in->end.length);
        tag = expr_alt2(work, tag, expr_seq(work, (uint32_t[]){ begin, bodies[k], end }, 3));
    }
    tag = expr_as_rule(work, tag);
    uint32_t more = t->in->stop_after_first
                        ? EXPR_EMPTY
                        : expr_star(work, expr_seq2(work, json_blank(work), tag));
    uint32_t all = expr_seq2(work, tag, more);
    return t->in->at_least_one ? all : expr_option(work, all);
}

static uint32_t make_tags(struct tags *t)
{
    struct workshop *work = t->work;
    uint32_t *bodies = scratch_take(work, t->in->n_tags, sizeof *bodies);
    for (size_t i = 0; i < t->in->n_tags && !work->failed; i++) {
        const struct json_ref *schema = t->in->tags[i].schema;
        uint32_t rule = schema ? schema_compile(work, schema->node) : (uint32_t)JSON_OBJECT;
        bodies[i] = expr_rule(work, rule);
        if (work->failed)
            err_prefix(work->err, "structures[%zu]", i);
    }
    if (work->failed || !check_texts(t))
        return EXPR_NONE;
    if (t->in->only_tags)
        return tags_alone(t, bodies);
    build_trie(t);
    if (!work->failed)
        link_trie(t);
    if (!work->failed)
        make_afters(t, bodies);
    return work->failed ? EXPR_NONE : free_text(t);
}

/* Without triggers, every begin is one. */
static void find_triggers(struct tags *t)
{
    t->triggers = t->in->triggers;
    t->n_triggers = t->in->n_triggers;
    if (t->n_triggers > 0)
        return;
    struct grammar_text *begins = scratch_take(t->work, t->in->n_tags, sizeof *begins);
    for (size_t i = 0; i < t->in->n_tags && begins; i++)
        begins[i] = t->in->tags[i].begin;
    t->triggers = begins;
    t->n_triggers = t->work->failed ? 0 : t->in->n_tags;
}

bool grammar_compile_tags(struct grammar **grammar, const struct grammar_tags *tags,
                          const struct grammar_json_options *options,
                          const struct grammar_limits *limits, struct err *err)
{
    struct workshop work;
    struct tags t = { .work = &work, .in = tags };
    bool compact = options && options->compact;
    *grammar = NULL;
    if (tags->n_tags == 0)
        return err_set(err, ERR_REQUEST, "structures: want at least one");
    workshop_open(&work, limits, err);
    json_rules_make(&work, compact);
    uint32_t root = rule_new(&work, NULL);
    find_triggers(&t);
    if (!work.failed)
        rule_set(&work, root, make_tags(&t));
    return grammar_finish(&work, root, N_JSON_RULES, json_rules_kind(compact), grammar);
}
