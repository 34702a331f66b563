// The one instruction set level that a WASM module has: the one that it was compiled for.
#include "../cpu.h"

#define OCTAVO_TEXT_OF(name) #name
#define OCTAVO_TEXT(name) OCTAVO_TEXT_OF(name)

namespace octavo {

namespace {

constexpr Isa kIsa = {OCTAVO_TEXT(OCTAVO_ISA), -1, true};

}  // namespace

int isa_count() { return 1; }
const Isa& isa(int) { return kIsa; }

}  // namespace octavo
