/* Model folders: what is found where, and every way in which a folder can lie. */
#include "tests/support/support.h"
#include <sys/stat.h>
#include <unistd.h>
#include "host/format/hf_folder.h"

/* One file of a folder in the making: safetensors files are made from a list of one-byte tensors.
 */
struct item {
    const char *name;
    const char *text;    /* the content, or NULL: */
    const char *tensors; /* "a b c": three U8 tensors of shape [1] */
};
enum { ITEMS_MAX = 6 };

/* A new empty folder. */
static void fresh_folder(char *dir, size_t size)
{
    static int n;
    snprintf(dir, size, "%s/model%d", temp_dir(), n++);
    assert_int_equal(mkdir(dir, 0700), 0);
}

static size_t make_safetensors(const char *tensors, char *out, size_t size)
{
    char header[1024], names[256], *save = NULL;
    int used = sprintf(header, "{"), n = 0;
    snprintf(names, sizeof names, "%s", tensors);
    for (char *name = strtok_r(names, " ", &save); name != NULL;
         name = strtok_r(NULL, " ", &save)) {
        used += snprintf(header + used, sizeof header - (size_t)used,
                         "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}",
                         n == 0 ? "" : ",", name, n, n + 1);
        n++;
    }
    used += sprintf(header + used, "}");
    assert_true(8 + (size_t)used + (size_t)n <= size);
    memset(out, 0, 8);
    out[0] = (char)(used & 255);
    out[1] = (char)(used >> 8);
    memcpy(out + 8, header, (size_t)used);
    for (int i = 0; i < n; i++)
        out[8 + used + i] = (char)i;
    return 8 + (size_t)used + (size_t)n;
}

static void write_folder(const char *dir, const struct item *items)
{
    for (int i = 0; i < ITEMS_MAX && items[i].name != NULL; i++) {
        char path[600], bytes[2048];
        snprintf(path, sizeof path, "%s/%s", dir, items[i].name);
        if (items[i].text != NULL)
            write_file(path, items[i].text, strlen(items[i].text));
        else
            write_file(path, bytes, make_safetensors(items[i].tensors, bytes, sizeof bytes));
    }
}

/* The same files as memory. */
static bool open_memory(struct hf_folder *folder, const struct item *items, char (*storage)[2048],
                        struct err *err)
{
    struct hf_file files[ITEMS_MAX];
    size_t n = 0;
    for (; n < ITEMS_MAX && items[n].name != NULL; n++) {
        if (items[n].text != NULL)
            files[n] = (struct hf_file){ items[n].name, items[n].text, strlen(items[n].text) };
        else
            files[n] = (struct hf_file){ items[n].name, storage[n],
                                         make_safetensors(items[n].tensors, storage[n], 2048) };
    }
    return hf_folder_open_memory(folder, "memory", files, n, err);
}

#define INDEX(map) "{\"metadata\":{\"total_size\":3},\"weight_map\":{" map "}}"
static const char CONFIG[] = "{\"model_type\":\"llama\"}";
static const char INDEX_NAME[] = "model.safetensors.index.json";

