/* bench_tokenizer.c - seconds to load a tokenizer file and to encode texts, on one thread.
 *
 *   bench_tokenizer TOKENIZER REPEATS FILE...
 * TOKENIZER: tokenizer.json or another of host/text/tokenizer_files.h, by its name.
 * Each FILE is a list of documents, each preceded by its length as a line of decimal digits (what
 * bench_tokenizer.py writes). Prints one line a file: name, bytes, ids, hash of the ids, best and
 * median seconds of REPEATS runs; and a first line for loading. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "host/base/clock.h"
#include "host/base/file.h"
#include "host/text/tokenizer_files.h"

static void die(const char *what, const struct err *err)
{
    fprintf(stderr, "bench_tokenizer: %s: %s\n", what, err->text);
    exit(1);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* All documents once; the sum of their lengths in *bytes. */
static double run_once(const struct tokenizer *t, const char *file, size_t size, struct ids *ids,
                       size_t *bytes)
{
    struct err err;
    uint64_t spent = 0;
    ids->n = *bytes = 0;
    for (const char *p = file, *end = file + size; p < end;) {
        char *text;
        size_t length = strtoul(p, &text, 10);
        text++;
        CHECK(length <= (size_t)(end - text));
        uint64_t start = clock_ns();
        if (!tokenizer_encode(t, text, length, ENCODE_ADD_SPECIAL | ENCODE_PARSE_SPECIAL, NULL, 0,
                              ids, &err))
            die("encode", &err);
        spent += clock_ns() - start;
        *bytes += length;
        p = text + length;
    }
    return (double)spent * 1e-9;
}

static uint32_t hash_ids(const struct ids *ids)
{
    uint32_t h = 2166136261u; /* FNV-1a over the ids, as bench_tokenizer.py does */
    for (size_t i = 0; i < ids->n; i++)
        h = (h ^ (uint32_t)ids->ids[i]) * 16777619u;
    return h;
}

int main(int argc, char **argv)
{
    struct tokenizer *t;
    struct err err;
    char *json, *file;
    size_t size, bytes;
    if (argc < 4) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER REPEATS FILE...\n");
        return 2;
    }
    if (!file_read(argv[1], (size_t)512 << 20, &json, &size, &err))
        die(argv[1], &err);
    uint64_t start = clock_ns();
    const char *slash = strrchr(argv[1], '/');
    if (!tokenizer_open_file(&t, slash ? slash + 1 : argv[1], json, size, NULL, &err))
        die(argv[1], &err);
    printf("load %zu %.6f\n", size, (double)(clock_ns() - start) * 1e-9);
    free(json);
    int repeats = atoi(argv[2]);
    repeats = repeats < 1 ? 1 : repeats;
    for (int i = 3; i < argc; i++) {
        struct ids ids = { 0 };
        double *spent = calloc((size_t)repeats, sizeof *spent);
        CHECK(spent != NULL);
        if (!file_read(argv[i], (size_t)1 << 30, &file, &size, &err))
            die(argv[i], &err);
        for (int k = 0; k < repeats; k++)
            spent[k] = run_once(t, file, size, &ids, &bytes);
        qsort(spent, (size_t)repeats, sizeof *spent, by_value);
        printf("%s %zu %zu %08" PRIx32 " %.6f %.6f\n", argv[i], bytes, ids.n, hash_ids(&ids),
               spent[0], spent[repeats / 2]);
        free(spent);
        free(file);
        ids_clear(&ids);
    }
    tokenizer_close(t);
    return 0;
}
