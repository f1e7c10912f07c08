/* demo_model.c - the C side of server/demo/embed.S. */
#include "server/demo_model.h"

#include <stdint.h>

/* In embed.S, which writes three 8-byte words a file. */
extern const struct hf_file demo_files[] __attribute__((visibility("hidden")));
extern const uint64_t demo_files_bytes __attribute__((visibility("hidden")));
_Static_assert(sizeof(struct hf_file) == 24, "embed.S writes {name, bytes, size}, 8 bytes each");
_Static_assert(offsetof(struct hf_file, bytes) == 8, "embed.S");
_Static_assert(offsetof(struct hf_file, size) == 16, "embed.S");

const struct hf_file *demo_model_files(size_t *n)
{
    *n = (size_t)demo_files_bytes / sizeof demo_files[0];
    return demo_files;
}
