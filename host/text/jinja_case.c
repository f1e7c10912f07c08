/* jinja_case.c - upper, lower and title case, and what kind of characters a text has, as Python's
 * str methods do it.
 *
 * Single characters are mapped by utf8proc; the tables hold those that become several
 * (Unicode's SpecialCasing.txt, unconditional rows). Lower case knows the two exceptions: U+0130,
 * and the final sigma. */
#include "host/text/jinja.h"
#include <string.h>
#include <utf8proc.h>

struct special {
    uint32_t code;
    uint32_t to[3]; /* 0: none */
};
/* clang-format off */
static const struct special special_upper[] = {
    { 0xdf, { 0x53, 0x53, 0x0 } }, { 0x149, { 0x2bc, 0x4e, 0x0 } },
    { 0x1f0, { 0x4a, 0x30c, 0x0 } }, { 0x390, { 0x399, 0x308, 0x301 } },
    { 0x3b0, { 0x3a5, 0x308, 0x301 } }, { 0x587, { 0x535, 0x552, 0x0 } },
    { 0x1e96, { 0x48, 0x331, 0x0 } }, { 0x1e97, { 0x54, 0x308, 0x0 } },
    { 0x1e98, { 0x57, 0x30a, 0x0 } }, { 0x1e99, { 0x59, 0x30a, 0x0 } },
    { 0x1e9a, { 0x41, 0x2be, 0x0 } }, { 0x1f50, { 0x3a5, 0x313, 0x0 } },
    { 0x1f52, { 0x3a5, 0x313, 0x300 } }, { 0x1f54, { 0x3a5, 0x313, 0x301 } },
    { 0x1f56, { 0x3a5, 0x313, 0x342 } }, { 0x1f80, { 0x1f08, 0x399, 0x0 } },
    { 0x1f81, { 0x1f09, 0x399, 0x0 } }, { 0x1f82, { 0x1f0a, 0x399, 0x0 } },
    { 0x1f83, { 0x1f0b, 0x399, 0x0 } }, { 0x1f84, { 0x1f0c, 0x399, 0x0 } },
    { 0x1f85, { 0x1f0d, 0x399, 0x0 } }, { 0x1f86, { 0x1f0e, 0x399, 0x0 } },
    { 0x1f87, { 0x1f0f, 0x399, 0x0 } }, { 0x1f88, { 0x1f08, 0x399, 0x0 } },
    { 0x1f89, { 0x1f09, 0x399, 0x0 } }, { 0x1f8a, { 0x1f0a, 0x399, 0x0 } },
    { 0x1f8b, { 0x1f0b, 0x399, 0x0 } }, { 0x1f8c, { 0x1f0c, 0x399, 0x0 } },
    { 0x1f8d, { 0x1f0d, 0x399, 0x0 } }, { 0x1f8e, { 0x1f0e, 0x399, 0x0 } },
    { 0x1f8f, { 0x1f0f, 0x399, 0x0 } }, { 0x1f90, { 0x1f28, 0x399, 0x0 } },
    { 0x1f91, { 0x1f29, 0x399, 0x0 } }, { 0x1f92, { 0x1f2a, 0x399, 0x0 } },
    { 0x1f93, { 0x1f2b, 0x399, 0x0 } }, { 0x1f94, { 0x1f2c, 0x399, 0x0 } },
    { 0x1f95, { 0x1f2d, 0x399, 0x0 } }, { 0x1f96, { 0x1f2e, 0x399, 0x0 } },
    { 0x1f97, { 0x1f2f, 0x399, 0x0 } }, { 0x1f98, { 0x1f28, 0x399, 0x0 } },
    { 0x1f99, { 0x1f29, 0x399, 0x0 } }, { 0x1f9a, { 0x1f2a, 0x399, 0x0 } },
    { 0x1f9b, { 0x1f2b, 0x399, 0x0 } }, { 0x1f9c, { 0x1f2c, 0x399, 0x0 } },
    { 0x1f9d, { 0x1f2d, 0x399, 0x0 } }, { 0x1f9e, { 0x1f2e, 0x399, 0x0 } },
    { 0x1f9f, { 0x1f2f, 0x399, 0x0 } }, { 0x1fa0, { 0x1f68, 0x399, 0x0 } },
    { 0x1fa1, { 0x1f69, 0x399, 0x0 } }, { 0x1fa2, { 0x1f6a, 0x399, 0x0 } },
    { 0x1fa3, { 0x1f6b, 0x399, 0x0 } }, { 0x1fa4, { 0x1f6c, 0x399, 0x0 } },
    { 0x1fa5, { 0x1f6d, 0x399, 0x0 } }, { 0x1fa6, { 0x1f6e, 0x399, 0x0 } },
    { 0x1fa7, { 0x1f6f, 0x399, 0x0 } }, { 0x1fa8, { 0x1f68, 0x399, 0x0 } },
    { 0x1fa9, { 0x1f69, 0x399, 0x0 } }, { 0x1faa, { 0x1f6a, 0x399, 0x0 } },
    { 0x1fab, { 0x1f6b, 0x399, 0x0 } }, { 0x1fac, { 0x1f6c, 0x399, 0x0 } },
    { 0x1fad, { 0x1f6d, 0x399, 0x0 } }, { 0x1fae, { 0x1f6e, 0x399, 0x0 } },
    { 0x1faf, { 0x1f6f, 0x399, 0x0 } }, { 0x1fb2, { 0x1fba, 0x399, 0x0 } },
    { 0x1fb3, { 0x391, 0x399, 0x0 } }, { 0x1fb4, { 0x386, 0x399, 0x0 } },
    { 0x1fb6, { 0x391, 0x342, 0x0 } }, { 0x1fb7, { 0x391, 0x342, 0x399 } },
    { 0x1fbc, { 0x391, 0x399, 0x0 } }, { 0x1fc2, { 0x1fca, 0x399, 0x0 } },
    { 0x1fc3, { 0x397, 0x399, 0x0 } }, { 0x1fc4, { 0x389, 0x399, 0x0 } },
    { 0x1fc6, { 0x397, 0x342, 0x0 } }, { 0x1fc7, { 0x397, 0x342, 0x399 } },
    { 0x1fcc, { 0x397, 0x399, 0x0 } }, { 0x1fd2, { 0x399, 0x308, 0x300 } },
    { 0x1fd3, { 0x399, 0x308, 0x301 } }, { 0x1fd6, { 0x399, 0x342, 0x0 } },
    { 0x1fd7, { 0x399, 0x308, 0x342 } }, { 0x1fe2, { 0x3a5, 0x308, 0x300 } },
    { 0x1fe3, { 0x3a5, 0x308, 0x301 } }, { 0x1fe4, { 0x3a1, 0x313, 0x0 } },
    { 0x1fe6, { 0x3a5, 0x342, 0x0 } }, { 0x1fe7, { 0x3a5, 0x308, 0x342 } },
    { 0x1ff2, { 0x1ffa, 0x399, 0x0 } }, { 0x1ff3, { 0x3a9, 0x399, 0x0 } },
    { 0x1ff4, { 0x38f, 0x399, 0x0 } }, { 0x1ff6, { 0x3a9, 0x342, 0x0 } },
    { 0x1ff7, { 0x3a9, 0x342, 0x399 } }, { 0x1ffc, { 0x3a9, 0x399, 0x0 } },
    { 0xfb00, { 0x46, 0x46, 0x0 } }, { 0xfb01, { 0x46, 0x49, 0x0 } },
    { 0xfb02, { 0x46, 0x4c, 0x0 } }, { 0xfb03, { 0x46, 0x46, 0x49 } },
    { 0xfb04, { 0x46, 0x46, 0x4c } }, { 0xfb05, { 0x53, 0x54, 0x0 } },
    { 0xfb06, { 0x53, 0x54, 0x0 } }, { 0xfb13, { 0x544, 0x546, 0x0 } },
    { 0xfb14, { 0x544, 0x535, 0x0 } }, { 0xfb15, { 0x544, 0x53b, 0x0 } },
    { 0xfb16, { 0x54e, 0x546, 0x0 } }, { 0xfb17, { 0x544, 0x53d, 0x0 } },
};
static const struct special special_title[] = {
    { 0xdf, { 0x53, 0x73, 0x0 } }, { 0x149, { 0x2bc, 0x4e, 0x0 } },
    { 0x1f0, { 0x4a, 0x30c, 0x0 } }, { 0x390, { 0x399, 0x308, 0x301 } },
    { 0x3b0, { 0x3a5, 0x308, 0x301 } }, { 0x587, { 0x535, 0x582, 0x0 } },
    { 0x1e96, { 0x48, 0x331, 0x0 } }, { 0x1e97, { 0x54, 0x308, 0x0 } },
    { 0x1e98, { 0x57, 0x30a, 0x0 } }, { 0x1e99, { 0x59, 0x30a, 0x0 } },
    { 0x1e9a, { 0x41, 0x2be, 0x0 } }, { 0x1f50, { 0x3a5, 0x313, 0x0 } },
    { 0x1f52, { 0x3a5, 0x313, 0x300 } }, { 0x1f54, { 0x3a5, 0x313, 0x301 } },
    { 0x1f56, { 0x3a5, 0x313, 0x342 } }, { 0x1fb2, { 0x1fba, 0x345, 0x0 } },
    { 0x1fb4, { 0x386, 0x345, 0x0 } }, { 0x1fb6, { 0x391, 0x342, 0x0 } },
    { 0x1fb7, { 0x391, 0x342, 0x345 } }, { 0x1fc2, { 0x1fca, 0x345, 0x0 } },
    { 0x1fc4, { 0x389, 0x345, 0x0 } }, { 0x1fc6, { 0x397, 0x342, 0x0 } },
    { 0x1fc7, { 0x397, 0x342, 0x345 } }, { 0x1fd2, { 0x399, 0x308, 0x300 } },
    { 0x1fd3, { 0x399, 0x308, 0x301 } }, { 0x1fd6, { 0x399, 0x342, 0x0 } },
    { 0x1fd7, { 0x399, 0x308, 0x342 } }, { 0x1fe2, { 0x3a5, 0x308, 0x300 } },
    { 0x1fe3, { 0x3a5, 0x308, 0x301 } }, { 0x1fe4, { 0x3a1, 0x313, 0x0 } },
    { 0x1fe6, { 0x3a5, 0x342, 0x0 } }, { 0x1fe7, { 0x3a5, 0x308, 0x342 } },
    { 0x1ff2, { 0x1ffa, 0x345, 0x0 } }, { 0x1ff4, { 0x38f, 0x345, 0x0 } },
    { 0x1ff6, { 0x3a9, 0x342, 0x0 } }, { 0x1ff7, { 0x3a9, 0x342, 0x345 } },
    { 0xfb00, { 0x46, 0x66, 0x0 } }, { 0xfb01, { 0x46, 0x69, 0x0 } },
    { 0xfb02, { 0x46, 0x6c, 0x0 } }, { 0xfb03, { 0x46, 0x66, 0x69 } },
    { 0xfb04, { 0x46, 0x66, 0x6c } }, { 0xfb05, { 0x53, 0x74, 0x0 } },
    { 0xfb06, { 0x53, 0x74, 0x0 } }, { 0xfb13, { 0x544, 0x576, 0x0 } },
    { 0xfb14, { 0x544, 0x565, 0x0 } }, { 0xfb15, { 0x544, 0x56b, 0x0 } },
    { 0xfb16, { 0x54e, 0x576, 0x0 } }, { 0xfb17, { 0x544, 0x56d, 0x0 } },
};
/* clang-format on */

