/* tool_calls.c - what is said, and the bodies of calls: objects, named arguments, XML, channels. */
#include <cjson/cJSON.h>
#include <string.h>
#include "api/tool_state.h"
#include "host/base/rng.h"

bool tool_is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* ---- saying -----------------------------------------------------------------------------------
 */

static struct tool_event *add_event(struct tool_parser *p, enum tool_said_kind kind, int32_t call)
{
    struct tool_event event = { .kind = kind, .call = call, .at = p->text.length };
    buf_put(&p->events, &event, sizeof event);
    if (p->events.failed)
        return NULL;
    return (struct tool_event *)(void *)(p->events.bytes + p->events.length - sizeof event);
}

void tool_say(struct tool_parser *p, enum tool_said_kind kind, int32_t call, const char *bytes,
              size_t n)
{
    struct tool_event *last = NULL;
    if (n == 0)
        return;
    if (p->events.length > 0)
        last = (struct tool_event *)(void *)(p->events.bytes + p->events.length - sizeof *last);
    if (last == NULL || last->kind != kind || last->call != call)
        last = add_event(p, kind, call);
    if (last == NULL)
        return;
    buf_put(&p->text, bytes, n);
    last->length = p->text.length - last->at;
}

void tool_text(struct tool_parser *p, char c)
{
    if (tool_is_blank(c)) {
        if (!p->trim)
            buf_putc(&p->blank, c);
        return;
    }
    tool_say(p, p->kind, -1, buf_text(&p->blank), p->blank.length);
    buf_reset(&p->blank);
    p->trim = false;
    tool_say(p, p->kind, -1, &c, 1);
}

/* What was read is no call: it is content. */
void tool_fail(struct tool_parser *p)
{
    p->at = AT_TEXT;
    p->begun = p->in_section = false;
    p->kind = TOOL_SAID_CONTENT;
    for (size_t i = 0; i < p->raw.length; i++)
        tool_text(p, p->raw.bytes[i]);
    buf_reset(&p->raw);
    buf_reset(&p->arguments);
}

static void make_id(const struct tool_parser *p, char id[TOOL_ID_MAX])
{
    static const char letters[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    struct rng4 draw =
        rng_philox(p->setup->id_seed, (uint64_t)p->choice, (uint64_t)(uint32_t)p->n_calls);
    bool brief = p->format->short_ids;
    size_t n = 0;
    if (!brief) {
        memcpy(id, "call_", 5);
        n = 5;
    }
    /* Five letters a word: 62^5 < 2^32. */
    for (int word = 0; word < 4; word++)
        for (int k = 0; k < 5 && (!brief || n < 9); k++) {
            id[n++] = letters[draw.v[word] % 62];
            draw.v[word] /= 62;
        }
    id[n] = 0;
}

static bool name_is_fine(const struct tool_parser *p)
{
    if (!tool_name_is_fine(p->name, p->n_name))
        return false;
    if (p->marked && !p->format->known)
        return true;
    const cJSON *tool;
    cJSON_ArrayForEach (tool, p->setup->tools) {
        const cJSON *function = cJSON_GetObjectItemCaseSensitive(tool, "function");
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(function, "name"));
        if (name != NULL && strcmp(name, p->name) == 0)
            return true;
    }
    return false;
}

/* The call is certain. False: its name cannot be one. */
bool tool_begin(struct tool_parser *p)
{
    p->name[p->n_name] = 0;
    if (!name_is_fine(p))
        return false;
    struct tool_event *event = add_event(p, TOOL_SAID_CALL, p->n_calls);
    if (event != NULL) {
        make_id(p, event->id);
        buf_put(&p->text, p->name, p->n_name);
        event->length = p->n_name;
    }
    p->n_calls++;
    p->begun = true;
    buf_reset(&p->raw);
    buf_reset(&p->blank);
    return true;
}

void tool_say_arguments(struct tool_parser *p, const char *bytes, size_t n)
{
    tool_say(p, TOOL_SAID_ARGUMENTS, p->n_calls - 1, bytes, n);
}

void tool_end_call(struct tool_parser *p)
{
    add_event(p, TOOL_SAID_END, p->n_calls - 1);
    p->begun = p->named = false;
    p->n_name = 0;
    p->trim = true;
    buf_reset(&p->raw);
    p->finished = p->setup->one_call;
}

