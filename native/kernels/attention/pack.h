// Packs queries, and a block of keys and values, for the products: keys transposed, values copied, both in f32 (or, for matrix
// units, in bf16 parts).
#pragma once

#include "../../simd/transpose.h"
#include "amx.h"
#include "codes.h"
#include "pairs.h"
#include "job.h"

namespace octavo::OCTAVO_ISA {
namespace {

// Keys [0, n) of a block as columns: panels of kPanel keys (the last may be kPartLanes wide), each [D][width]. `next` is
// prefetched on the way, if given.
template <DType kType>
void pack_keys(const Places& keys_at, int n, int64_t D, const Places* next, float* out) {
  const int64_t stride = keys_at.step;
  for (int j = 0; j < n; j += kPartLanes) {
    const int panel = j / kPanel;
    const int64_t width = round_up(n, kPartLanes) - panel * kPanel >= kPanel ? kPanel : kPartLanes;
    float* base = out + panel * kPanel * D + (j - panel * kPanel);
    const int keys = n - j < kPartLanes ? n - j : kPartLanes;
    const Element<kType>* k = elements<kType>(keys_at, j);
    const Element<kType>* ahead = next != nullptr ? elements<kType>(*next, j) : nullptr;
    for (int64_t d = 0; d < D; d += kPartLanes) {
      const int part = D - d < kPartLanes ? (int)(D - d) : kPartLanes;
      f32p v[kPartLanes];
      if (keys == kPartLanes && part == kPartLanes) {
        if (ahead != nullptr && d * (int64_t)sizeof(*k) % 64 == 0)
          for (int i = 0; i < kPartLanes; i++) __builtin_prefetch(ahead + i * stride + d);
#pragma GCC unroll 16
        for (int i = 0; i < kPartLanes; i++) v[i] = load_floats<kType>(k + i * stride + d);
      } else {
        for (int i = 0; i < kPartLanes; i++) v[i] = i < keys ? load_floats_n<kType>(k + i * stride + d, part) : f32p{};
      }
      transpose_square(v);
      if (part == kPartLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < kPartLanes; i++) store_part(base + (d + i) * width, v[i]);
      } else {
        for (int i = 0; i < part; i++) store_part(base + (d + i) * width, v[i]);
      }
    }
  }
}

// Values of keys [0, n): panels of kPanel columns (the last may be kPartLanes wide), each [kKeys][width]. A key that no row
// sees becomes zeros, whatever its memory holds.
template <DType kType>
void pack_values(const Places& values_at, int n, int64_t E, const int32_t* keep, const Places* next, float* out) {
  const int64_t whole = round_up(E, kPartLanes);
  for (int64_t e = 0; e < whole; e += kPanel) {
    const bool two = whole - e >= kPanel;
    const int64_t width = two ? kPanel : kPartLanes;
    float* base = out + e * kKeys;
    const bool fetch = next != nullptr && e * (int64_t)sizeof(Element<kType>) % 64 == 0;
    const Element<kType>*row = nullptr, *ahead = nullptr;
    for (int j = 0; j < n; j++, row += values_at.step, ahead += values_at.step) {
      if (j % 16 == 0) {
        row = elements<kType>(values_at, j) + e;
        ahead = fetch ? elements<kType>(*next, j) + e : row;
      }
      float* to = base + j * width;
      if (fetch) {
        __builtin_prefetch(ahead);
        if (sizeof(*row) == 4 && two) __builtin_prefetch(ahead + kPartLanes);
      }
      if (keep != nullptr && keep[j] == 0) {
        for (int64_t i = 0; i < width; i += kPartLanes) store_part(to + i, f32p{});
      } else if (e + width <= E) {
        store_part(to, load_floats<kType>(row));
        if (two) store_part(to + kPartLanes, load_floats<kType>(row + kPartLanes));
      } else {
        for (int64_t i = 0; i < width; i += kPartLanes) {
          const int64_t part = E - e - i;
          store_part(to + i, part >= kPartLanes ? load_floats<kType>(row + i) : load_floats_n<kType>(row + i, (int)part));
        }
      }
    }
  }
}

// The unit of each key's codes in a block.
void pack_scales(const float* const* absmax, int n, const int32_t* keep, float* out) {
  for (int j = 0; j < kKeys; j++)
    out[j] = j < n && (keep == nullptr || keep[j] != 0) ? absmax[j / 16][j % 16] * (1.0f / 127.0f) : 0.0f;
}

void pack_block(const Job& job, [[maybe_unused]] const Run& run, const Bench& w, const KeyBlock& block, const int32_t* keep, bool fetch_k,
                bool fetch_v) {
  const int n = block.n;
  const Places *next_k = fetch_k ? &block.next_k : nullptr, *next_v = fetch_v ? &block.next_v : nullptr;
  if (job.k_scales != nullptr) pack_scales(block.k_scale, n, keep, w.k_scale);
  if (job.v_scales != nullptr) pack_scales(block.v_scale, n, keep, w.v_scale);
#if defined(OCTAVO_AMX)
  if (run.tiles) {
    u32p *k = (u32p*)w.k, *v = (u32p*)w.v;
    by_type(job.k.dtype, [&](auto of) { pack_keys_tiles<of.type>(block.k, n, job.D, kKeys, next_k, k); });
    by_type(job.v.dtype, [&](auto of) { pack_values_tiles<of.type>(block.v, n, job.E, keep, kKeys, next_v, v); });
    return;
  }
#endif
#if defined(OCTAVO_CODE_ATTENTION)
  if (run.codes) {
    pack_key_codes(block.k, n, job.D, (u32p*)w.k);
    pack_value_codes(block.v, n, job.E, (u32p*)w.v);
    return;
  }
#endif
#if defined(OCTAVO_PAIR_ATTENTION)
  if (job.pairs) {
    pack_key_pairs(block.k, n, job.D, next_k, (u32p*)w.k);
    pack_value_pairs(block.v, n, job.E, keep, next_v, (u32p*)w.v);
    return;
  }
#endif
  by_type(job.k.dtype, [&](auto of) { pack_keys<of.type>(block.k, n, job.D, next_k, w.k); });
  by_type(job.v.dtype, [&](auto of) { pack_values<of.type>(block.v, n, job.E, keep, next_v, w.v); });
}

// Queries, scaled, each strip transposed to [D][rows of the strip].
void pack_queries(const Job& job, const Run& run, const Bench& w, int64_t g, int64_t row0, const Strips& strips) {
  const auto query = [&](int64_t row) {
    return job.q.as<float>() + run.b * job.q.stride[0] + (run.t0 + row / job.R) * job.q.stride[1] +
           (g * job.R + row % job.R) * job.q.stride[2];
  };
  for (int64_t s = 0; s < strips.count; s++) {
    const int64_t from = strips.start(s), n = strips.start(s + 1) - from;
#if defined(OCTAVO_AMX)
    if (run.tiles) {
      const float* row[16];
      for (int64_t r = 0; r < n; r++) row[r] = query(row0 + from + r);
      pack_queries_tiles(row, (int)n, job.scale, job.D, job.pairs ? 1 : 3, (u32p*)(w.q + from * job.Dw));
      continue;
    }
#endif
#if defined(OCTAVO_CODE_ATTENTION)
    if (run.codes) {
      for (int64_t r = 0; r < n; r++)
        w.q_unit[from + r] = pack_query_codes(query(row0 + from + r), job.scale, job.D, (int)n,
                                              (char*)(w.q + from * job.Dw) + r * kQueryParts * 64,
                                              w.q_sum + (from + r) * kQueryParts);
      continue;
    }
#endif
#if defined(OCTAVO_PAIR_ATTENTION)
    if (job.pairs) {
      const float* row[kStrip];
      for (int64_t r = 0; r < n; r++) row[r] = query(row0 + from + r);
      pack_query_pairs(row, (int)n, job.scale, job.D, w.q + from * job.steps());
      continue;
    }
#endif
    for (int64_t r = 0; r < n; r++) {
      const float* q = query(row0 + from + r);
      float* to = w.q + from * job.D + r;
      for (int64_t d = 0; d < job.D; d++) to[d * n] = q[d] * job.scale;
    }
  }
}

}  // namespace
}  // namespace octavo::OCTAVO_ISA
