/* protobuf.h - walking the fields of one protobuf message, where it lies.
 *
 *   field: varint key = number << 3 | wire type, then
 *     0 varint | 1 eight bytes | 2 varint length, bytes | 5 four bytes      (3, 4: groups, refused)
 *
 * A message within a message is a span that the caller walks in turn: no recursion here. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "host/base/err.h"

enum protobuf_wire {
    PROTOBUF_VARINT = 0,
    PROTOBUF_FIXED64 = 1,
    PROTOBUF_BYTES = 2,
    PROTOBUF_FIXED32 = 5,
};
struct protobuf {
    const uint8_t *at, *end, *begin; /* begin: of the file, for offsets in messages */
};
struct protobuf_field {
    uint32_t number;
    enum protobuf_wire wire;
    uint64_t value;       /* varint, fixed64, fixed32 */
    const uint8_t *bytes; /* bytes: `length` of them, borrowed */
    size_t length;
};
/* The next field: 1; the end: 0; ERR_FORMAT with the byte offset: -1. */
MUST_USE int protobuf_next(struct protobuf *message, struct protobuf_field *field, struct err *err);
/* The field must have this wire type. ERR_FORMAT naming `what`. */
MUST_USE bool protobuf_want(const struct protobuf_field *field, enum protobuf_wire wire,
                            const char *what, struct err *err);
/* The message that a bytes field holds. */
static inline struct protobuf protobuf_inside(const struct protobuf *outer,
                                              const struct protobuf_field *field)
{
    return (struct protobuf){ field->bytes, field->bytes + field->length, outer->begin };
}