void tool_begin_attempt(struct tool_parser *p, bool marked)
{
    p->marked = marked;
    p->begun = p->named = false;
    p->n_name = 0;
    p->n_members = 0;
    p->n_before = p->n_calls;
    p->scan = (struct json_scan){ 0 };
    p->field = FIELD_OTHER;
    buf_reset(&p->arguments);
    buf_put(&p->raw, buf_text(&p->blank), p->blank.length);
    buf_reset(&p->blank);
}

/* ---- call objects -----------------------------------------------------------------------------
 */

/* One byte of arguments; control characters in strings become escapes. */
static bool put_argument(struct tool_parser *p, const char *bytes, size_t n)
{
    if (!p->begun && p->named && !tool_begin(p))
        return false;
    p->any_arguments = true;
    if (p->begun)
        tool_say_arguments(p, bytes, n);
    else
        buf_put(&p->arguments, bytes, n);
    return true;
}

static bool put_raw_argument(struct tool_parser *p, char c, bool in_string)
{
    static const char digits[] = "0123456789abcdef";
    if (!in_string || (unsigned char)c >= 0x20)
        return put_argument(p, &c, 1);
    char brief = c == '\n' ? 'n' : c == '\t' ? 't' : c == '\r' ? 'r' : 'u';
    char escape[6] = { '\\', brief, '0', '0', digits[c >> 4 & 15], digits[c & 15] };
    return put_argument(p, escape, brief == 'u' ? 6 : 2);
}

/* A byte of a string that holds JSON, quotes apart; `ends`: its closing quote. What it holds must
 * be an object, or nothing. */
static bool wrapped_byte(struct tool_parser *p, char c, bool ends)
{
    char out[8];
    int n = ends ? json_unescape_end(&p->unescape, out) : json_unescape_push(&p->unescape, c, out);
    for (int i = 0; i < n; i++) {
        bool in_string = p->inner.at == SCAN_STRING;
        if (!p->any_arguments && tool_is_blank(out[i]))
            continue;
        if ((!p->any_arguments && out[i] != '{') ||
            json_scan_push(&p->inner, out[i]) == JSON_SCAN_BAD ||
            !put_raw_argument(p, out[i], in_string))
            return false;
    }
    return !ends || !p->any_arguments || p->inner.at == SCAN_DONE;
}

static void begin_object(struct tool_parser *p)
{
    p->field = FIELD_OTHER;
    p->named = p->any_arguments = false;
    p->n_name = 0;
    buf_reset(&p->arguments);
}

static bool key_is(const struct tool_parser *p, const char *key)
{
    return p->key.length == strlen(key) && memcmp(buf_text(&p->key), key, p->key.length) == 0;
}

/* The first byte of a member's value. */
static bool begin_member(struct tool_parser *p, char c)
{
    bool is_name = key_is(p, "name") || key_is(p, "tool_name");
    bool is_arguments = key_is(p, "arguments") || key_is(p, "parameters");
    p->field = FIELD_OTHER;
    if (is_name && !p->named && !p->begun) {
        p->field = FIELD_NAME;
        p->n_name = 0;
        return c == '"';
    }
    if (is_arguments && !p->begun && p->arguments.length == 0) {
        if (c == '{') {
            p->field = FIELD_ARGUMENTS;
            return put_raw_argument(p, c, false);
        }
        p->field = c == '"' ? FIELD_WRAPPED : FIELD_OTHER;
        p->unescape = (struct json_unescape){ 0 };
        p->inner = (struct json_scan){ 0 };
        return c == '"' || c == 'n'; /* null: no arguments */
    }
    return true;
}

/* A byte inside a member's value, `ends`: its last. */
static bool in_member(struct tool_parser *p, char c, bool in_string, bool ends)
{
    switch (p->field) {
    case FIELD_NAME:
        if (ends) {
            p->named = true;
            p->field = FIELD_OTHER;
            p->name[p->n_name] = 0;
            if (p->arguments.length == 0)
                return true;
            if (!tool_begin(p))
                return false;
            tool_say_arguments(p, buf_text(&p->arguments), p->arguments.length);
            buf_reset(&p->arguments);
            return true;
        }
        if (p->n_name == TOOL_NAME_MAX)
            return false;
        p->name[p->n_name++] = c;
        return true;
    case FIELD_ARGUMENTS:
        if (ends)
            p->field = FIELD_OTHER;
        return put_raw_argument(p, c, in_string);
    case FIELD_WRAPPED:
        if (ends)
            p->field = FIELD_OTHER;
        return wrapped_byte(p, c, ends);
    default:
        return true;
    }
}

