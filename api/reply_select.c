/* reply_select.c - response_fields: some members of a finished reply, byte for byte.
 *
 * Reads text that this server has written: JSON without blanks between its parts. */
#include "api/reply.h"
#include <string.h>

/* Behind the string that begins at `at`. */
static const char *skip_string(const char *at, const char *end)
{
    for (at++; at < end && *at != '"'; at++)
        at += *at == '\\';
    return at < end ? at + 1 : end;
}

/* Behind the value that begins at `at`. */
static const char *skip_value(const char *at, const char *end)
{
    int64_t depth = 0;
    while (at < end) {
        if (*at == '"') {
            at = skip_string(at, end);
        } else {
            depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
            at++;
        }
        /* A number or a word ends in front of what follows it. */
        if (depth < 0 || (depth == 0 && (at == end || *at == ',' || *at == '}' || *at == ']')))
            return at;
    }
    return end;
}

/* The value of a member of the object [*at, *end), in place of the object. */
static bool find_member(const char **at, const char **end, const char *name, size_t length)
{
    const char *p = *at;
    if (p == *end || *p != '{')
        return false;
    while (++p < *end && *p == '"') {
        const char *key = p + 1, *key_end = skip_string(p, *end) - 1;
        const char *value = key_end + 2, *value_end = skip_value(value, *end);
        if ((size_t)(key_end - key) == length && memcmp(key, name, length) == 0) {
            *at = value;
            *end = value_end;
            return true;
        }
        p = value_end;
    }
    return false;
}

static const char *last_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash != NULL ? slash + 1 : path;
}

void reply_select(struct buf *out, const char *json, size_t length, const struct api_stop *names,
                  int32_t n_names)
{
    bool any = false;
    buf_putc(out, '{');
    for (int32_t i = 0; i < n_names; i++) {
        const char *at = json, *end = json + length, *name = names[i].text;
        size_t n;
        bool found = true;
        for (;; name += n + 1) {
            n = strcspn(name, "/");
            found = found && find_member(&at, &end, name, n);
            if (name[n] == 0)
                break;
        }
        bool again = false;
        for (int32_t k = 0; k < i; k++)
            again = again || strcmp(last_name(names[k].text), name) == 0;
        if (!found || again)
            continue;
        if (any)
            buf_putc(out, ',');
        buf_put_json_string(out, name, n);
        buf_putc(out, ':');
        buf_put(out, at, (size_t)(end - at));
        any = true;
    }
    buf_putc(out, '}');
}
