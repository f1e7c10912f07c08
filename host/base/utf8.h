/* utf8.h - the one place where base decides what is UTF-8 (RFC 3629: no overlong forms, no
 * surrogates, nothing above U+10FFFF). Pure; reads at most `left` bytes. */
#pragma once
#include <stddef.h>
#include <stdint.h>

/* The sequence at bytes[0..left), left > 0: its length 1..4 when well-formed; else minus the
 * number of bytes that one U+FFFD replaces (the maximal subpart of Unicode 15, section 3.9). */
static inline int utf8_step(const char *bytes, size_t left)
{
    const uint8_t *p = (const uint8_t *)bytes;
    if (p[0] < 0x80)
        return 1;
    int n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return -1;
    /* The second byte carries the rules; the others are plain continuation bytes. */
    uint8_t low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    uint8_t high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    for (int i = 1; i < n; i++) {
        if ((size_t)i >= left || p[i] < low || p[i] > high)
            return -i;
        low = 0x80;
        high = 0xbf;
    }
    return n;
}