/* The call object's last byte. */
static bool end_object(struct tool_parser *p)
{
    if (!p->begun && !(p->named && tool_begin(p)))
        return false;
    if (!p->any_arguments)
        tool_say_arguments(p, "{}", 2);
    tool_end_call(p);
    return true;
}

/* False: the byte cannot go on here. */
bool tool_json_byte(struct tool_parser *p, char c)
{
    const struct json_scan before = p->scan;
    struct json_scan *s = &p->scan;
    bool in_string = before.at == SCAN_STRING || before.at == SCAN_ESCAPE || before.at == SCAN_HEX;
    if (json_scan_push(s, c) == JSON_SCAN_BAD)
        return false;
    if (before.depth == 0)
        p->base = c == '[' ? 2 : 1;
    bool good = true;
    if (before.depth < p->base) { /* outside of call objects */
        good = tool_is_blank(c) || s->at == SCAN_VALUE || s->depth != before.depth;
        if (s->depth == p->base) {
            good = c == '{';
            begin_object(p);
        }
    } else if (before.depth == p->base && s->depth < p->base) {
        return end_object(p);
    } else if (before.depth == p->base && s->is_key && in_string) {
        if (s->at != SCAN_COLON)
            buf_putc(&p->key, c);
        good = p->key.length <= TOOL_KEY_MAX;
    } else if (before.depth == p->base && s->is_key && s->at == SCAN_STRING) {
        buf_reset(&p->key);
    } else if (before.depth == p->base && before.at == SCAN_VALUE && s->at != SCAN_VALUE) {
        good = begin_member(p, c);
    } else if (p->field != FIELD_OTHER) {
        bool ends = s->depth == p->base && s->at == SCAN_AFTER &&
                    (before.depth > p->base || before.at != SCAN_AFTER);
        good = in_member(p, c, in_string, ends);
    }
    if (good && !p->begun)
        buf_putc(&p->raw, c);
    return good;
}

/* ---- calls with the name in front -------------------------------------------------------------
 */

void tool_trim_name(struct tool_parser *p)
{
    size_t from = 0;
    while (p->n_name > 0 && tool_is_blank(p->name[p->n_name - 1]))
        p->n_name--;
    while (from < p->n_name && tool_is_blank(p->name[from]))
        from++;
    p->n_name -= from;
    memmove(p->name, p->name + from, p->n_name);
    p->name[p->n_name] = 0;
}

bool tool_name_byte(struct tool_parser *p, char c)
{
    if (p->n_name == TOOL_NAME_RAW_MAX)
        return false;
    p->name[p->n_name++] = c;
    buf_putc(&p->raw, c);
    return true;
}

/* The arguments' first byte is next. */
bool tool_begin_named(struct tool_parser *p)
{
    tool_trim_name(p);
    if (!tool_begin(p))
        return false;
    p->scan = (struct json_scan){ 0 };
    p->unescape = (struct json_unescape){ 0 };
    p->inner = (struct json_scan){ 0 };
    p->any_arguments = false;
    p->at = AT_ARGUMENTS;
    return true;
}

bool tool_argument_byte(struct tool_parser *p, char c)
{
    bool first = p->scan.at == SCAN_VALUE && p->scan.depth == 0,
         in_string = p->scan.at == SCAN_STRING;
    enum json_scan_result result = json_scan_push(&p->scan, c);
    if (result == JSON_SCAN_BAD)
        return false;
    if (first)
        p->field = c == '"' ? FIELD_WRAPPED : FIELD_ARGUMENTS;
    if (p->field == FIELD_ARGUMENTS)
        put_raw_argument(p, c, in_string);
    else if (!first && !wrapped_byte(p, c, result == JSON_SCAN_DONE))
        return false;
    if (result == JSON_SCAN_DONE) {
        if (!p->any_arguments)
            tool_say_arguments(p, "{}", 2);
        tool_end_call(p);
        p->at = AT_CLOSE;
    }
    return true;
}

/* ---- XML --------------------------------------------------------------------------------------
 */