static const struct special *find_special(const struct special *table, size_t n, uint32_t code)
{
    size_t low = 0;
    while (low < n) {
        size_t middle = (low + n) / 2;
        if (table[middle].code == code)
            return &table[middle];
        if (table[middle].code < code)
            low = middle + 1;
        else
            n = middle;
    }
    return NULL;
}

static utf8proc_category_t category_of(uint32_t code)
{
    return utf8proc_category((utf8proc_int32_t)code);
}

static bool is_upper(uint32_t code)
{
    return category_of(code) == UTF8PROC_CATEGORY_LU || (code >= 0x2160 && code <= 0x216f) ||
           (code >= 0x24b6 && code <= 0x24cf);
}

static bool is_lower(uint32_t code)
{
    return category_of(code) == UTF8PROC_CATEGORY_LL || code == 0xaa || code == 0xba ||
           (code >= 0x2b0 && code <= 0x2b8) || (code >= 0x2170 && code <= 0x217f) ||
           (code >= 0x24d0 && code <= 0x24e9);
}

static bool is_title(uint32_t code)
{
    return category_of(code) == UTF8PROC_CATEGORY_LT;
}

static bool is_cased(uint32_t code)
{
    return is_upper(code) || is_lower(code) || is_title(code);
}

static bool is_case_ignorable(uint32_t code)
{
    utf8proc_category_t category = category_of(code);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
           category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
           category == UTF8PROC_CATEGORY_SK || code == '\'' || code == '.' || code == ':' ||
           code == 0xb7 || code == 0x2019;
}

