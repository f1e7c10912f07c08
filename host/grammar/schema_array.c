/* schema_array.c - lists. */
#include "host/grammar/schema.h"
#include <cjson/cJSON.h>

static int32_t count_prefix(struct schemas *s, uint32_t part)
{
    const cJSON *prefix = schema_get(s, part, "prefixItems");
    if (prefix && !cJSON_IsArray(prefix))
        schema_refuse(s, schema_of(part), "prefixItems", "want a list of schemas");
    return prefix && cJSON_IsArray(prefix) ? cJSON_GetArraySize(prefix) : 0;
}

/* What all parts say about the element `index` (< 0: about those behind every prefix). *silent:
 * none of them says anything about it. */
static uint32_t element(struct schemas *s, const struct flat *flat, int32_t index, bool *silent)
{
    struct schema_list parts = { 0 };
    *silent = true;
    for (uint32_t i = 0; i < flat->parts.n && work_step(s->work, 1); i++) {
        uint32_t part = flat->parts.at[i], up = schema_of(part), below;
        const cJSON *prefix = schema_get(s, part, "prefixItems");
        const cJSON *items = schema_get(s, part, "items");
        const cJSON *own = prefix && index >= 0 ? cJSON_GetArrayItem(prefix, index) : NULL;
        if (own)
            below = schema_below(s, up, "prefixItems", NULL, index, own);
        else if (cJSON_IsArray(items))
            return schema_refuse(s, up, "items", "a list is not supported; prefixItems is");
        else if (items)
            below = schema_below(s, up, "items", NULL, -1, items);
        else
            continue;
        *silent = false;
        schema_push(s, &parts, below << PART_FLAG_BITS);
    }
    return s->work->failed ? EXPR_NONE : schema_call(s, parts.at, parts.n);
}

static uint32_t after_comma(struct workshop *work, uint32_t item)
{
    return expr_seq(work, (uint32_t[]){ expr_literal(work, ","), json_blank(work), item }, 3);
}

/* Elements, at least one and from `min` to `max`: state 0 before the first, 1 the end, 1 + i behind
 * element i. */
static uint32_t elements(struct schemas *s, const struct flat *flat, int32_t n_prefix, int64_t min,
                         int64_t max)
{
    struct workshop *work = s->work;
    struct net_edge *edges = NULL;
    uint32_t n = 0, capacity = 0, at = 0, next = 2;
    int64_t count = 0;
    bool silent;
#define PUT_EDGE(from, to, label)                                                                  \
    do {                                                                                           \
        uint32_t put_label = label;                                                                \
        edges = scratch_grow(work, edges, n, &capacity, sizeof *edges);                            \
        if (!work->failed)                                                                         \
            edges[n++] = (struct net_edge){ from, to, put_label };                                 \
    } while (0)
    for (; count < n_prefix && (max < 0 || count < max) && !work->failed; count++) {
        uint32_t item = element(s, flat, (int32_t)count, &silent);
        if (item == EXPR_NONE)
            break;
        PUT_EDGE(at, next, count == 0 ? item : after_comma(work, item));
        at = next++;
        if (count + 1 >= min)
            PUT_EDGE(at, 1, EXPR_EMPTY);
    }
    if (count == n_prefix && (max < 0 || max > count) && !work->failed) {
        uint32_t item = element(s, flat, -1, &silent);
        if (silent && n_prefix > 0)
            max = min; /* only as many as are asked for */
        if (item != EXPR_NONE && count == 0) {
            PUT_EDGE(at, next, item);
            at = next++;
            count = 1;
            if (min <= 1)
                PUT_EDGE(at, 1, EXPR_EMPTY);
        }
        if (item != EXPR_NONE && (max < 0 || max > count))
            PUT_EDGE(at, 1,
                     expr_repeat(work, after_comma(work, item), min > count ? min - count : 0,
                                 max < 0 ? -1 : max - count));
    }
#undef PUT_EDGE
    return work->failed ? EXPR_NONE : expr_net(work, next, edges, n);
}

uint32_t schema_array(struct schemas *s, const struct flat *flat)
{
    struct workshop *work = s->work;
    int64_t min = 0, max = -1;
    int32_t n_prefix = 0;
    bool said = false;
    for (uint32_t i = 0; i < flat->parts.n && !work->failed; i++) {
        uint32_t part = flat->parts.at[i];
        int64_t low = schema_count(s, part, "minItems", 0);
        int64_t high = schema_count(s, part, "maxItems", -1);
        int32_t own = count_prefix(s, part);
        min = low > min ? low : min;
        max = high >= 0 && (max < 0 || high < max) ? high : max;
        n_prefix = own > n_prefix ? own : n_prefix;
        said |= low > 0 || high >= 0 || own > 0 || schema_get(s, part, "items");
    }
    if (work->failed || (max >= 0 && min > max))
        return EXPR_NONE;
    if (!said)
        return expr_rule(work, JSON_ARRAY);
    uint32_t blank = json_blank(work);
    uint32_t inside = max == 0 ? EXPR_NONE : elements(s, flat, n_prefix, min, max);
    inside = expr_seq2(work, inside, blank);
    if (min == 0)
        inside = expr_option(work, inside);
    return expr_seq(
        work, (uint32_t[]){ expr_literal(work, "["), blank, inside, expr_literal(work, "]") }, 4);
}
