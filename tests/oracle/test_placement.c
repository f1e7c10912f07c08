/* The table "format x device" cell by cell: README.md against format_rows.h, that against the code
 * (placement_of for a CPU and a CUDA backend), and against real loads on the CPU of all reference
 * data that is here. What is refused is refused by name. The CUDA backend's loads:
 * tests/hostcuda/model/test_cuda_formats.c. */
#include "tests/oracle/format_rows.h"

#include <stdlib.h>
#include "host/base/half.h"
#include "host/base/json.h"
#include "host/base/log.h"
#include "host/model/repack.h"
#include "tests/oracle/model_run.h"

/* ---- README -----------------------------------------------------------------------------------
 */

static const char TITLE[] = "| format | CPU | CUDA |\n|---|---|---|\n";
/* A config that says so, and what its refusal must name. */
static const struct {
    const char *label, *config, *named;
} REFUSED[] = {
    { "marlin, marlin-24, sparse-24, GGUF types not named here",
      "{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,"
      "\"is_marlin_format\":true}}",
      "marlin" },
    { "torchao, quanto, AQLM, EETQ, and methods never heard of",
      "{\"quantization_config\":{\"quant_method\":\"aqlm\",\"bits\":2}}", "aqlm" },
};
enum { N_REFUSED = sizeof REFUSED / sizeof *REFUSED };

static void test_readme(void **state)
{
    (void)state;
    struct err err;
    char *text, line[256];
    size_t size;
    assert_ok(file_read(NIBBLE_SOURCE_DIR "/README.md", 1 << 20, &text, &size, &err), &err);
    const char *at = strstr(text, TITLE);
    if (at == NULL)
        fail_msg("README.md: no table that starts with \"%.25s\"", TITLE);
    at += strlen(TITLE);
    for (int32_t i = 0; i < N_FORMAT_ROWS + N_REFUSED; i++) {
        if (i < N_FORMAT_ROWS)
            snprintf(line, sizeof line, "| %s | %s | %s |\n", FORMAT_ROWS[i].label,
                     placement_name(FORMAT_ROWS[i].cpu), placement_name(FORMAT_ROWS[i].cuda));
        else
            snprintf(line, sizeof line, "| %s | refused by name | refused by name |\n",
                     REFUSED[i - N_FORMAT_ROWS].label);
        if (strncmp(at, line, strlen(line)) != 0)
            fail_msg("README.md, row %d of the table of formats: want %s", i + 1, line);
        at += strlen(line);
    }
    assert_true(*at != '|'); /* and no more */
    free(text);
}

/* ---- the code ---------------------------------------------------------------------------------
 */

static void check_cell(const struct format_row *row, const char *device, enum placement found,
                       enum placement want)
{
    if (found != want)
        fail_msg("%s on %s: %s, want %s", row->label, device, placement_name(found),
                 placement_name(want));
}

static void check_source(const struct format_row *row, struct placement_source *source)
{
    static const struct backend cpu = { .host_memory = true }, cuda = { .f64 = true };
    struct weight_part part = { 0 };
    source->form.n_out = 64;
    source->form.n_in = 4096;
    source->takes_order = true;
    check_cell(row, "CPU", placement_of(&cpu, source, &part), row->cpu);
    assert_true(part.shape.layout != LAYOUT_CODES && layout_bytes(&part.shape) > 0);
    check_cell(row, "CUDA", placement_of(&cuda, source, &part), row->cuda);
    if (row->cuda == PLACEMENT_DEQUANTIZED)
        assert_int_equal(part.shape.layout, LAYOUT_ROWS);
    else
        assert_true(layout_bytes(&part.shape) > 0);
}

static void test_code(void **state)
{
    (void)state;
    float table[256];
    for (int32_t i = 0; i < 256; i++)
        table[i] = half_e4m3_to_f32((uint8_t)i);
    for (int32_t i = 0; i < N_FORMAT_ROWS; i++) {
        const struct format_row *row = &FORMAT_ROWS[i];
        struct placement_source source = { .form = row->form,
                                           .table = table,
                                           .order = row->order,
                                           .fractions = row->fractions,
                                           .lossless = true,
                                           .fit = UINT32_MAX };
        if (row->types[0] == DTYPE_NONE) {
            check_source(row, &source);
            source.lossless = false; /* any float for a scale */
            source.fit = 1u << LAYOUT_SCALES_F32;
            check_source(row, &source);
        }
        for (int32_t t = 0; t < ROW_TYPES_MAX && row->types[t] != DTYPE_NONE; t++) {
            assert_true(repack_form(row->types[t], &source.form));
            placement_blocks(row->types[t], &source);
            check_source(row, &source);
        }
    }
}

