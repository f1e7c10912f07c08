/* auth.h - API keys. One key a line in a file, `#` starts a comment; only SHA-256 digests are kept.
 * Every digest is compared in constant time, whether or not one matched before. */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include "host/base/err.h"

struct auth;
MUST_USE bool auth_open(struct auth **auth, const char *path, struct err *err);
void auth_close(struct auth *auth);
/* `bearer`: value of Authorization or NULL; `api_key`: value of X-Api-Key or NULL. On success *salt
 * is the key's own: pages of the prefix cache are shared under one key only. */
bool auth_check(const struct auth *auth, const char *authorization, const char *api_key,
                uint64_t *salt);
/* A salt from a request's cache_salt on top of the key's. */
uint64_t auth_salt(uint64_t key_salt, const char *cache_salt);
