// One row of scores from which a token is drawn, and what top_k, top_p and min_p leave of it: for sample and warp.
//
// No row is ever fully sorted. Maxima of blocks of 128 scores show where the best scores can be, so top_k, top_p and min_p
// usually look at only a few blocks; if a flat distribution keeps many tokens, sums of probability by the scores' leading bits
// find the cut.
#pragma once

#include <algorithm>  // with types of this file's own only: nothing of it is shared with other instruction sets

#include "../../parallel.h"
#include "../../simd/vec.h"

namespace octavo::OCTAVO_ISA {

namespace {

typedef double f64x16 __attribute__((vector_size(128)));
typedef int64_t i64x16 __attribute__((vector_size(128)));

// e^x for x <= 0, to about 1e-16; zero below -708.
OCTAVO_INLINE f64x16 exp_below(f64x16 x) {
  const f64x16 lowest = f64x16{} - 708.0;
  const f64x16 clamped = x > lowest ? x : lowest;
  const f64x16 shifted = clamped * 1.4426950408889634 + 6755399441055744.0;  // + 1.5 * 2^52: rounds to an integer
  const f64x16 n = shifted - 6755399441055744.0;
  const f64x16 r = (clamped - n * 0.6931471803691238) - n * 1.9082149292705877e-10;
  f64x16 p = f64x16{} + 1.6059043836821613e-10;  // 1/13!
  p = p * r + 2.08767569878681e-09;
  p = p * r + 2.505210838544172e-08;
  p = p * r + 2.755731922398589e-07;
  p = p * r + 2.7557319223985893e-06;
  p = p * r + 2.48015873015873e-05;
  p = p * r + 1.984126984126984e-04;
  p = p * r + 1.388888888888889e-03;
  p = p * r + 8.333333333333333e-03;
  p = p * r + 4.1666666666666664e-02;
  p = p * r + 1.6666666666666666e-01;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const f64x16 y = (f64x16)((i64x16)p + ((i64x16)shifted << 52));
  return x > lowest ? y : f64x16{};
}

// e^(score - top); exactly 1 for the top itself, even if it is infinite.
OCTAVO_INLINE f64x16 weights_of(f32x16 scores, float top) {
  const f64x16 s = __builtin_convertvector(scores, f64x16), t = f64x16{} + (double)top;
  return s == t ? f64x16{} + 1.0 : exp_below(s - t);
}
inline double weight_of(float score, float top) { return weights_of(splat(score), top)[0]; }

// A token that may be drawn.
struct Candidate {
  float score;
  int32_t id;
};
// Order of top_p: by score; of equal ones the higher id stays longer.
struct Above {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return a.score != b.score ? a.score > b.score : a.id > b.id;
  }
};
struct Larger {
  bool operator()(float a, float b) const { return a > b; }
};

constexpr int64_t kBlock = 128;
constexpr int kBinBits = 13;
constexpr int kBins = 1 << kBinBits;

// Leading bits of a score, in the order of scores; -0 counts as 0.
inline int bin_of(float x) {
  x += 0.0f;
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return (int)((u ^ ((u >> 31) ? 0xffffffffu : 0x80000000u)) >> (32 - kBinBits));
}

// One row of logits. All arrays are as long as the row, rounded up to whole blocks; padding scores -inf.
struct Row {
  int64_t V, blocks;
  float* scores;
  float* maxima;      // of each block
  float* spare;       // room for floats
  double* weights;    // of all tokens, where they are needed
  double* sums;       // of the weights of each block
  Candidate* list;    // the kept ones, by id
  Candidate* sorted;  // room for candidates
  double* bins;       // [kBins]
  float top;
  bool nan;

  void read(const float* logits, float temperature) {
    f32x16 bad = zero();
    top = -INFINITY;
    for (int64_t block = 0; block < blocks; block++) {
      f32x16 best = splat(-INFINITY);
      for (int64_t v = block * kBlock; v < (block + 1) * kBlock; v += 16) {
        f32x16 s = splat(-INFINITY);
        if (v + 16 <= V) {
          s = load(logits + v) / temperature;
        } else {
          for (int64_t i = v; i < V; i++) s[i - v] = logits[i] / temperature;
        }
        store(scores + v, s);
        best = vmax(s, best);
        bad = s == s ? bad : splat(1.0f);
      }
      maxima[block] = highest(best);
      top = maxima[block] > top ? maxima[block] : top;
    }
    nan = highest(bad) > 0;
  }

