// sample: one token per row of logits, by parameters of the row's own.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/greatest.h"
#include "sampling/row.h"

namespace octavo::OCTAVO_ISA {

namespace {

// First word of Philox4x32-10.
uint32_t philox(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1) {
  uint32_t c2 = 0, c3 = 0;
  for (int round = 0; round < 10; round++) {
    const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
    const uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)b;
    c3 = (uint32_t)a;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

// Draws from all tokens. Needs weigh_all.
int32_t draw_all(const Row& row, double total, double u) {
  const double goal = u * total;
  double mass = 0;
  int32_t last = 0;
  for (int64_t block = 0; block < row.blocks; block++) {
    if (mass + row.sums[block] <= goal) {
      mass += row.sums[block];
      continue;
    }
    const int64_t end = (block + 1) * kBlock < row.V ? (block + 1) * kBlock : row.V;
    for (int64_t v = block * kBlock; v < end; v++) {
      mass += row.weights[v];
      if (row.weights[v] > 0) last = (int32_t)v;
      if (mass > goal) return (int32_t)v;
    }
  }
  return last;
}

// Draws from a row already read; u is in [0, 1).
int32_t drawn_from(Row& row, const Call& call, const float* params, double u) {
  const bool narrows = (params[1] > 0 && params[1] < (float)row.V) || params[2] < 1 || params[3] > 0;
  if (!narrows) {
    const double total = row.weigh_all(call);
    return draw_all(row, total, u);
  }
  double total;
  const int64_t kept = row.narrow(call, params, &total);
  const double goal = u * total;
  double mass = 0;
  for (int64_t i = 0; i < kept; i++) {
    mass += row.weights[i];
    if (mass > goal) return row.list[i].id;
  }
  return row.list[kept - 1].id;
}

const char* sample(const Call& call) {
  const Tensor &logits = call.t[0], &params = call.t[1], &draws = call.t[2], &ids = call.t[3];
  const int64_t R = logits.dim[0], V = logits.dim[1];
  if (V == 0) return "logits are empty";
  // Greedy rows need no scratch memory, and no order.
  bool any = false;
  for (int64_t r = 0; r < R; r++) any |= params.as<float>()[4 * r] > 0;
  parallel(call, R, row_grain(V), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; r++) {
      const float temperature = params.as<float>()[4 * r];
      bool nan = false;
      const int64_t best = temperature == 0 ? first_greatest(logits.as<float>() + r * V, V, &nan) : 0;
      ids.as<int32_t>()[r] = nan ? -1 : (int32_t)best;
    }
  });
  for (int64_t r = 0; r < R; r++)
    if (ids.as<int32_t>()[r] < 0) return "logits hold NaN";
  if (!any) return nullptr;

  Row row;
  if (!row.take(call, V)) return "memory ran out";
  for (int64_t r = 0; r < R; r++) {
    const float* own = params.as<float>() + 4 * r;
    int32_t* draw = draws.as<int32_t>() + 3 * r;  // seed, sequence, step
    if (!(own[0] > 0)) continue;
    row.read(logits.as<float>() + r * V, own[0]);
    if (row.nan) return "logits hold NaN";
    if (row.top == -INFINITY) return "all logits are -inf";
    const uint32_t random = philox((uint32_t)draw[0], 0x4F435456u, (uint32_t)draw[2], (uint32_t)draw[1]);
    ids.as<int32_t>()[r] = drawn_from(row, call, own, (double)(random >> 8) * 0x1p-24);
    draw[2] = (int32_t)((uint32_t)draw[2] + 1u);
  }
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(sample,
    {"sample", "sample: logits[R,V]:f32 params[R,4]:f32 draws[R,3]:i32! -> ids[R]:i32", sample})

}  // namespace octavo::OCTAVO_ISA
