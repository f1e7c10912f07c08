/* tool_choice.c - tools in requests: checked, prepared for templates, and described to the grammar.
 */
#include <cjson/cJSON.h>
#include <string.h>
#include "api/generate.h"
#include "api/tools.h"
#include "host/text/chat.h"

enum { TOOLS_MAX = 1024 };

bool tool_name_is_fine(const char *name, size_t length)
{
    if (length == 0 || length > TOOL_NAME_MAX)
        return false;
    for (size_t i = 0; i < length; i++) {
        char c = name[i], low = (char)(c | 0x20);
        if (!(low >= 'a' && low <= 'z') && !(c >= '0' && c <= '9') && c != '_' && c != '-' &&
            c != '.')
            return false;
    }
    return true;
}

static const cJSON *function_of(const cJSON *tool)
{
    return cJSON_GetObjectItemCaseSensitive(tool, "function");
}

static const char *name_of(const cJSON *tool)
{
    const char *name =
        cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(function_of(tool), "name"));
    return name != NULL ? name : "";
}

static const cJSON *find_tool(const cJSON *tools, const char *name)
{
    const cJSON *tool;
    cJSON_ArrayForEach (tool, tools)
        if (strcmp(name_of(tool), name) == 0)
            return tool;
    return NULL;
}

/* ---- the fields -------------------------------------------------------------------------------
 */

/* {"type": "function", "function": {"name": ...}}: the name. */
static bool read_function(const struct json_ref *tool, struct json_ref *function, const char **name,
                          struct err *err)
{
    struct json_ref at;
    const char *type = NULL;
    if (!json_is_object(tool))
        return json_error(tool, err, "must be an object like {\"type\": \"function\", ...}");
    if (!json_get(tool, "type", &at))
        return json_error(&at, err, "is required: \"function\"");
    if (!json_string(&at, &type, err))
        return false;
    if (strcmp(type, "function") != 0)
        return json_error(&at, err, "must be \"function\", got \"%.40s\"", type);
    if (!json_get(tool, "function", function) || !json_is_object(function))
        return json_error(function, err, "must be an object with name and parameters");
    if (!json_get(function, "name", &at))
        return json_error(&at, err, "is required");
    if (!json_string(&at, name, err))
        return false;
    if (!tool_name_is_fine(*name, strlen(*name)))
        return json_error(&at, err,
                          "must be 1 to %d letters, digits, underscores, dashes or dots, got "
                          "\"%.80s\"",
                          TOOL_NAME_MAX, *name);
    return true;
}

bool api_check_tools(const struct json_ref *tools, struct err *err)
{
    struct json_ref tool, function, at;
    if (!json_is_array(tools))
        return json_error(tools, err, "must be a list");
    int64_t n = json_count(tools);
    if (n > TOOLS_MAX)
        return json_error(tools, err, "must have at most %d tools, got %lld", TOOLS_MAX,
                          (long long)n);
    for (bool more = json_first(tools, &tool); more; more = json_next(&tool)) {
        const char *name, *text = NULL;
        bool strict = false;
        if (!read_function(&tool, &function, &name, err) ||
            !json_opt_string(&function, "description", &text, err) ||
            !json_opt_bool(&function, "strict", &strict, err))
            return false;
        if (json_get(&function, "parameters", &at) && !json_is_object(&at))
            return json_error(&at, err, "must be an object: a JSON schema");
        if (find_tool(tools->node, name) != tool.node)
            return json_error(&function, err, "has the name of another tool, \"%s\"", name);
    }
    return true;
}

/* {"mode": ..., "tools": [...]}: the tools that may be called. The others are taken out of the
 * list: neither template nor grammar sees them. */
