/* jinja_sequence.c - the filters over sequences: sort, map, select, join, ...
 *
 * What is lazy in Jinja2 (map, select, batch, ...) is made at once and looks like a generator:
 * it can be iterated, but has no length and no index. */
#include "host/text/jinja.h"
#include <string.h>

static bool lower_key(struct run *run, bool case_sensitive, struct value *key)
{
    return case_sensitive || key->kind != VALUE_STRING ? true
                                                       : text_case(run, key->text, CASE_LOWER, key);
}

static bool is_digits(struct value_text text)
{
    for (size_t i = 0; i < text.length; i++)
        if (text.bytes[i] < '0' || text.bytes[i] > '9')
            return false;
    return text.length && text.length < 10;
}

/* The attribute of an item: "a.b", "0" or an integer; NULL: the item itself. */
static bool attribute_of(struct run *run, const struct value *item, const struct value *attribute,
                         struct value *out)
{
    *out = *item;
    if (!attribute || attribute->kind == VALUE_NONE)
        return true;
    if (attribute->kind != VALUE_STRING)
        return value_item(run, item, attribute, out);
    const char *p = attribute->text.bytes, *end = p + attribute->text.length;
    for (;;) {
        const char *dot = memchr(p, '.', (size_t)(end - p));
        struct value_text part = { p, (size_t)((dot ? dot : end) - p) };
        struct value key = value_text(part.bytes, part.length), from = *out;
        if (is_digits(part)) {
            jinja_int number = 0;
            for (size_t i = 0; i < part.length; i++)
                number = number * 10 + (part.bytes[i] - '0');
            key = value_int(number);
        }
        if (!value_item(run, &from, &key, out))
            return false;
        if (!dot)
            return true;
        p = dot + 1;
    }
}

struct keyed {
    struct value key, value;
};

/* Several attributes, "a,b", sort by a list of keys. */
static bool sort_key(struct run *run, const struct value *item, const struct value *attribute,
                     bool case_sensitive, struct value *out)
{
    if (!attribute || attribute->kind != VALUE_STRING ||
        !memchr(attribute->text.bytes, ',', attribute->text.length))
        return attribute_of(run, item, attribute, out) && lower_key(run, case_sensitive, out);
    size_t n = 1, at = 0;
    for (size_t i = 0; i < attribute->text.length; i++)
        n += attribute->text.bytes[i] == ',';
    struct value *keys = run_take(run, n, sizeof *keys);
    if (!keys)
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t end = at;
        while (end < attribute->text.length && attribute->text.bytes[end] != ',')
            end++;
        struct value part = value_text(attribute->text.bytes + at, end - at);
        if (!attribute_of(run, item, &part, &keys[i]) || !lower_key(run, case_sensitive, &keys[i]))
            return false;
        at = end + 1;
    }
    *out = value_list(keys, n);
    return true;
}

/* Merge sort: stable, also in reverse, and a comparison may fail. */
static bool merge_sort(struct run *run, struct keyed *at, struct keyed *scratch, size_t n,
                       bool reverse)
{
    if (n < 2)
        return true;
    size_t half = n / 2, i = 0, j = half, k = 0;
    if (!merge_sort(run, at, scratch, half, reverse) ||
        !merge_sort(run, at + half, scratch, n - half, reverse))
        return false;
    while (i < half && j < n) {
        int order;
        if (!run_spend(run, 16) || !value_order(run, &at[j].key, &at[i].key, "<", &order))
            return false;
        scratch[k++] = (reverse ? order == 1 : order == -1) ? at[j++] : at[i++];
    }
    while (i < half)
        scratch[k++] = at[i++];
    memcpy(at, scratch, k * sizeof *at);
    return true;
}

/* Items with their keys; sorted when `sort`. */
static bool keyed_items(struct run *run, const struct value *value, const struct value *attribute,
                        bool case_sensitive, struct keyed **out, size_t *n)
{
    struct value_items items;
    if (!value_iterate(run, value, &items))
        return false;
    struct keyed *keyed = run_take(run, items.n, sizeof *keyed);
    if (!keyed)
        return false;
    for (size_t i = 0; i < items.n; i++) {
        keyed[i].value = items.at[i];
        if (!run_spend(run, 16) ||
            !sort_key(run, &items.at[i], attribute, case_sensitive, &keyed[i].key))
            return false;
    }
    *out = keyed;
    *n = items.n;
    return true;
}

