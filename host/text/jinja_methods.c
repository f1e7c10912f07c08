/* jinja_methods.c - the methods of strings, dicts, lists and tuples, as Python's.
 *
 * What would change its object, or give access to the interpreter, is not here. */
#include "host/text/jinja.h"
#include <string.h>

typedef bool method_function(struct run *run, const struct value *self, const struct call *call,
                             struct value *out);

bool call_bind(struct run *run, const struct call *call, const char *names, int required,
               const struct value *given[BIND_MAX])
{
    int n = 0;
    for (const char *p = names; *p; n++) {
        const char *end = strchrnul(p, ' ');
        struct value_text name = { p, (size_t)(end - p) };
        given[n] = (size_t)n < call->n ? &call->items[n] : NULL;
        for (size_t i = 0; i < call->n_named; i++) {
            if (!text_equal(NULL, call->named[i].name, name))
                continue;
            if (given[n])
                return run_fail(run, "%s got two values for argument '%.*s'", call->what,
                                (int)name.length, name.bytes);
            given[n] = &call->named[i].value;
        }
        if (!given[n] && n < required)
            return run_fail(run, "%s is missing argument '%.*s'", call->what, (int)name.length,
                            name.bytes);
        p = *end ? end + 1 : end;
    }
    if (call->n > (size_t)n)
        return run_fail(run, "%s takes at most %d arguments, got %zu", call->what, n, call->n);
    for (size_t i = 0; i < call->n_named; i++) {
        struct token name = { .kind = TOKEN_NAME };
        name.value = value_text(call->named[i].name.bytes, call->named[i].name.length);
        if (!token_among(&name, names))
            return run_fail(run, "%s got an unexpected argument '%.*s'", call->what,
                            (int)(name.value.text.length < 64 ? name.value.text.length : 64),
                            name.value.text.bytes);
    }
    return true;
}

bool argument_int(struct run *run, const struct call *call, const struct value *argument,
                  int64_t missing, int64_t *out)
{
    *out = missing;
    if (!argument || argument->kind == VALUE_NONE)
        return true;
    if (!value_is_integer(argument))
        return run_fail(run, "%s needs an integer, got %s", call->what, value_type(argument));
    jinja_int number = value_integer(argument);
    *out = number > INT64_MAX / 4   ? INT64_MAX / 4
           : number < INT64_MIN / 4 ? INT64_MIN / 4
                                    : (int64_t)number;
    return true;
}

bool argument_text(struct run *run, const struct call *call, const struct value *argument,
                   const char *missing, struct value_text *out)
{
    *out = (struct value_text){ missing, missing ? strlen(missing) : 0 };
    if (!argument || argument->kind == VALUE_NONE)
        return true;
    if (argument->kind != VALUE_STRING)
        return run_fail(run, "%s needs a string, got %s", call->what, value_type(argument));
    *out = argument->text;
    return true;
}

/* A method that is another one with something fixed. */
#define FORWARD(name, expression)                                                                  \
    static bool name(struct run *run, const struct value *self, const struct call *call,           \
                     struct value *out)                                                            \
    {                                                                                              \
        return expression;                                                                         \
    }

/* ---- strings ---- */

static bool strip(struct run *run, const struct value *self, const struct call *call, int sides,
                  struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text chars;
    if (!call_bind(run, call, "chars", 0, given) ||
        !argument_text(run, call, given[0], NULL, &chars) ||
        !run_spend(run, self->text.length + 64 * chars.length))
        return false;
    struct value_text text = text_strip(run, self->text, chars.bytes ? &chars : NULL, sides);
    *out = value_text(text.bytes, text.length);
    return true;
}

FORWARD(str_strip, strip(run, self, call, 3, out))
FORWARD(str_lstrip, strip(run, self, call, 1, out))
FORWARD(str_rstrip, strip(run, self, call, 2, out))
/* Values collected one by one. */
struct list {
    struct value *at;
    size_t n, capacity;
};