/* Sigma at the end of a word: a cased letter before it, none behind it. */
static bool is_final(const struct run *run, const char *begin, const char *at, const char *next,
                     const char *end)
{
    bool before = false;
    for (const char *p = at; p > begin;) {
        p = text_previous(run, begin, p);
        const char *q = p;
        uint32_t code = text_next(run, &q, at);
        if (!is_case_ignorable(code)) {
            before = is_cased(code);
            break;
        }
    }
    while (before && next < end) {
        uint32_t code = text_next(run, &next, end);
        if (!is_case_ignorable(code))
            return !is_cased(code);
    }
    return before;
}

enum { CODES_MAX = 3 };

static size_t one_code(uint32_t code, uint32_t to[CODES_MAX])
{
    to[0] = code;
    return 1;
}

static size_t map_special(const struct special *special, uint32_t to[CODES_MAX])
{
    size_t n = 0;
    while (n < CODES_MAX && special->to[n]) {
        to[n] = special->to[n];
        n++;
    }
    return n;
}

static size_t upper_of(uint32_t code, uint32_t to[CODES_MAX])
{
    const struct special *special =
        find_special(special_upper, sizeof special_upper / sizeof *special_upper, code);
    return special ? map_special(special, to)
                   : one_code((uint32_t)utf8proc_toupper((utf8proc_int32_t)code), to);
}