static bool allow_tools(struct generate *out, const struct json_ref *allowed, const char **mode,
                        struct err *err)
{
    struct json_ref list, tool, function, at;
    if (!json_get(allowed, "mode", &at))
        return json_error(&at, err, "is required: \"auto\" or \"required\"");
    if (!json_string(&at, mode, err))
        return false;
    if (strcmp(*mode, "auto") != 0 && strcmp(*mode, "required") != 0)
        return json_error(&at, err, "must be \"auto\" or \"required\", got \"%.40s\"", *mode);
    if (!json_get(allowed, "tools", &list) || !json_is_array(&list) || json_count(&list) == 0)
        return json_error(&list, err, "must be a list of at least one tool");
    if (json_count(&list) > TOOLS_MAX)
        return json_error(&list, err, "must have at most %d tools", TOOLS_MAX);
    for (bool more = json_first(&list, &tool); more; more = json_next(&tool)) {
        const char *name;
        if (!read_function(&tool, &function, &name, err))
            return false;
        if (find_tool(out->tools, name) == NULL)
            return json_error(&function, err, "names \"%s\", which is not among tools", name);
    }
    cJSON *tools = (cJSON *)(uintptr_t)out->tools;
    for (cJSON *item = tools->child, *next; item != NULL; item = next) {
        next = item->next;
        if (find_tool(list.node, name_of(item)) == NULL)
            cJSON_Delete(cJSON_DetachItemViaPointer(tools, item));
    }
    return true;
}

static bool read_choice(struct generate *out, const struct json_ref *at, struct err *err)
{
    const char *word = NULL, *name = NULL;
    struct json_ref function, type;
    if (json_is_object(at)) {
        if (json_get(at, "type", &type) && json_is_string(&type) &&
            strcmp(type.node->valuestring, "allowed_tools") == 0) {
            if (!json_get(at, "allowed_tools", &function) || !json_is_object(&function))
                return json_error(&function, err, "must be an object with mode and tools");
            if (!allow_tools(out, &function, &word, err))
                return false;
        } else if (!read_function(at, &function, &name, err)) {
            return false;
        } else if (find_tool(out->tools, name) == NULL) {
            return json_error(at, err, "names \"%s\", which is not among tools", name);
        }
    } else if (!json_is_string(at)) {
        return json_error(at, err,
                          "must be \"none\", \"auto\", \"required\" or an object that names a "
                          "function");
    } else if (!json_string(at, &word, err)) {
        return false;
    }
    out->tool_choice = name != NULL                ? TOOL_CHOICE_NAMED
                       : strcmp(word, "none") == 0 ? TOOL_CHOICE_NONE
                       : strcmp(word, "auto") == 0 ? TOOL_CHOICE_AUTO
                                                   : TOOL_CHOICE_REQUIRED;
    out->tool_name = name;
    if (out->tool_choice == TOOL_CHOICE_REQUIRED && strcmp(word, "required") != 0)
        return json_error(at, err, "must be \"none\", \"auto\" or \"required\", got \"%.40s\"",
                          word);
    return true;
}

static bool read_reasoning(struct generate *out, const struct json_ref *root,
                           const struct api_model *model, struct err *err)
{
    struct json_ref at;
    const char *format = "auto";
    out->tool.reasoning = model->reasoning;
    if (!json_get(root, "reasoning_format", &at))
        return true;
    if (!json_string(&at, &format, err))
        return false;
    if (strcmp(format, "none") == 0)
        out->tool.reasoning = NULL;
    else if (strcmp(format, "auto") != 0 && strcmp(format, "deepseek") != 0)
        return json_error(&at, err, "must be \"none\", \"auto\" or \"deepseek\", got \"%.40s\"",
                          format);
    return true;
}

