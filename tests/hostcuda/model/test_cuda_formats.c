/* Every quantized format on the CUDA backend: each checkpoint folder and GGUF file of the reference
 * data that is here, logits against the CPU's exact arithmetic (which the oracle suites have
 * proved), in one step of many rows and in small ones.
 *
 * Weights lose at most 2^-11 of a scale, 2^-8 of a code (fractions of zeros) or 2^-9 of a weight
 * (dequantized rows) on the way: NMSE 3e-6 at most, below what bf16 activations cost. */
#include "tests/oracle/format_rows.h"
#include "tests/oracle/model_run.h"

#include <errno.h>
#include <math.h>
#include <sys/stat.h>
#include "cuda/cuda_backend.h"
#include "host/base/buf.h"
#include "host/base/rng.h"

enum { TOKENS = 40, CTX = 64, SLOTS = 512, FEW = 8 };
static const double NMSE_MAX = 5e-4;

/* Files that mix types: of no row of the table. */
static const char *const MIXED[] = { "gguf/llama-tool-IQ4_XS.gguf", "gguf/llama-tool-Q3_K_M.gguf",
                                     "gguf/llama-tool-Q4_K_M.gguf" };
enum { N_MIXED = sizeof MIXED / sizeof *MIXED };

static struct cuda_options cuda_options;
static bool open_cuda(struct backend **be, struct err *err)
{
    return cuda_backend_open(be, &cuda_options, err);
}

static void draw_tokens(int32_t *tokens, int32_t n, int32_t vocab)
{
    for (int32_t i = 0; i < n; i++)
        tokens[i] = (int32_t)(rng_philox(9, 1, (uint64_t)i).v[0] % (uint32_t)vocab);
}

/* How its quantized tensors are placed: "fused", "table + dequantized while loading". As the row
 * says where there is one; schemes' activations are said to be left alone. */
static void check_placements(const struct model *model, const struct format_row *row,
                             const char *name, char *text, size_t size)
{
    static struct model_slot slots[SLOTS];
    const int32_t n = model_slots(model, slots, SLOTS);
    bool seen[PLACEMENT_DEQUANTIZED + 1] = { false };
    size_t used = 0;
    assert_true(n <= SLOTS);
    for (int32_t i = 0; i < n; i++) {
        seen[slots[i].placement] = true;
        assert_false(slots[i].act_used);
        if (row != NULL && slots[i].placement != PLACEMENT_NONE && slots[i].placement != row->cuda)
            fail_msg("%s, %s: %s, want %s", name, slots[i].name, placement_name(slots[i].placement),
                     placement_name(row->cuda));
    }
    text[0] = 0;
    for (int32_t p = PLACEMENT_FUSED; p <= PLACEMENT_DEQUANTIZED; p++)
        if (seen[p])
            used += (size_t)snprintf(text + used, size - used, "%s%s", used > 0 ? " + " : "",
                                     placement_name((enum placement)p));
    if (used == 0)
        fail_msg("%s: nothing came quantized", name);
}

/* ---- wider heads
 * ---------------------------------------------------------------------------------
 *
 * The folders have heads of 32, which CUDA's attention has not: the same matrices as half as many
 * heads of 64 are another model, as good as the first for two backends to agree on. Norms of a head
 * are then written twice, sinks lose their second half. */

static bool is_head_norm(const char *name)
{
    return strstr(name, "q_norm") != NULL || strstr(name, "k_norm") != NULL;
}
static bool is_sinks(const char *name)
{
    return strstr(name, "sinks") != NULL;
}

/* The number behind "KEY": in config's text, times 2 or divided by 2. */
static void scale_number(char *text, const char *key, bool twice)
{
    char *at = strstr(text, key);
    if (at == NULL)
        return;
    at += strlen(key);
    at += strspn(at, "\": ");
    const size_t width = strspn(at, "0123456789");
    const int32_t old = (int32_t)strtol(at, NULL, 10);
    char digits[16];
    assert_true(width > 0 && old > 0 && (twice || old % 2 == 0));
    const int n = snprintf(digits, sizeof digits, "%*d", (int)width, twice ? 2 * old : old / 2);
    assert_int_equal(n, width);
    memcpy(at, digits, width);
}

static void put_tensor(struct buf *header, struct buf *data, const struct tensor *tensor)
{
    char dtype[16];
    const int32_t times = is_head_norm(tensor->name) ? 2 : 1;
    const size_t bytes = is_sinks(tensor->name) ? tensor->bytes / 2 : tensor->bytes;
    snprintf(dtype, sizeof dtype, "%s", dtype_name(tensor->dtype));
    for (char *c = dtype; *c != 0; c++)
        *c = (char)(*c >= 'a' && *c <= 'z' ? *c - 'a' + 'A' : *c);
    assert_int_equal(dtype_from_safetensors(dtype), tensor->dtype);
    buf_printf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", header->length > 1 ? "," : "",
               tensor->name, dtype);
    for (int32_t d = 0; d < tensor->n_dims; d++) {
        const int64_t n = is_sinks(tensor->name) ? tensor->dims[d] / 2 : times * tensor->dims[d];
        buf_printf(header, "%s%lld", d > 0 ? "," : "", (long long)n);
    }
    buf_printf(header, "],\"data_offsets\":[%zu,%zu]}", data->length,
               data->length + bytes * (size_t)times);
    for (int32_t i = 0; i < times; i++)
        buf_put(data, tensor->data, bytes);
}

