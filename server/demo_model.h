/* demo_model.h - the model inside the binary: `nibble serve` without MODEL. */
#pragma once
#include <stddef.h>
#include "host/format/hf_folder.h"

/* The files of server/demo, for hf_folder_open_memory. They live for ever, read-only, each with a
 * NUL behind. */
const struct hf_file *demo_model_files(size_t *n);
