/* backend.c - what every backend shares: which resident layout a matrix gets (DESIGN 5). */
#include "host/backend/backend.h"

enum layout backend_layout(const struct backend *be, int32_t bits, int32_t group)
{
    CHECK(bits >= 1 && bits <= 8 && group > 0);
    if (be->exact || group < LAYOUT_GROUP_MIN)
        return LAYOUT_CODES;
    /* Codes of fewer bits fit the 4-bit tile with their own zero; 5 to 7 bits fit the 8-bit one. */
    return bits <= 4 ? LAYOUT_W4_C16 : LAYOUT_W8_C16;
}
