/* jinja_value.c - what values are and how they compare, index and combine: Python's rules.
 *
 * Invariant: no function here recurses deeper than run_enter allows, and work that grows with the
 * data is paid for with run_spend. */
#include "host/text/jinja.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

struct value value_none(void)
{
    return (struct value){ .kind = VALUE_NONE };
}

struct value value_bool(bool boolean)
{
    return (struct value){ .kind = VALUE_BOOL, .boolean = boolean };
}

struct value value_int(jinja_int integer)
{
    return (struct value){ .kind = VALUE_INT, .integer = integer };
}

struct value value_float(double number)
{
    return (struct value){ .kind = VALUE_FLOAT, .number = number };
}

struct value value_text(const char *bytes, size_t length)
{
    return (struct value){ .kind = VALUE_STRING, .text = { bytes, length } };
}

struct value value_word(const char *word)
{
    return value_text(word, strlen(word));
}

struct value value_list(const struct value *items, size_t n)
{
    return (struct value){ .kind = VALUE_LIST, .items = { items, n } };
}

struct value value_view(enum view_kind view, const struct value *items, size_t n)
{
    return (struct value){ .kind = VALUE_VIEW, .view = (uint8_t)view, .items = { items, n } };
}

bool value_undefined(struct run *run, struct value *out, const char *format, ...)
{
    char text[256];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t length = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    char *copy = run_take(run, length + 1, 1);
    if (!copy)
        return false;
    memcpy(copy, text, length);
    *out = (struct value){ .kind = VALUE_UNDEFINED, .text = { copy, length } };
    return true;
}

/* Room for `length` bytes of text; the last piece can grow (see value_concat). */
static char *text_room(struct run *run, size_t length)
{
    enum { PIECE = 1 << 14 };
    if ((size_t)(run->tail_end - run->tail) < length) {
        size_t piece = length > PIECE / 4 ? length + length / 2 : PIECE;
        char *room = run_take(run, piece, 1);
        if (!room)
            return NULL;
        run->tail = room;
        run->tail_end = room + piece;
    }
    char *text = run->tail;
    run->tail += length;
    return text;
}

bool value_copy_text(struct run *run, const char *bytes, size_t length, struct value *out)
{
    char *text = "";
    if (length && !(text = text_room(run, length)))
        return false;
    if (length)
        memcpy(text, bytes, length);
    *out = value_text(text, length);
    return true;
}

bool value_concat(struct run *run, struct value a, struct value b, struct value *out)
{
    if (!b.text.length || !a.text.length) {
        *out = b.text.length ? b : a;
        return true;
    }
    if (!run_spend(run, b.text.length))
        return false;
    /* The text that was made last grows in place, so that s = s + x is linear. */
    if (a.text.bytes + a.text.length == run->tail &&
        (size_t)(run->tail_end - run->tail) >= b.text.length) {
        memcpy(run->tail, b.text.bytes, b.text.length);
        run->tail += b.text.length;
        *out = value_text(a.text.bytes, a.text.length + b.text.length);
        return true;
    }
    if (!run_spend(run, a.text.length))
        return false;
    char *text = text_room(run, a.text.length + b.text.length);
    if (!text)
        return false;
    memcpy(text, a.text.bytes, a.text.length);
    memcpy(text + a.text.length, b.text.bytes, b.text.length);
    *out = value_text(text, a.text.length + b.text.length);
    return true;
}

