/* trace.h - W3C Trace Context (Recommendation, 23 November 2021): the caller's traceparent. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct trace {
    char trace_id[33];  /* 32 lower-case hexadecimal digits; "" when there is none */
    char parent_id[17]; /* the caller's span */
    char span_id[17];   /* ours, random */
    char flags[3];
};
/* False (and all empty) when `traceparent` is NULL or not as section 3.2 has it: then it is as if
 * it had not come. Draws a span id. */
bool trace_read(struct trace *trace, const char *traceparent);
/* The value of the traceresponse header (Trace Context Level 2, section 4): the trace and our span.
 * "" without a trace. Returns `text`. */
const char *trace_response(const struct trace *trace, char *text, size_t size);
