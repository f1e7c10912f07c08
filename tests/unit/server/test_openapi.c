/* api/openapi.json has the routes that there are, each with its method, and which need no key. */
#include "tests/support/support.h"
#include <cjson/cJSON.h>
#include "host/base/json.h"
#include "server/http.h"

static cJSON *document(void)
{
    static cJSON *root;
    size_t length;
    const char *text = openapi_text(&length);
    struct err err = { 0 };
    if (root == NULL)
        assert_ok(json_parse(text, length, &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err), &err);
    return root;
}

static const cJSON *paths(void)
{
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(document(), "paths");
    assert_true(cJSON_IsObject(list));
    return list;
}

static void every_route_is_described(void **state)
{
    (void)state;
    size_t n;
    const struct http_route *routes = route_table(&n);
    assert_true(n > 20);
    for (size_t i = 0; i < n; i++) {
        const cJSON *path = cJSON_GetObjectItemCaseSensitive(paths(), routes[i].path);
        if (path == NULL)
            fail_msg("%s is not in openapi.json", routes[i].path);
        if (cJSON_GetArraySize(path) != 1)
            fail_msg("%s has one method", routes[i].path);
        const cJSON *operation =
            cJSON_GetObjectItemCaseSensitive(path, routes[i].post ? "post" : "get");
        if (operation == NULL)
            fail_msg("%s takes %s", routes[i].path, routes[i].post ? "post" : "get");
        const cJSON *security = cJSON_GetObjectItemCaseSensitive(operation, "security");
        if (routes[i].open != (cJSON_IsArray(security) && cJSON_GetArraySize(security) == 0))
            fail_msg("%s: \"security\": [] is for the routes that need no key", routes[i].path);
        if (routes[i].post != (cJSON_GetObjectItem(operation, "requestBody") != NULL))
            fail_msg("%s: POST has a body, GET has none", routes[i].path);
        if ((routes[i].kind == ROUTE_KIND_UNSUPPORTED) ==
            (cJSON_GetObjectItem(cJSON_GetObjectItem(operation, "responses"), "200") != NULL))
            fail_msg("%s: what is not done has no 200", routes[i].path);
    }
}

static void every_description_is_a_route(void **state)
{
    (void)state;
    for (const cJSON *path = paths()->child; path != NULL; path = path->next)
        if (route_find(path->string) == NULL)
            fail_msg("%s is in openapi.json and no route", path->string);
}

/* Every $ref leads somewhere. */
static void check_refs(const cJSON *node, int *n)
{
    const char *at = "#/components/";
    for (const cJSON *child = node->child; child != NULL; child = child->next) {
        if (child->string != NULL && strcmp(child->string, "$ref") == 0) {
            char text[128], *name;
            snprintf(text, sizeof text, "%s", child->valuestring);
            assert_memory_equal(text, at, strlen(at));
            name = strchr(text + strlen(at), '/');
            assert_non_null(name);
            *name++ = 0;
            const cJSON *folder = cJSON_GetObjectItemCaseSensitive(
                cJSON_GetObjectItem(document(), "components"), text + strlen(at));
            if (cJSON_GetObjectItemCaseSensitive(folder, name) == NULL)
                fail_msg("%s leads nowhere", child->valuestring);
            ++*n;
        }
        check_refs(child, n);
    }
}

static void references_lead_somewhere(void **state)
{
    (void)state;
    int n = 0;
    check_refs(document(), &n);
    assert_true(n > 50);
    assert_string_equal(
        cJSON_GetObjectItem(cJSON_GetObjectItem(document(), "info"), "version")->valuestring,
        NIBBLE_VERSION);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_route_is_described),
        cmocka_unit_test(every_description_is_a_route),
        cmocka_unit_test(references_lead_somewhere),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    json_free(document());
    return failed;
}