const char *value_type(const struct value *value)
{
    static const char *const names[] = {
        [VALUE_UNDEFINED] = "Undefined", [VALUE_NONE] = "NoneType",
        [VALUE_BOOL] = "bool",           [VALUE_INT] = "int",
        [VALUE_FLOAT] = "float",         [VALUE_STRING] = "str",
        [VALUE_LIST] = "list",           [VALUE_TUPLE] = "tuple",
        [VALUE_VIEW] = "generator",      [VALUE_DICT] = "dict",
        [VALUE_SPACE] = "Namespace",     [VALUE_LOOP] = "LoopContext",
        [VALUE_MACRO] = "Macro",         [VALUE_METHOD] = "builtin_function_or_method",
        [VALUE_GLOBAL] = "function",     [VALUE_CYCLER] = "Cycler",
        [VALUE_JOINER] = "Joiner",
    };
    static const char *const views[] = {
        [VIEW_RANGE] = "range",      [VIEW_KEYS] = "dict_keys",      [VIEW_VALUES] = "dict_values",
        [VIEW_ITEMS] = "dict_items", [VIEW_GENERATOR] = "generator",
    };
    return value->kind == VALUE_VIEW ? views[value->view] : names[value->kind];
}

bool value_is_integer(const struct value *value)
{
    return value->kind == VALUE_INT || value->kind == VALUE_BOOL;
}

bool value_is_number(const struct value *value)
{
    return value_is_integer(value) || value->kind == VALUE_FLOAT;
}

jinja_int value_integer(const struct value *value)
{
    return value->kind == VALUE_BOOL ? value->boolean : value->integer;
}

double value_number(const struct value *value)
{
    return value->kind == VALUE_FLOAT ? value->number : (double)value_integer(value);
}

bool value_truth(const struct value *value)
{
    switch (value->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
        return value->boolean;
    case VALUE_INT:
        return value->integer != 0;
    case VALUE_FLOAT:
        return value->number != 0.0;
    case VALUE_STRING:
        return value->text.length > 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return value->items.n > 0;
    case VALUE_VIEW:
        return value->view == VIEW_GENERATOR || value->items.n > 0;
    case VALUE_DICT:
        return value->pairs.n > 0;
    default:
        return true;
    }
}

static bool is_sequence_of(const struct value *value)
{
    return value->kind == VALUE_LIST || value->kind == VALUE_TUPLE || value->kind == VALUE_VIEW;
}

static bool items_equal(struct run *run, const struct value *a, const struct value *b, bool *equal)
{
    *equal = a->items.n == b->items.n;
    for (size_t i = 0; *equal && i < a->items.n; i++)
        if (!value_equal(run, &a->items.at[i], &b->items.at[i], equal))
            return false;
    return true;
}

static bool pairs_equal(struct run *run, const struct value *a, const struct value *b, bool *equal)
{
    *equal = a->pairs.n == b->pairs.n;
    for (size_t i = 0; *equal && i < a->pairs.n; i++) {
        bool failed = false;
        const struct value *other = dict_find(run, &b->pairs, &a->pairs.at[i].key, &failed);
        if (failed)
            return false;
        *equal = other;
        if (other && !value_equal(run, &a->pairs.at[i].value, other, equal))
            return false;
    }
    return true;
}

bool value_equal(struct run *run, const struct value *a, const struct value *b, bool *equal)
{
    if (value_is_number(a) && value_is_number(b)) {
        *equal = value_is_integer(a) && value_is_integer(b) ? value_integer(a) == value_integer(b)
                                                            : value_number(a) == value_number(b);
        return true;
    }
    *equal = false;
    if (a->kind != b->kind || (a->kind == VALUE_VIEW && a->view != b->view))
        return true;
    if (a->kind == VALUE_STRING) {
        *equal = text_equal(run, a->text, b->text);
        return *equal ? run_spend(run, a->text.length) : true;
    }
    if (is_sequence_of(a) || a->kind == VALUE_DICT) {
        if (a->items.at == b->items.at && a->items.n == b->items.n) {
            *equal = true;
            return true;
        }
        if (!run_spend(run, 1) || !run_enter(run))
            return false;
        bool good =
            a->kind == VALUE_DICT ? pairs_equal(run, a, b, equal) : items_equal(run, a, b, equal);
        run->depth--;
        return good;
    }
    *equal = a->kind == VALUE_NONE || a->kind == VALUE_UNDEFINED ||
             (a->kind == VALUE_GLOBAL ? a->global == b->global : a->space == b->space);
    return true;
}