static bool sort_keyed(struct run *run, struct keyed *keyed, size_t n, bool reverse)
{
    struct keyed *scratch = run_take(run, n, sizeof *scratch);
    return scratch && merge_sort(run, keyed, scratch, n, reverse);
}

static bool values_of(struct run *run, const struct keyed *keyed, size_t n, struct value *out)
{
    struct value *items = run_take(run, n, sizeof *items);
    if (!items)
        return false;
    for (size_t i = 0; i < n; i++)
        items[i] = keyed[i].value;
    *out = value_list(items, n);
    return true;
}

static bool flag_of(const struct value *argument)
{
    return argument && value_truth(argument);
}

static bool filter_sort(struct run *run, const struct value *value, const struct call *call,
                        struct value *out)
{
    const struct value *given[BIND_MAX];
    struct keyed *keyed;
    size_t n;
    return call_bind(run, call, "reverse case_sensitive attribute", 0, given) &&
           keyed_items(run, value, given[2], flag_of(given[1]), &keyed, &n) &&
           sort_keyed(run, keyed, n, flag_of(given[0])) && values_of(run, keyed, n, out);
}

static bool filter_dictsort(struct run *run, const struct value *value, const struct call *call,
                            struct value *out)
{
    const struct value *given[BIND_MAX];
    struct call none = { .what = "items" };
    struct method items = { *value, -1 };
    struct value view, which;
    struct keyed *keyed;
    size_t n;
    if (!call_bind(run, call, "case_sensitive by reverse", 0, given))
        return false;
    if (value->kind != VALUE_DICT)
        return run_fail(run, "dictsort needs a dict, got %s", value_type(value));
    bool by_value =
        given[1] && given[1]->kind == VALUE_STRING && text_is_word(given[1]->text, "value");
    if (given[1] && !by_value &&
        !(given[1]->kind == VALUE_STRING && text_is_word(given[1]->text, "key")))
        return run_fail(run, "You can only sort by either \"key\" or \"value\"");
    items.id = method_find(value, (struct value_text){ "items", 5 });
    which = value_int(by_value);
    return method_call(run, &items, &none, &view) &&
           keyed_items(run, &view, &which, flag_of(given[0]), &keyed, &n) &&
           sort_keyed(run, keyed, n, flag_of(given[2])) && values_of(run, keyed, n, out);
}

static bool filter_groupby(struct run *run, const struct value *value, const struct call *call,
                           struct value *out)
{
    const struct value *given[BIND_MAX];
    struct keyed *keyed;
    size_t n, n_groups = 0;
    if (!call_bind(run, call, "attribute default case_sensitive", 1, given) ||
        !keyed_items(run, value, given[0], flag_of(given[2]), &keyed, &n))
        return false;
    for (size_t i = 0; given[1] && i < n; i++) {
        if (keyed[i].key.kind == VALUE_UNDEFINED)
            keyed[i].key = *given[1];
    }
    struct value *groups = run_take(run, n, sizeof *groups);
    struct value *halves = run_take(run, 2 * n, sizeof *halves);
    if (!groups || !halves || !sort_keyed(run, keyed, n, false))
        return false;
    for (size_t i = 0, j; i < n; i = j) {
        bool equal = true;
        for (j = i + 1; j < n; j++) {
            if (!value_equal(run, &keyed[i].key, &keyed[j].key, &equal))
                return false;
            if (!equal)
                break;
        }
        struct value *half = &halves[2 * n_groups];
        if (!attribute_of(run, &keyed[i].value, given[0], &half[0]) ||
            !values_of(run, keyed + i, j - i, &half[1]))
            return false;
        if (half[0].kind == VALUE_UNDEFINED)
            half[0] = keyed[i].key;
        groups[n_groups] = value_list(half, 2);
        groups[n_groups++].kind = VALUE_TUPLE;
    }
    *out = value_list(groups, n_groups);
    return true;
}

static bool filter_unique(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    const struct value *given[BIND_MAX];
    struct keyed *keyed;
    size_t n, kept = 0;
    if (!call_bind(run, call, "case_sensitive attribute", 0, given) ||
        !keyed_items(run, value, given[1], flag_of(given[0]), &keyed, &n))
        return false;
    for (size_t i = 0; i < n; i++) {
        bool seen = false;
        if (!value_hashable(run, &keyed[i].key) || !run_spend(run, 4 * kept))
            return false;
        for (size_t j = 0; j < kept && !seen; j++)
            if (!value_equal(run, &keyed[i].key, &keyed[j].key, &seen))
                return false;
        if (!seen)
            keyed[kept++] = keyed[i];
    }
    if (!values_of(run, keyed, kept, out))
        return false;
    *out = value_view(VIEW_GENERATOR, out->items.at, out->items.n);
    return true;
}

