/* protobuf.c - keys, varints and lengths, each checked against the message's end. */
#include "host/text/protobuf.h"

static bool read_varint(struct protobuf *m, uint64_t *value)
{
    uint64_t sum = 0;
    for (unsigned shift = 0; shift < 64 && m->at < m->end; shift += 7) {
        uint8_t byte = *m->at++;
        if (shift == 63 && byte > 1)
            return false; /* more than 64 bits */
        sum |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = sum;
            return true;
        }
    }
    return false;
}

static bool read_fixed(struct protobuf *m, size_t n, uint64_t *value)
{
    if ((size_t)(m->end - m->at) < n)
        return false;
    *value = 0;
    for (size_t i = 0; i < n; i++)
        *value |= (uint64_t)m->at[i] << (8 * i);
    m->at += n;
    return true;
}

int protobuf_next(struct protobuf *m, struct protobuf_field *field, struct err *err)
{
    size_t offset = (size_t)(m->at - m->begin);
    uint64_t key;
    bool good = true;
    if (m->at == m->end)
        return 0;
    if (!read_varint(m, &key) || key >> 3 == 0 || key >> 3 > (1u << 29) - 1) {
        err_set(err, ERR_FORMAT, "no field's key at byte %zu", offset);
        return -1;
    }
    *field = (struct protobuf_field){ .number = (uint32_t)(key >> 3),
                                      .wire = (enum protobuf_wire)(key & 7) };
    switch (key & 7) {
    case PROTOBUF_VARINT:
        good = read_varint(m, &field->value);
        break;
    case PROTOBUF_FIXED64:
        good = read_fixed(m, 8, &field->value);
        break;
    case PROTOBUF_FIXED32:
        good = read_fixed(m, 4, &field->value);
        break;
    case PROTOBUF_BYTES:
        good = read_varint(m, &field->value) && field->value <= (uint64_t)(m->end - m->at);
        if (good) {
            field->bytes = m->at;
            field->length = (size_t)field->value;
            m->at += field->length;
        }
        break;
    default:
        err_set(err, ERR_FORMAT, "field %u at byte %zu has the wire type %u, want 0, 1, 2 or 5",
                field->number, offset, (unsigned)(key & 7));
        return -1;
    }
    if (good)
        return 1;
    err_set(err, ERR_FORMAT, "field %u at byte %zu goes past the end of its message", field->number,
            offset);
    return -1;
}

bool protobuf_want(const struct protobuf_field *field, enum protobuf_wire wire, const char *what,
                   struct err *err)
{
    return field->wire == wire || err_set(err, ERR_FORMAT, "%s has the wire type %d, want %d", what,
                                          (int)field->wire, (int)wire);
}
