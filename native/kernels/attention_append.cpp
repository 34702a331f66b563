// New keys or values written to their cache, in its number format or as codes in i8.
#include "../parallel.h"
#include "../registry.h"
#include "../simd/codes.h"

namespace octavo::OCTAVO_ISA {
namespace {

struct Append {
  Tensor x, cache;
  float* scales;
  int64_t cursor;
};

// A row as codes, by the rule of llm_int8_quantize; its absmax is returned.
float code_row(const float* row, int64_t step, int64_t D, int8_t* out) {
  const auto part = [&](int64_t d) {
    if (step == 1 && d + kPartLanes <= D) return load_part(row + d);
    float lane[kPartLanes] = {};
    for (int i = 0; i < kPartLanes && d + i < D; i++) lane[i] = row[(d + i) * step];
    return load_part(lane);
  };
  f32p high = {};
  for (int64_t d = 0; d < D; d += kPartLanes) high = max_part(abs_part(part(d)), high);
  const float absmax = highest_part(high);
  const f32p factor = splat_part(code_factor(absmax));
  for (int64_t d = 0; d < D; d += kPartLanes) {
    int32_t code[kPartLanes];
    store_part(code, code_part(part(d), factor));
    for (int i = 0; i < kPartLanes && d + i < D; i++) out[d + i] = (int8_t)code[i];
  }
  return absmax;
}

// One task: the new rows of one (batch, head).
void append(const Append& job, int64_t index) {
  const int64_t T = job.x.dim[1], G = job.x.dim[2], D = job.x.dim[3], S = job.cache.dim[2], step = job.x.stride[3];
  const int64_t b = index / G, g = index % G;
  const float* from = job.x.as<float>() + b * job.x.stride[0] + g * job.x.stride[2];
  const int64_t at = (index * S + job.cursor) * D;
  for (int64_t t = 0; t < T; t++) {
    const float* row = from + t * job.x.stride[1];
    const int64_t to = at + t * D;
    if (job.cache.dtype == DType::f32) {
      float* out = job.cache.as<float>() + to;
      if (step == 1)
        std::memcpy(out, row, sizeof(float) * (size_t)D);
      else
        for (int64_t d = 0; d < D; d++) out[d] = row[d * step];
    } else if (job.cache.dtype == DType::i8) {
      job.scales[index * S + job.cursor + t] = code_row(row, step, D, job.cache.as<int8_t>() + to);
    } else if (job.cache.dtype == DType::bf16) {
      uint16_t* out = job.cache.as<uint16_t>() + to;
      for (int64_t d = 0; d < D; d++) out[d] = narrow_bf16(row[d * step]);
    } else {
      uint16_t* out = job.cache.as<uint16_t>() + to;
      for (int64_t d = 0; d < D; d++) out[d] = narrow_f16(row[d * step]);
    }
  }
}

const char* kv_append(const Call& call) {
  Append job;
  job.x = call.t[0];
  job.cache = call.t[2];
  job.scales = call.t[3].as<float>();
  if (job.cache.dtype == DType::i8 && job.scales == nullptr) return "a cache in i8 needs scales";
  job.cursor = *call.t[1].as<int32_t>();
  if (job.cursor < 0) return "the cursor of the cache is negative";
  if (job.cursor + job.x.dim[1] > job.cache.dim[2])
    return sentence("%lld new tokens after %lld do not fit in a cache of %lld", (long long)job.x.dim[1],
                    (long long)job.cursor, (long long)job.cache.dim[2]);
  if (job.x.size() == 0) return nullptr;
  const int64_t width = job.x.dim[1] * job.x.dim[3];
  parallel(call, job.x.dim[0] * job.x.dim[2], rows_per_piece(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) append(job, i);
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(attention_append,
               {"kv_append", "kv_append: x[B,T,G,D]:f32~ cursor[1]:i32 cache[B,G,S,D]:f32|f16|bf16|i8! scales[B,G,S]:f32?! ->",
                kv_append})

}  // namespace octavo::OCTAVO_ISA