static bool list_add(struct run *run, struct list *list, const char *from, const char *to)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 8;
        struct value *more = run_take(run, capacity, sizeof *more);
        if (!more)
            return false;
        if (list->n)
            memcpy(more, list->at, list->n * sizeof *more);
        list->at = more;
        list->capacity = capacity;
    }
    list->at[list->n++] = value_text(from, (size_t)(to - from));
    return run_spend(run, 1);
}

static void list_reverse(struct list *list)
{
    for (size_t i = 0; i < list->n / 2; i++) {
        struct value swap = list->at[i];
        list->at[i] = list->at[list->n - 1 - i];
        list->at[list->n - 1 - i] = swap;
    }
}

static bool split_space(struct run *run, struct value_text text, int64_t most, struct list *list)
{
    text = text_strip(run, text, NULL, 1);
    while (text.length) {
        const char *p = text.bytes, *end = p + text.length, *to = p;
        bool last = (int64_t)list->n == most && most >= 0;
        if (last) {
            to = end = text_strip(run, text, NULL, 2).bytes + text_strip(run, text, NULL, 2).length;
        } else {
            while (p < end && !text_is_space(text_next(run, &p, end)))
                to = p;
        }
        if (!list_add(run, list, text.bytes, to))
            return false;
        if (last)
            return true;
        text = text_strip(run, (struct value_text){ to, (size_t)(end - to) }, NULL, 1);
    }
    return true;
}

static bool rsplit_space(struct run *run, struct value_text text, int64_t most, struct list *list)
{
    text = text_strip(run, text, NULL, 2);
    while (text.length) {
        const char *begin = text.bytes, *end = begin + text.length, *from = end;
        if ((int64_t)list->n == most && most >= 0) {
            struct value_text rest = text_strip(run, text, NULL, 1);
            return list_add(run, list, rest.bytes, rest.bytes + rest.length);
        }
        while (from > begin) {
            const char *at = text_previous(run, begin, from), *next = at;
            if (text_is_space(text_next(run, &next, end)))
                break;
            from = at;
        }
        if (!list_add(run, list, from, end))
            return false;
        text = text_strip(run, (struct value_text){ begin, (size_t)(from - begin) }, NULL, 2);
    }
    return true;
}

static bool split_at(struct run *run, const struct value *self, const struct call *call, bool right,
                     struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text separator;
    int64_t most;
    struct list list = { 0 };
    const char *begin = self->text.bytes, *end = begin + self->text.length, *found, *behind;
    if (!call_bind(run, call, "sep maxsplit", 0, given) ||
        !argument_text(run, call, given[0], NULL, &separator) ||
        !argument_int(run, call, given[1], -1, &most) || !run_spend(run, self->text.length))
        return false;
    bool good = true;
    if (!separator.bytes) {
        good = right ? rsplit_space(run, self->text, most, &list)
                     : split_space(run, self->text, most, &list);
    } else if (!separator.length) {
        return run_fail(run, "empty separator");
    } else if (right) {
        while (good && (int64_t)list.n != most &&
               (found = text_find_last(run, begin, end, separator, &behind))) {
            good = list_add(run, &list, behind, end);
            end = found;
        }
        good = good && list_add(run, &list, begin, end);
    } else {
        while (good && (int64_t)list.n != most &&
               (found = text_find(run, begin, end, separator, &behind))) {
            good = list_add(run, &list, begin, found);
            begin = behind;
        }
        good = good && list_add(run, &list, begin, end);
    }
    if (right)
        list_reverse(&list);
    *out = value_list(list.at, list.n);
    return good;
}

FORWARD(str_split, split_at(run, self, call, false, out))
FORWARD(str_rsplit, split_at(run, self, call, true, out))
static bool str_splitlines(struct run *run, const struct value *self, const struct call *call,
                           struct value *out)
{
    const struct value *given[BIND_MAX];
    struct list list = { 0 };
    if (!call_bind(run, call, "keepends", 0, given) || !run_spend(run, self->text.length))
        return false;
    bool keep = given[0] && value_truth(given[0]);
    const char *p = self->text.bytes, *end = p + self->text.length, *from = p;
    while (p < end) {
        const char *at = p;
        uint32_t code = text_next(run, &p, end);
        if (!((code >= 10 && code <= 13) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
              code == 0x2028 || code == 0x2029))
            continue;
        if (code == '\r' && p < end && *p == '\n')
            p++;
        if (!list_add(run, &list, from, keep ? p : at))
            return false;
        from = p;
    }
    if (from < end && !list_add(run, &list, from, end))
        return false;
    *out = value_list(list.at, list.n);
    return true;
}