bool value_order(struct run *run, const struct value *a, const struct value *b, const char *op,
                 int *order)
{
    if (value_is_integer(a) && value_is_integer(b)) {
        jinja_int x = value_integer(a), y = value_integer(b);
        *order = x < y ? -1 : x > y;
        return true;
    }
    if (value_is_number(a) && value_is_number(b)) {
        double x = value_number(a), y = value_number(b);
        *order = x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
        return true;
    }
    if (a->kind == VALUE_STRING && b->kind == VALUE_STRING) {
        size_t shorter = a->text.length < b->text.length ? a->text.length : b->text.length;
        *order = text_order(run, a->text, b->text);
        return run_spend(run, shorter);
    }
    if (a->kind == b->kind && (a->kind == VALUE_LIST || a->kind == VALUE_TUPLE)) {
        size_t n = a->items.n < b->items.n ? a->items.n : b->items.n;
        if (!run_spend(run, 1) || !run_enter(run))
            return false;
        bool equal = true, good = true;
        size_t i = 0;
        for (; i < n; i++) {
            good = value_equal(run, &a->items.at[i], &b->items.at[i], &equal);
            if (!good || !equal)
                break;
        }
        if (good && i < n)
            good = value_order(run, &a->items.at[i], &b->items.at[i], op, order);
        else
            *order = a->items.n < b->items.n ? -1 : a->items.n > b->items.n;
        run->depth--;
        return good;
    }
    if (a->kind == VALUE_UNDEFINED || b->kind == VALUE_UNDEFINED) {
        const struct value *which = a->kind == VALUE_UNDEFINED ? a : b;
        return run_fail(run, "%.*s", (int)which->text.length, which->text.bytes);
    }
    return run_fail(run, "'%s' not supported between instances of '%s' and '%s'", op, value_type(a),
                    value_type(b));
}

bool value_hashable(struct run *run, const struct value *key)
{
    if (key->kind == VALUE_LIST || key->kind == VALUE_DICT)
        return run_fail(run, "unhashable type: '%s'", value_type(key));
    if (key->kind != VALUE_TUPLE)
        return true;
    if (!run_enter(run))
        return false;
    bool good = run_spend(run, 16 * key->items.n);
    for (size_t i = 0; good && i < key->items.n; i++)
        good = value_hashable(run, &key->items.at[i]);
    run->depth--;
    return good;
}

const struct value *dict_find_text(const struct run *run, const struct value_pairs *pairs,
                                   const char *key, size_t length)
{
    struct value_text text = { key, length };
    for (size_t i = 0; i < pairs->n; i++)
        if (pairs->at[i].key.kind == VALUE_STRING && text_equal(run, pairs->at[i].key.text, text))
            return &pairs->at[i].value;
    return NULL;
}

const struct value *dict_find(struct run *run, const struct value_pairs *pairs,
                              const struct value *key, bool *failed)
{
    *failed = !run_spend(run, 4 * pairs->n);
    if (*failed)
        return NULL;
    if (key->kind == VALUE_STRING)
        return dict_find_text(run, pairs, key->text.bytes, key->text.length);
    for (size_t i = 0; i < pairs->n; i++) {
        bool equal;
        *failed = !value_equal(run, &pairs->at[i].key, key, &equal);
        if (*failed)
            return NULL;
        if (equal)
            return &pairs->at[i].value;
    }
    return NULL;
}

bool value_in(struct run *run, const struct value *item, const struct value *container, bool *found)
{
    *found = false;
    if (container->kind == VALUE_STRING) {
        const char *bytes = container->text.bytes, *match_end;
        if (item->kind == VALUE_UNDEFINED)
            return run_fail(run, "'in <string>' requires string as left operand, not Undefined");
        if (item->kind != VALUE_STRING)
            return run_fail(run, "'in <string>' requires string as left operand, not %s",
                            value_type(item));
        *found = text_find(run, bytes, bytes + container->text.length, item->text, &match_end);
        return run_spend(run, container->text.length);
    }
    if (container->kind == VALUE_DICT) {
        bool failed;
        if (!value_hashable(run, item))
            return false;
        *found = dict_find(run, &container->pairs, item, &failed);
        return !failed;
    }
    if (is_sequence_of(container)) {
        for (size_t i = 0; i < container->items.n && !*found; i++)
            if (!run_spend(run, 16) || !value_equal(run, &container->items.at[i], item, found))
                return false;
        return true;
    }
    return container->kind == VALUE_UNDEFINED
               ? true
               : run_fail(run, "argument of type '%s' is not iterable", value_type(container));
}

