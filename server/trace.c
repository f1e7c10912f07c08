/* trace.c - see trace.h. nibble calls nobody, so that passing on a trace means: into its log lines,
 * and back to the caller with our span's id. No SDK, no spans of our own. */
#include "server/trace.h"
#include <stdio.h>
#include <string.h>
#include "host/base/rng.h"

/* n lower-case hexadecimal digits, not all of them zero unless that is allowed. */
static bool take_hex(const char **at, int n, bool zeros, char *to)
{
    bool other = zeros;
    for (int i = 0; i < n; i++) {
        char c = (*at)[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        other = other || c != '0';
        to[i] = c;
    }
    to[n] = 0;
    *at += n;
    return other;
}

static bool take_dash(const char **at)
{
    return *(*at)++ == '-';
}

bool trace_read(struct trace *trace, const char *traceparent)
{
    struct trace t = { 0 };
    char version[3];
    const char *at = traceparent;
    *trace = t;
    if (at == NULL || !take_hex(&at, 2, true, version) || strcmp(version, "ff") == 0)
        return false;
    if (!take_dash(&at) || !take_hex(&at, 32, false, t.trace_id) || !take_dash(&at) ||
        !take_hex(&at, 16, false, t.parent_id) || !take_dash(&at) ||
        !take_hex(&at, 2, true, t.flags))
        return false;
    /* Later versions may say more, behind a dash; version 00 may not. */
    if (*at != 0 && (strcmp(version, "00") == 0 || *at != '-'))
        return false;
    snprintf(t.span_id, sizeof t.span_id, "%016llx", (unsigned long long)(rng_system() | 1));
    *trace = t;
    return true;
}

const char *trace_response(const struct trace *trace, char *text, size_t size)
{
    text[0] = 0;
    if (trace->trace_id[0] != 0)
        snprintf(text, size, "00-%s-%s-%s", trace->trace_id, trace->span_id, trace->flags);
    return text;
}
