// penalize, append_token: the tokens that rows have seen.

#include "../registry.h"

namespace octavo::OCTAVO_ISA {

namespace {

const char* penalize(const Call& call) {
  const Tensor &logits = call.t[0], &history = call.t[1], &lengths = call.t[2], &penalties = call.t[3];
  const int64_t R = logits.dim[0], V = logits.dim[1], L = history.dim[1];
  // For each id: the count of generated ones, plus one if it was seen at all.
  uint32_t* counts = reinterpret_cast<uint32_t*>(call.need(sizeof(uint32_t) * (size_t)V));
  if (!counts && V > 0) return "memory ran out";
  for (int64_t r = 0; r < R; r++) {
    const int32_t start = lengths.as<int32_t>()[2 * r], end = lengths.as<int32_t>()[2 * r + 1];
    if (end < 0) continue;
    if (start < 0 || start > end || end > L)
      return sentence("tokens %d to %d are outside a history of %lld", start, end, (long long)L);
    const int32_t* ids = history.as<int32_t>() + r * L;
    for (int32_t i = 0; i < end; i++) {
      if (ids[i] >= V) return sentence("token id %d is outside the vocabulary of %lld", ids[i], (long long)V);
      if (ids[i] >= 0) counts[ids[i]] = 1;
    }
    for (int32_t i = start; i < end; i++)
      if (ids[i] >= 0) counts[ids[i]]++;
    float* row = logits.as<float>() + r * V;
    const float* own = penalties.as<float>() + 3 * r;  // repetition, presence, frequency
    for (int32_t i = 0; i < end; i++) {
      const int32_t id = ids[i];
      if (id < 0 || counts[id] == 0) continue;
      float score = row[id] < 0 ? row[id] * own[0] : row[id] / own[0];
      const uint32_t generated = counts[id] - 1;
      if (generated > 0) {
        const float often = own[2] * (float)generated;
        score = score - often - own[1];
      }
      row[id] = score;
      counts[id] = 0;  // each id once
    }
  }
  return nullptr;
}

const char* append_token(const Call& call) {
  const Tensor &ids = call.t[0], &history = call.t[1], &lengths = call.t[2];
  const int64_t R = ids.dim[0], L = history.dim[1];
  for (int64_t r = 0; r < R; r++) {
    const int32_t at = lengths.as<int32_t>()[2 * r + 1];
    if (at >= L) return sentence("position %d is outside a history of %lld", at, (long long)L);
  }
  for (int64_t r = 0; r < R; r++) {
    int32_t& at = lengths.as<int32_t>()[2 * r + 1];
    if (at < 0) continue;
    history.as<int32_t>()[r * L + at] = ids.as<int32_t>()[r];
    at++;
  }
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(history,
    {"penalize", "penalize: logits[R,V]:f32! history[R,L]:i32 lengths[R,2]:i32 penalties[R,3]:f32 ->", penalize},
    {"append_token", "append_token: ids[R]:i32 history[R,L]:i32! lengths[R,2]:i32! ->", append_token})

}  // namespace octavo::OCTAVO_ISA