static size_t title_of(uint32_t code, uint32_t to[CODES_MAX])
{
    const struct special *special =
        find_special(special_title, sizeof special_title / sizeof *special_title, code);
    return special ? map_special(special, to)
                   : one_code((uint32_t)utf8proc_totitle((utf8proc_int32_t)code), to);
}

static size_t lower_of(uint32_t code, bool final, uint32_t to[CODES_MAX])
{
    if (code == 0x130) {
        to[0] = 'i';
        to[1] = 0x307;
        return 2;
    }
    if (code == 0x3a3)
        return one_code(final ? 0x3c2 : 0x3c3, to);
    return one_code((uint32_t)utf8proc_tolower((utf8proc_int32_t)code), to);
}

/* One character's new text; `in_word`: a cased letter stands before it. */
static size_t map_code(uint32_t code, enum text_case how, bool first, bool in_word, bool final,
                       uint32_t to[CODES_MAX])
{
    switch (how) {
    case CASE_UPPER:
        return upper_of(code, to);
    case CASE_LOWER:
        return lower_of(code, final, to);
    case CASE_TITLE:
        return in_word ? lower_of(code, final, to) : title_of(code, to);
    case CASE_CAPITAL:
        return first ? title_of(code, to) : lower_of(code, final, to);
    case CASE_SWAP:
        return is_upper(code)   ? lower_of(code, final, to)
               : is_lower(code) ? upper_of(code, to)
                                : one_code(code, to);
    case CASE_FOLD:
        break;
    }
    /* Case folding: what is several characters in upper case, in lower case. */
    size_t n = code < 0x80 ? one_code(code, to) : upper_of(code, to);
    if (n == 1)
        return lower_of(code == 0x3c2 ? 0x3c3 : code, false, to);
    for (size_t i = 0; i < n; i++)
        to[i] = (uint32_t)utf8proc_tolower((utf8proc_int32_t)to[i]);
    return n;
}

