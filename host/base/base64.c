/* base64.c - four letters to three bytes. */
#include "host/base/base64.h"
#include <stdint.h>

static int value_of(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool base64_decode(const char *text, size_t length, void *out, size_t *n_out)
{
    uint8_t *to = out;
    uint32_t bits = 0;
    size_t n = 0;
    if (length > 0 && length % 4 == 0 && text[length - 1] == '=') {
        length--;
        if (text[length - 1] == '=')
            length--;
    }
    if (length % 4 == 1)
        return false;
    for (size_t i = 0; i < length; i++) {
        int value = value_of(text[i]);
        if (value < 0)
            return false;
        bits = bits << 6 | (uint32_t)value;
        switch (i % 4) {
        case 1:
            to[n++] = (uint8_t)(bits >> 4);
            break;
        case 2:
            to[n++] = (uint8_t)(bits >> 2);
            break;
        case 3:
            to[n++] = (uint8_t)bits;
            break;
        default:
            break;
        }
    }
    *n_out = n;
    return true;
}
