/* auth.c - keys as SHA-256 digests (GnuTLS), compared in constant time. */
#include "server/auth.h"
#include <gnutls/gnutls.h>
#include <gnutls/crypto.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/file.h"

enum { DIGEST_BYTES = 32, KEYS_MAX = 10000, KEY_BYTES_MAX = 512 };

struct auth {
    uint8_t (*digests)[DIGEST_BYTES]; /* [n] */
    int32_t n;
};

static bool digest_of(const char *bytes, size_t length, uint8_t digest[DIGEST_BYTES])
{
    return gnutls_hash_fast(GNUTLS_DIG_SHA256, bytes, length, digest) == 0;
}

bool auth_open(struct auth **out, const char *path, struct err *err)
{
    struct auth *auth = calloc(1, sizeof *auth);
    char *text = NULL;
    size_t size = 0;
    int line = 0;
    if (auth == NULL)
        return err_set(err, ERR_MEMORY, "no memory for keys");
    if (!file_read(path, (size_t)8 << 20, &text, &size, err))
        goto fail;
    auth->digests = calloc(KEYS_MAX, sizeof *auth->digests);
    if (auth->digests == NULL) {
        err_set(err, ERR_MEMORY, "no memory for keys");
        goto fail;
    }
    for (char *at = text; at < text + size;) {
        char *end = memchr(at, '\n', (size_t)(text + size - at));
        if (end == NULL)
            end = text + size;
        line++;
        char *from = at, *to = end;
        char *comment = memchr(from, '#', (size_t)(to - from));
        if (comment != NULL)
            to = comment;
        while (from < to && strchr(" \t\r", *from))
            from++;
        while (to > from && strchr(" \t\r", to[-1]))
            to--;
        at = end + 1;
        if (from == to)
            continue;
        if (to - from > KEY_BYTES_MAX || auth->n == KEYS_MAX) {
            err_set(err, ERR_FORMAT, "%s line %d: %s", path, line,
                    auth->n == KEYS_MAX ? "more than 10000 keys"
                                        : "a key is longer than 512 bytes");
            goto fail;
        }
        for (char *c = from; c < to; c++)
            if (*c <= ' ' || *c == 127) {
                err_set(err, ERR_FORMAT, "%s line %d: a key has a blank or control byte inside",
                        path, line);
                goto fail;
            }
        if (!digest_of(from, (size_t)(to - from), auth->digests[auth->n++])) {
            err_set(err, ERR_IO, "SHA-256 is not available");
            goto fail;
        }
    }
    if (auth->n == 0) {
        err_set(err, ERR_FORMAT, "%s: holds no key", path);
        goto fail;
    }
    explicit_bzero(text, size);
    free(text);
    *out = auth;
    return true;
fail:
    free(text);
    auth_close(auth);
    return false;
}

void auth_close(struct auth *auth)
{
    if (auth == NULL)
        return;
    free(auth->digests);
    free(auth);
}

bool auth_check(const struct auth *auth, const char *authorization, const char *api_key,
                uint64_t *salt)
{
    const char *key = api_key;
    if (authorization != NULL) {
        if (strncasecmp(authorization, "Bearer ", 7) != 0)
            return false;
        key = authorization + 7;
        while (*key == ' ')
            key++;
    }
    uint8_t digest[DIGEST_BYTES];
    if (key == NULL || !digest_of(key, strlen(key), digest))
        return false;
    unsigned found = 0;
    for (int32_t i = 0; i < auth->n; i++) {
        unsigned differ = 0;
        for (int32_t k = 0; k < DIGEST_BYTES; k++)
            differ |= (unsigned)(auth->digests[i][k] ^ digest[k]);
        found |= differ == 0;
    }
    memcpy(salt, digest, sizeof *salt);
    return found != 0;
}

uint64_t auth_salt(uint64_t key_salt, const char *cache_salt)
{
    if (cache_salt == NULL)
        return key_salt;
    uint8_t digest[DIGEST_BYTES];
    uint64_t salt = 0;
    if (digest_of(cache_salt, strlen(cache_salt), digest))
        memcpy(&salt, digest, sizeof salt);
    return key_salt ^ (salt | 1);
}
