/* slice.c - see slice.h. */
#include "host/base/slice.h"
#include "host/base/clock.h"
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* linux/sched/types.h, version 0; glibc 2.36 has no wrapper. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns, deadline_ns, period_ns;
};

void slice_set_us(uint32_t us)
{
    struct attributes a = { 0 };
    /* Read first: nice and policy stay what the operator chose. */
    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) != 0 || a.policy != SCHED_OTHER)
        return;
    a.size = sizeof a;
    a.runtime_ns = (uint64_t)us * 1000;
    (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

void slice_offer(void)
{
    static _Thread_local uint64_t offered_ns;
    const uint64_t now_ns = clock_ns();
    if (now_ns - offered_ns < (uint64_t)SLICE_COMPUTE_US * 1000)
        return;
    offered_ns = now_ns;
    (void)sched_yield();
}