bool text_case(struct run *run, struct value_text text, enum text_case how, struct value *out)
{
    size_t from = run->out->length;
    const char *p = text.bytes, *end = p + text.length;
    bool in_word = false;
    if (!run_spend(run, 4 * text.length))
        return false;
    while (p < end) {
        const char *at = p;
        uint32_t code = text_next(NULL, &p, end), to[CODES_MAX];
        if (run->mark && code == run->mark) {
            buf_put(run->out, at, (size_t)(p - at));
            continue;
        }
        bool final = code == 0x3a3 && is_final(run, text.bytes, at, p, end);
        size_t n = map_code(code, how, at == text.bytes, in_word, final, to);
        for (size_t i = 0; i < n; i++) {
            char bytes[4];
            buf_put(run->out, bytes, text_encode(to[i], bytes));
        }
        in_word = is_cased(code);
    }
    return capture_end(run, from, out);
}

static bool is_numeric_category(utf8proc_category_t category)
{
    return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL ||
           category == UTF8PROC_CATEGORY_NO;
}

/* Superscripts and their like are digits but not decimals. */
static bool is_digit(uint32_t code)
{
    return category_of(code) == UTF8PROC_CATEGORY_ND || code == 0xb2 || code == 0xb3 ||
           code == 0xb9 || code == 0x2070 || (code >= 0x2074 && code <= 0x2079) ||
           (code >= 0x2080 && code <= 0x2089) || (code >= 0x2460 && code <= 0x2468);
}

static bool is_alpha(utf8proc_category_t category)
{
    return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

bool code_is_printable(uint32_t code)
{
    utf8proc_category_t category = category_of(code);
    return code == ' ' || !(category == UTF8PROC_CATEGORY_CN || category == UTF8PROC_CATEGORY_CC ||
                            category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_CS ||
                            category == UTF8PROC_CATEGORY_CO || category == UTF8PROC_CATEGORY_ZL ||
                            category == UTF8PROC_CATEGORY_ZP || category == UTF8PROC_CATEGORY_ZS);
}

static bool code_is(uint32_t code, enum text_class what, bool first)
{
    utf8proc_category_t category = category_of(code);
    switch (what) {
    case CLASS_ALNUM:
        return is_alpha(category) || is_numeric_category(category);
    case CLASS_ALPHA:
        return is_alpha(category);
    case CLASS_ASCII:
        return code < 0x80;
    case CLASS_DECIMAL:
        return category == UTF8PROC_CATEGORY_ND;
    case CLASS_DIGIT:
        return is_digit(code);
    case CLASS_NUMERIC:
        return is_numeric_category(category);
    case CLASS_SPACE:
        return text_is_space(code);
    case CLASS_PRINTABLE:
        return code_is_printable(code);
    case CLASS_IDENTIFIER:
        return code == '_' || is_alpha(category) || category == UTF8PROC_CATEGORY_NL ||
               (!first && (category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_MN ||
                           category == UTF8PROC_CATEGORY_MC || category == UTF8PROC_CATEGORY_PC));
    default:
        return true;
    }
}

/* islower, isupper: a cased character, and none of the other case; istitle: words begin upper and
 * go on lower. */
static bool case_is(const struct run *run, struct value_text text, enum text_class what)
{
    const char *p = text.bytes, *end = p + text.length;
    bool some = false, in_word = false;
    while (p < end) {
        uint32_t code = text_next(run, &p, end);
        bool upper = is_upper(code) || is_title(code), lower = is_lower(code);
        if (what == CLASS_LOWER   ? upper
            : what == CLASS_UPPER ? lower || is_title(code)
            : in_word             ? upper
                                  : lower)
            return false;
        some = some || upper || lower;
        in_word = upper || lower;
    }
    return some;
}

bool text_is(const struct run *run, struct value_text text, enum text_class what)
{
    const char *p = text.bytes, *end = p + text.length;
    if (what == CLASS_LOWER || what == CLASS_UPPER || what == CLASS_TITLE)
        return case_is(run, text, what);
    if (!text.length)
        return what == CLASS_ASCII || what == CLASS_PRINTABLE;
    for (bool first = true; p < end; first = false)
        if (!code_is(text_next(run, &p, end), what, first))
            return false;
    return true;
}