/* CUDA alone: what its layout does not take, and orders where no product gathers inputs. */
static void test_cuda_exceptions(void **state)
{
    (void)state;
    static const struct backend cuda = { .f64 = true };
    struct weight_part part = { 0 };
    struct placement_source source = {
        .form = { .n_out = 64, .n_in = 4096, .bits = 4, .group = 32, .symmetric = true },
        .order = true
    };
    assert_int_equal(placement_of(&cuda, &source, &part), PLACEMENT_DEQUANTIZED);
    assert_int_equal(part.dtype, DTYPE_BF16);
    source.takes_order = true;
    assert_int_equal(placement_of(&cuda, &source, &part), PLACEMENT_FUSED);
    source.form.group = 48;
    assert_int_equal(placement_of(&cuda, &source, &part), PLACEMENT_DEQUANTIZED);
    source.form.group = 32;
    source.form.symmetric = false;
    source.form.mins = true;
    assert_int_equal(placement_of(&cuda, &source, &part), PLACEMENT_FUSED);
    assert_true(part.shape.fractions && !part.shape.mins);
}

/* ---- loads ------------------------------------------------------------------------------------
 */

static bool row_path(const struct format_row *row, int32_t k, char *path, size_t size)
{
    const bool gguf = row->types[0] != DTYPE_NONE;
    snprintf(path, size, "%s",
             gguf ? oracle_path("gguf/%s.gguf", row->files[k])
                  : oracle_path("quantized/%s", row->files[k]));
    char config[600];
    snprintf(config, sizeof config, "%s%s", path, gguf ? "" : "/config.json");
    return file_exists(config);
}

static void test_loads(void **state)
{
    (void)state;
    int32_t n = 0, missing = 0;
    for (int32_t i = 0; i < N_FORMAT_ROWS; i++) {
        const struct format_row *row = &FORMAT_ROWS[i];
        for (int32_t k = 0; k < ROW_FILES_MAX && row->files[k] != NULL; k++) {
            const struct model_setup setup = { .ctx = 32, .rows = 8 };
            static struct model_slot slots[512];
            struct model_run run;
            struct err err;
            char path[512];
            if (!row_path(row, k, path, sizeof path)) {
                missing++;
                continue;
            }
            assert_ok(model_run_open(&run, path, NULL, &setup, &err), &err);
            const int32_t n_slots = model_slots(&run.model, slots, 512);
            int32_t quantized = 0;
            for (int32_t s = 0; s < n_slots; s++) {
                if (slots[s].placement == PLACEMENT_NONE)
                    continue;
                if (slots[s].placement != row->cpu)
                    fail_msg("%s, %s: %s, want %s", row->files[k], slots[s].name,
                             placement_name(slots[s].placement), placement_name(row->cpu));
                assert_int_equal(slots[s].act_used, slots[s].act != ACT_EXACT);
                quantized++;
            }
            if (quantized == 0)
                fail_msg("%s: nothing came quantized", row->files[k]);
            model_run_close(&run);
            n++;
        }
    }
    print_message("%d files loaded as the table says\n", n);
    if (missing > 0)
        print_message("%d files are not here; set NIBBLE_ORACLE for them\n", missing);
    assert_true(n > 0);
}

static void test_refused(void **state)
{
    (void)state;
    for (int32_t i = 0; i < N_REFUSED; i++) {
        struct cJSON *tree = NULL;
        struct quant_spec spec;
        struct err err;
        const char *config = REFUSED[i].config;
        assert_ok(json_parse(config, strlen(config), &JSON_FILE_LIMITS, ERR_FORMAT, &tree, &err),
                  &err);
        const struct json_ref root = json_root(tree);
        assert_ok(quant_spec_read(&spec, &root, &err), &err);
        assert_false(quant_spec_check(&spec, &err));
        assert_int_equal(err.code, ERR_UNSUPPORTED);
        if (strstr(err.text, REFUSED[i].named) == NULL)
            fail_msg("%s does not name %s", err.text, REFUSED[i].named);
        quant_spec_clear(&spec);
        json_free(tree);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_readme),          cmocka_unit_test(test_code),
        cmocka_unit_test(test_cuda_exceptions), cmocka_unit_test(test_loads),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
