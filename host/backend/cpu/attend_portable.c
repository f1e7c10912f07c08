/* attend_portable.c - attend_block.h compiled for plain C; chosen by attend.c. */
#include <assert.h>
#include "host/backend/cpu/attend_block.h"

void attend_block_portable(const struct attend_block *block, const struct attend_room *room)
{
    attend_block_any(block, room);
}
