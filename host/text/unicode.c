/* unicode.c - character classes and normal forms over utf8proc's tables.
 *
 * utf8proc's own utf8proc_map is not used: it sorts combining marks by swapping neighbours, which
 * is quadratic in a run of marks that a client chooses. Here only the stretches that can change
 * are decomposed, sorted (stable merge) and composed; all else is copied. */
#include "host/text/unicode.h"
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "host/base/utf8.h"

size_t unicode_check(const char *text, size_t length)
{
    size_t i = 0;
    while (i < length) {
        uint64_t eight;
        while (length - i >= 8) {
            memcpy(&eight, text + i, 8);
            if (eight & 0x8080808080808080u)
                break;
            i += 8;
        }
        if (i == length)
            break;
        int n = utf8_step(text + i, length - i);
        if (n < 0)
            return i;
        i += (size_t)n;
    }
    return length;
}

bool unicode_is_ascii(const char *text, size_t length)
{
    uint8_t any = 0;
    for (size_t i = 0; i < length; i++)
        any |= (uint8_t)text[i];
    return any < 0x80;
}

uint32_t unicode_decode_before(const char *text, size_t end, unsigned *length)
{
    size_t at = end - 1;
    while (at > 0 && end - at < 4 && ((uint8_t)text[at] & 0xc0) == 0x80)
        at--;
    return unicode_decode(text + at, length);
}

unsigned unicode_encode(uint32_t code, char out[4])
{
    return (unsigned)utf8proc_encode_char((int32_t)code, (uint8_t *)out);
}

bool unicode_is_space(uint32_t code)
{
    if (code < 0x80)
        return code == ' ' || (code >= '\t' && code <= '\r');
    return code == 0x85 || code == 0xa0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200a) ||
           code == 0x2028 || code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

static utf8proc_category_t category(uint32_t code)
{
    return utf8proc_category((int32_t)code);
}

