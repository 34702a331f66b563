// Proofs about rows in pages: a token's attention has the same bits however it is computed, NaN propagates through codes, and
// kv_append writes the right values to the right places.
#pragma once

#include "attention_case.h"

void test_rows();
void test_append();
