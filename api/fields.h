/* fields.h - how the files of request fields share their work. Private to the parsers. */
#pragma once
#include "api/generate.h"

struct api_string_limits {
    int32_t n_max, bytes_max; /* of the list; of one string, at least 1 */
    bool single;              /* one string may stand for a list of one */
};
/* Strings into the arena, each checked; the texts stay in the tree. */
MUST_USE bool api_string_list(const struct json_ref *list, const struct api_string_limits *limits,
                              struct arena *arena, struct api_stop **strings, int32_t *n,
                              struct err *err);
/* fields_sampling.c, fields_output.c */
MUST_USE bool api_fields_sampling(struct generate *out, const struct json_ref *root,
                                  const struct api_model *model, struct arena *arena,
                                  struct err *err);
MUST_USE bool api_fields_output(struct generate *out, const struct json_ref *root,
                                const struct api_model *model, struct arena *arena,
                                struct err *err);
