/* schema_number.c - bounds and multiples as automata over digits. */
#include "host/grammar/schema.h"
#include "host/base/json.h"
#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Integers are written up to 15 digits, or up to 18 where a bound asks for more. */
#define PLAIN_MAX INT64_C(999999999999999)
#define WIDE_MAX  INT64_C(999999999999999999)
enum { MULTIPLE_MAX = 10000, DIGITS_MAX = 19 };

struct bounds {
    double low, high; /* -INFINITY, INFINITY */
    bool without_low, without_high;
    int64_t least, most; /* as integers, within WIDE_MAX */
    bool has_least, has_most;
    int64_t multiple; /* 0: none */
};

/* The greatest integer below (or at) the number, exact where it is written as an integer. */
static int64_t floor_of(const cJSON *number, bool *whole)
{
    const char *text = json_number_text(number);
    double value = number->valuedouble;
    *whole = text || floor(value) == value;
    if (value >= 9.2e18)
        return INT64_MAX;
    if (value <= -9.2e18)
        return INT64_MIN;
    return text ? strtoll(text, NULL, 10) : (int64_t)floor(value);
}

static void take_low(struct bounds *b, const cJSON *number, bool without)
{
    bool whole;
    int64_t floor = floor_of(number, &whole);
    int64_t least = whole && !without ? floor : floor < INT64_MAX ? floor + 1 : floor;
    if (!b->has_least || least > b->least)
        b->least = least;
    b->has_least = true;
    double value = number->valuedouble;
    if (value > b->low || (value == b->low && without)) {
        b->low = value;
        b->without_low = without;
    }
}

