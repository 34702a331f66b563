// penalize, sample, append_token: what happens between the logits and the next token.
//
// sample never sorts a whole row. Maxima of blocks of 128 scores tell where the best scores can be, so that top_k,
// top_p and min_p mostly look at a few blocks; where a flat distribution keeps many tokens, sums of probability by
// the scores' leading bits find the cut.

#include <algorithm>  // with types of this file's own only: nothing of it is shared with other instruction sets

#include "../parallel.h"
#include "../registry.h"
#include "../simd/vec.h"

namespace octavo::OCTAVO_ISA {

namespace {

const char* penalize(const Call& call) {
  const Tensor &logits = call.t[0], &history = call.t[1];
  const int64_t B = logits.dim[0], V = logits.dim[1], L = history.dim[1];
  const float penalty = call.attr[0].f;
  const size_t bytes = (size_t)(V / 8 + 1);
  uint8_t* seen = reinterpret_cast<uint8_t*>(call.need(bytes));
  if (!seen) return "memory ran out";
  for (int64_t b = 0; b < B; b++) {
    float* row = logits.as<float>() + b * V;
    const int32_t* ids = history.as<int32_t>() + b * L;
    std::memset(seen, 0, bytes);
    for (int64_t i = 0; i < L; i++) {
      const int32_t id = ids[i];
      if (id < 0) continue;
      if (id >= V) return sentence("token id %d is outside the vocabulary of %lld", id, (long long)V);
      uint8_t& byte = seen[id >> 3];
      const uint8_t bit = (uint8_t)(1u << (id & 7));
      if (byte & bit) continue;
      byte |= bit;
      row[id] = row[id] < 0 ? row[id] * penalty : row[id] / penalty;
    }
  }
  return nullptr;
}

// First word of Philox4x32-10.
uint32_t philox(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1) {
  uint32_t c2 = 0, c3 = 0;
  for (int round = 0; round < 10; round++) {
    const uint64_t a = (uint64_t)0xD2511F53u * c0, b = (uint64_t)0xCD9E8D57u * c2;
    const uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)b;
    c3 = (uint32_t)a;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

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

// e^(score - top); exactly 1 for the top itself, also if it is infinite.
OCTAVO_INLINE f64x16 weights_of(f32x16 scores, float top) {
  const f64x16 s = __builtin_convertvector(scores, f64x16), t = f64x16{} + (double)top;
  return s == t ? f64x16{} + 1.0 : exp_below(s - t);
}
double weight_of(float score, float top) { return weights_of(splat(score), top)[0]; }

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
int bin_of(float x) {
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
  Candidate* list;    // those that are kept, by id
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

  // A score that at least k tokens reach: the k-th best of the blocks' best. -inf if there are not enough blocks.
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

  // Walks candidates from the best down, `mass` being above the first; true if the cut of top_p lies among them.
  bool walk(const Candidate* from, int64_t n, double goal, double* mass, Candidate* last) const {
    for (int64_t i = 0; i < n; i++) {
      if (*mass >= goal && last->id >= 0) return true;
      *last = from[i];
      *mass += weight_of(from[i].score, top);
    }
    return *mass >= goal;
  }

  // The last token that top_p keeps of all: the mass of those above it is below `goal`. Needs weigh_all.
  Candidate last_kept(double goal) const {
    Candidate last = {0, -1};
    double mass = 0;
    const float least = reached_by(256);
    if (least > -INFINITY) {
      const int64_t n = collect(least, sorted);
      if (n <= 8192) {
        std::sort(sorted, sorted + n, Above());
        if (walk(sorted, n, goal, &mass, &last)) return last;
      }
    }
    std::memset(bins, 0, sizeof(double) * kBins);
    for (int64_t v = 0; v < V; v++) bins[bin_of(scores[v])] += weights[v];
    // The lowest bin of which anything is kept.
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
    // Sort it from the top in growing pieces until the cut is met.
    mass = before;
    last = {0, -1};
    for (int64_t done = 0, piece = 256; done < n; piece *= 4) {
      const int64_t stop = done + piece < n ? done + piece : n;
      if (stop < n) std::nth_element(sorted + done, sorted + stop, sorted + n, Above());
      std::sort(sorted + done, sorted + stop, Above());
      if (walk(sorted + done, stop - done, goal, &mass, &last)) break;
      done = stop;
    }
    return last;
  }

  // Drops what is below min_p of the list's n, and what top_p cuts off; weighs (unless weigh_all did) and draws.
  int32_t draw(int64_t n, const Candidate* last, double min_p, double u, bool weighed) {
    int64_t kept = 0;
    double total = 0;
    for (int64_t i = 0; i < n; i++) {
      // kept <= i <= the token's id: what is written below was read before.
      const double w = weighed ? weights[list[i].id] : weight_of(list[i].score, top);
      if (w < min_p || (last && Above()(*last, list[i]))) continue;
      list[kept] = list[i];
      weights[kept++] = w;
      total += w;
    }
    const double goal = u * total;
    double mass = 0;
    for (int64_t i = 0; i < kept; i++) {
      mass += weights[i];
      if (mass > goal) return list[i].id;
    }
    return list[kept - 1].id;
  }

  // Draws from all tokens. Needs weigh_all.
  int32_t draw_all(double total, double u) const {
    const double goal = u * total;
    double mass = 0;
    int32_t last = 0;
    for (int64_t block = 0; block < blocks; block++) {
      if (mass + sums[block] <= goal) {
        mass += sums[block];
        continue;
      }
      const int64_t end = (block + 1) * kBlock < V ? (block + 1) * kBlock : V;
      for (int64_t v = block * kBlock; v < end; v++) {
        mass += weights[v];
        if (weights[v] > 0) last = (int32_t)v;
        if (mass > goal) return (int32_t)v;
      }
    }
    return last;
  }
};

const char* sample(const Call& call) {
  const Tensor &logits = call.t[0], &counter = call.t[1], &ids = call.t[2];
  const int64_t B = logits.dim[0], V = logits.dim[1];
  const float temperature = call.attr[0].f, top_p = call.attr[2].f;
  const double min_p = call.attr[3].f < 1 ? (double)call.attr[3].f : 1.0;
  const int64_t top_k = call.attr[1].i;
  const uint32_t seed = (uint32_t)call.attr[4].i;
  if (!(temperature > 0)) return sentence("temperature must be above 0, got %g", (double)temperature);
  if (V == 0) return "logits are empty";
  Row row;
  row.V = V;
  row.blocks = (V + kBlock - 1) / kBlock;
  const size_t length = (size_t)(row.blocks * kBlock);
  char* memory = call.need(length * (8 + 8 + 8 + 8 + 4 + 4 + 4) + sizeof(double) * kBins);
  if (!memory) return "memory ran out";
  const auto take = [&](size_t bytes) {
    char* start = memory;
    memory += bytes;
    return start;
  };
  row.weights = reinterpret_cast<double*>(take(length * 8));
  row.sums = reinterpret_cast<double*>(take(length * 8));
  row.bins = reinterpret_cast<double*>(take(sizeof(double) * kBins));
  row.list = reinterpret_cast<Candidate*>(take(length * 8));
  row.sorted = reinterpret_cast<Candidate*>(take(length * 8));
  row.scores = reinterpret_cast<float*>(take(length * 4));
  row.maxima = reinterpret_cast<float*>(take(length * 4));
  row.spare = reinterpret_cast<float*>(take(length * 4));
  int32_t& drawn = counter.as<int32_t>()[0];

  for (int64_t b = 0; b < B; b++) {
    row.read(logits.as<float>() + b * V, temperature);
    if (row.nan) return "logits hold NaN";
    if (row.top == -INFINITY) return "all logits are -inf";
    const double u = (double)(philox(seed, 0x4F435456u, (uint32_t)drawn, (uint32_t)b) >> 8) * 0x1p-24;
    int32_t& id = ids.as<int32_t>()[b];
    if (top_k > 0 && top_k < V) {
      const int64_t n = row.collect(row.kth_largest(top_k), row.list);
      Candidate last = {0, -1};
      if (top_p < 1) {
        double total = 0, mass = 0;
        for (int64_t i = 0; i < n; i++) total += weight_of(row.list[i].score, row.top);
        std::memcpy(row.sorted, row.list, sizeof(Candidate) * (size_t)n);
        std::sort(row.sorted, row.sorted + n, Above());
        row.walk(row.sorted, n, (double)top_p * total, &mass, &last);
      }
      id = row.draw(n, top_p < 1 ? &last : nullptr, min_p, u, false);
    } else if (top_p < 1) {
      const double total = row.weigh_all(call);
      const Candidate last = row.last_kept((double)top_p * total);
      id = row.draw(row.collect(last.score, row.list), &last, min_p, u, true);
    } else if (min_p > 0) {
      // A little below the bound, draw() looks closely.
      const float least = row.top + (float)__builtin_log(min_p) - 0.001f;
      const int64_t n = row.collect(least, row.list);
      const bool many = n > 8192;
      if (many) row.weigh_all(call);
      id = row.draw(n, nullptr, min_p, u, many);
    } else {
      const double total = row.weigh_all(call);
      id = row.draw_all(total, u);
    }
  }
  drawn = (int32_t)((uint32_t)drawn + 1u);
  return nullptr;
}

const char* append_token(const Call& call) {
  const Tensor &ids = call.t[0], &history = call.t[1];
  const int64_t B = ids.dim[0], L = history.dim[1];
  const int64_t at = call.t[2].as<int32_t>()[0];
  if (at < 0 || at >= L) return sentence("position %lld is outside a history of %lld", (long long)at, (long long)L);
  for (int64_t b = 0; b < B; b++) history.as<int32_t>()[b * L + at] = ids.as<int32_t>()[b];
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(sampling,
    {"penalize", "penalize: logits[B,V]:f32! history[B,L]:i32 ; penalty:f32 ->", penalize},
    {"sample",
     "sample: logits[B,V]:f32 counter[1]:i32! ; temperature:f32 top_k:i32 top_p:f32 min_p:f32 seed:i32 -> ids[B]:i32",
     sample},
    {"append_token", "append_token: ids[B]:i32 history[B,L]:i32! cursor[1]:i32 ->", append_token})

}  // namespace octavo::OCTAVO_ISA
