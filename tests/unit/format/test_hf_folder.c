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

#define LONG "aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeee."

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
        { "a delete byte in a shard name",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, INDEX("\"a\":\"x\x7f.safetensors\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "a shard name of 262 bytes",
          { { "config.json", CONFIG, 0 },
            { INDEX_NAME, INDEX("\"a\":\"" LONG LONG LONG LONG LONG "safetensors\""), 0 } },
          ERR_FORMAT,
          "which is not the plain name" },
        { "a map that is a number",
          { { "config.json", CONFIG, 0 }, { INDEX_NAME, "{\"weight_map\":1}", 0 } },
          ERR_FORMAT,
          "weight_map must be an object" },
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

/* A folder in the place of each file that is read, and a folder that links to itself. */
static void test_unreadable(void **state)
{
    (void)state;
    static const char *const NAMES[] = { "config.json",        "generation_config.json",
                                         "tokenizer.json",     "quantize_config.json",
                                         "chat_template.json", "model.safetensors.index.json" };
    char dir[512], path[600];
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
        fresh_folder(dir, sizeof dir);
        write_folder(dir, (const struct item[ITEMS_MAX]){ { "config.json", CONFIG, 0 } });
        snprintf(path, sizeof path, "%s/%s", dir, NAMES[i]);
        if (i == 0)
            assert_int_equal(unlink(path), 0);
        assert_int_equal(mkdir(path, 0700), 0);
        expect_refusal(dir, ERR_FORMAT, NAMES[i]);
    }
    snprintf(path, sizeof path, "%s/loop", dir);
    assert_int_equal(symlink(path, path), 0);
    expect_refusal(path, ERR_IO, "loop: Too many levels of symbolic links");
}