static void take_high(struct bounds *b, const cJSON *number, bool without)
{
    bool whole;
    int64_t floor = floor_of(number, &whole);
    int64_t most = whole && without && floor > INT64_MIN ? floor - 1 : floor;
    if (!b->has_most || most < b->most)
        b->most = most;
    b->has_most = true;
    double value = number->valuedouble;
    if (value < b->high || (value == b->high && without)) {
        b->high = value;
        b->without_high = without;
    }
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static void take_multiple(struct schemas *s, uint32_t part, struct bounds *b, const cJSON *number)
{
    double value = number->valuedouble;
    if (value < 1 || value > MULTIPLE_MAX || floor(value) != value) {
        schema_refuse(s, schema_of(part), "multipleOf", "want an integer from 1 to %d",
                      MULTIPLE_MAX);
        return;
    }
    int64_t own = (int64_t)value;
    b->multiple = b->multiple ? b->multiple / gcd(b->multiple, own) * own : own;
    if (b->multiple > MULTIPLE_MAX)
        schema_refuse(s, schema_of(part), "multipleOf", "together more than %d", MULTIPLE_MAX);
}

static bool find_bounds(struct schemas *s, const struct flat *flat, struct bounds *b)
{
    static const char *const keywords[] = { "minimum", "exclusiveMinimum", "maximum",
                                            "exclusiveMaximum", "multipleOf" };
    bool any = false;
    *b = (struct bounds){ .low = -INFINITY, .high = INFINITY };
    for (uint32_t i = 0; i < flat->parts.n; i++)
        for (int k = 0; k < 5 && !s->work->failed; k++) {
            uint32_t part = flat->parts.at[i];
            const cJSON *number = schema_get(s, part, keywords[k]);
            if (!number)
                continue;
            any = true;
            if (!cJSON_IsNumber(number))
                schema_refuse(s, schema_of(part), keywords[k], "want a number");
            else if (k == 4)
                take_multiple(s, part, b, number);
            else if (k < 2)
                take_low(b, number, k == 1);
            else
                take_high(b, number, k == 3);
        }
    return any;
}

bool schema_number_fits(struct schemas *s, const struct flat *flat, double value)
{
    struct bounds b;
    if (!find_bounds(s, flat, &b))
        return true;
    if (b.without_low ? value <= b.low : value < b.low)
        return false;
    if (b.without_high ? value >= b.high : value > b.high)
        return false;
    return b.multiple == 0 || fmod(value, (double)b.multiple) == 0;
}

/* Nets are put together here: edges in the scratch, states by number. */
struct net {
    struct workshop *work;
    struct net_edge *edges;
    uint32_t n, capacity, n_states;
};

static void put_edge(struct net *net, uint32_t from, uint32_t to, uint32_t label)
{
    net->edges = scratch_grow(net->work, net->edges, net->n, &net->capacity, sizeof *net->edges);
    if (!net->work->failed && label != EXPR_NONE)
        net->edges[net->n++] = (struct net_edge){ from, to, label };
}

static uint32_t digits_between(struct workshop *work, int low, int high)
{
    return low > high ? EXPR_NONE : expr_range(work, (uint8_t)('0' + low), (uint8_t)('0' + high));
}

static uint32_t digits(struct workshop *work, int64_t min, int64_t max)
{
    return expr_repeat(work, expr_range(work, '0', '9'), min, max);
}

/* Numbers of exactly n digits from `low` to `high`, digit by digit: so far equal to both, to the
 * low one, to the high one, or free. */
static uint32_t same_length(struct workshop *work, const char *low, const char *high, uint32_t n)
{
    struct net net = { .work = work };
    for (uint32_t i = 0; i < n; i++) {
        /* states: 0 begin, 1 end, then for each place: both, low, high, free */
        uint32_t both = i == 0 ? 0 : 2 + 4 * (i - 1), to = 2 + 4 * i;
        int a = low[i] - '0', b = high[i] - '0';
        if (a == b) {
            put_edge(&net, both, to, digits_between(work, a, a));
        } else {
            put_edge(&net, both, to + 1, digits_between(work, a, a));
            put_edge(&net, both, to + 2, digits_between(work, b, b));
            put_edge(&net, both, to + 3, digits_between(work, a + 1, b - 1));
        }
        if (i == 0)
            continue;
        put_edge(&net, both + 1, to + 1, digits_between(work, a, a));
        put_edge(&net, both + 1, to + 3, digits_between(work, a + 1, 9));
        put_edge(&net, both + 2, to + 2, digits_between(work, b, b));
        put_edge(&net, both + 2, to + 3, digits_between(work, 0, b - 1));
        put_edge(&net, both + 3, to + 3, digits_between(work, 0, 9));
    }
    for (uint32_t k = 0; k < 4; k++)
        put_edge(&net, 2 + 4 * (n - 1) + k, 1, EXPR_EMPTY);
    /* Where the first digits differ nothing goes on along "both", and low > high leaves dead ends.
     */
    return work->failed ? EXPR_NONE : expr_net(work, 2 + 4 * n, net.edges, net.n);
}

/* Integers from `low` >= 0 to `high`, without leading zeros. */
static uint32_t from_zero(struct workshop *work, int64_t low, int64_t high)
{
    uint32_t forms[DIGITS_MAX], n_forms = 0;
    int64_t first = 0, last = 9;
    for (uint32_t n = 1; n < DIGITS_MAX; n++) {
        int64_t from = low > first ? low : first, to = high < last ? high : last;
        if (from <= to) {
            char a[DIGITS_MAX + 2], b[DIGITS_MAX + 2];
            snprintf(a, sizeof a, "%lld", (long long)from);
            snprintf(b, sizeof b, "%lld", (long long)to);
            forms[n_forms++] = same_length(work, a, b, n);
        }
        first = last + 1;
        last = n + 1 < DIGITS_MAX ? last * 10 + 9 : last;
    }
    return expr_alt(work, forms, n_forms);
}

static uint32_t integers_between(struct workshop *work, int64_t low, int64_t high)
{
    uint32_t forms[2] = { EXPR_NONE, EXPR_NONE };
    if (low > high)
        return EXPR_NONE;
    if (low < 0)
        forms[0] =
            expr_seq2(work, expr_literal(work, "-"), from_zero(work, high < 0 ? -high : 1, -low));
    if (high >= 0)
        forms[1] = from_zero(work, low > 0 ? low : 0, high);
    return expr_alt(work, forms, 2);
}

/* Multiples of m, any number of digits: the state is the remainder so far. */
static uint32_t multiples(struct workshop *work, int64_t m)
{
    struct net net = { .work = work };
    put_edge(&net, 0, 1, expr_literal(work, "0"));
    put_edge(&net, 0, 2, expr_literal(work, "-"));
    put_edge(&net, 0, 2, EXPR_EMPTY);
    for (int d = 1; d <= 9; d++)
        put_edge(&net, 2, 3 + (uint32_t)(d % m), digits_between(work, d, d));
    for (int64_t r = 0; r < m && work_step(work, 10); r++)
        for (int d = 0; d <= 9; d++)
            put_edge(&net, 3 + (uint32_t)r, 3 + (uint32_t)((r * 10 + d) % m),
                     digits_between(work, d, d));
    put_edge(&net, 3, 1, EXPR_EMPTY);
    return work->failed ? EXPR_NONE : expr_net(work, 3 + (uint32_t)m, net.edges, net.n);
}

static int64_t clamp(int64_t value)
{
    return value > WIDE_MAX ? WIDE_MAX : value < -WIDE_MAX ? -WIDE_MAX : value;
}

static uint32_t integer_expr(struct schemas *s, const struct bounds *b)
{
    struct workshop *work = s->work;
    int64_t low = b->has_least ? b->least : -PLAIN_MAX, high = b->has_most ? b->most : PLAIN_MAX;
    if (low > WIDE_MAX || high < -WIDE_MAX)
        return EXPR_NONE;
    if (!b->has_most && low > PLAIN_MAX / 10)
        high = WIDE_MAX;
    if (!b->has_least && high < -PLAIN_MAX / 10)
        low = -WIDE_MAX;
    uint32_t range = integers_between(work, clamp(low), clamp(high));
    return b->multiple ? expr_and(work, multiples(work, b->multiple), range) : range;
}

/* A bound as a decimal of at most 15 digits, taken inwards: whole, then the fraction without its
 * last zeros. Above 15 digits before the point there is none. */
struct decimal {
    int64_t whole;
    char fraction[24];
    bool negative;
};

/* The smallest decimal that reads back as at least (above, if `without`) `value`; for an upper
 * bound ask with -value and turn the sign. */
static struct decimal decimal_above(double value, bool without)
{
    struct decimal d = { 0 };
    double size = fabs(value), unit = 1;
    uint32_t places = JSON_DIGITS_MAX;
    for (double limit = 1; places > 0 && size >= limit; limit *= 10)
        places--;
    for (uint32_t i = 0; i < places; i++)
        unit *= 10;
    for (int64_t n = (int64_t)floor(value * unit) - 2;; n++) {
        char text[64];
        int64_t magnitude = n < 0 ? -n : n, rest = magnitude % (int64_t)unit;
        d.negative = n < 0;
        d.whole = magnitude / (int64_t)unit;
        for (int32_t i = (int32_t)places - 1; i >= 0; i--, rest /= 10)
            d.fraction[i] = (char)('0' + rest % 10);
        snprintf(text, sizeof text, "%s%lld.%s", d.negative ? "-" : "", (long long)d.whole,
                 d.fraction);
        double read = strtod(text, NULL);
        if (without ? read > value : read >= value)
            break;
    }
    for (int32_t i = (int32_t)places - 1; i >= 0 && d.fraction[i] == '0'; i--)
        d.fraction[i] = 0;
    return d;
}

/* "" or "." and digits, as a fraction at least `f`. */
static uint32_t fraction_from(struct workshop *work, const char *f)
{
    struct net net = { .work = work };
    uint32_t n = (uint32_t)strlen(f);
    uint32_t point = expr_literal(work, ".");
    if (n == 0)
        return expr_option(work, expr_seq2(work, point, digits(work, 1, JSON_DIGITS_MAX)));
    for (uint32_t i = 0; i < n; i++) {
        int digit = f[i] - '0';
        uint32_t rest = digits(work, 0, JSON_DIGITS_MAX - 1 - (int64_t)i);
        uint32_t from = i == 0 ? 0 : i + 1;
        put_edge(&net, from, 1, expr_seq2(work, digits_between(work, digit + 1, 9), rest));
        put_edge(&net, from, i + 1 == n ? 1 : i + 2,
                 i + 1 == n ? expr_seq2(work, digits_between(work, digit, digit), rest)
                            : digits_between(work, digit, digit));
    }
    uint32_t body = work->failed ? EXPR_NONE : expr_net(work, n + 1, net.edges, net.n);
    return expr_seq2(work, point, body);
}

/* ... at most `f`. */
static uint32_t fraction_to(struct workshop *work, const char *f)
{
    struct net net = { .work = work };
    uint32_t n = (uint32_t)strlen(f);
    uint32_t point = expr_literal(work, ".");
    if (n == 0)
        return expr_option(
            work,
            expr_seq2(work, point, expr_repeat(work, expr_literal(work, "0"), 1, JSON_DIGITS_MAX)));
    for (uint32_t i = 0; i < n; i++) {
        int digit = f[i] - '0';
        uint32_t rest = digits(work, 0, JSON_DIGITS_MAX - 1 - (int64_t)i);
        uint32_t from = i == 0 ? 0 : i + 1;
        put_edge(&net, from, 1, expr_seq2(work, digits_between(work, 0, digit - 1), rest));
        put_edge(&net, from, i + 1 == n ? 1 : i + 2, digits_between(work, digit, digit));
        if (i + 1 == n)
            put_edge(&net, from, 1,
                     expr_seq2(work, digits_between(work, digit, digit),
                               expr_repeat(work, expr_literal(work, "0"), 0,
                                           JSON_DIGITS_MAX - 1 - (int64_t)i)));
        if (i > 0)
            put_edge(&net, from, 1, EXPR_EMPTY);
    }
    uint32_t body = work->failed ? EXPR_NONE : expr_net(work, n + 1, net.edges, net.n);
    return expr_option(work, expr_seq2(work, point, body));
}

/* Sizes (no sign) from a to b; b NULL: up to 15 digits. */
static uint32_t sizes_between(struct workshop *work, const struct decimal *a,
                              const struct decimal *b)
{
    uint32_t forms[3] = { EXPR_NONE, EXPR_NONE, EXPR_NONE };
    if (b &&
        (b->whole < a->whole || (b->whole == a->whole && strcmp(b->fraction, a->fraction) < 0)))
        return EXPR_NONE;
    uint32_t from = fraction_from(work, a->fraction);
    uint32_t first = from_zero(work, a->whole, a->whole);
    if (b && b->whole == a->whole)
        return expr_seq2(work, first, expr_and(work, from, fraction_to(work, b->fraction)));
    forms[0] = expr_seq2(work, first, from);
    int64_t last = b ? b->whole - 1 : PLAIN_MAX;
    if (last > a->whole)
        forms[1] = expr_seq2(work, from_zero(work, a->whole + 1, last), fraction_from(work, ""));
    if (b)
        forms[2] =
            expr_seq2(work, from_zero(work, b->whole, b->whole), fraction_to(work, b->fraction));
    return expr_alt(work, forms, 3);
}

static uint32_t decimal_expr(struct schemas *s, const struct bounds *b)
{
    static const struct decimal zero = { 0 };
    struct workshop *work = s->work;
    bool has_low = b->low > -1e15, has_high = b->high < 1e15;
    struct decimal low = { 0 }, high = { 0 };
    uint32_t forms[2] = { EXPR_NONE, EXPR_NONE };
    if (b->low >= 1e15 || b->high <= -1e15)
        return EXPR_NONE;
    if (has_low)
        low = decimal_above(b->low, b->without_low);
    if (has_high) {
        high = decimal_above(-b->high, b->without_high);
        high.negative = !high.negative && (high.whole > 0 || high.fraction[0]);
    }
    bool low_negative = !has_low || low.negative, high_negative = has_high && high.negative;
    if (low_negative)
        forms[0] =
            expr_seq2(work, expr_literal(work, "-"),
                      sizes_between(work, high_negative ? &high : &zero, has_low ? &low : NULL));
    if (!high_negative)
        forms[1] = sizes_between(work, low_negative ? &zero : &low, has_high ? &high : NULL);
    return expr_alt(work, forms, 2);
}

uint32_t schema_number(struct schemas *s, const struct flat *flat, bool integer)
{
    struct arena_mark mark = arena_mark(&s->work->scratch);
    struct bounds b;
    uint32_t result;
    bool bounded = find_bounds(s, flat, &b);
    if (s->work->failed)
        result = EXPR_NONE;
    else if (!bounded)
        result = expr_rule(s->work, integer ? JSON_INTEGER : JSON_NUMBER);
    else if (integer || b.multiple)
        result = integer_expr(s, &b);
    else
        result = decimal_expr(s, &b);
    arena_reset(&s->work->scratch, mark);
    return result;
}
