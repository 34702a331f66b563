// The machine's limits: reading memory in order, and its multiply units with everything in registers.
#pragma once

#include <cstdint>

// In `streams` (1 or 4) parts side by side.
void stream_read(const char* p, int64_t bytes, int streams);
void spin_fma();
double spin_fma_work();
void spin_int8();
double spin_int8_work();
void spin_bf16();
double spin_bf16_work();
