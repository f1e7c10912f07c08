/* json_number.c - what cJSON forgets about a number: how it was spelled.
 *
 * Python's json tells 1 from 1.0 and keeps integers of any size, and chat templates print both; a
 * double does neither. So json_parse walks the text once more beside the tree: a number written
 * with '.', 'e' or 'E' gets a bit in cJSON.type (cJSON itself looks at the low eight bits and the
 * two flags above them), and an integer that a double may not hold exactly keeps its text. */
#include "host/base/json.h"
#include "host/base/json_scan.h"
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* Every integer of up to 15 digits is a double; some of 16 are not. */
enum { NUMBER_IS_FLOAT = 1 << 16, EXACT_DIGITS = 15 };

/* Behind the string whose opening quote is at bytes[at]. */
static size_t skip_string(const char *bytes, size_t at)
{
    for (at++; bytes[at] != '"'; at++)
        at += bytes[at] == '\\';
    return at + 1;
}

/* The next number in the text from *at on, outside of strings. */
static const char *next_number(const char *bytes, size_t length, size_t *at, size_t *size)
{
    while (*at < length) {
        char c = bytes[*at];
        if (c == '"') {
            *at = skip_string(bytes, *at);
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            const char *number = bytes + *at;
            *size = 0;
            while (*at < length && memchr("0123456789+-.eE", bytes[*at], 15)) {
                ++*at;
                ++*size;
            }
            return number;
        } else {
            ++*at;
        }
    }
    return NULL;
}

struct spelling {
    const char *bytes;
    size_t length, at;
};

static bool keep(struct spelling *text, struct cJSON *node)
{
    size_t size = 0;
    if ((node->type & 0xff) == cJSON_Number) {
        const char *number = next_number(text->bytes, text->length, &text->at, &size);
        CHECK(number != NULL); /* the tree was made from this text */
        if (memchr(number, '.', size) || memchr(number, 'e', size) || memchr(number, 'E', size)) {
            node->type |= NUMBER_IS_FLOAT;
        } else if (size > EXACT_DIGITS) {
            node->valuestring = malloc(size + 1); /* cJSON_Delete frees it */
            if (!node->valuestring)
                return false;
            memcpy(node->valuestring, number, size);
            node->valuestring[size] = 0;
        }
    }
    for (struct cJSON *child = node->child; child; child = child->next)
        if (!keep(text, child))
            return false;
    return true;
}

bool json_keep_numbers(struct cJSON *root, const char *bytes, size_t length)
{
    struct spelling text = { bytes, length, 0 };
    return keep(&text, root);
}

bool json_number_is_float(const struct cJSON *node)
{
    return node->type & NUMBER_IS_FLOAT;
}

const char *json_number_text(const struct cJSON *node)
{
    return (node->type & 0xff) == cJSON_Number ? node->valuestring : NULL;
}
