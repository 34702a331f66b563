// edit: changes the scores of some tokens of each row.

#include <cmath>

#include "../registry.h"

namespace octavo::OCTAVO_ISA {

namespace {

const char* edit(const Call& call) {
  const Tensor &logits = call.t[0], &ids = call.t[1], &edits = call.t[2], &only = call.t[3];
  const int64_t R = logits.dim[0], V = logits.dim[1], N = ids.dim[1];
  for (int64_t i = 0; i < R * N; i++) {
    const int32_t id = ids.as<int32_t>()[i];
    if (id >= V) return sentence("token id %d is outside the vocabulary of %lld", id, (long long)V);
  }
  for (int64_t r = 0; r < R; r++) {
    float* row = logits.as<float>() + r * V;
    const bool forced = only.as<int32_t>()[r] != 0;
    if (forced)
      for (int64_t v = 0; v < V; v++) row[v] = -INFINITY;
    for (int64_t n = r * N; n < (r + 1) * N; n++) {
      const int32_t id = ids.as<int32_t>()[n];
      if (id < 0) continue;
      const float* own = edits.as<float>() + 3 * n;  // what is added, penalty, growth
      if (forced) {
        row[id] = own[0];
        continue;
      }
      float score = row[id] + own[0];
      score = score < 0 ? score * own[1] : score / own[1];
      // Minus infinity and its magnitude would give NaN.
      if (own[2] != 0 && score != -INFINITY) {
        const float more = __builtin_fabsf(score) * own[2];
        score += more;
      }
      row[id] = score;
    }
  }
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(edit, {"edit", "edit: logits[R,V]:f32! ids[R,N]:i32 edits[R,N,3]:f32 only[R]:i32 ->", edit})

}  // namespace octavo::OCTAVO_ISA
