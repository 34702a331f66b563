// Processes a block of keys for a strip of rows: scores, softmax, values.
#pragma once

#include "amx.h"
#include "codes.h"
#include "pairs.h"
#include "softmax.h"

namespace octavo::OCTAVO_ISA {
namespace {

// What a step of a product takes from each operand: a float, or a pair of bf16.
struct Floats {
  static constexpr int kEach = 1;
  static OCTAVO_INLINE f32p mac(f32p acc, f32p x, f32p b) { return acc + x * b; }
};
#if defined(OCTAVO_PAIR_ATTENTION)
struct Pairs {
  static constexpr int kEach = 2;
  static OCTAVO_INLINE f32p mac(f32p acc, f32p x, f32p b) {
    return (f32p)_mm512_dpbf16_ps((__m512)acc, (__m512bh)x, (__m512bh)b);
  }
};
#endif

// Address of byte `at` in the next block, which consists of pieces of 16 keys, counted as if it were one piece.
struct Ahead {
  const Places* places;
  int64_t size, width;  // bytes of an element, elements of a key
  OCTAVO_INLINE const char* at(int64_t byte) const {
    const int64_t piece = 16 * width * size;
    int i = 0;
    for (; i < kPlaces - 1 && byte >= piece; i++) byte -= piece;
    return places->at[i] + byte;
  }
};

// c[MR][NR vectors] = (c * alpha) + a·b. a(row, k) = a[row * kRow + k * kStep], b(k) = NR vectors at b + k * NR * kPartLanes.
// kFetch: memory at `ahead` (and at `ahead2`, if a step covers two lines) is prefetched on the way, ahead_step bytes a step.
// Not inlined: within a larger function g++ runs out of registers.
template <class Of, int MR, int NR, int kRow, int kStep, bool kAdd, bool kFetch>
__attribute__((noinline)) void tile(const float* a, const float* b, int64_t n, float* c, int64_t ldc, const float* alpha,
                                    const char* ahead, const char* ahead2, int64_t ahead_step) {
  static_assert(NR == 1 || NR == 2);
  f32p acc0[MR], acc1[MR];
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    acc0[r] = kAdd ? load_part(c + r * ldc) * alpha[r] : f32p{};
    if constexpr (NR == 2) acc1[r] = kAdd ? load_part(c + r * ldc + kPartLanes) * alpha[r] : f32p{};
  }
  for (int64_t k = 0; k < n; k++, a += kStep, b += NR * kPartLanes) {
    if constexpr (kFetch) {
      __builtin_prefetch(ahead);
      ahead += ahead_step;
      if (kPartLanes == 16) {
        __builtin_prefetch(ahead2);
        ahead2 += ahead_step;
      }
    }
    const f32p b0 = load_part(b), b1 = NR == 2 ? load_part(b + kPartLanes) : b0;
#pragma GCC unroll 8
    for (int r = 0; r < MR; r++) {
      const f32p x = splat_part(a[r * kRow]);
      acc0[r] = Of::mac(acc0[r], x, b0);
      if constexpr (NR == 2) acc1[r] = Of::mac(acc1[r], x, b1);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; r++) {
    store_part(c + r * ldc, acc0[r]);
    if constexpr (NR == 2) store_part(c + r * ldc + kPartLanes, acc1[r]);
  }
}

template <class Of, int MR, bool kFetch>
void strip(const Meeting& m, const Bench& w, int64_t local) {
  const Job& job = *m.job;
  const int whole = (int)round_up(m.n, kPartLanes);  // as packed
  const int64_t steps = job.steps();
  const float* q = w.q + local * steps;
  constexpr int64_t kStreams = kPartLanes == 16 ? 2 : 1;
  const char *ahead = nullptr, *ahead2 = nullptr;
  int64_t step = 0;
  const auto ask = [&](const Places* places, DType type, int64_t width, int64_t column) {
    if (!kFetch) return;
    if (places == nullptr) {
      ahead = ahead2 = (const char*)w.s;
      return;
    }
    const Ahead next = {places, width_of(type), width};
    step = kPanel * Of::kEach * next.size;
    if (places->one) {
      ahead = places->at[0] + column * next.size;
      ahead2 = ahead + 64;
      return;
    }
    // In pieces: each step prefetches two lines, one from each half, and each half then covers its own pieces.
    step /= kStreams;
    ahead = next.at(column * next.size / kStreams);
    ahead2 = next.at(column * next.size / kStreams + kKeys * width * next.size / 2);
  };
  for (int j = 0; j < m.nk; j += kPanel) {
    const float* k = w.k + j * steps;
    ask(m.ahead_k, job.k.dtype, job.D, j * job.D);
    if (whole - j >= kPanel)
      tile<Of, MR, 2, 1, MR, false, kFetch>(q, k, steps, w.s + j, kKeys, nullptr, ahead, ahead2, step);
    else
      tile<Of, MR, 1, 1, MR, false, kFetch>(q, k, steps, w.s + j, kKeys, nullptr, ahead, ahead2, step);
  }
  float alpha[kMostRows + kPartLanes] = {};
  soften(m, w, local, MR, alpha);
#if defined(OCTAVO_PAIR_ATTENTION)
  if constexpr (Of::kEach == 2) pack_weight_pairs(w.s, MR, (int)round_up(m.nk, kPartLanes));
#endif
  const int64_t keys = (m.nk + Of::kEach - 1) / Of::kEach;
  step = 0;
  for (int64_t e = 0; e < job.Ew; e += kPanel) {
    const float* v = w.v + e * (kKeys / Of::kEach);
    float* c = w.acc + local * job.Ew + e;
    ask(m.ahead_v, job.v.dtype, job.E, e * kKeys);
    if (job.Ew - e >= kPanel)
      tile<Of, MR, 2, kKeys, 1, true, kFetch>(w.s, v, keys, c, job.Ew, alpha, ahead, ahead2, step);
    else
      tile<Of, MR, 1, kKeys, 1, true, kFetch>(w.s, v, keys, c, job.Ew, alpha, ahead, ahead2, step);
  }
}

#if defined(OCTAVO_CODE_ATTENTION)
template <int kCount>
struct Count {
  static constexpr int value = kCount;
};

template <int MR>
void code_strip(const Meeting& m, const Bench& w, int64_t local) {
  constexpr int NR = MR <= 2 ? 4 : MR <= 4 ? 2 : 1;
  const Job& job = *m.job;
  const int count = (int)round_up(m.nk, 16);
  const char* q = (const char*)(w.q + local * job.Dw);
  const u32p *k = (const u32p*)w.k, *v = (const u32p*)w.v;
  const float* unit = w.q_unit + local;
  const int32_t* sums = w.q_sum + local * kQueryParts;
  const int64_t panel = round_up(job.D, 64) / 4;
  // Each step of a panel prefetches one line of the next block: there are equally many.
  const char* ahead[NR];
  const auto ask = [&](const Places* places, int64_t width, int64_t at, int64_t panel_bytes, int wide) {
    for (int c = 0; c < wide; c++)
      ahead[c] = places == nullptr ? (const char*)w.s
                 : places->one     ? places->at[0] + at + c * 64
                                   : Ahead{places, 1, width}.at(at + c * panel_bytes);
    return places == nullptr ? 0 : places->one ? 64 * wide : 64;
  };
  int j = 0;
  const auto scores = [&](auto panels) {
    constexpr int kWide = decltype(panels)::value;
    for (; j + 16 * kWide <= count; j += 16 * kWide) {
      const int64_t step = ask(m.ahead_k, job.D, j * job.D, 16 * job.D, kWide);
      score_tile<MR, kWide>(q, k + j / 16 * panel, job.D, unit, sums, w.s + j, ahead, step);
    }
  };
  scores(Count<NR>());
  scores(Count<1>());

  float alpha[kMostRows + kPartLanes] = {}, most[kMostRows + kPartLanes] = {};
  soften(m, w, local, MR, alpha, most);
  alignas(64) char weights[MR * kWeightParts * 64];
  float step[MR];
  for (int r = 0; r < MR; r++)
    step[r] = pack_weight_codes(w.s + r * kKeys, count, most[r], weights + r * kWeightParts * 64);
  float* c = w.acc + local * job.Ew;
  int64_t e = 0;
  const auto values = [&](auto panels) {
    constexpr int kWide = decltype(panels)::value;
    for (; e + 16 * kWide <= job.Ew; e += 16 * kWide) {
      const int64_t ahead_step = ask(m.ahead_v, job.E, e * kKeys, 16 * kKeys, kWide);
      value_tile<MR, kWide>(weights, v + e / 16 * (kKeys / 4), m.nk, step, alpha, c + e, job.Ew, ahead, ahead_step);
    }
  };
  values(Count<NR>());
  values(Count<1>());
}
#endif

#if defined(OCTAVO_AMX)
void tile_strip(const Meeting& m, const Bench& w, int64_t local, int rows) {
  const Job& job = *m.job;
  const int count = (int)round_up(m.nk, kPartLanes);
  const u32p *q = (const u32p*)(w.q + local * job.Dw), *k = (const u32p*)w.k, *v = (const u32p*)w.v;
  by_type(job.k.dtype, [&](auto of) {
    constexpr int parts = kBf16Parts<of.type>;
    (job.pairs ? scores_tiles<1, parts> : scores_tiles<3, parts>)(q, k, job.D, count, kKeys, w.s);
  });
  float alpha[kMostRows + kPartLanes] = {};
  soften(m, w, local, rows, alpha);
  u32p* p = (u32p*)w.p;
  split_probabilities(w.s, rows, count, kKeys, job.pairs ? 1 : 3, p);
  float* acc = w.acc + local * job.Ew;
  for (int r = 0; r < rows; r++) {
    if (alpha[r] == 1) continue;
    for (int64_t e = 0; e < job.Ew; e += kPartLanes) store_part(acc + r * job.Ew + e, load_part(acc + r * job.Ew + e) * alpha[r]);
  }
  const int keys = (int)round_up(count, 32);
  by_type(job.v.dtype, [&](auto of) {
    constexpr int parts = kBf16Parts<of.type>;
    (job.pairs ? values_tiles<1, parts> : values_tiles<3, parts>)(p, v, job.Ew, keys, kKeys, acc);
  });
}
#endif

#if defined(OCTAVO_CODE_ATTENTION)
void any_code_strip(int rows, const Meeting& m, const Bench& w, int64_t local) {
  switch (rows) {
    case 1: return code_strip<1>(m, w, local);
    case 2: return code_strip<2>(m, w, local);
    case 3: return code_strip<3>(m, w, local);
    case 4: return code_strip<4>(m, w, local);
    case 5: return code_strip<5>(m, w, local);
    case 6: return code_strip<6>(m, w, local);
    case 7: return code_strip<7>(m, w, local);
    default: return code_strip<8>(m, w, local);
  }
}
#endif

template <class Of, bool kFetch>
void any_strip(int rows, const Meeting& m, const Bench& w, int64_t local) {
  switch (rows) {
    case 1: return strip<Of, 1, kFetch>(m, w, local);
    case 2: return strip<Of, 2, kFetch>(m, w, local);
    case 3: return strip<Of, 3, kFetch>(m, w, local);
    case 4: return strip<Of, 4, kFetch>(m, w, local);
    default: break;
  }
  if constexpr (kStrip >= 6) {
    if (rows == 5) return strip<Of, 5, kFetch>(m, w, local);
    if (rows == 6) return strip<Of, 6, kFetch>(m, w, local);
  }
  if constexpr (kStrip >= 8) {
    if (rows == 7) return strip<Of, 7, kFetch>(m, w, local);
    if (rows == 8) return strip<Of, 8, kFetch>(m, w, local);
  }
}

}  // namespace
}  // namespace octavo::OCTAVO_ISA