bool api_tool_fields(struct generate *out, const struct json_ref *root,
                     const struct api_model *model, struct err *err)
{
    struct json_ref at;
    bool parallel = true, parse = true;
    out->tool_choice = out->tools != NULL ? TOOL_CHOICE_AUTO : TOOL_CHOICE_NONE;
    if (!read_reasoning(out, root, model, err) ||
        !json_opt_bool(root, "parallel_tool_calls", &parallel, err) ||
        !json_opt_bool(root, "parse_tool_calls", &parse, err))
        return false;
    if (json_get(root, "tool_choice", &at)) {
        if (!read_choice(out, &at, err))
            return false;
        if (out->tools == NULL && out->tool_choice > TOOL_CHOICE_AUTO)
            return json_error(&at, err, "needs tools");
        if (out->tool_choice > TOOL_CHOICE_AUTO)
            return json_error(&at, err,
                              "is not supported by this server but for \"none\" and \"auto\": "
                              "calls cannot be forced");
    }
    out->tool.format = model->tool_format;
    out->tool.calls = out->tools != NULL && out->tool_choice != TOOL_CHOICE_NONE && parse;
    out->tool.one_call = !parallel;
    out->tool.tools = out->tools;
    if (out->tool.calls && out->tool.format == NULL)
        return err_set_field(
            err, ERR_REQUEST, "tools", "tools are not supported unless tool_choice is \"none\": %s",
            model->no_tools != NULL ? model->no_tools : "no format of calls is known");
    return true;
}

/* ---- what templates get -----------------------------------------------------------------------
 */

/* The arguments of one call as the template wants them. False: no memory. */
static bool turn_arguments(cJSON *function, bool strings)
{
    cJSON *node = cJSON_GetObjectItemCaseSensitive(function, "arguments"), *turned = NULL;
    struct err unused = { 0 };
    bool missing = node == NULL || cJSON_IsNull(node);
    const char *text = missing ? "" : cJSON_GetStringValue(node);
    if (strings && cJSON_IsObject(node)) {
        char *printed = cJSON_PrintUnformatted(node);
        turned = printed != NULL ? cJSON_CreateString(printed) : NULL;
        cJSON_free(printed);
    } else if (strings && missing) {
        turned = cJSON_CreateString("{}");
    } else if (!strings && text != NULL && text[strspn(text, " \t\r\n")] == 0) {
        turned = cJSON_CreateObject();
    } else if (!strings && text != NULL) {
        if (!json_parse(text, strlen(text), &JSON_REQUEST_LIMITS, ERR_REQUEST, &turned, &unused))
            return unused.code != ERR_MEMORY; /* what a model wrote badly is shown as it is */
        if (!cJSON_IsObject(turned)) {
            json_free(turned);
            return true;
        }
    } else {
        return true;
    }
    if (turned == NULL)
        return false;
    if (node == NULL)
        return cJSON_AddItemToObject(function, "arguments", turned);
    return cJSON_ReplaceItemInObjectCaseSensitive(function, "arguments", turned);
}

bool tool_arguments(struct cJSON *messages, bool strings, struct err *err)
{
    cJSON *message, *call;
    cJSON_ArrayForEach (message, messages)
        cJSON_ArrayForEach (call, cJSON_GetObjectItemCaseSensitive(message, "tool_calls"))
            if (!turn_arguments(cJSON_GetObjectItemCaseSensitive(call, "function"), strings))
                return err_set(err, ERR_MEMORY, "no memory for the arguments of tool calls");
    return true;
}

/* A conversation with one call, rendered: are its arguments there as JSON? */
static bool writes_arguments(const struct chat_template *chat, const char *arguments)
{
    static const char form[] =
        "[{\"role\":\"user\",\"content\":\"u\"},{\"role\":\"assistant\",\"content\":\"\","
        "\"tool_calls\":[{\"id\":\"abcdefghi\",\"type\":\"function\",\"function\":{\"name\":\"f\","
        "\"arguments\":%s}}]},{\"role\":\"tool\",\"tool_call_id\":\"abcdefghi\",\"name\":\"f\","
        "\"content\":\"r\"}]";
    static const char tools[] = "[{\"type\":\"function\",\"function\":{\"name\":\"f\","
                                "\"description\":\"d\",\"parameters\":{\"type\":\"object\","
                                "\"properties\":{\"q7\":{\"type\":\"integer\"}}}}}]";
    struct buf json;
    struct chat_text text = { 0 };
    struct err unused = { 0 };
    buf_init(&json, 1 << 16);
    buf_printf(&json, form, arguments);
    struct chat_input input = { .messages = cJSON_Parse(buf_text(&json)),
                                .tools = cJSON_Parse(tools),
                                .bos_token = "",
                                .eos_token = "",
                                .unk_token = "",
                                .pad_token = "" };
    bool good = input.messages != NULL && input.tools != NULL &&
                chat_render(chat, &input, &text, &unused) &&
                (strstr(buf_text(&text.text), "{\"q7\": 1}") != NULL ||
                 strstr(buf_text(&text.text), "{\"q7\":1}") != NULL);
    chat_text_clear(&text);
    cJSON_Delete((cJSON *)(uintptr_t)input.messages);
    cJSON_Delete((cJSON *)(uintptr_t)input.tools);
    buf_clear(&json);
    return good;
}

