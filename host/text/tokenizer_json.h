/* tokenizer_json.h - the two large tables of a tokenizer.json, read where they lie.
 *
 * A vocabulary and its merges are half a million values: as a tree of nodes they would take ten
 * times the file's memory and most of the time of loading. So the file is checked as a whole
 * (json_scan), the two tables are read in place, and only the rest becomes a tree. For
 * tokenizer_load.c alone. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/buf.h"
#include "host/base/err.h"

struct json_span {
    const char *from, *to; /* a whole value in the file's bytes; NULL: none */
};
struct tokenizer_json {
    struct buf rest;         /* the file, with {} and [] in place of the two tables */
    struct json_span vocab;  /* model.vocab, when it is an object or a list */
    struct json_span merges; /* model.merges, when it is a list   */
};
/* Borrows `json`. ERR_FORMAT with the byte offset. On false nothing is left to clear. */
MUST_USE bool tokenizer_json_open(struct tokenizer_json *file, const char *json, size_t length,
                                  struct err *err);
void tokenizer_json_clear(struct tokenizer_json *file);

/* Walks a value that json_scan has accepted. */
struct table {
    const char *at;
    char *spare; /* strings that had escapes; owned, as long as the table's text */
    size_t room, used;
};
void table_init(struct table *table, struct json_span span);
void table_clear(struct table *table);
/* Steps into an object or a list. */
void table_enter(struct table *table);
/* At the next member: true; at the end: steps out, false. */
bool table_more(struct table *table);
enum table_kind { TABLE_STRING, TABLE_LIST, TABLE_OTHER };
enum table_kind table_kind(const struct table *table);
void table_skip(struct table *table);
/* Reads the string here (a key with its colon). Valid until table_clear and as long as the file's
 * bytes. False: out of memory. */
MUST_USE bool table_string(struct table *table, const char **text, size_t *length);
/* Reads the value here; false when it is no integer of 0 to `high` in plain digits. */
MUST_USE bool table_int(struct table *table, int64_t high, int64_t *value);
/* Reads the value here; false when it is no number. */
MUST_USE bool table_double(struct table *table, double *value);
