// Writes new keys or values to the pages of their cache, in its number format or as i8 codes.
#include "../parallel.h"
#include "../registry.h"
#include "../simd/codes.h"

namespace octavo::OCTAVO_ISA {
namespace {

enum { X, LANES, TABLE, CACHE, SCALES };

struct Append {
  Tensor x, cache;
  float* scales;
  const int32_t *rows, *positions, *table;
  int64_t columns;  // pages of a row of the table
};

// Codes of a row, by the rule of llm_int8_quantize; returns its absmax, NaN if the row holds one.
float code_row(const float* row, int64_t step, int64_t D, int8_t* out) {
  const auto part = [&](int64_t d) {
    if (step == 1 && d + kPartLanes <= D) return load_part(row + d);
    float lane[kPartLanes] = {};
    for (int i = 0; i < kPartLanes && d + i < D; i++) lane[i] = row[(d + i) * step];
    return load_part(lane);
  };
  i32p high = {};  // magnitudes compare like their bits, NaN highest
  for (int64_t d = 0; d < D; d += kPartLanes) high = max_part((i32p)abs_part(part(d)), high);
  const int32_t bits = highest_part(high);
  float absmax;
  std::memcpy(&absmax, &bits, 4);
  const f32p factor = splat_part(code_factor(absmax));
  for (int64_t d = 0; d < D; d += kPartLanes) {
    int32_t code[kPartLanes];
    store_part(code, code_part(part(d), factor));
    for (int i = 0; i < kPartLanes && d + i < D; i++) out[d + i] = (int8_t)code[i];
  }
  return absmax;
}

int64_t page_of(const Append& job, int64_t lane) {
  const int64_t n = job.positions[lane] / job.cache.dim[2];
  return job.table[job.rows[lane] * (job.columns + 1) + 1 + n % job.columns];
}

// One task: all heads of a lane.
void append(const Append& job, int64_t lane) {
  if (job.rows[lane] < 0) return;
  const int64_t T = job.x.dim[1], G = job.x.dim[2], D = job.x.dim[3], S = job.cache.dim[2], step = job.x.stride[3];
  const float* from = job.x.as<float>() + lane / T * job.x.stride[0] + lane % T * job.x.stride[1];
  const int64_t first = page_of(job, lane) * G * S + job.positions[lane] % S;
  for (int64_t g = 0; g < G; g++) {
    const float* row = from + g * job.x.stride[2];
    const int64_t place = first + g * S, to = place * D;
    if (job.cache.dtype == DType::f32) {
      float* out = job.cache.as<float>() + to;
      if (step == 1)
        std::memcpy(out, row, sizeof(float) * (size_t)D);
      else
        for (int64_t d = 0; d < D; d++) out[d] = row[d * step];
    } else if (job.cache.dtype == DType::i8) {
      job.scales[place] = code_row(row, step, D, job.cache.as<int8_t>() + to);
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
  job.x = call.t[X];
  job.cache = call.t[CACHE];
  job.scales = call.t[SCALES].as<float>();
  const Tensor& table = call.t[TABLE];
  const int64_t lanes = job.x.dim[0] * job.x.dim[1], pages = job.cache.dim[0];
  job.rows = call.t[LANES].as<int32_t>();
  job.positions = job.rows + lanes;
  job.table = table.as<int32_t>();
  job.columns = table.dim[1] - 1;
  if (job.cache.dtype == DType::i8 && job.scales == nullptr) return "a cache in i8 needs scales";
  if (job.columns < 1 || job.cache.dim[2] < 1) return "a row of the table needs a page";
  for (int64_t i = 0; i < lanes; i++) {
    if (job.rows[i] < 0) continue;
    if (job.rows[i] >= table.dim[0]) return sentence("a lane is of row %d; the table has %lld", job.rows[i], (long long)table.dim[0]);
    if (job.positions[i] < 0) return sentence("a lane stands at position %d", job.positions[i]);
    const int64_t page = page_of(job, i);
    if (page < 0 || page >= pages) return sentence("the table names page %lld; the cache has %lld", (long long)page, (long long)pages);
  }
  const int64_t width = job.x.dim[2] * job.x.dim[3];
  parallel(call, lanes, row_grain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; i++) append(job, i);
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(attention_append,
               {"kv_append",
                "kv_append: x[B,T,G,D]:f32~ lanes[2,B,T]:i32 table[R,C]:i32 cache[P,G,S,D]:f32|f16|bf16|i8! scales[P,G,S]:f32?! ->",
                kv_append})

}  // namespace octavo::OCTAVO_ISA
