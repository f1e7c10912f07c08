/* url.c - see url.h. */
#include "server/url.h"
#include <string.h>

static bool copy_part(char *to, size_t size, const char *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)from[i] <= ' ' || from[i] == 127)
            return false; /* nothing of ours may end a header line early */
    if (n >= size)
        return false;
    memcpy(to, from, n);
    to[n] = 0;
    return true;
}

bool url_set_host(struct url *url, const char *host)
{
    return copy_part(url->host, sizeof url->host, host, strlen(host));
}

bool url_read(const char *text, struct url *url, struct err *err)
{
    const char *at = text;
    *url = (struct url){ .port = "80" };
    if (strncasecmp(at, "https://", 8) == 0)
        return err_set(err, ERR_UNSUPPORTED, "%s: https is not spoken here; use http", text);
    if (strncasecmp(at, "http://", 7) == 0)
        at += 7;
    size_t n = *at == '[' ? strcspn(at, "]") : strcspn(at, ":/");
    bool bracket = *at == '[' && at[n] == ']';
    bool ok = copy_part(url->host, sizeof url->host, at + bracket, n - bracket);
    at += n + bracket;
    if (*at == ':') {
        size_t digits = strspn(at + 1, "0123456789");
        ok = ok && digits > 0 && copy_part(url->port, sizeof url->port, at + 1, digits);
        at += 1 + digits;
    }
    if (*at == '/' && at[1] != 0)
        ok = ok && copy_part(url->path, sizeof url->path, at, strlen(at));
    else
        ok = ok && (*at == 0 || *at == '/');
    if (!ok || url->host[0] == 0)
        return err_set(err, ERR_REQUEST, "%.200s: want http://HOST[:PORT][/PATH]", text);
    return true;
}
