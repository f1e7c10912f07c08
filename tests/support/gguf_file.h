/* gguf_file.h - small .gguf files made in memory. For tests. */
#pragma once
#include "tests/support/support.h"
#include "host/base/buf.h"
#include "host/format/gguf.h"

struct gguf_file {
    struct buf values, tensors, data;
    uint64_t n_values, n_tensors;
};

static inline void gguf_file_init(struct gguf_file *f)
{
    *f = (struct gguf_file){ 0 };
    buf_init(&f->values, 1 << 20);
    buf_init(&f->tensors, 1 << 20);
    buf_init(&f->data, 1 << 24);
}

static inline void gguf_put(struct buf *out, uint64_t value, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        buf_putc(out, (char)(value >> (8 * i)));
}

static inline void gguf_put_text(struct buf *out, const char *text)
{
    gguf_put(out, strlen(text), 8);
    buf_puts(out, text);
}

static inline void gguf_file_key(struct gguf_file *f, const char *key, enum gguf_type type)
{
    gguf_put_text(&f->values, key);
    gguf_put(&f->values, type, 4);
    f->n_values++;
}

static inline void gguf_file_int(struct gguf_file *f, const char *key, uint32_t value)
{
    gguf_file_key(f, key, GGUF_U32);
    gguf_put(&f->values, value, 4);
}

static inline void gguf_file_bool(struct gguf_file *f, const char *key, bool value)
{
    gguf_file_key(f, key, GGUF_BOOL);
    gguf_put(&f->values, value, 1);
}

static inline void gguf_file_float(struct gguf_file *f, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    gguf_file_key(f, key, GGUF_F32);
    gguf_put(&f->values, bits, 4);
}

static inline void gguf_file_text(struct gguf_file *f, const char *key, const char *text)
{
    gguf_file_key(f, key, GGUF_STRING);
    gguf_put_text(&f->values, text);
}

static inline void gguf_file_texts(struct gguf_file *f, const char *key, const char *const *texts,
                                   int32_t n)
{
    gguf_file_key(f, key, GGUF_ARRAY);
    gguf_put(&f->values, GGUF_STRING, 4);
    gguf_put(&f->values, (uint64_t)n, 8);
    for (int32_t i = 0; i < n; i++)
        gguf_put_text(&f->values, texts[i]);
}

static inline void gguf_file_ints(struct gguf_file *f, const char *key, const int32_t *values,
                                  int32_t n)
{
    gguf_file_key(f, key, GGUF_ARRAY);
    gguf_put(&f->values, GGUF_I32, 4);
    gguf_put(&f->values, (uint64_t)n, 8);
    for (int32_t i = 0; i < n; i++)
        gguf_put(&f->values, (uint32_t)values[i], 4);
}

static inline void gguf_file_floats(struct gguf_file *f, const char *key, const float *values,
                                    int32_t n)
{
    gguf_file_key(f, key, GGUF_ARRAY);
    gguf_put(&f->values, GGUF_F32, 4);
    gguf_put(&f->values, (uint64_t)n, 8);
    for (int32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        gguf_put(&f->values, bits, 4);
    }
}

/* The list's entry; dims outermost first, 0: no further one. Returns the number of elements, whose
 * bytes go to f->data next. */
static inline int64_t gguf_file_entry(struct gguf_file *f, const char *name, uint32_t type,
                                      int32_t a, int32_t b, int32_t c)
{
    const int32_t dims[3] = { c, b, a };
    uint32_t n_dims = 0;
    int64_t n = 1;
    gguf_put_text(&f->tensors, name);
    for (int i = 0; i < 3; i++)
        n_dims += dims[i] > 0;
    gguf_put(&f->tensors, n_dims, 4);
    for (int i = 0; i < 3; i++)
        if (dims[i] > 0) {
            gguf_put(&f->tensors, (uint64_t)dims[i], 8);
            n *= dims[i];
        }
    gguf_put(&f->tensors, type, 4);
    while (f->data.length % 32 != 0)
        buf_putc(&f->data, 0);
    gguf_put(&f->tensors, f->data.length, 8);
    f->n_tensors++;
    return n;
}

/* F32: element i is i + 1. */
static inline void gguf_file_tensor(struct gguf_file *f, const char *name, int32_t a, int32_t b,
                                    int32_t c)
{
    const int64_t n = gguf_file_entry(f, name, 0, a, b, c);
    for (int64_t i = 0; i < n; i++) {
        const float value = (float)(i + 1);
        buf_put(&f->data, &value, sizeof value);
    }
}

/* Q8_0: all scales are `scale` (fp16 bits), code i of a block is i. */
static inline void gguf_file_blocks(struct gguf_file *f, const char *name, int32_t a, int32_t b,
                                    uint16_t scale)
{
    const int64_t n = gguf_file_entry(f, name, 8, a, b, 0);
    for (int64_t i = 0; i < n / 32; i++) {
        gguf_put(&f->data, scale, 2);
        for (int k = 0; k < 32; k++)
            buf_putc(&f->data, (char)k);
    }
}

/* The file's bytes; malloc'ed. Clears f. */
static inline uint8_t *gguf_file_bytes(struct gguf_file *f, size_t *size)
{
    struct buf out;
    buf_init(&out, 1 << 26);
    buf_puts(&out, "GGUF");
    gguf_put(&out, 3, 4);
    gguf_put(&out, f->n_tensors, 8);
    gguf_put(&out, f->n_values, 8);
    buf_put(&out, f->values.bytes, f->values.length);
    buf_put(&out, f->tensors.bytes, f->tensors.length);
    while (out.length % 32 != 0)
        buf_putc(&out, 0);
    buf_put(&out, f->data.bytes, f->data.length);
    assert_false(out.failed || f->values.failed || f->tensors.failed || f->data.failed);
    buf_clear(&f->values);
    buf_clear(&f->tensors);
    buf_clear(&f->data);
    *size = out.length;
    return (uint8_t *)out.bytes;
}
