/* sigbus.h - a model file that shrinks while it is mapped: say so and die, never compute garbage.
 */
#pragma once
#include "host/format/tensor_dir.h"

/* From now on a SIGBUS at an address inside one of these files ends the process with exit status 1
 * and one line on standard error that names the file. Others keep their default action. `dir` must
 * live until sigbus_forget. Main thread, once per directory; at most two directories at a time. */
void sigbus_watch(const struct tensor_dir *dir);
void sigbus_forget(const struct tensor_dir *dir);
