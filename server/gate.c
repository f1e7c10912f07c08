/* gate.c - HTTP that must be refused before anything else looks at it.
 *
 * libmicrohttpd's versions differ in what they let through (no or two Hosts, two lengths, length
 * with chunked, control bytes): the gate makes them alike. Smuggling needs two readers that
 * disagree; here every doubtful message is a 400 and the connection is closed. */
#include <microhttpd.h>
#include <string.h>
#include <strings.h>
#include "server/http.h"

struct seen {
    int32_t hosts, lengths, encodings, authorizations, keys;
    bool bad_bytes, chunked, content_encoding, bad_length;
    uint64_t length;
};

static enum MHD_Result look(void *context, enum MHD_ValueKind kind, const char *key,
                            size_t key_length, const char *value, size_t value_length)
{
    struct seen *seen = context;
    (void)kind;
    for (size_t i = 0; i < value_length; i++)
        if ((unsigned char)value[i] < ' ' && value[i] != '\t')
            seen->bad_bytes = true;
    for (size_t i = 0; i < key_length; i++)
        if ((unsigned char)key[i] <= ' ' || key[i] == 127)
            seen->bad_bytes = true;
    if (value == NULL)
        value = "";
    if (strcasecmp(key, "Host") == 0) {
        seen->hosts++;
    } else if (strcasecmp(key, "Content-Length") == 0) {
        seen->lengths++;
        size_t digits = strspn(value, "0123456789");
        seen->bad_length = seen->bad_length || digits == 0 || digits != value_length || digits > 18;
        for (size_t i = 0; i < digits && i < 18; i++)
            seen->length = seen->length * 10 + (uint64_t)(value[i] - '0');
    } else if (strcasecmp(key, "Transfer-Encoding") == 0) {
        seen->encodings++;
        seen->chunked = strcasecmp(value, "chunked") == 0;
    } else if (strcasecmp(key, "Content-Encoding") == 0) {
        seen->content_encoding = strcasecmp(value, "identity") != 0;
    } else if (strcasecmp(key, "Authorization") == 0) {
        seen->authorizations++;
    } else if (strcasecmp(key, "X-Api-Key") == 0) {
        seen->keys++;
    }
    return MHD_YES;
}

static bool refuse(int32_t *status, int32_t code, struct err *err, enum err_code kind,
                   const char *text)
{
    *status = code;
    return err_set(err, kind, "%s", text);
}

bool gate_check(struct MHD_Connection *mhd, const char *url, const char *method,
                const char *version, size_t body_bytes_max, int32_t *status, struct err *err)
{
    struct seen seen = { 0 };
    MHD_get_connection_values_n(mhd, MHD_HEADER_KIND, look, &seen);
    if (seen.bad_bytes)
        return refuse(status, 400, err, ERR_REQUEST, "a header has a control byte or a blank name");
    if (seen.hosts > 1 || (seen.hosts == 0 && strcmp(version, "HTTP/1.1") == 0))
        return refuse(status, 400, err, ERR_REQUEST, "exactly one Host header is needed");
    if (seen.lengths > 1 || seen.bad_length)
        return refuse(status, 400, err, ERR_REQUEST, "Content-Length must be one decimal number");
    if (seen.encodings > 1 || (seen.encodings == 1 && !seen.chunked))
        return refuse(status, 400, err, ERR_REQUEST, "Transfer-Encoding must be chunked");
    if (seen.encodings == 1 && seen.lengths == 1)
        return refuse(status, 400, err, ERR_REQUEST,
                      "Content-Length and Transfer-Encoding exclude each other");
    if (seen.content_encoding)
        return refuse(status, 400, err, ERR_REQUEST, "Content-Encoding is not supported");
    if (seen.authorizations > 1 || seen.keys > 1)
        return refuse(status, 400, err, ERR_REQUEST, "a key header is given twice");
    if (url[0] != '/' || strchr(url, '%') != NULL)
        return refuse(status, 404, err, ERR_NOT_FOUND, "no such path");
    static const char *const methods[] = { "GET", "HEAD",   "POST", "OPTIONS",
                                           "PUT", "DELETE", "PATCH" };
    bool known = false;
    for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++)
        known = known || strcmp(method, methods[i]) == 0;
    if (!known)
        return refuse(status, 405, err, ERR_METHOD, "the method is not known");
    if (seen.lengths == 1 && seen.length > body_bytes_max) {
        *status = 413;
        return err_set(err, ERR_TOO_LARGE, "the body has %llu bytes, at most %zu are allowed",
                       (unsigned long long)seen.length, body_bytes_max);
    }
    return true;
}
