/* json_scan.h - is this exactly one JSON text (RFC 8259), within the limits? Used by json.c. */
#pragma once
#include "host/base/json.h"

/* Reads bytes[0..length) once and builds nothing. Refuses what json.h lists, except equal keys;
 * the message has the byte offset. */
MUST_USE bool json_scan(const char *bytes, size_t length, const struct json_limits *limits,
                        enum err_code code, struct err *err);

/* Note the spelling of every number (json_number.c) in the tree that was made from these bytes.
 * False when out of memory. */
MUST_USE bool json_keep_numbers(struct cJSON *root, const char *bytes, size_t length);
