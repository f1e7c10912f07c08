/* attend_avx2.c - attend_block.h compiled for AVX2 and FMA; chosen by attend.c. */
#include <assert.h>
#include "host/backend/cpu/attend_block.h"

void attend_block_avx2(const struct attend_block *block, const struct attend_room *room)
{
    attend_block_any(block, room);
}