static bool extreme(struct run *run, const struct value *value, const struct call *call, int want,
                    struct value *out)
{
    const struct value *given[BIND_MAX];
    struct keyed *keyed;
    size_t n, best = 0;
    if (!call_bind(run, call, "case_sensitive attribute", 0, given) ||
        !keyed_items(run, value, given[1], flag_of(given[0]), &keyed, &n))
        return false;
    if (!n)
        return value_undefined(run, out, "No aggregated item, sequence was empty.");
    for (size_t i = 1; i < n; i++) {
        int order;
        if (!value_order(run, &keyed[i].key, &keyed[best].key, want > 0 ? ">" : "<", &order))
            return false;
        best = order == want ? i : best;
    }
    *out = keyed[best].value;
    return true;
}

static bool filter_min(struct run *run, const struct value *value, const struct call *call,
                       struct value *out)
{
    return extreme(run, value, call, -1, out);
}

static bool filter_max(struct run *run, const struct value *value, const struct call *call,
                       struct value *out)
{
    return extreme(run, value, call, 1, out);
}

static bool filter_sum(struct run *run, const struct value *value, const struct call *call,
                       struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    if (!call_bind(run, call, "attribute start", 0, given) || !value_iterate(run, value, &items))
        return false;
    *out = given[1] ? *given[1] : value_int(0);
    for (size_t i = 0; i < items.n; i++) {
        struct value item, sum = *out;
        if (!run_spend(run, 1) || !attribute_of(run, &items.at[i], given[0], &item) ||
            !value_binary(run, '+', &sum, &item, out))
            return false;
    }
    return true;
}

static bool filter_join(struct run *run, const struct value *value, const struct call *call,
                        struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    size_t from = run->out->length;
    if (!call_bind(run, call, "d attribute", 0, given) || !value_iterate(run, value, &items))
        return false;
    for (size_t i = 0; i < items.n; i++) {
        struct value item;
        if (!run_spend(run, 1) || !attribute_of(run, &items.at[i], given[1], &item) ||
            (i && given[0] && !value_put(run, given[0])) || !value_put(run, &item))
            return false;
    }
    return capture_end(run, from, out);
}

static bool filter_list(struct run *run, const struct value *value, const struct call *call,
                        struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    if (!call_bind(run, call, "", 0, given) || !value_iterate(run, value, &items))
        return false;
    *out = value_list(items.at, items.n);
    return true;
}

static bool filter_first(struct run *run, const struct value *value, const struct call *call,
                         struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    if (!call_bind(run, call, "", 0, given) || !value_iterate(run, value, &items))
        return false;
    if (!items.n)
        return value_undefined(run, out, "No first item, sequence was empty.");
    *out = items.at[0];
    return true;
}

static bool filter_last(struct run *run, const struct value *value, const struct call *call,
                        struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    if (!call_bind(run, call, "", 0, given) || !value_iterate(run, value, &items))
        return false;
    if (!items.n)
        return value_undefined(run, out, "No last item, sequence was empty.");
    *out = items.at[items.n - 1];
    return true;
}

static bool filter_random(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    if (!call_bind(run, call, "", 0, given) || !value_iterate(run, value, &items))
        return false;
    if (!items.n)
        return value_undefined(run, out, "No random item, sequence was empty.");
    /* A render is a function of its input: a fixed sequence, not the system's randomness. */
    run->random = run->random * 6364136223846793005u + 1442695040888963407u;
    *out = items.at[(run->random >> 33) % items.n];
    return true;
}

static bool filter_length(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    const struct value *given[BIND_MAX];
    size_t length;
    if (!call_bind(run, call, "", 0, given) || !value_length(run, value, &length))
        return false;
    *out = value_int((jinja_int)length);
    return true;
}