static bool partition(struct run *run, const struct value *self, const struct call *call,
                      bool right, struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text separator;
    const char *begin = self->text.bytes, *end = begin + self->text.length, *behind = NULL;
    struct list list = { 0 };
    if (!call_bind(run, call, "sep", 1, given) ||
        !argument_text(run, call, given[0], "", &separator) || !run_spend(run, self->text.length))
        return false;
    if (!separator.length)
        return run_fail(run, "empty separator");
    const char *found = right ? text_find_last(run, begin, end, separator, &behind)
                              : text_find(run, begin, end, separator, &behind);
    if (!found)
        found = behind = right ? begin : end;
    if (!list_add(run, &list, begin, found) || !list_add(run, &list, found, behind) ||
        !list_add(run, &list, behind, end))
        return false;
    *out = value_list(list.at, list.n);
    out->kind = VALUE_TUPLE;
    return true;
}

FORWARD(str_partition, partition(run, self, call, false, out))
FORWARD(str_rpartition, partition(run, self, call, true, out))
/* self[start:end] of the arguments behind the first. */
static bool bounded(struct run *run, const struct value *self, const struct value *const given[],
                    struct value *out)
{
    *out = *self;
    return given[1] || given[2] ? value_slice(run, self, given[1], given[2], NULL, out) : true;
}

static bool has_affix(const struct run *run, struct value_text text, struct value_text affix,
                      bool end)
{
    const char *last = text.bytes + text.length, *behind;
    if (!affix.length)
        return true;
    if (!run->mark) {
        return affix.length <= text.length &&
               !memcmp(end ? last - affix.length : text.bytes, affix.bytes, affix.length);
    }
    if (!end) /* at the begin: only there may it be found */
        return text_find(run, text.bytes, last, affix, &behind) == text.bytes;
    return text_find_last(run, text.bytes, last, affix, &behind) && behind == last;
}

static bool affix(struct run *run, const struct value *self, const struct call *call, bool end,
                  struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value text;
    if (!call_bind(run, call, "prefix start end", 1, given) || !bounded(run, self, given, &text))
        return false;
    const struct value *affixes = given[0]->kind == VALUE_TUPLE ? given[0]->items.at : given[0];
    size_t n = given[0]->kind == VALUE_TUPLE ? given[0]->items.n : 1;
    *out = value_bool(false);
    for (size_t i = 0; i < n && !out->boolean; i++) {
        if (affixes[i].kind != VALUE_STRING)
            return run_fail(run, "%s first arg must be str or a tuple of str, not %s", call->what,
                            value_type(&affixes[i]));
        if (!run_spend(run, run->mark ? text.text.length : affixes[i].text.length))
            return false;
        out->boolean = has_affix(run, text.text, affixes[i].text, end);
    }
    return true;
}

FORWARD(str_startswith, affix(run, self, call, false, out))
FORWARD(str_endswith, affix(run, self, call, true, out))
static bool remove_affix(struct run *run, const struct value *self, const struct call *call,
                         bool end, struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text what;
    const char *behind = NULL, *last = self->text.bytes + self->text.length;
    if (!call_bind(run, call, "prefix", 1, given) ||
        !argument_text(run, call, given[0], "", &what) || !run_spend(run, self->text.length))
        return false;
    *out = *self;
    if (!what.length || !has_affix(run, self->text, what, end))
        return true;
    const char *found = end ? text_find_last(run, self->text.bytes, last, what, &behind)
                            : text_find(run, self->text.bytes, last, what, &behind);
    *out = end ? value_text(self->text.bytes, (size_t)(found - self->text.bytes))
               : value_text(behind, (size_t)(last - behind));
    return true;
}

