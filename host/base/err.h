/* err.h - one way to say what went wrong (DESIGN 6).
 *
 * A fallible function returns bool (MUST_USE), takes `struct err *` last, says once what was wrong
 * (the thing, the wanted, the found), and leaves nothing half-made. `err` is never NULL. A bug is
 * not an err: CHECK aborts, in release too. A client can never trigger a CHECK. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

enum err_code {
    ERR_NONE,
    ERR_REQUEST,      /* the caller's input is wrong                      -> 400 */
    ERR_CONTEXT,      /* the prompt does not fit the context              -> 400, own type */
    ERR_UNAUTHORIZED, /* no key or a wrong one                            -> 401 */
    ERR_NOT_FOUND,    /* unknown model, route, file                       -> 404 */
    ERR_METHOD,       /* known route, wrong method                        -> 405 */
    ERR_TOO_LARGE,    /* body over the limit                              -> 413 */
    ERR_FULL,         /* a queue is full: try again                       -> 429 */
    ERR_UNSUPPORTED,  /* valid, known by name, not done here              -> 501 or start failure */
    ERR_UNAVAILABLE,  /* loading, draining, broken                        -> 503 */
    ERR_FORMAT,       /* a file is not what it says it is                 -> start failure */
    ERR_IO,           /* the system refused: errno text is in the message */
    ERR_MEMORY,       /* an allocation or a budget failed                 */
    ERR_DEVICE,       /* the backend failed                               */
};

struct err {
    enum err_code code;
    char field[96]; /* request errors: the field at fault, "messages[2].role"; else "" */
    char text[512]; /* one sentence, UTF-8, no newline */
};

#define MUST_USE                       __attribute__((warn_unused_result))
#define PRINTF_LIKE(text_at, first_at) __attribute__((format(printf, text_at, first_at)))

/* Set code and text; clears `field`. Always returns false, so `return err_set(...)` reads well. */
bool err_set(struct err *err, enum err_code code, const char *format, ...) PRINTF_LIKE(3, 4);

/* As err_set, and names the field of the request that is at fault. */
bool err_set_field(struct err *err, enum err_code code, const char *field, const char *format, ...)
    PRINTF_LIKE(4, 5);

/* Put "prefix: " before the text (truncating at the end). For adding a file name on the way up. */
void err_prefix(struct err *err, const char *format, ...) PRINTF_LIKE(2, 3);

__attribute__((noreturn)) void check_failed(const char *file, int line, const char *what);

/* What must hold, or the program is wrong. Active in every build. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            check_failed(__FILE__, __LINE__, #condition);                                          \
    } while (0)
#ifdef __cplusplus
}
#endif
