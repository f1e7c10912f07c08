extern "C" {
#include "tests/hostcuda/model/fault.h"
}
#include "tests/hostcuda/hostcuda.h"

void fault_at(long n) { hostcuda_fault_at(n); }
long fault_calls(void) { return hostcuda_calls(); }
