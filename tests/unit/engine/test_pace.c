/* test_pace.c - on machines whose step takes a + b * rows, mixed steps come to about twice decode.
 */
#include "tests/support/support.h"
#include "host/engine/pace.h"

static void mixed_steps_take_at_most_twice_decode(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double fixed_us, decode_row_us, prompt_row_us;
        int32_t n_streams, chunk_max, low, high; /* where the chunk should settle */
    } rows[] = {
        { "a CPU: weights bound decode", 4000, 100, 50, 8, 512, 60, 96 },
        { "a GPU: rows are nearly free", 8000, 5, 4, 32, 512, 512, 512 },
        { "rows as dear as steps: the least", 100, 1000, 1000, 1, 512, PACE_CHUNK_MIN,
          PACE_CHUNK_MIN },
        { "a small limit", 8000, 5, 4, 1, 40, 40, 40 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct pace pace;
        pace_init(&pace, rows[i].chunk_max);
        int32_t n = rows[i].n_streams;
        double decode = rows[i].fixed_us + rows[i].decode_row_us * n;
        /* The first prompt, alone: cheap rows in a large chunk. */
        pace_record(&pace, 0, 256,
                    (uint64_t)(1e3 * (rows[i].fixed_us + 256 * rows[i].prompt_row_us)));
        assert_int_equal(pace_chunk(&pace, n), PACE_CHUNK_MIN); /* nothing is known of decode yet */
        for (int32_t step = 0; step < 10; step++)
            pace_record(&pace, n, 0, (uint64_t)(1e3 * decode));
        for (int32_t step = 0; step < 40; step++) {
            int32_t chunk = pace_chunk(&pace, n);
            double time = decode + chunk * rows[i].prompt_row_us;
            if (chunk > PACE_CHUNK_MIN && time > 2 * decode)
                fail_msg("%s: chunk %d takes %.0f us, decode %.0f", rows[i].name, chunk, time,
                         decode);
            pace_record(&pace, n, chunk, (uint64_t)(1e3 * time));
        }
        int32_t chunk = pace_chunk(&pace, n);
        if (chunk < rows[i].low || chunk > rows[i].high)
            fail_msg("%s: chunk %d", rows[i].name, chunk);
    }
}

static void one_slow_step_is_forgotten(void **state)
{
    (void)state;
    struct pace pace;
    pace_init(&pace, 512);
    for (int32_t i = 0; i < 40; i++) {
        pace_record(&pace, 4, 0, 5000000);
        pace_record(&pace, 4, pace_chunk(&pace, 4),
                    5000000 + 50000 * (uint64_t)pace_chunk(&pace, 4));
    }
    int32_t before = pace_chunk(&pace, 4);
    pace_record(&pace, 4, before, 500000000); /* a page fault, another process */
    assert_true(pace_chunk(&pace, 4) < before);
    for (int32_t i = 0; i < 30; i++)
        pace_record(&pace, 4, pace_chunk(&pace, 4),
                    5000000 + 50000 * (uint64_t)pace_chunk(&pace, 4));
    assert_true(pace_chunk(&pace, 4) >= before * 9 / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_steps_take_at_most_twice_decode),
        cmocka_unit_test(one_slow_step_is_forgotten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