bool unicode_is_numeric(uint32_t code)
{
    if (code < 0x80)
        return code >= '0' && code <= '9';
    utf8proc_category_t c = category(code);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

/* Characters that became punctuation after Unicode 8, in ascending ranges: the `tokenizers` library
 * cuts by tables of that age. Two that were and are no more are in unicode_is_punct. */
static const uint32_t NEWER_PUNCT[][2] = {
    { 0x61d, 0x61d },     { 0x9fd, 0x9fd },     { 0xa76, 0xa76 },     { 0xc77, 0xc77 },
    { 0xc84, 0xc84 },     { 0x1b7d, 0x1b7e },   { 0x2e43, 0x2e4f },   { 0x2e52, 0x2e5d },
    { 0x10ead, 0x10ead }, { 0x10f55, 0x10f59 }, { 0x10f86, 0x10f89 }, { 0x1144b, 0x1144f },
    { 0x1145a, 0x1145b }, { 0x1145d, 0x1145d }, { 0x11660, 0x1166c }, { 0x116b9, 0x116b9 },
    { 0x1183b, 0x1183b }, { 0x11944, 0x11946 }, { 0x119e2, 0x119e2 }, { 0x11a3f, 0x11a46 },
    { 0x11a9a, 0x11a9c }, { 0x11a9e, 0x11aa2 }, { 0x11b00, 0x11b09 }, { 0x11c41, 0x11c45 },
    { 0x11c70, 0x11c71 }, { 0x11ef7, 0x11ef8 }, { 0x11f43, 0x11f4f }, { 0x11fff, 0x11fff },
    { 0x12ff1, 0x12ff2 }, { 0x16e97, 0x16e9a }, { 0x16fe2, 0x16fe2 }, { 0x1e95e, 0x1e95f },
};

static bool is_newer_punct(uint32_t code)
{
    size_t low = 0, high = sizeof NEWER_PUNCT / sizeof *NEWER_PUNCT;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (NEWER_PUNCT[middle][1] < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof NEWER_PUNCT / sizeof *NEWER_PUNCT && NEWER_PUNCT[low][0] <= code;
}

bool unicode_is_punct(uint32_t code)
{
    if (code < 0x80)
        return (code >= '!' && code <= '/') || (code >= ':' && code <= '@') ||
               (code >= '[' && code <= '`') || (code >= '{' && code <= '~');
    utf8proc_category_t c = category(code);
    if (c < UTF8PROC_CATEGORY_PC || c > UTF8PROC_CATEGORY_PO)
        return code == 0x166d || code == 0x111c9;
    return !is_newer_punct(code);
}

bool unicode_is_mark(uint32_t code)
{
    utf8proc_category_t c = category(code);
    return c >= UTF8PROC_CATEGORY_MN && c <= UTF8PROC_CATEGORY_ME;
}

bool unicode_is_nonspacing(uint32_t code)
{
    return category(code) == UTF8PROC_CATEGORY_MN;
}

bool unicode_is_other(uint32_t code)
{
    utf8proc_category_t c = category(code);
    return c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CO;
}

bool unicode_is_ideograph(uint32_t code)
{
    return (code >= 0x4e00 && code <= 0x9fff) || (code >= 0x3400 && code <= 0x4dbf) ||
           (code >= 0x20000 && code <= 0x2a6df) || (code >= 0x2a700 && code <= 0x2b73f) ||
           (code >= 0x2b740 && code <= 0x2b81f) || (code >= 0x2b920 && code <= 0x2ceaf) ||
           (code >= 0xf900 && code <= 0xfaff) || (code >= 0x2f800 && code <= 0x2fa1f);
}

bool unicode_is_word(uint32_t code)
{
    if (code < 0x80)
        return (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') ||
               (code >= 'a' && code <= 'z') || code == '_';
    utf8proc_category_t c = category(code);
    if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_NL)
        return true; /* L*, M*, Nd, Nl in utf8proc's order */
    if (c == UTF8PROC_CATEGORY_PC)
        return true;
    /* Other_Alphabetic outside of M: circled and squared letters; then Join_Control. */
    return (code >= 0x24b6 && code <= 0x24e9) || (code >= 0x1f130 && code <= 0x1f149) ||
           (code >= 0x1f150 && code <= 0x1f169) || (code >= 0x1f170 && code <= 0x1f189) ||
           code == 0x200c || code == 0x200d;
}

/* --- normal forms ---------------------------------------------------------------------------- */

static bool composes(enum unicode_form form)
{
    return form == UNICODE_NFC || form == UNICODE_NFKC;
}
static bool compat(enum unicode_form form)
{
    return form == UNICODE_NFKC || form == UNICODE_NFKD;
}

/* A character that stays as it is whatever stands before it: a starter, no decomposition of this
 * kind, never the second half of a composition. Text of such characters is in normal form. */
static bool inert(enum unicode_form form, uint32_t code)
{
    if (code < 0x80)
        return true;
    if (form == UNICODE_NFC && code < 0x300)
        return true; /* NFC_QC=Yes and no mark below U+0300 */
    if (code >= 0xac00 && code <= 0xd7a3)
        return composes(form); /* Hangul syllables */
    if (code >= 0x1100 && code <= 0x11ff)
        return false; /* conjoining jamo, composed by arithmetic */
    const utf8proc_property_t *p = utf8proc_get_property((int32_t)code);
    if (p->combining_class != 0)
        return false;
    if (p->decomp_seqindex != UINT16_MAX && (p->decomp_type == 0 || compat(form)))
        return false;
    /* utf8proc marks the second half of a composition by the top bit of comb_index. */
    return p->comb_index == UINT16_MAX || p->comb_index < 0x8000;
}

/* The end of the inert text that begins at `from`. */
static size_t inert_end(enum unicode_form form, const char *text, size_t from, size_t length)
{
    size_t i = from;
    while (i < length) {
        unsigned n = 1;
        if ((uint8_t)text[i] >= 0x80 && !inert(form, unicode_decode(text + i, &n)))
            break;
        i += n;
    }
    return i;
}

bool unicode_is_normal(enum unicode_form form, const char *text, size_t length)
{
    return inert_end(form, text, 0, length) == length;
}

static int combining(int32_t code)
{
    return utf8proc_get_property(code)->combining_class;
}

/* Stable sort of marks by class; `spare` has room for n. */
static void sort_marks(int32_t *codes, size_t n, int32_t *spare)
{
    bool sorted = true;
    for (size_t i = 1; i < n && sorted; i++)
        sorted = combining(codes[i - 1]) <= combining(codes[i]);
    if (sorted)
        return;
    size_t half = n / 2, a = 0, b = half, at = 0;
    sort_marks(codes, half, spare);
    sort_marks(codes + half, n - half, spare);
    memcpy(spare, codes, n * sizeof *codes);
    while (a < half || b < n) {
        if (b == n || (a < half && combining(spare[a]) <= combining(spare[b])))
            codes[at++] = spare[a++];
        else
            codes[at++] = spare[b++];
    }
}

/* A growing list of code points, with as much room again for sorting. */
struct codes {
    int32_t *codes;
    size_t n, capacity;
};

/* UAX 15 on one stretch: decompose, order, compose. */
static bool normalize_stretch(enum unicode_form form, const char *text, size_t length,
                              struct codes *list, struct buf *out)
{
    enum { ROOM = 32 }; /* the longest full decomposition has 18 code points (U+FDFA) */
    utf8proc_option_t options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
    if (compat(form))
        options |= UTF8PROC_COMPAT;
    list->n = 0;
    for (size_t i = 0; i < length;) {
        if (list->capacity - list->n < ROOM) {
            size_t capacity = list->capacity ? list->capacity * 2 : 256;
            int32_t *grown = reallocarray(list->codes, capacity, 2 * sizeof *grown);
            if (!grown)
                return false;
            list->codes = grown;
            list->capacity = capacity;
        }
        unsigned n;
        int boundary = 0;
        int32_t code = (int32_t)unicode_decode(text + i, &n);
        ptrdiff_t made =
            utf8proc_decompose_char(code, list->codes + list->n, ROOM, options, &boundary);
        CHECK(made > 0 && made <= ROOM);
        list->n += (size_t)made;
        i += n;
    }
    for (size_t i = 0; i < list->n;) {
        size_t from = i;
        while (i < list->n && combining(list->codes[i]) != 0)
            i++;
        sort_marks(list->codes + from, i - from, list->codes + list->capacity);
        i += i < list->n;
    }
    size_t n = list->n;
    if (composes(form)) {
        ptrdiff_t left =
            utf8proc_normalize_utf32(list->codes, (ptrdiff_t)n, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        CHECK(left >= 0 && (size_t)left <= n);
        n = (size_t)left;
    }
    for (size_t i = 0; i < n; i++) {
        char bytes[4];
        buf_put(out, bytes, unicode_encode((uint32_t)list->codes[i], bytes));
    }
    return true;
}

bool unicode_normalize(enum unicode_form form, const char *text, size_t length, struct buf *out,
                       struct err *err)
{
    struct codes list = { 0 };
    size_t done = 0; /* text[0..done) is out */
    bool ok = true;
    while (ok && done < length) {
        size_t dirty = inert_end(form, text, done, length);
        size_t from = dirty;
        if (dirty < length && dirty > done) {
            unsigned n; /* the inert character before may be the first half of a composition */
            unicode_decode_before(text, dirty, &n);
            from = dirty - n;
        }
        buf_put(out, text + done, from - done);
        size_t end = dirty;
        while (end < length) {
            unsigned n;
            if (inert(form, unicode_decode(text + end, &n)))
                break;
            end += n;
        }
        if (end > from)
            ok = normalize_stretch(form, text + from, end - from, &list, out);
        done = end;
    }
    free(list.codes);
    if (!ok)
        return err_set(err, ERR_MEMORY, "no memory to normalize %zu bytes of text", length);
    return true;
}

void unicode_lower(const char *text, size_t length, struct buf *out)
{
    for (size_t i = 0; i < length;) {
        unsigned n;
        uint32_t code = unicode_decode(text + i, &n);
        char bytes[4];
        i += n;
        if (code == 0x130) /* the only character whose lower case is longer: i and a dot above */
            buf_put(out, "i\xcc\x87", 3);
        else if (code < 0x80)
            buf_putc(out, code >= 'A' && code <= 'Z' ? (char)(code + 32) : (char)code);
        else
            buf_put(out, bytes, unicode_encode((uint32_t)utf8proc_tolower((int32_t)code), bytes));
    }
}
