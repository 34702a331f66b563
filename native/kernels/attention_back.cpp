// attention_back: two passes without a T x S matrix. The first owns queries: it computes their softmax statistics and dq. The
// second owns keys: it computes dk and dv, over all query heads that share them. Both recompute the scores in blocks of queries
// and keys, so no result depends on the distribution of work. The first keeps the blocks of few keys between its two rounds.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/outer.h"
#include "../simd/transpose.h"

namespace octavo::OCTAVO_ISA {

namespace {

constexpr int64_t kQueries = 32;  // of a block
constexpr int64_t kKeys = 64;     // of a block
constexpr int64_t kKept = 16;     // most blocks that are kept: 384 KiB
constexpr int64_t kCells = kQueries * kKeys;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t padded(int64_t floats) { return (floats + 15) / 16 * 16; }

// What is known of a block, as [query][key] tables: scores, dy · v, and the factor from a score's gradient to that of q · k
// (only with a soft cap; without one it is the scale).
struct Block {
  float *scores, *products, *slopes;

  explicit Block(float* at) : scores(at), products(at + kCells), slopes(at + 2 * kCells) {}
};

// A worker's buffers: keys and values of a block with the keys side by side, [dim][key], and blocks.
struct Room {
  float *keys, *values, *blocks;

  static int64_t floats(int64_t D, int64_t E, int64_t kept) { return kKeys * (D + E) + 3 * kCells * kept; }
  Room(float* at, int64_t D, int64_t E) : keys(at), values(at + kKeys * D), blocks(at + kKeys * (D + E)) {}

  Block block(int64_t i) const { return Block(blocks + 3 * kCells * i); }
};

struct Problem {
  const Tensor &q, &k, &v, &dy, &mask, &segments, &slopes, &bias, &sinks;
  int64_t B, T, H, D, G, S, E, past;
  float scale, softcap;
  bool causal;
  int64_t window;
  float *lse, *mean;  // [B,H,T]

  explicit Problem(const Call& call)
      : q(call.t[0]),
        k(call.t[1]),
        v(call.t[2]),
        dy(call.t[3]),
        mask(call.t[4]),
        segments(call.t[5]),
        slopes(call.t[6]),
        bias(call.t[7]),
        sinks(call.t[8]),
        B(q.dim[0]),
        T(q.dim[1]),
        H(q.dim[2]),
        D(q.dim[3]),
        G(k.dim[1]),
        S(k.dim[2]),
        E(v.dim[3]),
        past(S - T),
        scale(call.attr[0].f),
        softcap(call.attr[3].f),
        causal(call.attr[1].i != 0),
        window(call.attr[2].i),
        lse(nullptr),
        mean(nullptr) {}

  const float* query(int64_t b, int64_t t, int64_t h) const {
    return q.as<float>() + b * q.stride[0] + t * q.stride[1] + h * q.stride[2];
  }
  const float* gradient(int64_t b, int64_t t, int64_t h) const {
    return dy.as<float>() + b * dy.stride[0] + t * dy.stride[1] + h * dy.stride[2];
  }
  const float* row(const Tensor& x, int64_t b, int64_t g, int64_t j) const {
    return x.as<float>() + b * x.stride[0] + g * x.stride[1] + j * x.stride[2];
  }
  int64_t statistic(int64_t b, int64_t h, int64_t t) const { return (b * H + h) * T + t; }

  // Keys that any query of [t, t + count) may see: [first, end).
  int64_t first_key(int64_t t) const { return window > 0 ? most(0, past + t - window + 1) : 0; }
  int64_t end_key(int64_t t, int64_t count) const {
    if (!causal && window == 0) return S;
    return least(S, past + t + count - 1 + (causal ? 1 : window));
  }

  // True unless the mask or another segment hides a key.
  bool open(int64_t b, int64_t i, int64_t j) const {
    if (mask && mask.as<uint8_t>()[b * S + j] == 0) return false;
    return !segments || segments.as<int32_t>()[b * S + j] == segments.as<int32_t>()[b * S + i];
  }

  // Keys j .. j + count as [width][kKeys], zeros beyond.
  void turn(const Tensor& x, int64_t b, int64_t g, int64_t j, int64_t count, int64_t width, float* to) const {
    rows_to_steps((const char*)row(x, b, g, j), x.stride[2] * 4, (int)count, width * 4, (uint32_t*)to, kKeys, AsIs{});
  }
  void turn(int64_t b, int64_t g, int64_t j, int64_t count, const Room& room) const {
    turn(k, b, g, j, count, D, room.keys);
    turn(v, b, g, j, count, E, room.values);
  }

