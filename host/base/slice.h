/* slice.h - ask the kernel for short time slices of the calling thread.
 *
 * With as many compute threads as CPUs, a thread that wakes (the event loop, a client on the same
 * machine) waits for the end of somebody's slice, about 3 ms: several decode steps of a small
 * model. Linux 6.12 and later let an ordinary thread choose its slice (sched_setattr,
 * sched_runtime); earlier ones ignore the number. A short slice costs nothing while nobody else
 * wants the CPU. */
#pragma once
#include <stdint.h>

/* Best effort, no privilege needed. 100..100,000 microseconds. */
void slice_set_us(uint32_t us);
enum { SLICE_LOOP_US = 100, SLICE_COMPUTE_US = 200 };
/* Between two pieces of computing: whoever waits for this CPU runs now, not at the scheduler's next
 * tick (4 ms). Does something once in SLICE_COMPUTE_US; 0.3 us where nobody waits. */
void slice_offer(void);