FORWARD(str_removeprefix, remove_affix(run, self, call, false, out))
FORWARD(str_removesuffix, remove_affix(run, self, call, true, out))
/* find, rfind, index, rindex */
static bool locate(struct run *run, const struct value *self, const struct call *call, bool right,
                   bool must, struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text needle;
    struct value text;
    const char *behind;
    if (!call_bind(run, call, "sub start end", 1, given) ||
        !argument_text(run, call, given[0], "", &needle) || !bounded(run, self, given, &text) ||
        !run_spend(run, 2 * self->text.length))
        return false;
    const char *begin = text.text.bytes, *end = begin + text.text.length;
    const char *found = right ? text_find_last(run, begin, end, needle, &behind)
                              : text_find(run, begin, end, needle, &behind);
    if (!found && must)
        return run_fail(run, "substring not found");
    struct value_text before = { self->text.bytes, found ? (size_t)(found - self->text.bytes) : 0 };
    *out = value_int(found ? (jinja_int)text_count(run, before) : -1);
    return true;
}

FORWARD(str_find, locate(run, self, call, false, false, out))
FORWARD(str_rfind, locate(run, self, call, true, false, out))
FORWARD(str_index, locate(run, self, call, false, true, out))
FORWARD(str_rindex, locate(run, self, call, true, true, out))
static bool str_count(struct run *run, const struct value *self, const struct call *call,
                      struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text needle;
    struct value text;
    if (!call_bind(run, call, "sub start end", 1, given) ||
        !argument_text(run, call, given[0], "", &needle) || !bounded(run, self, given, &text) ||
        !run_spend(run, self->text.length))
        return false;
    const char *p = text.text.bytes, *end = p + text.text.length, *behind;
    jinja_int n = 0;
    if (!needle.length)
        n = (jinja_int)text_count(run, text.text) + 1;
    else
        for (; text_find(run, p, end, needle, &behind); p = behind)
            n++;
    *out = value_int(n);
    return true;
}

static bool str_replace(struct run *run, const struct value *self, const struct call *call,
                        struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text old, new;
    int64_t most;
    const char *p = self->text.bytes, *end = p + self->text.length, *found, *behind;
    size_t from = run->out->length;
    if (!call_bind(run, call, "old new count", 2, given) ||
        !argument_text(run, call, given[0], "", &old) ||
        !argument_text(run, call, given[1], "", &new) ||
        !argument_int(run, call, given[2], -1, &most) || !run_spend(run, self->text.length))
        return false;
    if (old.length && !text_find(run, p, end, old, &behind)) {
        *out = *self;
        return true;
    }
    for (int64_t n = 0; n != most; n++) {
        if (old.length) {
            found = text_find(run, p, end, old, &behind);
        } else { /* before each character, and at the end */
            if (n && p < end) {
                const char *at = p;
                text_next(run, &p, end);
                if (!run_put(run, at, (size_t)(p - at)))
                    return false;
            } else if (n) {
                break;
            }
            found = behind = p;
        }
        if (!found)
            break;
        if (!run_put(run, p, (size_t)(found - p)) || !run_put(run, new.bytes, new.length))
            return false;
        p = behind;
    }
    return run_put(run, p, (size_t)(end - p)) && capture_end(run, from, out);
}

static bool str_join(struct run *run, const struct value *self, const struct call *call,
                     struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_items items;
    size_t from = run->out->length;
    if (!call_bind(run, call, "iterable", 1, given) || !value_iterate(run, given[0], &items))
        return false;
    for (size_t i = 0; i < items.n; i++) {
        if (items.at[i].kind != VALUE_STRING)
            return run_fail(run, "sequence item %zu: expected str instance, %s found", i,
                            value_type(&items.at[i]));
        if ((i && !run_put(run, self->text.bytes, self->text.length)) ||
            !run_put(run, items.at[i].text.bytes, items.at[i].text.length))
            return false;
    }
    return capture_end(run, from, out);
}