/* The characters of a string as values. */
static bool characters(struct run *run, struct value_text text, struct value_items *items)
{
    size_t n = text_count(run, text);
    const char *p = text.bytes, *end = p + text.length;
    struct value *at = run_take(run, n, sizeof *at);
    if (!at || !run_spend(run, 16 * n))
        return false;
    for (size_t i = 0; i < n; i++) {
        const char *from = p;
        text_next(run, &p, end);
        at[i] = value_text(from, (size_t)(p - from));
    }
    *items = (struct value_items){ at, n };
    return true;
}

bool value_iterate(struct run *run, const struct value *value, struct value_items *items)
{
    static const struct value nothing; /* so that the address is never NULL */
    *items = (struct value_items){ &nothing, 0 };
    if (is_sequence_of(value)) {
        if (value->items.n)
            *items = value->items;
        return true;
    }
    if (value->kind == VALUE_STRING)
        return characters(run, value->text, items);
    if (value->kind == VALUE_UNDEFINED)
        return true;
    if (value->kind != VALUE_DICT)
        return run_fail(run, "'%s' object is not iterable", value_type(value));
    struct value *keys = run_take(run, value->pairs.n, sizeof *keys);
    if (!keys || !run_spend(run, 16 * value->pairs.n))
        return false;
    for (size_t i = 0; i < value->pairs.n; i++)
        keys[i] = value->pairs.at[i].key;
    *items = (struct value_items){ keys, value->pairs.n };
    return true;
}

bool value_length(struct run *run, const struct value *value, size_t *length)
{
    *length = 0;
    if (value->kind == VALUE_STRING) {
        *length = text_count(run, value->text);
        return run_spend(run, value->text.length);
    }
    if (value->kind == VALUE_DICT)
        *length = value->pairs.n;
    else if (is_sequence_of(value) && !(value->kind == VALUE_VIEW && value->view == VIEW_GENERATOR))
        *length = value->items.n;
    else if (value->kind == VALUE_LOOP)
        *length = value->loop->n;
    else if (value->kind != VALUE_UNDEFINED)
        return run_fail(run, "object of type '%s' has no len()", value_type(value));
    return true;
}

static bool is_unsafe_method(const struct value *obj, struct value_text name)
{
    /* What changes a list or dict: the sandbox forbids it. */
    static const char *const of_list[] = { "append", "clear",  "pop",    "reverse", "insert",
                                           "sort",   "extend", "remove", NULL };
    static const char *const of_dict[] = {
        "clear", "pop", "popitem", "setdefault", "update", NULL
    };
    const char *const *names = obj->kind == VALUE_LIST   ? of_list
                               : obj->kind == VALUE_DICT ? of_dict
                                                         : NULL;
    for (; names && *names; names++)
        if (text_is_word(name, *names))
            return true;
    return false;
}

