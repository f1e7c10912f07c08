/* url.h - http://HOST[:PORT][/PATH], as the commands that are clients take it. */
#pragma once
#include "host/base/err.h"

struct url {
    char host[256], port[16]; /* the host without brackets */
    char path[256];           /* "" when there is none, or only "/" */
};
/* The scheme may be missing; https is refused by name. Nothing of the result has a blank or a
 * control byte: it can stand in a header line. ERR_REQUEST, ERR_UNSUPPORTED. */
MUST_USE bool url_read(const char *text, struct url *url, struct err *err);
/* A host of the caller's own choice, checked likewise. */
MUST_USE bool url_set_host(struct url *url, const char *host);
