/* test_chat_templates.c - the template engine against jinja2 and transformers' own renders.
 *
 * jinja_unit.jsonl: small templates on two contexts. render.jsonl: whole chat templates on
 * conversations. The checked-in part always, all of it when the full reference data is there. */
#include "tests/support/support.h"
#include "host/base/json.h"
#include "host/text/chat.h"
#include "host/text/jinja.h"
#include <cjson/cJSON.h>

/* 2025-07-26 14:05:09 UTC: what strftime_now was fixed at. */
static const int64_t NOW_S = 1753538709;

struct counts {
    int good, bad;
};

static char *read_whole(const char *path, size_t *length)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s cannot be opened", path);
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*length + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *length, file), *length);
    bytes[*length] = 0;
    fclose(file);
    return bytes;
}

static struct cJSON *parse(const char *bytes, size_t length)
{
    struct cJSON *root;
    struct err err;
    assert_ok(json_parse(bytes, length, &JSON_FILE_LIMITS, ERR_FORMAT, &root, &err), &err);
    return root;
}

static struct cJSON *parse_file(const char *folder, const char *name)
{
    char path[1200];
    size_t length;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *bytes = read_whole(path, &length);
    struct cJSON *root = parse(bytes, length);
    free(bytes);
    return root;
}

static const char *text_of(const struct cJSON *row, const char *key)
{
    return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(row, key));
}

/* Is this what the row expects? Says what is wrong otherwise. */
static bool judge(const struct cJSON *row, bool rendered, bool parsed, const char *text,
                  const struct err *err)
{
    const char *expected = text_of(row, "expected"), *error = text_of(row, "error");
    if (expected && rendered && strcmp(expected, text) == 0)
        return true;
    if (error && !rendered) {
        if (strcmp(error, "raise_exception") == 0)
            return parsed && strcmp(err->text, text_of(row, "message")) == 0;
        return (strcmp(error, "syntax") != 0 || !parsed) &&
               strncmp(err->text, "chat template line ", 19) == 0;
    }
    char *shown = cJSON_PrintUnformatted(row);
    printf("    %.600s\n      got %s: %.300s\n", shown, rendered ? "text" : "error",
           rendered ? text : err->text);
    free(shown);
    return false;
}

static bool unit_row(const struct cJSON *row, const struct cJSON *context)
{
    const char *source = text_of(row, "template");
    struct jinja jinja;
    struct buf out;
    struct run run;
    struct err err = { 0 };
    const struct cJSON *member;
    buf_init(&out, JINJA_OUTPUT_MAX);
    bool parsed = jinja_parse(&jinja, source, strlen(source), &err), rendered = parsed;
    if (parsed) {
        rendered = run_init(&run, &jinja, &out, NOW_S, &err);
        cJSON_ArrayForEach (member, context) {
            struct value value;
            rendered = rendered && value_from_json(&run, member, NULL, &value) &&
                       run_define(&run, member->string, value);
        }
        rendered = rendered && run_template(&run);
        run_clear(&run);
    }
    bool good = judge(row, rendered, parsed, buf_text(&out), &err);
    buf_clear(&out);
    if (parsed)
        jinja_clear(&jinja);
    return good;
}

static bool render_row(const struct cJSON *row, const char *folder, const struct cJSON *talk)
{
    const struct cJSON *options = cJSON_GetObjectItemCaseSensitive(talk, "options"), *option;
    struct cJSON *variables = cJSON_CreateObject();
    struct chat_input input = {
        .messages = cJSON_GetObjectItemCaseSensitive(talk, "messages"),
        .variables = variables,
        .add_generation_prompt = true,
        .bos_token = "<s>",
        .eos_token = "</s>",
        .unk_token = "<unk>",
        .pad_token = "<pad>",
        .now_s = NOW_S,
    };
    cJSON_ArrayForEach (option, options) {
        if (strcmp(option->string, "tools") == 0)
            input.tools = option;
        else if (strcmp(option->string, "documents") == 0)
            input.documents = option;
        else if (strcmp(option->string, "add_generation_prompt") == 0)
            input.add_generation_prompt = cJSON_IsTrue(option);
        else if (strcmp(option->string, "continue_final_message") == 0)
            input.continue_final_message = cJSON_IsTrue(option);
        else
            cJSON_AddItemToObject(variables, option->string, cJSON_Duplicate(option, true));
    }
    /* Marked as for a real tokenizer: it must not show. */
    static const char *const specials[] = { "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]" };
    char path[1400];
    size_t length;
    snprintf(path, sizeof path, "%s/templates/%s.jinja", folder, text_of(row, "template"));
    char *source = read_whole(path, &length);
    bool good = true;
    for (size_t n_specials = 0; n_specials <= 5; n_specials += 5) {
        struct chat_template *chat = NULL;
        struct chat_text out = { 0 };
        struct err err = { 0 };
        bool parsed = chat_template_open(&chat, source, length, specials, n_specials, &err);
        bool rendered = parsed && chat_render(chat, &input, &out, &err);
        good = judge(row, rendered, parsed, buf_text(&out.text), &err) && good;
        chat_text_clear(&out);
        chat_template_close(chat);
    }
    cJSON_Delete(variables);
    free(source);
    return good;
}

/* Calls `row` for each line of a .jsonl file. */
static struct counts each_line(const char *folder, const char *name, const struct cJSON *data,
                               bool units)
{
    struct counts counts = { 0, 0 };
    char path[1200];
    size_t length;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    char *bytes = read_whole(path, &length);
    for (char *line = bytes; *line;) {
        char *end = strchrnul(line, '\n');
        struct cJSON *row = parse(line, (size_t)(end - line));
        bool good;
        if (units) {
            const struct cJSON *index = cJSON_GetObjectItemCaseSensitive(row, "context");
            good = unit_row(row, cJSON_GetArrayItem(data, (int)cJSON_GetNumberValue(index)));
        } else {
            const char *talk = text_of(row, "conversation");
            good = render_row(row, folder, cJSON_GetObjectItemCaseSensitive(data, talk));
        }
        counts.good += good;
        counts.bad += !good;
        json_free(row);
        line = *end ? end + 1 : end;
    }
    free(bytes);
    return counts;
}

static void run_folder(const char *folder, const char *what)
{
    struct cJSON *contexts = parse_file(folder, "jinja_contexts.json");
    struct cJSON *talks = parse_file(folder, "conversations.json");
    struct counts units = each_line(folder, "jinja_unit.jsonl", contexts, true);
    struct counts renders = each_line(folder, "render.jsonl", talks, false);
    printf("%s: jinja_unit %d of %d, render %d of %d\n", what, units.good, units.good + units.bad,
           renders.good, renders.good + renders.bad);
    json_free(contexts);
    json_free(talks);
    assert_int_equal(units.bad + renders.bad, 0);
    assert_true(units.good > 800 && renders.good > 300);
}

static void test_checked_in(void **state)
{
    (void)state;
    run_folder(NIBBLE_TESTS_DIR "/oracle/chat_templates", "checked-in");
}

static void test_full(void **state)
{
    (void)state;
    char folder[1100];
    if (!oracle_full()) {
        printf("skipped: no full reference data (NIBBLE_ORACLE)\n");
        skip();
    }
    snprintf(folder, sizeof folder, "%s/chat_templates", oracle_full());
    run_folder(folder, "full");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checked_in),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