/* A folder of its own: config.json and model.safetensors. */
static const char *wide_copy(const char *path)
{
    static char out[256];
    char name[300];
    struct hf_folder folder;
    struct buf header, data, file;
    struct err err;
    buf_init(&header, 1 << 20);
    buf_init(&data, 1 << 24);
    buf_init(&file, 1 << 25);
    assert_ok(hf_folder_open(&folder, path, &err), &err);
    char *text = malloc(folder.config.size + 1);
    assert_non_null(text);
    memcpy(text, folder.config.bytes, folder.config.size);
    text[folder.config.size] = 0;
    scale_number(text, "\"num_attention_heads\"", false);
    scale_number(text, "\"num_key_value_heads\"", false);
    scale_number(text, "\"head_dim\"", true);
    buf_putc(&header, '{');
    for (int32_t i = 0; i < folder.tensors.n_tensors; i++)
        put_tensor(&header, &data, &folder.tensors.tensors[i]);
    buf_putc(&header, '}');
    const uint64_t size = header.length;
    buf_put(&file, &size, sizeof size);
    buf_put(&file, header.bytes, header.length);
    buf_put(&file, data.bytes, data.length);
    assert_false(header.failed || data.failed || file.failed);
    snprintf(out, sizeof out, "%s/wide", temp_dir());
    assert_true(mkdir(out, 0700) == 0 || errno == EEXIST);
    snprintf(name, sizeof name, "%s/config.json", out);
    write_file(name, text, folder.config.size);
    snprintf(name, sizeof name, "%s/model.safetensors", out);
    write_file(name, file.bytes, file.length);
    free(text);
    buf_clear(&header);
    buf_clear(&data);
    buf_clear(&file);
    hf_folder_close(&folder);
    return out;
}

/* ---- one file
 * ------------------------------------------------------------------------------------
 */

/* Matrices in activation order are gathered for, and no others. */
static void check_order(const struct model_run *gpu, const char *name)
{
    static struct model_slot slots[SLOTS];
    const int32_t n = model_slots(&gpu->model, slots, SLOTS);
    bool ordered = false;
    for (int32_t i = 0; i < n; i++)
        ordered = ordered || slots[i].order;
    for (int32_t i = 0; cuda_backend_paths()[i] != NULL; i++)
        if (strcmp(cuda_backend_paths()[i], "gather_columns") == 0 &&
            (cuda_backend_counts(gpu->be)[i] > 0) != ordered)
            fail_msg("%s: %lld gathers of columns", name,
                     (long long)cuda_backend_counts(gpu->be)[i]);
    if ((strstr(name, "descact") != NULL || strstr(name, "actorder") != NULL) && !ordered)
        fail_msg("%s: nothing is in activation order", name);
}

static void run_file(const char *name, const struct format_row *row)
{
    struct err err;
    struct model_run cpu, gpu;
    struct model_setup setup = {
        .exact = true, .n_threads = 2, .ctx = CTX, .rows = TOKENS, .pages = true
    };
    int32_t tokens[TOKENS];
    char path[512], placed[128];
    snprintf(path, sizeof path, "%s", oracle_path("%s", name));
    if (strstr(name, ".gguf") == NULL)
        snprintf(path, sizeof path, "%s", wide_copy(oracle_path("%s", name)));
    assert_ok(model_run_open(&cpu, path, NULL, &setup, &err), &err);
    const size_t size = (size_t)TOKENS * (size_t)cpu.model.vocab;
    float *wanted = malloc(size * sizeof *wanted), *found = malloc(size * sizeof *found);
    assert_true(wanted != NULL && found != NULL);
    draw_tokens(tokens, TOKENS, cpu.model.vocab);
    model_run_logits(&cpu, tokens, TOKENS, TOKENS, wanted, NULL, NULL);
    setup.exact = false;
    setup.open_backend = open_cuda;
    assert_ok(model_run_open(&gpu, path, NULL, &setup, &err), &err);
    check_placements(&gpu.model, row, name, placed, sizeof placed);
    const int32_t chunks[] = { TOKENS, FEW };
    double errors[2];
    for (int32_t i = 0; i < 2; i++) {
        model_run_logits(&gpu, tokens, TOKENS, chunks[i], found, NULL, NULL);
        errors[i] = nmse(found, wanted, (int64_t)size);
    }
    printf("%-48s %.1e %.1e  %s\n", name, errors[0], errors[1], placed);
    for (int32_t i = 0; i < 2; i++)
        if (!(errors[i] <= NMSE_MAX))
            fail_msg("%s, %d rows a step: NMSE %.3g, want at most %.3g", name, chunks[i], errors[i],
                     NMSE_MAX);
    check_order(&gpu, name);
    model_run_close(&gpu);
    model_run_close(&cpu);
    free(wanted);
    free(found);
}

static bool run_if_here(const char *name, const struct format_row *row)
{
    const bool folder = strstr(name, ".gguf") == NULL;
    if (!file_exists(oracle_path("%s%s", name, folder ? "/config.json" : "")))
        return false;
    run_file(name, row);
    return true;
}

static void logits_are_the_cpus(void **state)
{
    (void)state;
    int32_t n = 0, n_missing = 0;
    for (int32_t i = 0; i < N_FORMAT_ROWS; i++) {
        const struct format_row *row = &FORMAT_ROWS[i];
        const bool gguf = row->types[0] != DTYPE_NONE;
        for (int32_t k = 0; k < ROW_FILES_MAX && row->files[k] != NULL; k++) {
            char name[128];
            snprintf(name, sizeof name, gguf ? "gguf/%s.gguf" : "quantized/%s", row->files[k]);
            const bool here = run_if_here(name, row);
            n += here;
            n_missing += !here;
        }
    }
    for (int32_t i = 0; i < N_MIXED; i++) {
        const bool here = run_if_here(MIXED[i], NULL);
        n += here;
        n_missing += !here;
    }
    if (n_missing > 0)
        print_message("%d files are not here; set NIBBLE_ORACLE for them\n", n_missing);
    assert_true(n > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_the_cpus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