/* Python's own attributes: methods. *known false when there is none of this name. */
static bool own_attr(struct run *run, const struct value *obj, struct value_text name,
                     struct value *out, bool *known)
{
    *known = true;
    if (obj->kind == VALUE_LOOP) {
        bool good = loop_attr(run, obj->loop, name, out, known);
        if (!good || *known)
            return good;
    }
    if (obj->kind == VALUE_SPACE) {
        struct value_pairs pairs = { obj->space->pairs, obj->space->n };
        const struct value *value = dict_find_text(run, &pairs, name.bytes, name.length);
        *known = value;
        if (value)
            *out = *value;
        return true;
    }
    if (obj->kind == VALUE_MACRO && text_is_word(name, "name")) {
        *out = value_text(obj->macro->name.bytes, obj->macro->name.length);
        return true;
    }
    if (is_unsafe_method(obj, name) ||
        (name.length > 4 && name.bytes[0] == '_' && name.bytes[1] == '_'))
        return value_undefined(run, out, "access to attribute '%.*s' of '%s' object is unsafe",
                               (int)(name.length < 64 ? name.length : 64), name.bytes,
                               value_type(obj));
    int32_t id = method_find(obj, name);
    *known = id >= 0;
    if (!*known)
        return true;
    struct method *method = run_take(run, 1, sizeof *method);
    if (!method)
        return false;
    *method = (struct method){ *obj, id };
    *out = (struct value){ .kind = VALUE_METHOD, .method = method };
    return true;
}

static bool no_attr(struct run *run, const struct value *obj, struct value_text name,
                    struct value *out)
{
    int length = (int)(name.length < 128 ? name.length : 128);
    if (obj->kind == VALUE_NONE)
        return value_undefined(run, out, "'None' has no attribute '%.*s'", length, name.bytes);
    return value_undefined(run, out, "'%s object' has no attribute '%.*s'", value_type(obj), length,
                           name.bytes);
}

static bool refuse_undefined(struct run *run, const struct value *value)
{
    return run_fail(run, "%.*s", (int)value->text.length, value->text.bytes);
}

bool value_attr(struct run *run, const struct value *obj, struct value_text name, struct value *out)
{
    bool known;
    if (obj->kind == VALUE_UNDEFINED)
        return refuse_undefined(run, obj);
    if (!own_attr(run, obj, name, out, &known))
        return false;
    if (known)
        return true;
    if (obj->kind == VALUE_DICT) {
        const struct value *value = dict_find_text(run, &obj->pairs, name.bytes, name.length);
        if (value) {
            *out = *value;
            return run_spend(run, 4 * obj->pairs.n);
        }
    }
    return no_attr(run, obj, name, out);
}

/* The character at an index; *found false when there is none. */
static bool character_at(struct run *run, struct value_text text, jinja_int index,
                         struct value *out, bool *found)
{
    jinja_int n = (jinja_int)text_count(run, text);
    index += index < 0 ? n : 0;
    *found = index >= 0 && index < n;
    if (!*found)
        return true;
    const char *p = text.bytes, *end = p + text.length, *from = p;
    if (n == (jinja_int)text.length) {
        *out = value_text(p + index, 1);
    } else {
        for (jinja_int i = 0; i <= index; i++) {
            from = p;
            text_next(run, &p, end);
        }
        *out = value_text(from, (size_t)(p - from));
    }
    return run_spend(run, text.length);
}

bool value_item(struct run *run, const struct value *obj, const struct value *key,
                struct value *out)
{
    bool found = false, failed = false;
    if (obj->kind == VALUE_UNDEFINED)
        return refuse_undefined(run, obj);
    if (obj->kind == VALUE_DICT) {
        bool hashable = key->kind != VALUE_LIST && key->kind != VALUE_DICT;
        const struct value *value = hashable ? dict_find(run, &obj->pairs, key, &failed) : NULL;
        if (value)
            *out = *value;
        found = value;
    } else if (value_is_integer(key) && obj->kind == VALUE_STRING) {
        failed = !character_at(run, obj->text, value_integer(key), out, &found);
    } else if (value_is_integer(key) && is_sequence_of(obj) &&
               (obj->kind != VALUE_VIEW || obj->view == VIEW_RANGE)) {
        jinja_int index = value_integer(key);
        index += index < 0 ? (jinja_int)obj->items.n : 0;
        found = index >= 0 && index < (jinja_int)obj->items.n;
        if (found)
            *out = obj->items.at[index];
    }
    if (failed || found)
        return !failed;
    if (key->kind == VALUE_STRING) {
        if (!own_attr(run, obj, key->text, out, &found))
            return false;
        return found ? true : no_attr(run, obj, key->text, out);
    }
    if (key->kind == VALUE_INT) {
        char text[INT_TEXT_MAX];
        int_repr(key->integer, text);
        return value_undefined(run, out, "%s%s has no element %s",
                               obj->kind == VALUE_NONE ? "None" : value_type(obj),
                               obj->kind == VALUE_NONE ? "" : " object", text);
    }
    return value_undefined(run, out, "%s object has no such element", value_type(obj));
}

