/* openapi.c - the API's description (api/openapi.json), linked in byte for byte. Tests hold it
 * against the routes (tests/unit/server/test_openapi.c) and the request fields
 * (tests/http/test_openapi.py). */
#include "server/http.h"

/* The assembler looks for the path below the repository root, which is on the include path. */
__asm__(".section .rodata, \"a\", %progbits\n"
        ".hidden nibble_openapi, nibble_openapi_end\n"
        "nibble_openapi: .incbin \"api/openapi.json\"\n"
        "nibble_openapi_end: .byte 0\n"
        ".previous\n");
extern const char nibble_openapi[] __attribute__((visibility("hidden")));
extern const char nibble_openapi_end[] __attribute__((visibility("hidden")));

const char *openapi_text(size_t *length)
{
    *length = (size_t)(nibble_openapi_end - nibble_openapi);
    return nibble_openapi;
}