static bool filter_reverse(struct run *run, const struct value *value, const struct call *call,
                           struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value back = value_int(-1);
    struct value_items items;
    if (!call_bind(run, call, "", 0, given))
        return false;
    if (value->kind == VALUE_STRING)
        return value_slice(run, value, NULL, NULL, &back, out);
    if (!value_iterate(run, value, &items))
        return false;
    struct value *turned = run_take(run, items.n, sizeof *turned);
    if (!turned || !run_spend(run, 16 * items.n))
        return false;
    for (size_t i = 0; i < items.n; i++)
        turned[i] = items.at[items.n - 1 - i];
    *out = value_view(VIEW_GENERATOR, turned, items.n);
    return true;
}

static bool filter_items(struct run *run, const struct value *value, const struct call *call,
                         struct value *out)
{
    const struct value *given[BIND_MAX];
    struct call none = { .what = "items" };
    if (!call_bind(run, call, "", 0, given))
        return false;
    *out = value_view(VIEW_GENERATOR, NULL, 0);
    if (value->kind == VALUE_UNDEFINED)
        return true;
    if (value->kind != VALUE_DICT)
        return run_fail(run, "Can only get item pairs from a mapping.");
    struct method items = { *value, method_find(value, (struct value_text){ "items", 5 }) };
    bool good = method_call(run, &items, &none, out);
    out->view = VIEW_GENERATOR;
    return good;
}

/* Rows of `size`, the last one filled up with `fill` unless that is NULL or None. */
static bool filter_batch(struct run *run, const struct value *value, const struct call *call,
                         struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    int64_t size;
    if (!call_bind(run, call, "linecount fill_with", 1, given) ||
        !argument_int(run, call, given[0], 0, &size) || !value_iterate(run, value, &items))
        return false;
    if (size < 1 || size > JINJA_RANGE_MAX)
        return run_fail(run, "batch needs a size from 1 to %d", JINJA_RANGE_MAX);
    bool fill = given[1] && given[1]->kind != VALUE_NONE;
    size_t n = (items.n + (size_t)size - 1) / (size_t)size;
    struct value *rows = run_take(run, n, sizeof *rows);
    if (!rows || !run_spend(run, 16 * items.n))
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t from = i * (size_t)size;
        size_t length = items.n - from < (size_t)size ? items.n - from : (size_t)size;
        rows[i] = value_list(items.at + from, length);
        if (!fill || length == (size_t)size)
            continue;
        struct value *row = run_take(run, (size_t)size, sizeof *row);
        if (!row)
            return false;
        for (size_t j = 0; j < (size_t)size; j++)
            row[j] = j < length ? items.at[from + j] : *given[1];
        rows[i] = value_list(row, (size_t)size);
    }
    *out = value_view(VIEW_GENERATOR, rows, n);
    return true;
}

/* `slices` columns of nearly equal length. */
static bool filter_slice(struct run *run, const struct value *value, const struct call *call,
                         struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    int64_t slices;
    if (!call_bind(run, call, "slices fill_with", 1, given) ||
        !argument_int(run, call, given[0], 0, &slices) || !value_iterate(run, value, &items))
        return false;
    if (slices < 1 || slices > JINJA_RANGE_MAX)
        return run_fail(run, "slice needs a number from 1 to %d", JINJA_RANGE_MAX);
    size_t n = (size_t)slices, each = items.n / n, longer = items.n % n, at = 0;
    bool fill = given[1] && given[1]->kind != VALUE_NONE && longer;
    struct value *columns = run_take(run, n, sizeof *columns);
    if (!columns || !run_spend(run, 16 * (items.n + n)))
        return false;
    for (size_t i = 0; i < n; i++) {
        size_t length = each + (i < longer);
        columns[i] = value_list(items.at + at, length);
        if (fill && i >= longer) {
            struct value *column = run_take(run, length + 1, sizeof *column);
            if (!column)
                return false;
            if (length)
                memcpy(column, items.at + at, length * sizeof *column);
            column[length] = *given[1];
            columns[i] = value_list(column, length + 1);
        }
        at += length;
    }
    *out = value_view(VIEW_GENERATOR, columns, n);
    return true;
}

static const struct value *named_argument(const struct call *call, const char *name)
{
    for (size_t i = 0; i < call->n_named; i++)
        if (text_is_word(call->named[i].name, name))
            return &call->named[i].value;
    return NULL;
}

/* Whatever is false has no items here: map and select ask for truth first. */
static bool iterate_lazily(struct run *run, const struct value *value, struct value_items *items)
{
    struct value nothing = value_list(NULL, 0);
    return value_iterate(run, value_truth(value) ? value : &nothing, items);
}

