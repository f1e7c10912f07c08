/* fault.h - the emulator's fault shim for tests in C. */
#pragma once
/* The n-th call of the CUDA runtime from now on fails, and all after it; 0: none, the device is
 * sound. */
void fault_at(long n);
/* Calls so far. */
long fault_calls(void);