  // Scores are -inf where keys are hidden.
  void block(int64_t b, int64_t h, int64_t t, int64_t queries, int64_t j, int64_t keys, const Room& room,
             const Block& to) const {
    std::memset(to.scores, 0, sizeof(float) * 2 * kCells);
    add_outer({query(b, t, h), q.stride[1], 1}, {room.keys, kKeys}, {to.scores, kKeys}, queries, D, kKeys);
    add_outer({gradient(b, t, h), dy.stride[1], 1}, {room.values, kKeys}, {to.products, kKeys}, queries, E, kKeys);
    for (int64_t r = 0; r < queries; r++) {
      const int64_t i = past + t + r;
      float* score = to.scores + r * kKeys;
      for (int64_t at = 0; at < keys; at += 16) {
        f32x16 value = load(score + at) * scale;
        if (softcap > 0) {
          const f32x16 cap = vtanh(value / softcap);
          value = softcap * cap;
          store(to.slopes + r * kKeys + at, scale * (1.0f - cap * cap));
        }
        store(score + at, value);
      }
      if (slopes) {
        const float m = slopes.as<float>()[h];
        for (int64_t at = 0; at < keys; at++) score[at] += m * (float)(j + at - i);
      }
      if (bias) {
        const float* add = bias.as<float>() + b * bias.stride[0] + h * bias.stride[1] + (t + r) * bias.stride[2];
        for (int64_t at = 0; at < keys; at++) score[at] += add[(j + at) * bias.stride[3]];
      }
      const int64_t last = causal ? i - j + 1 : window > 0 ? i - j + window : keys;
      const int64_t first = window > 0 ? i - window + 1 - j : 0;
      for (int64_t at = 0; at < least(first, keys); at++) score[at] = -INFINITY;
      for (int64_t at = most(0, last); at < keys; at++) score[at] = -INFINITY;
      if (mask || segments)
        for (int64_t at = 0; at < keys; at++)
          if (!open(b, i, j + at)) score[at] = -INFINITY;
    }
  }