  // Tokens with a score of at least `least`, by id.
  int64_t collect(float least, Candidate* to) const {
    int64_t n = 0;
    for (int64_t block = 0; block < blocks; block++) {
      if (!(maxima[block] >= least)) continue;
      const int64_t end = (block + 1) * kBlock < V ? (block + 1) * kBlock : V;
      for (int64_t v = block * kBlock; v < end; v++) {
        to[n] = {scores[v], (int32_t)v};
        n += scores[v] >= least;
      }
    }
    return n;
  }

  // A score that at least k tokens reach: the k-th largest block maximum. -inf if there are not enough blocks.
  float reached_by(int64_t k) const {
    if (k > blocks) return -INFINITY;
    std::memcpy(spare, maxima, sizeof(float) * (size_t)blocks);
    std::nth_element(spare, spare + (k - 1), spare + blocks, Larger());
    return spare[k - 1];
  }

  // The k-th largest score, 1 <= k <= V.
  float kth_largest(int64_t k) const {
    float* inside = spare;
    int64_t n = 0;
    if (k <= blocks) {
      n = collect(reached_by(k), sorted);
      for (int64_t i = 0; i < n; i++) inside[i] = sorted[i].score;
    } else {
      int32_t* counts = reinterpret_cast<int32_t*>(bins);
      std::memset(counts, 0, sizeof(int32_t) * kBins);
      for (int64_t v = 0; v < V; v++) counts[bin_of(scores[v])]++;
      int bin = kBins - 1;
      while (counts[bin] < k) k -= counts[bin--];
      for (int64_t v = 0; v < V; v++)
        if (bin_of(scores[v]) == bin) inside[n++] = scores[v];
    }
    std::nth_element(inside, inside + (k - 1), inside + n, Larger());
    return inside[k - 1];
  }

  // Weights of all tokens; returns their sum. Summed by block: the order does not depend on threads.
  double weigh_all(const Call& call) {
    parallel(call, blocks, 64, [&](int64_t begin, int64_t end, int) {
      for (int64_t block = begin; block < end; block++) {
        f64x16 sum = {};
        for (int64_t v = block * kBlock; v < (block + 1) * kBlock; v += 16) {
          const f64x16 w = weights_of(load(scores + v), top);
          std::memcpy(weights + v, &w, sizeof w);
          sum += w;
        }
        double total = 0;
        for (int i = 0; i < 16; i++) total += sum[i];
        sums[block] = total;
      }
    });
    double total = 0;
    for (int64_t block = 0; block < blocks; block++) total += sums[block];
    return total;
  }

  // Walks candidates from the best down, with `mass` above the first; true if the cut of top_p is among them. `weighed` by weigh_all.
  bool walk(const Candidate* from, int64_t n, bool weighed, double goal, double* mass, Candidate* last) const {
    for (int64_t i = 0; i < n; i++) {
      if (*mass >= goal && last->id >= 0) return true;
      *last = from[i];
      *mass += weighed ? weights[from[i].id] : weight_of(from[i].score, top);
    }
    return *mass >= goal;
  }

  // The last token that top_p keeps among all: the mass of those above it is below `goal`. Needs weigh_all.
  Candidate last_kept(double goal) const {
    Candidate last = {0, -1};
    double mass = 0;
    const float least = reached_by(256);
    if (least > -INFINITY) {
      const int64_t n = collect(least, sorted);
      if (n <= 8192) {
        std::sort(sorted, sorted + n, Above());
        if (walk(sorted, n, true, goal, &mass, &last)) return last;
      }
    }
    std::memset(bins, 0, sizeof(double) * kBins);
    for (int64_t v = 0; v < V; v++) bins[bin_of(scores[v])] += weights[v];
    // The lowest bin with a kept token.
    mass = 0;
    double before = 0;
    int cut = bin_of(top);
    for (int bin = kBins - 1; bin >= 0 && mass < goal; bin--) {
      if (bins[bin] == 0) continue;
      cut = bin;
      before = mass;
      mass += bins[bin];
    }
    int64_t n = 0;
    for (int64_t v = 0; v < V; v++) {
      sorted[n] = {scores[v], (int32_t)v};
      n += bin_of(scores[v]) == cut;
    }
    // Sort it from the top in growing pieces until the cut is found.
    mass = before;
    last = {0, -1};
    for (int64_t done = 0, piece = 256; done < n; piece *= 4) {
      const int64_t stop = done + piece < n ? done + piece : n;
      if (stop < n) std::nth_element(sorted + done, sorted + stop, sorted + n, Above());
      std::sort(sorted + done, sorted + stop, Above());
      if (walk(sorted + done, stop - done, true, goal, &mass, &last)) break;
      done = stop;
    }
    return last;
  }

