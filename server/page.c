/* page.c - the web page (server/page/index.html), linked in byte for byte. */
#include "server/http.h"

/* The assembler looks for the path below the repository root, which is on the include path. */
__asm__(".section .rodata, \"a\", %progbits\n"
        ".hidden nibble_page, nibble_page_end\n"
        "nibble_page: .incbin \"server/page/index.html\"\n"
        "nibble_page_end: .byte 0\n"
        ".previous\n");
extern const char nibble_page[] __attribute__((visibility("hidden")));
extern const char nibble_page_end[] __attribute__((visibility("hidden")));

const char *page_text(size_t *length)
{
    *length = (size_t)(nibble_page_end - nibble_page);
    return nibble_page;
}