  // Turns scores into weights and products into gradients of q · k, for queries whose statistics are known.
  void weigh(int64_t b, int64_t h, int64_t t, int64_t queries, int64_t keys, const Block& block) const {
    for (int64_t r = 0; r < queries; r++) {
      const int64_t at = statistic(b, h, t + r);
      for (int64_t j = 0; j < keys; j += 16) {
        float *score = block.scores + r * kKeys + j, *product = block.products + r * kKeys + j;
        const f32x16 slope = softcap > 0 ? load(block.slopes + r * kKeys + j) : splat(scale);
        const f32x16 p = vexp(load(score) - lse[at]);
        store(score, p);
        store(product, p * (load(product) - mean[at]) * slope);
      }
    }
  }
};

void own_queries(const Problem& p, int64_t b, int64_t h, int64_t t, const Room& room, float* dq) {
  const int64_t queries = least(kQueries, p.T - t), g = h / (p.H / p.G);
  const int64_t first = p.first_key(t) / kKeys * kKeys, end = p.end_key(t, queries);
  float top[kQueries], mass[kQueries], mean[kQueries];
  const float sink = p.sinks ? p.sinks.as<float>()[h] : -INFINITY;  // the score of a key whose value is zero
  for (int64_t r = 0; r < queries; r++) top[r] = sink, mass[r] = sink > -INFINITY ? 1 : 0, mean[r] = 0;
  const bool kept = end - first <= kKept * kKeys;
  const auto each_block = [&](bool known, const auto& body) {
    for (int64_t j = first; j < end; j += kKeys) {
      const int64_t keys = least(kKeys, end - j);
      const Block block = room.block(kept ? (j - first) / kKeys : 0);
      if (!known) {
        p.turn(b, g, j, keys, room);
        p.block(b, h, t, queries, j, keys, room, block);
      }
      body(block, j, keys);
    }
  };
  each_block(false, [&](const Block& block, int64_t, int64_t keys) {
    for (int64_t r = 0; r < queries; r++) {
      const float *score = block.scores + r * kKeys, *product = block.products + r * kKeys;
      float high = top[r];
      for (int64_t j = 0; j < keys; j++) high = score[j] > high ? score[j] : high;
      if (high == -INFINITY) continue;
      const float shrink = vexp(splat(top[r] - high))[0];
      f32x16 sums = zero(), means = zero();
      for (int64_t j = 0; j < keys; j += 16) {
        const int n = (int)least(16, keys - j);
        f32x16 e = vexp(load(score + j) - high);
        if (n < 16)
          for (int i = n; i < 16; i++) e[i] = 0;
        sums += e;
        means += e * load_n(product + j, n);
      }
      mass[r] = mass[r] * shrink + sum(sums);
      mean[r] = mean[r] * shrink + sum(means);
      top[r] = high;
    }
  });
  for (int64_t r = 0; r < queries; r++) {
    const int64_t at = p.statistic(b, h, t + r);
    const bool some = mass[r] > 0;  // else no key is seen: every weight is exp(-inf)
    p.lse[at] = some ? top[r] + (float)__builtin_log((double)mass[r]) : INFINITY;
    p.mean[at] = some ? mean[r] / mass[r] : 0;
  }
  for (int64_t r = 0; r < queries; r++)
    std::memset(dq + ((b * p.T + t + r) * p.H + h) * p.D, 0, sizeof(float) * (size_t)p.D);
  each_block(kept, [&](const Block& block, int64_t j, int64_t keys) {
    p.weigh(b, h, t, queries, keys, block);
    add_outer({block.products, kKeys, 1}, {p.row(p.k, b, g, j), p.k.stride[2]},
              {dq + ((b * p.T + t) * p.H + h) * p.D, p.H * p.D}, queries, keys, p.D);
  });
}

void own_keys(const Problem& p, int64_t b, int64_t g, int64_t j, const Room& room, float* dk, float* dv) {
  const int64_t keys = least(kKeys, p.S - j), share = p.H / p.G;
  float *to_k = dk + ((b * p.G + g) * p.S + j) * p.D, *to_v = dv + ((b * p.G + g) * p.S + j) * p.E;
  std::memset(to_k, 0, sizeof(float) * (size_t)(keys * p.D));
  std::memset(to_v, 0, sizeof(float) * (size_t)(keys * p.E));
  p.turn(b, g, j, keys, room);
  const Block block = room.block(0);
  for (int64_t h = g * share; h < (g + 1) * share; h++) {
    for (int64_t t = 0; t < p.T; t += kQueries) {
      const int64_t queries = least(kQueries, p.T - t);
      if (p.first_key(t) >= j + keys || p.end_key(t, queries) <= j) continue;
      p.block(b, h, t, queries, j, keys, room, block);
      p.weigh(b, h, t, queries, keys, block);
      add_outer({block.scores, 1, kKeys}, {p.gradient(b, t, h), p.dy.stride[1]}, {to_v, p.E}, keys, queries, p.E);
      add_outer({block.products, 1, kKeys}, {p.query(b, t, h), p.q.stride[1]}, {to_k, p.D}, keys, queries, p.D);
    }
  }
}

const char* attention_back(const Call& call) {
  Problem p(call);
  if (p.G == 0 || p.H % p.G != 0) return "query heads cannot share key heads";
  if (p.T > p.S && (p.causal || p.segments)) return "more queries than keys cannot be the last of the keys";
  for (int i = 0; i < 4; i++)
    if (call.t[i].dim[3] > 1 && call.t[i].stride[3] != 1) return "the last dim of q, k, v and dy must be contiguous";
  const int workers = call.pool ? call.pool->threads() : 1;
  const int64_t query_blocks = (p.T + kQueries - 1) / kQueries, key_blocks = (p.S + kKeys - 1) / kKeys;
  const int64_t statistics = padded(p.B * p.H * p.T);
  const int64_t each = padded(Room::floats(p.D, p.E, least(kKept, most(1, key_blocks))));
  float* scratch = (float*)call.need(sizeof(float) * (size_t)(2 * statistics + workers * each));
  if (!scratch) return "no memory for the scratch of an attention's gradient";
  p.lse = scratch;
  p.mean = scratch + statistics;
  float* rooms = scratch + 2 * statistics;
  parallel(call, p.B * p.H * query_blocks, 1, [&](int64_t begin, int64_t end, int worker) {
    const Room room(rooms + worker * each, p.D, p.E);
    for (int64_t task = begin; task < end; task++) {
      const int64_t head = task / query_blocks;
      own_queries(p, head / p.H, head % p.H, task % query_blocks * kQueries, room, call.t[9].as<float>());
    }
  });
  parallel(call, p.B * p.G * key_blocks, 1, [&](int64_t begin, int64_t end, int worker) {
    const Room room(rooms + worker * each, p.D, p.E);
    for (int64_t task = begin; task < end; task++) {
      const int64_t group = task / key_blocks;
      own_keys(p, group / p.G, group % p.G, task % key_blocks * kKeys, room, call.t[10].as<float>(),
               call.t[11].as<float>());
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(attention_back,
    {"attention_back",
     "attention_back: q[B,T,H,D]:f32~ k[B,G,S,D]:f32~ v[B,G,S,E]:f32~ dy[B,T,H,E]:f32~ mask[B,S]:u8? "
     "segments[B,S]:i32? slopes[H]:f32? bias[B,H,T,S]:f32~? sinks[H]:f32? ; scale:f32 causal:i32 window:i32 softcap:f32 "
     "-> dq[B,T,H,D]:f32 dk[B,G,S,D]:f32 dv[B,G,S,E]:f32",
     attention_back})

}  // namespace octavo::OCTAVO_ISA
