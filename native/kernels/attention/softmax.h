// Online softmax: masks and biases on the scores of a strip of rows, then scores to weights.
#pragma once

#include "../../simd/exp.h"
#include "job.h"

namespace octavo::OCTAVO_ISA {
namespace {

// One block of keys for a strip of rows.
struct Meeting {
  const Job* job;
  const Run* run;
  int64_t g, row;     // first row of the strip
  int64_t j0;         // first key of the block
  int n;              // keys of the block
  int nk;             // keys of the block that any row of the strip may see: the first nk
  bool partial;       // not every row sees all nk
  const int32_t* keep;
  const int32_t* seg;
  const Places *ahead_k, *ahead_v;  // the next block, if strips prefetch it; else null
};

// d[clamp(at + j, 0, 2 * reach)] is added to s[j].
void add_distances(const float* d, int64_t at, int64_t reach, int n, float* s) {
  const auto within = [&](int64_t j) { return (int)(j < 0 ? 0 : j > n ? n : j); };
  const int from = within(-at), to = within(2 * reach + 1 - at);
  for (int j = 0; j < from; j++) s[j] += d[0];
  for (int j = from; j < to; j++) s[j] += d[at + j];
  for (int j = to; j < n; j++) s[j] += d[2 * reach];
}

// Softcap, slopes, bias, and -infinity for keys that the row does not see.
void adjust_row(const Meeting& m, int64_t row, float* s) {
  const Job& job = *m.job;
  const int64_t t = row / job.R, h = m.g * job.R + row % job.R, i = m.run->past + t;
  const int count = (int)round_up(m.nk, kPartLanes);
  if (job.softcap > 0) {
    const float inverse = 1.0f / job.softcap;
    for (int j = 0; j < count; j += kPartLanes) store_part(s + j, job.softcap * tanh_part(load_part(s + j) * inverse));
  }
  if (job.slopes != nullptr) {
    const float slope = job.slopes[h];
    float distance[kPartLanes];
    for (int l = 0; l < kPartLanes; l++) distance[l] = (float)(m.j0 - i + l);
    const f32p base = load_part(distance);
    for (int j = 0; j < count; j += kPartLanes) store_part(s + j, load_part(s + j) + (base + (float)j) * slope);
  }
  if (job.distances != nullptr)
    add_distances(job.distances + h * (2 * job.reach + 1), m.j0 - i + job.reach, job.reach, m.nk, s);
  if (job.bias) {
    const Tensor& bias = job.bias;
    const float* p = bias.as<float>() + m.run->b * bias.stride[0] + h * bias.stride[1] + t * bias.stride[2] + m.j0 * bias.stride[3];
    const int64_t step = bias.stride[3];
    if (step == 1) {
      int j = 0;
      for (; j + kPartLanes <= m.nk; j += kPartLanes) store_part(s + j, load_part(s + j) + load_part(p + j));
      for (; j < m.nk; j++) s[j] += p[j];
    } else {
      for (int j = 0; j < m.nk; j++) s[j] += p[j * step];
    }
  }
  if (m.partial) {
    const int64_t low = job.low(*m.run, t) - m.j0, high = job.high(*m.run, t) - m.j0;
    const i32p from = (i32p)splat_bits((uint32_t)(low > 0 ? (low < kKeys ? low : kKeys) : 0));
    const i32p to = (i32p)splat_bits((uint32_t)(high < m.nk ? (high > 0 ? high : 0) : m.nk));
    const bool outside = m.seg != nullptr && i < 0;  // a query before all keys has no segment
    const int32_t segment = m.seg != nullptr && !outside ? job.segments[m.run->b * job.S + i] : 0;
    int32_t index[kPartLanes];
    for (int l = 0; l < kPartLanes; l++) index[l] = l;
    const i32p base = load_part<i32p>(index);
    for (int j = 0; j < count; j += kPartLanes) {
      const i32p at = base + (int32_t)j;
      i32p visible = (at >= from) & (at < to);
      if (m.keep != nullptr) visible &= load_part<i32p>(m.keep + j) != 0;
      if (m.seg != nullptr) visible &= outside ? i32p{} : (i32p)(load_part<i32p>(m.seg + j) == segment);
      store_part(s + j, visible ? load_part(s + j) : splat_part(-INFINITY));
    }
  }
}

// The largest value scale among the keys that the row of scores sees (all, without scores); NaN if any of them is NaN.
float seen_scale(const float* s, const float* scales, int count) {
  f32p high = {};
  i32p broken = {};
  for (int j = 0; j < count; j += kPartLanes) {
    f32p scale = load_part(scales + j);
    if (s != nullptr) scale = load_part(s + j) != -INFINITY ? scale : f32p{};
    high = max_part(scale, high);
    broken |= scale != scale;
  }
  return any_part(broken) ? NAN : highest_part(high);
}

// Scores to weights, and the rows' maxima and sums; `alpha` is the factor for the sums so far, `most` (if given, for codes) a
// bound on each row's weights. Keys that a row does not see contribute to neither.
void soften(const Meeting& m, const Bench& w, int64_t local, int rows, float* alpha, float* most = nullptr) {
  const Job& job = *m.job;
  const int count = (int)round_up(m.nk, kPartLanes);
  if (job.k_scales != nullptr)
    for (int j = 0; j < count; j += kPartLanes) {
      const f32p scale = load_part(w.k_scale + j);
      for (int r = 0; r < rows; r++) store_part(w.s + r * kKeys + j, load_part(w.s + r * kKeys + j) * scale);
    }
  if (job.general || m.partial)
    for (int r = 0; r < rows; r++) adjust_row(m, m.row + r, w.s + r * kKeys);

  float top[kMostRows];
  for (int r = 0; r < rows; r++) {
    const float* s = w.s + r * kKeys;
    f32p best = load_part(s);
    for (int j = kPartLanes; j < count; j += kPartLanes) {
      const f32p x = load_part(s + j);
      best = best > x ? best : x;
    }
    const float x = highest_part(best), old = w.top[local + r];
    const float now = x > old ? x : old;
    w.top[local + r] = now;
    top[r] = now == -INFINITY ? 0.0f : now;
    alpha[r] = old - top[r];
    if (most != nullptr) most[r] = x - top[r];
  }
  if (most != nullptr) {
    for (int r = 0; r < rows; r += kPartLanes) store_part(most + r, exp_down(load_part(most + r)));
    const float common = m.partial ? 0.0f : seen_scale(nullptr, w.v_scale, count);
    for (int r = 0; r < rows; r++) most[r] *= m.partial ? seen_scale(w.s + r * kKeys, w.v_scale, count) : common;
  }
  for (int r = 0; r < rows; r += kPartLanes) store_part(alpha + r, exp_down(load_part(alpha + r)));
  for (int r = 0; r < rows; r++) {
    float* s = w.s + r * kKeys;
    const f32p high = splat_part(top[r]);
    f32p sum = load_part(w.sum + (local + r) * kPartLanes) * alpha[r];
    for (int j = 0; j < count; j += kPartLanes) {
      const f32p p = exp_down(load_part(s + j) - high);
      store_part(s + j, job.v_scales == nullptr ? p : p == 0.0f ? f32p{} : p * load_part(w.v_scale + j));
      sum += p;
    }
    store_part(w.sum + (local + r) * kPartLanes, sum);
  }
}

}  // namespace
}  // namespace octavo::OCTAVO_ISA