/* Padding: `left` and `right` shares of it in order of Python's center. */
static bool pad(struct run *run, const struct value *self, const struct call *call, char side,
                struct value *out)
{
    const struct value *given[BIND_MAX];
    struct value_text fill;
    int64_t width;
    if (!call_bind(run, call, "width fillchar", 1, given) ||
        !argument_int(run, call, given[0], 0, &width) ||
        !argument_text(run, call, given[1], " ", &fill))
        return false;
    if (text_count(run, fill) != 1)
        return run_fail(run, "the fill character must be exactly one character long");
    int64_t n = (int64_t)text_count(run, self->text), missing = width > n ? width - n : 0;
    if (missing > JINJA_OUTPUT_MAX)
        return run_fail_memory(run, SIZE_MAX);
    int64_t left = side == 'r' ? missing : side == 'c' ? missing / 2 + (missing & width & 1) : 0;
    size_t from = run->out->length;
    for (int64_t i = 0; i < left; i++)
        if (!run_put(run, fill.bytes, fill.length))
            return false;
    if (!run_put(run, self->text.bytes, self->text.length))
        return false;
    for (int64_t i = left; i < missing; i++)
        if (!run_put(run, fill.bytes, fill.length))
            return false;
    return capture_end(run, from, out);
}

FORWARD(str_center, pad(run, self, call, 'c', out))
FORWARD(str_ljust, pad(run, self, call, 'l', out))
FORWARD(str_rjust, pad(run, self, call, 'r', out))
static bool str_zfill(struct run *run, const struct value *self, const struct call *call,
                      struct value *out)
{
    struct value arguments[2] = { value_none(), value_word("0") }, rest = *self, padded;
    struct call inner = { .items = arguments, .n = 2, .what = call->what };
    const struct value *given[BIND_MAX];
    int64_t width;
    if (!call_bind(run, call, "width", 1, given) || !argument_int(run, call, given[0], 0, &width))
        return false;
    bool sign = self->text.length && (*self->text.bytes == '-' || *self->text.bytes == '+');
    if (sign)
        rest = value_text(self->text.bytes + 1, self->text.length - 1);
    arguments[0] = value_int(width - sign);
    if (!pad(run, &rest, &inner, 'r', &padded))
        return false;
    *out = padded;
    return sign ? value_concat(run, value_text(self->text.bytes, 1), padded, out) : true;
}

static bool str_expandtabs(struct run *run, const struct value *self, const struct call *call,
                           struct value *out)
{
    const struct value *given[BIND_MAX];
    int64_t size, column = 0;
    const char *p = self->text.bytes, *end = p + self->text.length;
    size_t from = run->out->length;
    if (!call_bind(run, call, "tabsize", 0, given) || !argument_int(run, call, given[0], 8, &size))
        return false;
    if (size > 1000)
        return run_fail(run, "tabs of more than 1000 columns");
    while (p < end) {
        const char *at = p;
        uint32_t code = text_next(run, &p, end);
        if (code != '\t') {
            column = code == '\n' || code == '\r' ? 0 : column + 1;
            if (!run_put(run, at, (size_t)(p - at)))
                return false;
            continue;
        }
        for (int64_t n = size > 0 ? size - column % size : 0; n > 0; n--, column++)
            if (!run_put(run, " ", 1))
                return false;
    }
    return capture_end(run, from, out);
}

FORWARD(str_format, format_braces(run, self, call, out))
/* ---- dicts and lists ---- */

static bool dict_get(struct run *run, const struct value *self, const struct call *call,
                     struct value *out)
{
    const struct value *given[BIND_MAX];
    bool failed;
    if (!call_bind(run, call, "key default", 1, given) || !value_hashable(run, given[0]))
        return false;
    const struct value *value = dict_find(run, &self->pairs, given[0], &failed);
    *out = value ? *value : given[1] ? *given[1] : value_none();
    return !failed;
}