static void test_folders(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct item items[ITEMS_MAX];
        enum err_code code; /* ERR_NONE: opens */
        const char *text;   /* part of the message */
    } rows[] = {
        { "one file",
          { { "config.json", CONFIG, 0 }, { "model.safetensors", 0, "a b c" } },
          ERR_NONE,
          "" },
        { "two shards",
          { { "config.json", CONFIG, 0 },
            { INDEX_NAME,
              INDEX("\"a\":\"x.safetensors\",\"b\":\"y.safetensors\",\"c\":"
                    "\"x.safetensors\""),
              0 },
            { "x.safetensors", 0, "a c" },
            { "y.safetensors", 0, "b" } },
          ERR_NONE,
          "" },
        { "a single file beats an index",
          { { "config.json", CONFIG, 0 },
            { "model.safetensors", 0, "a b c" },
            { INDEX_NAME, "nonsense", 0 } },
          ERR_NONE,
          "" },
        { "no config",
          { { "model.safetensors", 0, "a" } },
          ERR_NOT_FOUND,
          ": config.json: not found" },
        { "no weights", { { "config.json", CONFIG, 0 } }, ERR_NOT_FOUND, "no weights" },
        { "pickles",
          { { "config.json", CONFIG, 0 }, { "pytorch_model.bin", "x", 0 } },
          ERR_UNSUPPORTED,
          "pytorch_model.bin: PyTorch pickles" },
        { "a broken file",
          { { "config.json", CONFIG, 0 }, { "model.safetensors", "junk", 0 } },
          ERR_FORMAT,
          "model.safetensors: 4 bytes" },
        { "an index that is not JSON",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, "{", 0 } },
          ERR_FORMAT,
          "model.safetensors.index.json: " },
        { "an index without a map",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, "{}", 0 } },
          ERR_FORMAT,
          "weight_map must be an object" },
        { "an empty map",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX(""), 0 } },
          ERR_FORMAT,
          "weight_map must be an object" },
        { "a map to numbers",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":1"), 0 } },
          ERR_FORMAT,
          "tensor \"a\" must name a file" },
        { "a shard that is not there",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"x.safetensors\""), 0 } },
          ERR_NOT_FOUND,
          "x.safetensors" },
        { "a tensor that its shard does not have",
          { { "config.json", CONFIG, 0 },
            { INDEX_NAME, INDEX("\"a\":\"x.safetensors\",\"b\":\"x.safetensors\""), 0 },
            { "x.safetensors", 0, "a" } },
          ERR_FORMAT,
          "tensor \"b\" should be in \"x.safetensors\", which does not have it" },
        { "a tensor in another shard",
          { { "config.json", CONFIG, 0 },
            { INDEX_NAME,
              INDEX("\"a\":\"x.safetensors\",\"b\":\"x.safetensors\",\"c\":"
                    "\"y.safetensors\""),
              0 },
            { "x.safetensors", 0, "a" },
            { "y.safetensors", 0, "b c" } },
          ERR_FORMAT,
          "tensor \"b\" should be in \"x.safetensors\", but is in \"y.safetensors\"" },
        { "a tensor in two shards",
          { { "config.json", CONFIG, 0 },
            { INDEX_NAME, INDEX("\"a\":\"x.safetensors\",\"b\":\"y.safetensors\""), 0 },
            { "x.safetensors", 0, "a" },
            { "y.safetensors", 0, "a b" } },
          ERR_FORMAT,
          "y.safetensors: tensor \"a\" is already in x.safetensors" },
        { "the same tensor twice in the index",
          { { "config.json", CONFIG, 0 },
            { INDEX_NAME, INDEX("\"a\":\"x.safetensors\",\"a\":\"x.safetensors\""), 0 },
            { "x.safetensors", 0, "a" } },
          ERR_FORMAT,
          "model.safetensors.index.json: " },
        { "a shard one folder up",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"../x.safetensors\""), 0 } },
          ERR_FORMAT,
          "tensor \"a\" is said to be in \"../x.safetensors\", which is not the plain" },
        { "a shard by its full path",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"/x.safetensors\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "a shard in a folder",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"d/x.safetensors\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "a backslash",
          { { "config.json", CONFIG, 0 },
            { INDEX_NAME, INDEX("\"a\":\"d\\\\x.safetensors\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "a hidden shard",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\".safetensors\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "dots alone",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"..\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "an empty shard name",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "a newline in a shard name",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"x\\n.safetensors\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "a shard of another kind",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"config.json\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "a template file that is not JSON",
          { { "config.json", CONFIG, 0 },
            { "model.safetensors", 0, "a b c" },
            { "chat_template.json", "hello", 0 } },
          ERR_FORMAT,
          "chat_template.json: " },
        { "a template that is a number",
          { { "config.json", CONFIG, 0 },
            { "model.safetensors", 0, "a b c" },
            { "chat_template.json", "{\"chat_template\":1}", 0 } },
          ERR_FORMAT,
          "chat_template.json: chat_template must be a string" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        static char storage[ITEMS_MAX][2048];
        char dir[512];
        fresh_folder(dir, sizeof dir);
        write_folder(dir, rows[i].items);
        for (int memory = 0; memory < 2; memory++) {
            struct hf_folder folder;
            struct err err = { 0 };
            const char *label = memory ? "memory" : dir;
            bool ok = memory ? open_memory(&folder, rows[i].items, storage, &err)
                             : hf_folder_open(&folder, dir, &err);
            if (ok != (rows[i].code == ERR_NONE))
                fail_msg("%s: %s", rows[i].sentence, ok ? "was opened" : err.text);
            if (ok) {
                assert_string_equal(folder.path, label);
                assert_string_equal(folder.config.bytes, CONFIG);
                assert_int_equal(folder.config.size, strlen(CONFIG));
                assert_int_equal(folder.tensors.n_tensors, 3);
                assert_non_null(tensor_dir_find(&folder.tensors, "a"));
                assert_non_null(tensor_dir_find(&folder.tensors, "b"));
                assert_int_equal(tensor_dir_find(&folder.tensors, "c")->bytes, 1);
                assert_null(folder.tokenizer.bytes);
                assert_int_equal(folder.tokenizer.size, 0);
            } else if (err.code != rows[i].code || strstr(err.text, rows[i].text) == NULL ||
                       strncmp(err.text, label, strlen(label)) != 0) {
                fail_msg("%s: code %d, %s", rows[i].sentence, err.code, err.text);
            } else {
                assert_null(folder.path);
            }
            hf_folder_close(&folder);
        }
    }
}

static void test_texts(void **state)
{
    (void)state;
    static const struct {
        const char *sentence;
        struct item items[ITEMS_MAX];
        const char *template;
    } rows[] = {
        { "a jinja file", { { "chat_template.jinja", "J", 0 } }, "J" },
        { "a JSON file", { { "chat_template.json", "{\"chat_template\":\"T\\n\"}", 0 } }, "T\n" },
        { "both: jinja wins",
          { { "chat_template.json", "nonsense", 0 }, { "chat_template.jinja", "J", 0 } },
          "J" },
    };
    static const struct item BASE[ITEMS_MAX] = {
        { "config.json", CONFIG, 0 },         { "model.safetensors", 0, "a" },
        { "generation_config.json", "G", 0 }, { "tokenizer.json", "T", 0 },
        { "tokenizer_config.json", "TC", 0 }, { "special_tokens_map.json", "S", 0 }
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct hf_folder folder;
        struct err err;
        char dir[512];
        fresh_folder(dir, sizeof dir);
        write_folder(dir, BASE);
        write_folder(dir, rows[i].items);
        assert_ok(hf_folder_open(&folder, dir, &err), &err);
        assert_string_equal(folder.generation.bytes, "G");
        assert_string_equal(folder.tokenizer.bytes, "T");
        assert_string_equal(folder.tokenizer_config.bytes, "TC");
        assert_string_equal(folder.special_tokens.bytes, "S");
        assert_string_equal(folder.chat_template.bytes, rows[i].template);
        assert_int_equal(folder.chat_template.size, strlen(rows[i].template));
        hf_folder_close(&folder);
    }
}

static void expect_refusal(const char *path, enum err_code code, const char *text)
{
    struct hf_folder folder;
    struct err err = { 0 };
    assert_false(hf_folder_open(&folder, path, &err));
    if (err.code != code || strstr(err.text, text) == NULL || strstr(err.text, path) == NULL)
        fail_msg("%s: code %d, %s", path, err.code, err.text);
    hf_folder_close(&folder); /* safe after a failure */
}

static void test_paths(void **state)
{
    (void)state;
    static const struct item ITEMS[ITEMS_MAX] = { { "config.json", CONFIG, 0 },
                                                  { "other.safetensors", 0, "a" },
                                                  { "model.gguf", "GGUF", 0 },
                                                  { "model.bin", "x", 0 } };
    char dir[512], path[600], link[600];
    struct hf_folder folder;
    struct err err;
    fresh_folder(dir, sizeof dir);
    write_folder(dir, ITEMS);

    /* A single file, by any name, with its neighbours; through a link; from its own folder. */
    snprintf(path, sizeof path, "%s/other.safetensors", dir);
    assert_ok(hf_folder_open(&folder, path, &err), &err);
    assert_non_null(tensor_dir_find(&folder.tensors, "a"));
    assert_string_equal(folder.config.bytes, CONFIG);
    hf_folder_close(&folder);
    snprintf(link, sizeof link, "%s/model.safetensors", dir);
    assert_int_equal(symlink("other.safetensors", link), 0);
    assert_ok(hf_folder_open(&folder, dir, &err), &err);
    hf_folder_close(&folder);
    snprintf(path, sizeof path, "%s/", dir);
    assert_ok(hf_folder_open(&folder, path, &err), &err);
    hf_folder_close(&folder);
    char back[512];
    assert_non_null(getcwd(back, sizeof back));
    assert_int_equal(chdir(dir), 0);
    bool ok = hf_folder_open(&folder, "other.safetensors", &err);
    assert_int_equal(chdir(back), 0);
    assert_ok(ok, &err);
    hf_folder_close(&folder);

    snprintf(path, sizeof path, "%s/model.gguf", dir);
    expect_refusal(path, ERR_FORMAT, "version: want 4 bytes, the file has 0 left");
    snprintf(path, sizeof path, "%s/model.bin", dir);
    expect_refusal(path, ERR_FORMAT, "want a model folder, a .safetensors or a .gguf file");
    snprintf(path, sizeof path, "%s/nowhere", dir);
    expect_refusal(path, ERR_NOT_FOUND, "No such file");
    snprintf(path, sizeof path, "%s/model.bin/config.json", dir);
    expect_refusal(path, ERR_NOT_FOUND, "Not a directory");
    expect_refusal("/dev/zero", ERR_FORMAT, "neither a folder nor a regular file");
    snprintf(path, sizeof path, "%s/pipe.safetensors", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refusal(path, ERR_FORMAT, "neither a folder nor a regular file");

    /* A FIFO or a folder in the place of a file: refused without waiting for a writer. */
    assert_int_equal(unlink(link), 0);
    assert_int_equal(mkfifo(link, 0600), 0);
    expect_refusal(dir, ERR_FORMAT, "model.safetensors");
    assert_int_equal(unlink(link), 0);
    assert_int_equal(mkdir(link, 0700), 0);
    expect_refusal(dir, ERR_FORMAT, "model.safetensors");
    assert_int_equal(rmdir(link), 0);
    assert_int_equal(symlink("/dev/zero", link), 0);
    expect_refusal(dir, ERR_FORMAT, "model.safetensors");
    assert_int_equal(unlink(link), 0);
    write_file(link, "", 0);
    expect_refusal(dir, ERR_FORMAT, "model.safetensors");
    assert_int_equal(unlink(link), 0);
    assert_int_equal(symlink(link, link), 0); /* a link to itself */
    expect_refusal(dir, ERR_IO, "model.safetensors");
    assert_int_equal(unlink(link), 0);
    snprintf(path, sizeof path, "%s/config.json", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refusal(dir, ERR_FORMAT, "config.json");
}

/* Real ones: written by the reference libraries. */
static void test_reference_models(void **state)
{
    (void)state;
    static const char *const NAMES[] = { "llama_attn_bias", "llama_tied_rope_llama3",
                                         "llama_untied",    "mistral_window16",
                                         "qwen2_tied",      "qwen3" };
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        struct hf_folder folder;
        struct err err;
        assert_ok(hf_folder_open(&folder, oracle_path("models/%s", NAMES[i]), &err), &err);
        const struct tensor *t = tensor_dir_find(&folder.tensors, "model.embed_tokens.weight");
        assert_non_null(t);
        assert_int_equal(t->dims[0], 320);
        assert_int_equal(t->dims[1], 128);
        assert_int_equal(t->bytes, 320 * 128 * 2);
        assert_non_null(tensor_dir_find(&folder.tensors, "model.layers.1.mlp.down_proj.weight"));
        assert_null(folder.tokenizer.bytes);
        hf_folder_close(&folder);
        assert_ok(
            hf_folder_open(&folder, oracle_path("models/%s/expect.safetensors", NAMES[i]), &err),
            &err);
        t = tensor_dir_find(&folder.tensors, "logits_2");
        assert_int_equal(t->dtype, DTYPE_F32);
        assert_int_equal(tensor_count(t), 60 * 320);
        hf_folder_close(&folder);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_paths),
        cmocka_unit_test(test_reference_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