/* The files of a tokenizer: which one is taken, alone and with its neighbours. */
static void test_tokenizers(void **state)
{
    (void)state;
    static const struct {
        struct item items[ITEMS_MAX];
        const char *file;        /* behind the folder */
        const char *name, *text; /* what is taken; NULL: */
        const char *wanted;      /* refused */
    } rows[] = {
        { { { "tokenizer.json", "T", 0 }, { "tekken.json", "K", 0 } },
          "",
          "tokenizer.json",
          "T",
          0 },
        { { { "tekken.json", "K", 0 }, { "tokenizer.model", "M", 0 } }, "", "tekken.json", "K", 0 },
        { { { "tokenizer.model", "M", 0 }, { "a.tiktoken", "A", 0 } },
          "",
          "tokenizer.model",
          "M",
          0 },
        { { { "b.tiktoken", "B", 0 }, { "a.tiktoken", "A", 0 }, { "c.tiktoken", "C", 0 } },
          "",
          "a.tiktoken",
          "A",
          0 },
        { { { "b.tiktoken", "B", 0 }, { "a.tiktoken", "A", 0 } },
          "/b.tiktoken",
          "b.tiktoken",
          "B",
          0 },
        { { { "config.json", CONFIG, 0 } },
          "",
          0,
          0,
          "no tokenizer: no tokenizer.json, tekken.json, tokenizer.model or *.tiktoken" },
        { { { "tokenizer.json", "", 0 } }, "", 0, 0, "tokenizer.json: is empty" },
        { { { "x.safetensors", 0, "a" } }, "/x.safetensors", 0, 0, "config.json: not found" },
        { { { "x.gguf", "GGUF", 0 } }, "/x.gguf", 0, 0, "x.gguf: version: want 4 bytes" },
        { { { "x", "", 0 } }, "/nowhere", 0, 0, "nowhere: No such file or directory" },
        { { { "x", "", 0 } }, "/x/y", 0, 0, "x/y: Not a directory" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct hf_folder folder;
        struct err err = { 0 };
        char dir[512], path[600];
        fresh_folder(dir, sizeof dir);
        write_folder(dir, rows[i].items);
        write_folder(dir, (const struct item[ITEMS_MAX]){ { "tokenizer_config.json", "{}", 0 } });
        snprintf(path, sizeof path, "%s%s", dir, rows[i].file);
        const bool ok = hf_folder_open_tokenizer(&folder, path, &err);
        if (ok != (rows[i].wanted == NULL))
            fail_msg("row %zu: %s", i, ok ? folder.tokenizer_name : err.text);
        if (ok) {
            assert_string_equal(folder.tokenizer_name, rows[i].name);
            assert_string_equal(folder.tokenizer.bytes, rows[i].text);
            assert_string_equal(folder.tokenizer_config.bytes, "{}");
            assert_string_equal(folder.path, path);
        } else if (strstr(err.text, rows[i].wanted) == NULL ||
                   strncmp(err.text, path, strlen(path)) != 0) {
            fail_msg("row %zu: %s", i, err.text);
        }
        hf_folder_close(&folder);
        if (ok && rows[i].file[0] == 0) { /* in memory: the same choice */
            static char storage[ITEMS_MAX][2048];
            struct item items[ITEMS_MAX] = { { "config.json", CONFIG, 0 },
                                             { "model.safetensors", 0, "a" } };
            memcpy(items + 2, rows[i].items, (ITEMS_MAX - 2) * sizeof *items);
            assert_ok(open_memory(&folder, items, storage, &err), &err);
            assert_string_equal(folder.tokenizer_name, rows[i].name);
            assert_string_equal(folder.tokenizer.bytes, rows[i].text);
            hf_folder_close(&folder);
        }
    }
    /* By its name alone, from its own folder. */
    struct hf_folder folder;
    struct err err;
    char dir[512], back[512], path[600];
    fresh_folder(dir, sizeof dir);
    write_folder(dir, (const struct item[ITEMS_MAX]){ { "tokenizer.json", "T", 0 } });
    assert_non_null(getcwd(back, sizeof back));
    assert_int_equal(chdir(dir), 0);
    const bool ok = hf_folder_open_tokenizer(&folder, "tokenizer.json", &err);
    assert_int_equal(chdir(back), 0);
    assert_ok(ok, &err);
    assert_string_equal(folder.tokenizer.bytes, "T");
    hf_folder_close(&folder);
    /* Its neighbour cannot be read; or it is neither a file nor a folder. */
    snprintf(path, sizeof path, "%s/tokenizer_config.json", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(hf_folder_open_tokenizer(&folder, dir, &err));
    assert_non_null(strstr(err.text, "tokenizer_config.json"));
    snprintf(path, sizeof path, "%s/pipe", dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_false(hf_folder_open_tokenizer(&folder, path, &err));
    assert_non_null(strstr(err.text, "pipe: neither a folder nor a regular file"));
}

/* More bytes and more files than are taken. */
static void test_bounds(void **state)
{
    (void)state;
    enum { SHARDS = 4097 };
    struct hf_folder folder;
    struct err err;
    char *large = calloc((16 << 20) + 1, 1);
    const struct hf_file config = { "config.json", large, (16 << 20) + 1 };
    assert_false(hf_folder_open_memory(&folder, "memory", &config, 1, &err));
    assert_string_equal(err.text, "memory: config.json: 16777217 bytes, at most 16777216");
    free(large);

    struct hf_file *files = calloc(SHARDS + 2, sizeof *files);
    char *index = malloc(SHARDS * 40), *storage = malloc(SHARDS * 128);
    char(*names)[24] = malloc(SHARDS * sizeof *names);
    int used = sprintf(index, "{\"weight_map\":{");
    for (int i = 0; i < SHARDS; i++) {
        char tensor[16];
        snprintf(tensor, sizeof tensor, "t%d", i);
        snprintf(names[i], sizeof names[i], "%d.safetensors", i);
        used += sprintf(index + used, "%s\"%s\":\"%s\"", i == 0 ? "" : ",", tensor, names[i]);
        files[i] = (struct hf_file){ names[i], storage + 128 * i,
                                     make_safetensors(tensor, storage + 128 * i, 128) };
    }
    used += sprintf(index + used, "}}");
    files[SHARDS] = (struct hf_file){ "config.json", CONFIG, strlen(CONFIG) };
    files[SHARDS + 1] = (struct hf_file){ INDEX_NAME, index, (size_t)used };
    assert_false(hf_folder_open_memory(&folder, "memory", files, SHARDS + 2, &err));
    assert_string_equal(err.text,
                        "memory: model.safetensors.index.json: names more than 4096 files");
    free(files);
    free(index);
    free(storage);
    free(names);
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
        cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_reference_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