  // Drops candidates below min_p of the list's n, and those that top_p cuts off; weighs them (unless weigh_all did), in the order of
  // the list. Returns how many are left, and the sum of their weights.
  int64_t keep(int64_t n, const Candidate* last, double min_p, bool weighed, double* total) {
    int64_t kept = 0;
    *total = 0;
    for (int64_t i = 0; i < n; i++) {
      // kept <= i <= the token's id: elements are read before they are overwritten.
      const double w = weighed ? weights[list[i].id] : weight_of(list[i].score, top);
      if (w < min_p || (last && Above()(*last, list[i]))) continue;
      list[kept] = list[i];
      weights[kept++] = w;
      *total += w;
    }
    return kept;
  }

  // The same for top_k, top_p and min_p, `params` from the second on: the list becomes the tokens that they leave, by id.
  int64_t narrow(const Call& call, const float* params, double* total) {
    const int64_t top_k = params[1] < (float)V ? (int64_t)params[1] : V;
    const float top_p = params[2];
    const double min_p = params[3] < 1 ? (double)params[3] : 1.0;
    if (top_k > 0 && top_k < V) {
      const int64_t n = collect(kth_largest(top_k), list);
      Candidate last = {0, -1};
      if (top_p < 1) {
        double all = 0, mass = 0;
        for (int64_t i = 0; i < n; i++) all += weight_of(list[i].score, top);
        std::memcpy(sorted, list, sizeof(Candidate) * (size_t)n);
        std::sort(sorted, sorted + n, Above());
        walk(sorted, n, false, (double)top_p * all, &mass, &last);
      }
      return keep(n, top_p < 1 ? &last : nullptr, min_p, false, total);
    }
    if (top_p < 1) {
      const double all = weigh_all(call);
      const Candidate last = last_kept((double)top_p * all);
      return keep(collect(last.score, list), &last, min_p, true, total);
    }
    // A little below the bound; keep() checks exactly.
    const float least = min_p > 0 ? top + (float)__builtin_log(min_p) - 0.001f : -3.4028234663852886e38f;
    const int64_t n = collect(least, list);
    const bool many = n > 8192;
    if (many) weigh_all(call);
    return keep(n, nullptr, min_p, many, total);
  }

  // Takes memory for rows of V scores; false if there is none.
  bool take(const Call& call, int64_t size) {
    V = size;
    blocks = (V + kBlock - 1) / kBlock;
    const size_t length = (size_t)(blocks * kBlock);
    char* memory = call.need(length * (8 + 8 + 8 + 8 + 4 + 4 + 4) + sizeof(double) * kBins);
    if (!memory) return false;
    const auto part = [&](size_t bytes) {
      char* start = memory;
      memory += bytes;
      return start;
    };
    weights = reinterpret_cast<double*>(part(length * 8));
    sums = reinterpret_cast<double*>(part(length * 8));
    bins = reinterpret_cast<double*>(part(sizeof(double) * kBins));
    list = reinterpret_cast<Candidate*>(part(length * 8));
    sorted = reinterpret_cast<Candidate*>(part(length * 8));
    scores = reinterpret_cast<float*>(part(length * 4));
    maxima = reinterpret_cast<float*>(part(length * 4));
    spare = reinterpret_cast<float*>(part(length * 4));
    return true;
  }
};

}  // namespace

}  // namespace octavo::OCTAVO_ISA
