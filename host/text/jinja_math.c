/* jinja_math.c - the binary operators. Integers have 128 bits, and overflow is an error. */
#include "host/text/jinja.h"
#include <math.h>
#include <string.h>

static bool overflow(struct run *run)
{
    return run_fail(run, "integer of more than 127 bits");
}

static bool unsupported(struct run *run, const char *op, const struct value *a,
                        const struct value *b)
{
    if (a->kind == VALUE_UNDEFINED || b->kind == VALUE_UNDEFINED) {
        const struct value *which = a->kind == VALUE_UNDEFINED ? a : b;
        return run_fail(run, "%.*s", (int)which->text.length, which->text.bytes);
    }
    if (*op == '+' && a->kind == VALUE_STRING)
        return run_fail(run, "can only concatenate str (not \"%s\") to str", value_type(b));
    return run_fail(run, "unsupported operand type(s) for %s: '%s' and '%s'", op, value_type(a),
                    value_type(b));
}

static bool int_power(struct run *run, jinja_int base, jinja_int exponent, struct value *out)
{
    if (exponent < 0) {
        if (!base)
            return run_fail(run, "0.0 cannot be raised to a negative power");
        *out = value_float(pow((double)base, (double)exponent));
        return true;
    }
    jinja_int result = 1;
    if (base == 0 || base == 1 || base == -1) {
        *out = value_int(exponent == 0 ? 1 : base == -1 && exponent % 2 == 0 ? 1 : base);
        return true;
    }
    for (; exponent > 0; exponent--) /* at most 127 rounds: |base| is 2 or more */
        if (__builtin_mul_overflow(result, base, &result))
            return overflow(run);
    *out = value_int(result);
    return true;
}

static bool int_math(struct run *run, uint16_t op, jinja_int a, jinja_int b, struct value *out)
{
    jinja_int result = 0;
    bool over = false;
    switch (op) {
    case '+':
        over = __builtin_add_overflow(a, b, &result);
        break;
    case '-':
        over = __builtin_sub_overflow(a, b, &result);
        break;
    case '*':
        over = __builtin_mul_overflow(a, b, &result);
        break;
    case '/':
        if (!b)
            return run_fail(run, "division by zero");
        *out = value_float((double)a / (double)b);
        return true;
    case OP('/', '/'):
    case '%': {
        jinja_int lowest = (jinja_int)1 << 126;
        if (!b)
            return run_fail(run, "integer division or modulo by zero");
        if (b == -1 && a == -lowest - lowest)
            return overflow(run);
        jinja_int quotient = a / b, rest = a % b;
        if (rest && (rest < 0) != (b < 0)) { /* towards minus infinity */
            quotient--;
            rest += b;
        }
        result = op == '%' ? rest : quotient;
        break;
    }
    default:
        return int_power(run, a, b, out);
    }
    if (over)
        return overflow(run);
    *out = value_int(result);
    return true;
}

static bool float_math(struct run *run, uint16_t op, double a, double b, struct value *out)
{
    double result;
    switch (op) {
    case '+':
        result = a + b;
        break;
    case '-':
        result = a - b;
        break;
    case '*':
        result = a * b;
        break;
    case OP('*', '*'):
        if (a == 0 && b < 0)
            return run_fail(run, "0.0 cannot be raised to a negative power");
        result = pow(a, b);
        if (isnan(result) && !isnan(a) && !isnan(b))
            return run_fail(run, "complex numbers are not supported");
        if (isinf(result) && !isinf(a) && !isinf(b))
            return run_fail(run, "result too large");
        break;
    default:
        if (b == 0)
            return run_fail(run, "float division by zero");
        result = a / b;
        if (op == OP('/', '/') || op == '%') {
            double rest = fmod(a, b);
            if (rest != 0 && (rest < 0) != (b < 0))
                rest += b;
            if (op == '%')
                result = rest == 0 ? copysign(0, b) : rest;
            else
                result = round((a - rest) / b); /* a - rest is a multiple of b */
        }
    }
    *out = value_float(result);
    return true;
}

static bool repeat(struct run *run, const struct value *what, jinja_int times, struct value *out)
{
    size_t n = what->kind == VALUE_STRING ? what->text.length : what->items.n, total;
    size_t size = what->kind == VALUE_STRING ? 1 : sizeof *what->items.at;
    if (times < 0 || !n)
        times = 0;
    if (times > JINJA_MEMORY_MAX || __builtin_mul_overflow(n, (size_t)times, &total))
        return run_fail_memory(run, SIZE_MAX);
    if (what->kind == VALUE_STRING && total == 0) {
        *out = value_word("");
        return true;
    }
    char *copy = run_take(run, total, size);
    if (!copy || !run_spend(run, total * size))
        return false;
    const void *from =
        what->kind == VALUE_STRING ? (const void *)what->text.bytes : (const void *)what->items.at;
    for (size_t i = 0; i < (size_t)times; i++)
        memcpy(copy + i * n * size, from, n * size);
    *out = *what;
    if (what->kind == VALUE_STRING)
        *out = value_text(copy, total);
    else
        out->items = (struct value_items){ (const struct value *)(const void *)copy, total };
    return true;
}

static bool join_items(struct run *run, const struct value *a, const struct value *b,
                       struct value *out)
{
    size_t n = a->items.n + b->items.n;
    struct value *items = run_take(run, n, sizeof *items);
    if (!items || !run_spend(run, 16 * n))
        return false;
    if (a->items.n)
        memcpy(items, a->items.at, a->items.n * sizeof *items);
    if (b->items.n)
        memcpy(items + a->items.n, b->items.at, b->items.n * sizeof *items);
    *out = *a;
    out->items = (struct value_items){ items, n };
    return true;
}

static bool is_repeatable(const struct value *value)
{
    return value->kind == VALUE_STRING || value->kind == VALUE_LIST || value->kind == VALUE_TUPLE;
}

bool value_binary(struct run *run, uint16_t op, const struct value *a, const struct value *b,
                  struct value *out)
{
    if (op == '+' && a->kind == b->kind) {
        if (a->kind == VALUE_STRING)
            return value_concat(run, *a, *b, out);
        if (a->kind == VALUE_LIST || a->kind == VALUE_TUPLE)
            return join_items(run, a, b, out);
    }
    if (op == '%' && a->kind == VALUE_STRING)
        return format_percent(run, a, b, out);
    if (op == '*' && is_repeatable(a) && value_is_integer(b))
        return repeat(run, a, value_integer(b), out);
    if (op == '*' && is_repeatable(b) && value_is_integer(a))
        return repeat(run, b, value_integer(a), out);
    if (value_is_integer(a) && value_is_integer(b))
        return int_math(run, op, value_integer(a), value_integer(b), out);
    if (value_is_number(a) && value_is_number(b))
        return float_math(run, op, value_number(a), value_number(b), out);
    char name[3] = { (char)(op > 255 ? op / 256 : op), (char)(op > 255 ? op % 256 : 0), 0 };
    return unsupported(run, name, a, b);
}