static bool dict_view(struct run *run, const struct value *self, const struct call *call,
                      enum view_kind view, struct value *out)
{
    const struct value *given[BIND_MAX];
    size_t n = self->pairs.n;
    if (!call_bind(run, call, "", 0, given) || !run_spend(run, 16 * n))
        return false;
    struct value *items = run_take(run, n, sizeof *items);
    struct value *halves = run_take(run, view == VIEW_ITEMS ? 2 * n : 0, sizeof *halves);
    if (!items || !halves)
        return false;
    for (size_t i = 0; i < n; i++) {
        const struct value_pair *pair = &self->pairs.at[i];
        items[i] = view == VIEW_KEYS ? pair->key : pair->value;
        if (view == VIEW_ITEMS) {
            halves[2 * i] = pair->key;
            halves[2 * i + 1] = pair->value;
            items[i] = value_list(&halves[2 * i], 2);
            items[i].kind = VALUE_TUPLE;
        }
    }
    *out = value_view(view, items, n);
    return true;
}

FORWARD(dict_items, dict_view(run, self, call, VIEW_ITEMS, out))
FORWARD(dict_keys, dict_view(run, self, call, VIEW_KEYS, out))
FORWARD(dict_values, dict_view(run, self, call, VIEW_VALUES, out))
static bool any_copy(struct run *run, const struct value *self, const struct call *call,
                     struct value *out)
{
    const struct value *given[BIND_MAX];
    *out = *self; /* nothing changes it */
    return call_bind(run, call, "", 0, given);
}

static bool list_search(struct run *run, const struct value *self, const struct call *call,
                        bool count, struct value *out)
{
    const struct value *given[BIND_MAX];
    jinja_int found = 0;
    if (!call_bind(run, call, "value", 1, given))
        return false;
    for (size_t i = 0; i < self->items.n; i++) {
        bool equal;
        if (!run_spend(run, 16) || !value_equal(run, &self->items.at[i], given[0], &equal))
            return false;
        if (equal && !count) {
            *out = value_int((jinja_int)i);
            return true;
        }
        found += equal;
    }
    *out = value_int(found);
    return count ? true : run_fail(run, "the value is not in the list");
}

FORWARD(list_index, list_search(run, self, call, false, out))
FORWARD(list_count, list_search(run, self, call, true, out))
static bool refused(struct run *run, const struct value *self, const struct call *call,
                    struct value *out)
{
    (void)self;
    (void)out;
    return run_fail(run, "%s is not supported", call->what);
}

