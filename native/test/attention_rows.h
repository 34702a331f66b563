// Proofs about rows in pages: a token's attention has the same bits however it is computed, NaN reaches the result
// through codes, and kv_append writes what it should where it should.
#pragma once

#include "attention_case.h"

void test_rows();
void test_append();