/* map(attribute="x", default=d) or map("filter", arguments...) */
static bool filter_map(struct run *run, const struct value *value, const struct call *call,
                       struct value *out)
{
    struct value_items items;
    int32_t filter = -1;
    struct call inner = { .what = call->what };
    const struct value *attribute = named_argument(call, "attribute");
    const struct value *missing = named_argument(call, "default");
    if (!call->n && !attribute)
        return run_fail(run, "map requires a filter argument");
    if (call->n) {
        if (call->items[0].kind != VALUE_STRING || (filter = filter_find(call->items[0].text)) < 0)
            return run_fail(run, "map: no such filter");
        inner =
            (struct call){ call->items + 1, call->n - 1, call->named, call->n_named, call->what };
    }
    if (!iterate_lazily(run, value, &items))
        return false;
    struct value *mapped = run_take(run, items.n, sizeof *mapped);
    if (!mapped || !run_enter(run))
        return false;
    for (size_t i = 0; i < items.n; i++) {
        if (!run_spend(run, 16) ||
            !(filter >= 0 ? filter_apply(run, filter, &items.at[i], &inner, &mapped[i])
                          : attribute_of(run, &items.at[i], attribute, &mapped[i])))
            return false;
        if (filter < 0 && missing && mapped[i].kind == VALUE_UNDEFINED)
            mapped[i] = *missing;
    }
    run->depth--;
    *out = value_view(VIEW_GENERATOR, mapped, items.n);
    return true;
}

/* select(test, ...), selectattr(attribute, test, ...) and their opposites. */
static bool select_items(struct run *run, const struct value *value, const struct call *call,
                         bool with_attribute, bool want, struct value *out)
{
    struct value_items items;
    size_t kept = 0, first = with_attribute;
    int32_t test = -1;
    struct call inner = { .what = call->what };
    if (call->n < first)
        return run_fail(run, "%s: missing parameter for attribute name", call->what);
    if (call->n > first) {
        if (call->items[first].kind != VALUE_STRING ||
            (test = test_find(call->items[first].text)) < 0)
            return run_fail(run, "%s: no such test", call->what);
        inner = (struct call){ call->items + first + 1, call->n - first - 1, call->named,
                               call->n_named, call->what };
    }
    if (!iterate_lazily(run, value, &items))
        return false;
    struct value *selected = run_take(run, items.n, sizeof *selected);
    if (!selected)
        return false;
    for (size_t i = 0; i < items.n; i++) {
        struct value item;
        bool holds;
        if (!run_spend(run, 16) ||
            !attribute_of(run, &items.at[i], with_attribute ? &call->items[0] : NULL, &item))
            return false;
        holds = value_truth(&item);
        if (test >= 0 && !test_apply(run, test, &item, &inner, &holds))
            return false;
        if (holds == want)
            selected[kept++] = items.at[i];
    }
    *out = value_view(VIEW_GENERATOR, selected, kept);
    return true;
}

static bool filter_select(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    return select_items(run, value, call, false, true, out);
}

static bool filter_reject(struct run *run, const struct value *value, const struct call *call,
                          struct value *out)
{
    return select_items(run, value, call, false, false, out);
}

static bool filter_selectattr(struct run *run, const struct value *value, const struct call *call,
                              struct value *out)
{
    return select_items(run, value, call, true, true, out);
}

static bool filter_rejectattr(struct run *run, const struct value *value, const struct call *call,
                              struct value *out)
{
    return select_items(run, value, call, true, false, out);
}

const struct filter_row SEQUENCE_FILTERS[] = {
    { "batch", filter_batch },
    { "count", filter_length },
    { "dictsort", filter_dictsort },
    { "first", filter_first },
    { "groupby", filter_groupby },
    { "items", filter_items },
    { "join", filter_join },
    { "last", filter_last },
    { "length", filter_length },
    { "list", filter_list },
    { "map", filter_map },
    { "max", filter_max },
    { "min", filter_min },
    { "random", filter_random },
    { "reject", filter_reject },
    { "rejectattr", filter_rejectattr },
    { "reverse", filter_reverse },
    { "select", filter_select },
    { "selectattr", filter_selectattr },
    { "slice", filter_slice },
    { "sort", filter_sort },
    { "sum", filter_sum },
    { "unique", filter_unique },
    { NULL, NULL },
};