bool tool_template_wants_strings(const struct chat_template *chat)
{
    return !writes_arguments(chat, "{\"q7\":1}") && writes_arguments(chat, "\"{\\\"q7\\\": 1}\"");
}

/* ---- what the grammar gets --------------------------------------------------------------------
 */

/* `form` with the name in place of %s, as a member of `tag`. */
static bool add_form(cJSON *tag, const char *key, const char *form, const char *name)
{
    struct buf text;
    const char *at = strstr(form, "%s");
    buf_init(&text, 1 << 12);
    if (at != NULL) {
        buf_put(&text, form, (size_t)(at - form));
        buf_puts(&text, name);
        form = at + 2;
    }
    buf_puts(&text, form);
    bool good = !text.failed && cJSON_AddStringToObject(tag, key, buf_text(&text)) != NULL;
    buf_clear(&text);
    return good;
}

static bool add_tag(cJSON *tags, const struct tool_format *format, const cJSON *tool)
{
    const cJSON *parameters = cJSON_GetObjectItemCaseSensitive(function_of(tool), "parameters");
    cJSON *tag = cJSON_CreateObject();
    if (tag == NULL || !cJSON_AddItemToArray(tags, tag)) {
        cJSON_Delete(tag);
        return false;
    }
    cJSON *schema = cJSON_IsObject(parameters)
                        ? cJSON_Duplicate(parameters, true)
                        : cJSON_Parse("{\"type\":\"object\",\"properties\":{},"
                                      "\"additionalProperties\":false}");
    if (!add_form(tag, "begin", format->begin, name_of(tool)) ||
        !add_form(tag, "end", format->end, name_of(tool)) ||
        !cJSON_AddItemToObject(tag, "schema", schema)) {
        cJSON_Delete(schema);
        return false;
    }
    return true;
}

bool tool_grammar(struct cJSON **out, const struct tool_format *format, const struct cJSON *tools,
                  enum tool_choice choice, const char *name, bool parallel, bool text_first,
                  struct err *err)
{
    const cJSON *tool;
    bool forced = choice >= TOOL_CHOICE_REQUIRED;
    CHECK(choice != TOOL_CHOICE_NONE);
    CHECK(format != NULL);
    if (format->begin == NULL)
        return err_set_field(err, ERR_REQUEST, "tool_choice",
                             "tool_choice cannot be enforced: calls of the format %s are not JSON",
                             format->name);
    /* A message that is a call has no mark that text could be told from. */
    bool bare = format->begin[0] == '{';
    cJSON *root = cJSON_CreateObject(), *tags = cJSON_AddArrayToObject(root, "tags");
    bool good = tags != NULL;
    cJSON_ArrayForEach (tool, tools)
        if (name == NULL || choice != TOOL_CHOICE_NAMED || strcmp(name_of(tool), name) == 0)
            good = good && add_tag(tags, format, tool);
    good = good && cJSON_AddBoolToObject(root, "at_least_one", forced) &&
           cJSON_AddBoolToObject(root, "only_tags", forced && (!text_first || bare)) &&
           cJSON_AddBoolToObject(root, "stop_after_first", !parallel);
    if (!good) {
        cJSON_Delete(root);
        return err_set(err, ERR_MEMORY, "no memory for the grammar of tool calls");
    }
    *out = root;
    return true;
}