/* A slice's bound, clipped as Python clips it. */
static bool slice_bound(struct run *run, const struct value *bound, jinja_int n, jinja_int step,
                        jinja_int missing, jinja_int *out)
{
    *out = missing;
    if (!bound || bound->kind == VALUE_NONE)
        return true;
    if (!value_is_integer(bound))
        return run_fail(run, "slice indices must be integers or None, not %s", value_type(bound));
    jinja_int at = value_integer(bound), low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    if (at < 0)
        at = at < -n ? low : at + n;
    *out = at < low ? low : at > high ? high : at;
    return true;
}

bool value_slice(struct run *run, const struct value *obj, const struct value *from,
                 const struct value *to, const struct value *step, struct value *out)
{
    struct value_items items;
    jinja_int stride = 1, begin, end;
    if (obj->kind == VALUE_UNDEFINED)
        return refuse_undefined(run, obj);
    if (step && step->kind != VALUE_NONE) {
        if (!value_is_integer(step) || !value_integer(step))
            return run_fail(run, "slice step must be an integer that is not zero");
        const jinja_int far = (jinja_int)1 << 62; /* no value has so many elements */
        stride = value_integer(step);
        stride = stride > far ? far : stride < -far ? -far : stride;
    }
    if (obj->kind != VALUE_STRING && obj->kind != VALUE_LIST && obj->kind != VALUE_TUPLE &&
        !(obj->kind == VALUE_VIEW && obj->view == VIEW_RANGE))
        return run_fail(run, "'%s' object cannot be sliced", value_type(obj));
    if (obj->kind == VALUE_STRING && stride == 1) { /* a part of the text: no copy */
        jinja_int n = (jinja_int)text_count(run, obj->text);
        if (!run_spend(run, 2 * obj->text.length) || !slice_bound(run, from, n, 1, 0, &begin) ||
            !slice_bound(run, to, n, 1, n, &end))
            return false;
        const char *p = obj->text.bytes, *last = p + obj->text.length, *first;
        for (jinja_int i = 0; i < begin; i++)
            text_next(run, &p, last);
        first = p;
        for (jinja_int i = begin; i < end; i++)
            text_next(run, &p, last);
        *out = value_text(first, (size_t)(p - first));
        return true;
    }
    if (!value_iterate(run, obj, &items))
        return false;
    jinja_int n = (jinja_int)items.n;
    if (!slice_bound(run, from, n, stride, stride < 0 ? n - 1 : 0, &begin) ||
        !slice_bound(run, to, n, stride, stride < 0 ? -1 : n, &end))
        return false;
    jinja_int count = stride > 0 ? (end > begin ? (end - begin - 1) / stride + 1 : 0)
                                 : (begin > end ? (begin - end - 1) / -stride + 1 : 0);
    struct value *picked = run_take(run, (size_t)count, sizeof *picked);
    if (!picked || !run_spend(run, 16 * (size_t)count))
        return false;
    for (jinja_int i = 0; i < count; i++)
        picked[i] = items.at[begin + i * stride];
    *out = value_list(picked, (size_t)count);
    if (obj->kind == VALUE_TUPLE || obj->kind == VALUE_VIEW) {
        out->kind = obj->kind;
        out->view = obj->view;
    }
    if (obj->kind != VALUE_STRING)
        return true;
    size_t mark = run->out->length;
    for (jinja_int i = 0; i < count; i++)
        if (!run_put(run, picked[i].text.bytes, picked[i].text.length))
            return false;
    return capture_end(run, mark, out);
}
