// Online softmax: masks and the like on the scores of a strip of rows, then scores to weights.
#pragma once

#include "../../simd/exp.h"
#include "plan.h"

namespace octavo::OCTAVO_ISA {
namespace {

// One block of keys as a strip of rows meets it.
struct Meeting {
  const Job* job;
  int64_t b, g, row;  // first row of the strip
  int64_t j0;         // first key of the block
  int n;              // keys of the block
  int nk;             // keys of the block that some row of the strip may see: the first nk
  bool partial;       // not every row sees all nk
  const int32_t* keep;
  const int32_t* seg;
  const char *ahead_k, *ahead_v;  // the next block, where strips ask for it; else anything
  int64_t size_k, size_v;         // bytes of an element of it; 0 where nothing is asked for
};

// Softcap, slopes, bias, and -infinity for what the row does not see.
void adjust_row(const Meeting& m, int64_t row, float* s) {
  const Job& job = *m.job;
  const int64_t t = row / job.R, h = m.g * job.R + row % job.R, i = job.past + t;
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
  if (job.bias) {
    const Tensor& bias = job.bias;
    const float* p = bias.as<float>() + m.b * bias.stride[0] + h * bias.stride[1] + t * bias.stride[2] + m.j0 * bias.stride[3];
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
    const int64_t low = job.low(t) - m.j0, high = job.high(t) - m.j0;
    const i32p from = (i32p)splat_bits((uint32_t)(low > 0 ? (low < kKeys ? low : kKeys) : 0));
    const i32p to = (i32p)splat_bits((uint32_t)(high < m.nk ? (high > 0 ? high : 0) : m.nk));
    const bool outside = m.seg != nullptr && i < 0;  // a query before all keys has no segment
    const int32_t segment = m.seg != nullptr && !outside ? job.segments[m.b * job.S + i] : 0;
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

// Scores to weights, and the rows' maxima and sums; `alpha` is what the sums so far are to be multiplied by, `most` (if
// given) a bound on each row's weights.
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
  for (int r = 0; most != nullptr && r < rows; r += kPartLanes) store_part(most + r, exp_down(load_part(most + r)));
  for (int r = 0; r < rows; r += kPartLanes) store_part(alpha + r, exp_down(load_part(alpha + r)));
  for (int r = 0; r < rows; r++) {
    float* s = w.s + r * kKeys;
    const f32p high = splat_part(top[r]);
    f32p sum = load_part(w.sum + (local + r) * kPartLanes) * alpha[r];
    for (int j = 0; j < count; j += kPartLanes) {
      const f32p p = exp_down(load_part(s + j) - high);
      store_part(s + j, job.v_scales != nullptr ? p * load_part(w.v_scale + j) : p);
      sum += p;
    }
    store_part(w.sum + (local + r) * kPartLanes, sum);
  }
}

}  // namespace
}  // namespace octavo::OCTAVO_ISA
