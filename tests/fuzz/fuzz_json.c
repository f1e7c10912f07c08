/* libFuzzer entry for json_parse: the input is a whole body. What is accepted must be printable and
 * come back as the same tree, its getters must not trip, and every number is finite. */
#include <cjson/cJSON.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include "host/base/buf.h"
#include "host/base/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static const struct json_limits LIMITS = { 1 << 16, 24, 4000 };

/* Each value as each type: a getter may refuse, and then it names a path. */
static void read_all(const struct json_ref *ref, int32_t depth)
{
    struct err err = { 0 };
    const char *text;
    int64_t integer;
    double number;
    bool flag;
    CHECK(depth <= LIMITS.depth_max);
    int32_t kinds = json_is_string(ref) + json_is_number(ref) + json_is_bool(ref) +
                    json_is_array(ref) + json_is_object(ref);
    CHECK(kinds == !cJSON_IsNull(ref->node));
    CHECK(json_string(ref, &text, &err) == json_is_string(ref));
    CHECK(json_bool(ref, &flag, &err) == json_is_bool(ref));
    if (json_double(ref, -1e308, 1e308, &number, &err))
        CHECK(isfinite(number) && number == ref->node->valuedouble);
    if (json_int(ref, -100, 100, &integer, &err))
        CHECK(integer >= -100 && integer <= 100 && (double)integer == ref->node->valuedouble);
    else
        CHECK(err.code == ERR_REQUEST && err.text[0] != 0);
    struct json_ref item, found;
    int64_t n = 0;
    for (bool more = json_first(ref, &item); more; more = json_next(&item), n++) {
        read_all(&item, depth + 1);
        if (json_is_object(ref) && !cJSON_IsNull(item.node)) {
            CHECK(json_get(ref, item.key, &found));
            CHECK(found.node == item.node); /* a key is there once */
        }
    }
    CHECK(n == json_count(ref));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct cJSON *root, *again;
    struct err err = { 0 };
    if (!json_parse((const char *)bytes, size, &LIMITS, ERR_REQUEST, &root, &err)) {
        CHECK(err.code == ERR_REQUEST && err.text[0] != 0);
        return 0;
    }
    struct json_ref ref = json_root(root);
    read_all(&ref, 1);
    char *text = cJSON_PrintUnformatted(root);
    CHECK(text != NULL);
    struct json_limits wide = LIMITS;
    wide.bytes_max = strlen(text); /* escapes can make it longer than what came in */
    CHECK(json_parse(text, strlen(text), &wide, ERR_REQUEST, &again, &err));
    CHECK(cJSON_Compare(root, again, true));
    cJSON_free(text);
    json_free(again);
    json_free(root);
    return 0;
}