static const struct method_row {
    uint8_t kind; /* of the object */
    uint8_t how;  /* text_case or text_class, + 1, when `call` is NULL */
    bool is;
    const char *name;
    method_function *call;
} METHODS[] = {
    { VALUE_STRING, 0, false, "strip", str_strip },
    { VALUE_STRING, 0, false, "lstrip", str_lstrip },
    { VALUE_STRING, 0, false, "rstrip", str_rstrip },
    { VALUE_STRING, 0, false, "split", str_split },
    { VALUE_STRING, 0, false, "rsplit", str_rsplit },
    { VALUE_STRING, 0, false, "splitlines", str_splitlines },
    { VALUE_STRING, 0, false, "startswith", str_startswith },
    { VALUE_STRING, 0, false, "endswith", str_endswith },
    { VALUE_STRING, 0, false, "replace", str_replace },
    { VALUE_STRING, 0, false, "join", str_join },
    { VALUE_STRING, 0, false, "find", str_find },
    { VALUE_STRING, 0, false, "rfind", str_rfind },
    { VALUE_STRING, 0, false, "index", str_index },
    { VALUE_STRING, 0, false, "rindex", str_rindex },
    { VALUE_STRING, 0, false, "count", str_count },
    { VALUE_STRING, 0, false, "partition", str_partition },
    { VALUE_STRING, 0, false, "rpartition", str_rpartition },
    { VALUE_STRING, 0, false, "removeprefix", str_removeprefix },
    { VALUE_STRING, 0, false, "removesuffix", str_removesuffix },
    { VALUE_STRING, 0, false, "center", str_center },
    { VALUE_STRING, 0, false, "ljust", str_ljust },
    { VALUE_STRING, 0, false, "rjust", str_rjust },
    { VALUE_STRING, 0, false, "zfill", str_zfill },
    { VALUE_STRING, 0, false, "expandtabs", str_expandtabs },
    { VALUE_STRING, 0, false, "format", str_format },
    { VALUE_STRING, 0, false, "encode", refused },
    { VALUE_STRING, 0, false, "format_map", refused },
    { VALUE_STRING, 0, false, "translate", refused },
    { VALUE_STRING, 0, false, "maketrans", refused },
    { VALUE_STRING, CASE_UPPER + 1, false, "upper", NULL },
    { VALUE_STRING, CASE_LOWER + 1, false, "lower", NULL },
    { VALUE_STRING, CASE_TITLE + 1, false, "title", NULL },
    { VALUE_STRING, CASE_CAPITAL + 1, false, "capitalize", NULL },
    { VALUE_STRING, CASE_SWAP + 1, false, "swapcase", NULL },
    { VALUE_STRING, CASE_FOLD + 1, false, "casefold", NULL },
    { VALUE_STRING, CLASS_ALNUM + 1, true, "isalnum", NULL },
    { VALUE_STRING, CLASS_ALPHA + 1, true, "isalpha", NULL },
    { VALUE_STRING, CLASS_ASCII + 1, true, "isascii", NULL },
    { VALUE_STRING, CLASS_DECIMAL + 1, true, "isdecimal", NULL },
    { VALUE_STRING, CLASS_DIGIT + 1, true, "isdigit", NULL },
    { VALUE_STRING, CLASS_NUMERIC + 1, true, "isnumeric", NULL },
    { VALUE_STRING, CLASS_LOWER + 1, true, "islower", NULL },
    { VALUE_STRING, CLASS_UPPER + 1, true, "isupper", NULL },
    { VALUE_STRING, CLASS_TITLE + 1, true, "istitle", NULL },
    { VALUE_STRING, CLASS_SPACE + 1, true, "isspace", NULL },
    { VALUE_STRING, CLASS_PRINTABLE + 1, true, "isprintable", NULL },
    { VALUE_STRING, CLASS_IDENTIFIER + 1, true, "isidentifier", NULL },
    { VALUE_DICT, 0, false, "get", dict_get },
    { VALUE_DICT, 0, false, "items", dict_items },
    { VALUE_DICT, 0, false, "keys", dict_keys },
    { VALUE_DICT, 0, false, "values", dict_values },
    { VALUE_DICT, 0, false, "copy", any_copy },
    { VALUE_DICT, 0, false, "fromkeys", refused },
    { VALUE_LIST, 0, false, "index", list_index },
    { VALUE_LIST, 0, false, "count", list_count },
    { VALUE_LIST, 0, false, "copy", any_copy },
    { VALUE_TUPLE, 0, false, "index", list_index },
    { VALUE_TUPLE, 0, false, "count", list_count },
    { VALUE_LOOP, 0, false, "cycle", loop_cycle },
    { VALUE_LOOP, 0, false, "changed", loop_changed },
    { VALUE_CYCLER, 0, false, "next", NULL },
    { VALUE_CYCLER, 0, false, "reset", NULL },
};

int32_t method_find(const struct value *obj, struct value_text name)
{
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++)
        if (METHODS[i].kind == obj->kind && text_is_word(name, METHODS[i].name))
            return (int32_t)i;
    return -1;
}

bool method_call(struct run *run, const struct method *method, const struct call *call,
                 struct value *out)
{
    const struct method_row *row = &METHODS[method->id];
    const struct value *given[BIND_MAX];
    struct call named = *call;
    named.what = row->name;
    if (row->call)
        return row->call(run, &method->self, &named, out);
    if (!call_bind(run, &named, "", 0, given))
        return false;
    if (row->kind == VALUE_CYCLER) {
        struct cycler *cycler = method->self.cycler;
        *out = value_none();
        if (*row->name == 'n')
            *out = cycler->items[cycler->at];
        cycler->at = *row->name == 'n' ? (cycler->at + 1) % cycler->n : 0;
        return true;
    }
    if (!row->is)
        return text_case(run, method->self.text, (enum text_case)(row->how - 1), out);
    *out = value_bool(text_is(run, method->self.text, (enum text_class)(row->how - 1)));
    return run_spend(run, 4 * method->self.text.length);
}
