// penalize, sample, append_token: what happens between the logits and the next token.
// isa: portable
//
// sample never sorts a whole row. top_k finds the k-th score through counts of the scores' leading bits, top_p finds
// the cut through sums of probability by leading bits and sorts only inside the bin that holds the cut.

#include <algorithm>
#include <cmath>

#include "../parallel.h"
#include "../registry.h"

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

// Order of floats as order of integers; -0 counts as 0.
uint32_t key_of(float x) {
  x += 0.0f;
  uint32_t u;
  std::memcpy(&u, &x, 4);
  return u ^ ((u >> 31) ? 0xffffffffu : 0x80000000u);
}

constexpr int kBinBits = 13;
constexpr int kBins = 1 << kBinBits;
int bin_of(float x) { return (int)(key_of(x) >> (32 - kBinBits)); }

// A token that may be drawn. Order for top_p: by score, then by id.
struct Candidate {
  float score;
  int32_t id;
};
bool above(const Candidate& a, const Candidate& b) { return a.score != b.score ? a.score > b.score : a.id > b.id; }

struct Work {
  float* scores;      // [V]
  double* weights;    // [V] e^(score - max), in the order of the candidates
  Candidate* list;    // [V] candidates by id
  Candidate* sorted;  // [V]
  double* bins;       // [kBins]
};

// The k-th largest score, 1 <= k <= V.
float kth_largest(const Work& w, int64_t V, int64_t k) {
  int32_t* counts = reinterpret_cast<int32_t*>(w.bins);
  std::memset(counts, 0, sizeof(int32_t) * kBins);
  for (int64_t v = 0; v < V; v++) counts[bin_of(w.scores[v])]++;
  int bin = kBins - 1;
  while (counts[bin] < k) k -= counts[bin--];
  float* inside = reinterpret_cast<float*>(w.sorted);
  int64_t n = 0;
  for (int64_t v = 0; v < V; v++)
    if (bin_of(w.scores[v]) == bin) inside[n++] = w.scores[v];
  std::nth_element(inside, inside + (k - 1), inside + n, [](float a, float b) { return a > b; });
  return inside[k - 1];
}

// The last candidate that top_p keeps: the mass of those above it is below p of the total.
Candidate last_kept(const Work& w, int64_t n, double total, double p) {
  std::memset(w.bins, 0, sizeof(double) * kBins);
  for (int64_t i = 0; i < n; i++) w.bins[bin_of(w.list[i].score)] += w.weights[i];
  // Lowest bin with anything that is kept: the mass of the bins above it is below p.
  double mass = 0;
  int bin = kBins - 1, cut = -1;
  double before = 0;
  for (; bin >= 0 && mass < p * total; bin--) {
    if (w.bins[bin] == 0) continue;
    cut = bin;
    before = mass;
    mass += w.bins[bin];
  }
  Candidate* inside = w.sorted;
  int64_t count = 0;
  double top = -INFINITY;
  for (int64_t i = 0; i < n; i++) top = w.list[i].score > top ? w.list[i].score : top;
  if (cut < 0) cut = bin_of((float)top);
  for (int64_t i = 0; i < n; i++)
    if (bin_of(w.list[i].score) == cut) inside[count++] = w.list[i];
  // Sort from the top in growing pieces until the cut is met.
  Candidate last = inside[0];
  int64_t done = 0, piece = 64;
  mass = before;
  bool first = true;
  while (done < count) {
    const int64_t stop = std::min(count, done + piece);
    if (stop < count) std::nth_element(inside + done, inside + stop, inside + count, above);
    std::sort(inside + done, inside + stop, above);
    for (; done < stop; done++) {
      if (!first && mass >= p * total) return last;
      first = false;
      last = inside[done];
      mass += last.score == (float)top ? 1.0 : std::exp((double)last.score - top);
    }
    piece *= 4;
  }
  return last;
}

const char* sample(const Call& call) {
  const Tensor &logits = call.t[0], &counter = call.t[1], &ids = call.t[2];
  const int64_t B = logits.dim[0], V = logits.dim[1];
  const float temperature = call.attr[0].f, top_p = call.attr[2].f, min_p = call.attr[3].f;
  const int64_t top_k = call.attr[1].i;
  const uint32_t seed = (uint32_t)call.attr[4].i;
  if (!(temperature > 0)) return sentence("temperature must be above 0, got %g", (double)temperature);
  if (V == 0) return "logits are empty";
  const size_t line = (size_t)(V + 15) / 16 * 16;
  char* memory = call.need(line * (8 + 8 + 8 + 4) + sizeof(double) * kBins);
  if (!memory) return "memory ran out";
  Work w;
  w.weights = reinterpret_cast<double*>(memory);
  w.list = reinterpret_cast<Candidate*>(memory + line * 8);
  w.sorted = reinterpret_cast<Candidate*>(memory + line * 16);
  w.bins = reinterpret_cast<double*>(memory + line * 24);
  w.scores = reinterpret_cast<float*>(memory + line * 24 + sizeof(double) * kBins);
  int32_t& drawn = counter.as<int32_t>()[0];

  for (int64_t b = 0; b < B; b++) {
    const float* x = logits.as<float>() + b * V;
    float top = -INFINITY;
    bool nan = false;
    for (int64_t v = 0; v < V; v++) {
      const float s = x[v] / temperature;
      w.scores[v] = s;
      nan |= s != s;
      top = s > top ? s : top;
    }
    if (nan) return "logits hold NaN";
    if (top == -INFINITY) return "all logits are -inf";
    const float least = top_k > 0 && top_k < V ? kth_largest(w, V, top_k) : -INFINITY;
    int64_t n = 0;
    for (int64_t v = 0; v < V; v++) {
      w.list[n] = {w.scores[v], (int32_t)v};
      n += w.scores[v] >= least;
    }
    parallel(call, n, 4096, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; i++) {
        const float s = w.list[i].score;
        w.weights[i] = s == top ? 1.0 : std::exp((double)s - (double)top);
      }
    });
    double total = 0;
    for (int64_t i = 0; i < n; i++) total += w.weights[i];
    if (top_p < 1 || min_p > 0) {
      Candidate last = {-INFINITY, 0};
      if (top_p < 1) last = last_kept(w, n, total, (double)top_p);
      int64_t kept = 0;
      total = 0;
      for (int64_t i = 0; i < n; i++) {
        if (w.weights[i] < (double)min_p || above(last, w.list[i])) continue;
        w.list[kept] = w.list[i];
        w.weights[kept] = w.weights[i];
        total += w.weights[kept++];
      }
      n = kept;
    }
    const double u = (double)(philox(seed, 0x4F435456u, (uint32_t)drawn, (uint32_t)b) >> 8) * 0x1p-24;
    const double goal = u * total;
    double mass = 0;
    int64_t pick = n - 1;
    for (int64_t i = 0; i < n; i++) {
      mass += w.weights[i];
      if (mass > goal) {
        pick = i;
        break;
      }
    }
    ids.as<int32_t>()[b] = w.list[pick].id;
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
