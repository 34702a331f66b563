// warp: scores over the temperature, of the tokens that top_k, top_p, min_p, typical_p, epsilon_cutoff and eta_cutoff leave.
//
// Surprises need no logarithms: -log p and the entropy both hold log(sum of weights), so the distance of a token's surprise from the
// mean one is that of its score from the mean score.

#include "../parallel.h"
#include "../registry.h"
#include "sampling/row.h"

namespace octavo::OCTAVO_ISA {

namespace {

// How far a score is below the top.
double below(const Row& row, int64_t i) {
  const float score = row.list[i].score;
  return score == row.top ? 0.0 : (double)row.top - (double)score;
}

// The mean of that.
double mean_below(const Row& row, int64_t n, double total) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++)
    if (row.weights[i] > 0) sum += row.weights[i] * below(row, i);
  return sum / total;
}

struct Nearer {
  const double* far;
  bool operator()(const Candidate& a, const Candidate& b) const { return far[a.id] < far[b.id]; }
};

// Keeps those of the list's n that `keeps` says; returns how many, and sums their weights.
template <typename Keeps>
int64_t only(Row& row, int64_t n, double* total, const Keeps& keeps) {
  int64_t kept = 0;
  *total = 0;
  for (int64_t i = 0; i < n; i++) {
    if (!keeps(i)) continue;
    row.list[kept] = row.list[i];
    row.weights[kept] = row.weights[i];
    *total += row.weights[kept++];
  }
  return kept;
}

// The distance from the mean up to which tokens hold a mass of `goal`, the nearest first. `far` has the distance of each.
double reach(Row& row, int64_t n, const double* far, double goal) {
  std::memset(row.bins, 0, sizeof(double) * kBins);
  for (int64_t i = 0; i < n; i++) row.bins[bin_of((float)far[i])] += row.weights[i];
  double mass = 0;
  int cut = bin_of(0.0f);
  while (cut < kBins && mass + row.bins[cut] < goal) mass += row.bins[cut++];
  int64_t m = 0;
  for (int64_t i = 0; i < n; i++) {
    row.sorted[m].id = (int32_t)i;
    m += bin_of((float)far[i]) == cut;
  }
  // Sorted from the nearest in growing pieces until the edge is found. In another order sums may miss it by their last bits.
  const Nearer nearer = {far};
  double edge = m == 0 ? INFINITY : 0;
  for (int64_t done = 0, piece = 256; done < m && mass < goal; piece *= 4) {
    const int64_t stop = done + piece < m ? done + piece : m;
    if (stop < m) std::nth_element(row.sorted + done, row.sorted + stop, row.sorted + m, nearer);
    std::sort(row.sorted + done, row.sorted + stop, nearer);
    for (; done < stop && mass < goal; done++) {
      edge = far[row.sorted[done].id];
      mass += row.weights[row.sorted[done].id];
    }
  }
  return edge;
}

// Keeps the tokens whose surprise is nearest to the mean, up to a share of the mass, and those as near as the last of them.
int64_t typical(Row& row, int64_t n, double share, double* total) {
  const double mean = mean_below(row, n, *total);
  double* far = row.sums;
  for (int64_t i = 0; i < n; i++) far[i] = __builtin_fabs(below(row, i) - mean);
  const double edge = reach(row, n, far, share * *total);
  return only(row, n, total, [&](int64_t i) { return far[i] <= edge; });
}

// Drops tokens less likely than `least`, but not the likeliest: of equal ones that of the highest id.
int64_t cut_off(Row& row, int64_t n, double least, double* total) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; i++)
    if (row.list[i].score >= row.list[best].score) best = i;
  const double all = *total;
  return only(row, n, total, [&](int64_t i) { return row.weights[i] / all >= least || i == best; });
}

void warp_row(Row& row, const Call& call, const float* params, float* y) {
  double total;
  int64_t n = row.narrow(call, params, &total);
  if (params[4] < 1) n = typical(row, n, (double)params[4], &total);
  if (params[5] > 0) n = cut_off(row, n, (double)params[5], &total);
  if (params[6] > 0) {
    const double epsilon = (double)params[6];
    const double entropy = __builtin_log(total) + mean_below(row, n, total);
    const double eta = __builtin_sqrt(epsilon) * __builtin_exp(-entropy);
    n = cut_off(row, n, eta < epsilon ? eta : epsilon, &total);
  }
  for (int64_t v = 0; v < row.V; v++) y[v] = -INFINITY;
  for (int64_t i = 0; i < n; i++) y[row.list[i].id] = row.list[i].score;
}

const char* warp(const Call& call) {
  const Tensor &logits = call.t[0], &params = call.t[1], &y = call.t[2];
  const int64_t R = logits.dim[0], V = logits.dim[1];
  Row row;
  if (!row.take(call, V)) return "memory ran out";
  for (int64_t r = 0; r < R; r++) {
    const float* own = params.as<float>() + 7 * r;
    const float* from = logits.as<float>() + r * V;
    float* to = y.as<float>() + r * V;
    if (own[0] > 0) {
      row.read(from, own[0]);
      if (row.nan) return "logits hold NaN";
      if (row.top > -INFINITY) {
        warp_row(row, call, own, to);
        continue;
      }
    }
    std::memcpy(to, from, sizeof(float) * (size_t)V);
  }
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(warp, {"warp", "warp: logits[R,V]:f32 params[R,7]:f32 -> y[R,V]:f32", warp})

}  // namespace octavo::OCTAVO_ISA
