/* counters.cpp - HOSTCUDA_COUNTERS: bytes that the streaming wrappers move, and bank conflicts.
 *
 * Shared memory serves 128 bytes a cycle: 32 banks of 4 bytes. A warp's access of 16 bytes a lane
 * is four rounds of eight lanes (ldmatrix: four rounds of eight rows); a round takes one cycle when
 * its eight pieces lie in different groups of four banks (address / 16 % 8) or are the same piece,
 * else one more for each piece too many in a group. Lanes make their accesses one after the other
 * here, so those of one line that belong together are told by their number: a lane's n-th goes with
 * the others' n-th. Printed: rounds, and cycles beyond one a round. Plain loads and stores are not
 * seen. */
#include "internal.h"
#include <map>
#include <tuple>

bool hostcuda_counting;

void hostcuda_count_stream(int bytes)
{
    hc_self->block->grid->count->stream_bytes += (uint64_t)bytes;
}
void hc_count_round(struct hc_kernel_count *count, const unsigned char *const *pieces, int n)
{
    int in_group[8] = {}, most = 0;
    for (int i = 0; i < n; i++) {
        bool again = pieces[i] == nullptr;
        for (int j = 0; j < i; j++)
            again = again || pieces[j] == pieces[i];
        const uintptr_t group = (uintptr_t)pieces[i] / 16 % 8;
        if (!again && ++in_group[group] > most)
            most = in_group[group];
    }
    if (most == 0)
        return;
    count->shared_reads++;
    count->shared_conflicts += (uint64_t)(most - 1);
}

/* Accesses of one warp at one line that not all lanes have made yet. */
enum { WINDOW = 16 };
struct line_accesses {
    long made[32];                           /* by each lane */
    const unsigned char *pieces[WINDOW][32]; /* of access number made % WINDOW */
    long first;                              /* the oldest number still open */
};
typedef std::tuple<const struct hc_block *, int, const char *, int> line_key;
static std::map<line_key, line_accesses> &open_lines = *new std::map<line_key, line_accesses>;

static void close_access(struct hc_kernel_count *count, struct line_accesses *line)
{
    const unsigned char **pieces = line->pieces[line->first % WINDOW];
    for (int l = 0; l < 32; l += 8)
        hc_count_round(count, pieces + l, 8);
    for (int l = 0; l < 32; l++)
        pieces[l] = nullptr;
    line->first++;
}
void hostcuda_count_shared(const void *p, int bytes, HOSTCUDA_AT)
{
    const struct hc_fiber *self = hc_self;
    struct hc_block *block = self->block;
    struct hc_kernel_count *count = block->grid->count;
    const unsigned char *piece = (const unsigned char *)p;
    if (piece < block->shared || piece >= block->shared + block->shared_bytes) {
        count->plain_bytes += (uint64_t)bytes; /* ld128, st128 of global memory */
        return;
    }
    struct line_accesses *accesses = &open_lines[line_key(block, self->warp, file, line)];
    const long number = accesses->made[self->lane]++;
    while (number >= accesses->first + WINDOW)
        close_access(count, accesses);
    if (number >= accesses->first) /* else too late: counted as if it had not been */
        accesses->pieces[number % WINDOW][self->lane] = piece;
}
void hc_count_end(const struct hc_block *block)
{
    auto at = open_lines.lower_bound(line_key(block, 0, nullptr, 0));
    while (at != open_lines.end() && std::get<0>(at->first) == block) {
        for (int i = 0; i < WINDOW; i++)
            close_access(block->grid->count, &at->second);
        at = open_lines.erase(at);
    }
}
