/* linear_chunks_vbmi.c - E4M3 of CHUNKS_C16 by lookups of 128 bytes (vpermi2b); bits as in
 * linear_chunks_portable.c.
 *
 * Chosen by linear_chunks_avx512.c where CPUID offers VBMI; compiled with its flags. Two planes
 * take 4 lookups and 2 dot products for 64 weights, three 6 and 3. */
#include "host/backend/cpu/linear_chunks_avx512.h"

void linear_chunks_vbmi_unpack(const uint8_t *codes, int32_t units, const struct layout_lut *lut,
                               uint8_t *out, size_t plane_bytes)
{
    struct tables tables;
    load_tables(lut, 256, LAYOUT_PLANES_MAX, &tables);
    for (int32_t k = 0; k < units * UNIT_LINES; k++) {
        const __m512i line = _mm512_load_si512(codes + k * LINE);
        UNROLL
        for (int p = 0; p < LAYOUT_PLANES_MAX; p++)
            if (p < lut->planes)
                _mm512_store_si512(out + (size_t)p * plane_bytes + k * LINE,
                                   look_up(tables.part[p], line, 256));
    }
}

CHUNKS_STREAM_ALL(stream_2, 8, 256, 2)
CHUNKS_STREAM_ALL(stream_3, 8, 256, 3)
chunks_stream_fn *const linear_chunks_vbmi_streams[2][CHUNKS_STREAM_ROWS] = {
    CHUNKS_STREAM_LIST(stream_2), CHUNKS_STREAM_LIST(stream_3)
};