/* A parameter's declared type by the request's tools: a string, something else, or not said. */
enum declared { DECLARED_NOT, DECLARED_STRING, DECLARED_OTHER };
static enum declared declared_of(const struct tool_parser *p)
{
    const cJSON *tool, *type = NULL, *item;
    cJSON_ArrayForEach (tool, p->setup->tools) {
        const cJSON *function = cJSON_GetObjectItemCaseSensitive(tool, "function");
        const char *name = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(function, "name"));
        if (name == NULL || strcmp(name, p->name) != 0)
            continue;
        const cJSON *at = cJSON_GetObjectItemCaseSensitive(function, "parameters");
        at = cJSON_GetObjectItemCaseSensitive(at, "properties");
        at = cJSON_GetObjectItemCaseSensitive(at, buf_text(&p->key));
        type = cJSON_GetObjectItemCaseSensitive(at, "type");
    }
    if (cJSON_IsString(type))
        return strcmp(type->valuestring, "string") == 0 ? DECLARED_STRING : DECLARED_OTHER;
    if (!cJSON_IsArray(type))
        return DECLARED_NOT;
    cJSON_ArrayForEach (item, type)
        if (cJSON_IsString(item) && strcmp(item->valuestring, "string") != 0 &&
            strcmp(item->valuestring, "null") != 0)
            return DECLARED_OTHER;
    return DECLARED_STRING;
}

/* One parameter is complete: a string as its tool declares, else JSON if it is any, else a string.
 * A line feed on either side of the value is the format's. */
void tool_say_member(struct tool_parser *p)
{
    const char *value = buf_text(&p->value);
    size_t n = p->value.length;
    if (p->format->value_open == NULL) {
        if (n > 0 && value[0] == '\n') {
            value++;
            n--;
        }
        n -= n > 0 && value[n - 1] == '\n';
    }
    struct buf member;
    buf_init(&member, TOOL_TEXT_MAX);
    buf_puts(&member, p->n_members++ == 0 ? "{" : ", ");
    buf_put_json_string(&member, buf_text(&p->key), p->key.length);
    buf_puts(&member, ": ");
    if (declared_of(p) != DECLARED_STRING && json_scan_whole(value, n))
        buf_put(&member, value, n);
    else
        buf_put_json_string(&member, value, n);
    tool_say_arguments(p, buf_text(&member), member.length);
    p->text.failed = p->text.failed || member.failed;
    buf_clear(&member);
    buf_reset(&p->raw);
}

/* ---- channels ---------------------------------------------------------------------------------
 */

static const char *after(const struct buf *raw, const char *what)
{
    const char *at = strstr(buf_text(raw), what);
    return at != NULL ? at + strlen(what) : NULL;
}

/* raw holds a header, its <|message|> included: what follows is reasoning, text or a call. */
bool tool_end_header(struct tool_parser *p)
{
    const char *to = after(&p->raw, "to="), *channel = after(&p->raw, "<|channel|>");
    size_t n = to != NULL ? strcspn(to, " \t\r\n<") : 0;
    if (n > 0 && n <= TOOL_NAME_RAW_MAX) {
        static const char own[] = "functions.";
        size_t skip = strncmp(to, own, sizeof own - 1) == 0 ? sizeof own - 1 : 0;
        skip = skip < n ? skip : 0;
        p->n_name = n - skip;
        memcpy(p->name, to + skip, p->n_name);
        p->name[p->n_name] = 0;
        p->named = p->marked = true;
        p->at = AT_SEPARATED;
        return p->setup->calls && name_is_fine(p);
    }
    bool analysis = channel != NULL && strncmp(channel, "analysis", 8) == 0;
    if (analysis && p->setup->reasoning == NULL)
        return false;
    p->kind = analysis ? TOOL_SAID_REASONING : TOOL_SAID_CONTENT;
    p->at = AT_TEXT;
    p->trim = true;
    buf_reset(&p->raw);
    return true;
}

bool tool_header_byte(struct tool_parser *p, char c)
{
    static const char to[] = "to=";
    if (p->raw.length == TOOL_HEADER_MAX)
        return false;
    /* It begins with a mark or with a recipient; n_name counts how much of that was seen. */
    if (p->n_name < 3 && !tool_is_blank(c)) {
        if (p->n_name == 0 && c == '<')
            p->n_name = 3;
        else if (c != to[p->n_name++])
            return false;
    }
    buf_putc(&p->raw, c);
    return true;
}

void tool_begin_header(struct tool_parser *p)
{
    tool_begin_attempt(p, true);
    p->at = AT_HEADER;
}
