// Steps of optimizers, in one pass over memory: the rules and their numbers are in src/ops/optimizer.ts.
#include "../parallel.h"
#include "../registry.h"
#include "../simd/mapped.h"
#include "../simd/product.h"

namespace octavo::OCTAVO_ISA {

namespace {

enum Rule { kAdam = 0, kAdemamix = 1, kMomentum = 2, kLion = 3, kRmsprop = 4, kAdagrad = 5 };
enum Flag { kFirst = 1, kSkipZeros = 2 };
// Places of the attributes.
enum Number { kRule, kLr, kShrink, kDecay, kB1, kR1, kB2, kR2, kB3, kR3, kEps, kAlpha, kLimit, kFlags, kMost };

OCTAVO_INLINE f32x16 root(f32x16 v) {
  float lane[16];
  store(lane, v);
  for (int i = 0; i < 16; i++) lane[i] = __builtin_sqrtf(lane[i]);
  return load(lane);
}

OCTAVO_INLINE f32x16 sign_of(f32x16 v) {
  const f32x16 one = splat(1.0f);
  return v > zero() ? one : v < zero() ? -one : v;  // NaN stays
}

// NaN stays.
OCTAVO_INLINE f32x16 limited(f32x16 u, float limit) {
  if (limit == 0) return u;
  const f32x16 most = splat(limit);
  u = u > most ? most : u;
  return u < -most ? -most : u;
}

typedef uint8_t u8p __attribute__((vector_size(kPartLanes)));

OCTAVO_INLINE f32x16 first_of(f32x16 v, int n) {
  float lane[16];
  store(lane, v);
  return load_n(lane, n);
}

struct Step {
  float lr, shrink, decay, b1, r1, b2, r2, b3, r3, eps, alpha, limit;
  bool first, skip;
  const float *p, *g;
  const float* state[3];
  int64_t n;

  // The operands behind g are the states.
  explicit Step(const Call& call, bool coded = false)
      : lr(call.attr[kLr].f), shrink(call.attr[kShrink].f), decay(call.attr[kDecay].f), b1(call.attr[kB1].f),
        r1(call.attr[kR1].f), b2(call.attr[kB2].f), r2(call.attr[kR2].f), b3(call.attr[kB3].f), r3(call.attr[kR3].f),
        eps(call.attr[kEps].f), alpha(call.attr[kAlpha].f), limit(call.attr[kLimit].f),
        first(call.attr[kFlags].i & kFirst), skip(call.attr[kFlags].i & kSkipZeros), p(call.t[0].as<float>()),
        g(call.t[1].as<float>()), n(call.t[0].size()) {
    for (int s = 0; s < 3; s++) state[s] = !coded && call.t[2 + s] ? call.t[2 + s].as<float>() : nullptr;
  }

  OCTAVO_INLINE f32x16 gradient(int64_t i, int some, f32x16 given) const {
    return decay == 0 ? given : given + decay * load_n(p + i, some);
  }

  OCTAVO_INLINE void states(int64_t i, int some, f32x16 (&s)[3]) const {
    for (int j = 0; j < 3; j++) s[j] = state[j] ? load_n(state[j] + i, some) : zero();
  }

  // The update of some elements, whose states become those after the step.
  template <int kRule>
  OCTAVO_INLINE f32x16 update(f32x16 grad, f32x16 (&s)[3]) const {
    if (kRule == kAdam) {
      s[0] = b1 * s[0] + r1 * grad;
      s[1] = b2 * s[1] + r2 * grad * grad;
      return limited(s[0] / (root(s[1]) + eps), limit);
    }
    if (kRule == kAdemamix) {
      s[0] = b1 * s[0] + r1 * grad;
      s[1] = b3 * s[1] + r3 * grad;
      s[2] = b2 * s[2] + r2 * grad * grad;
      return limited((s[0] + alpha * s[1]) / (root(s[2]) + eps), limit);
    }
    if (kRule == kMomentum) {
      s[0] = first ? grad : b1 * s[0] + grad;
      return s[0];
    }
    if (kRule == kLion) {
      const f32x16 u = sign_of(b1 * s[0] + r1 * grad);
      s[0] = b2 * s[0] + r2 * grad;
      return u;
    }
    s[0] = kRule == kRmsprop ? b1 * s[0] + r1 * grad * grad : s[0] + grad * grad;
    return grad / (root(s[0]) + eps);
  }
};

constexpr int64_t kPiece = 1 << 13;  // elements of a task, and of a partial sum

template <int kRule>
const char* step(const Call& call) {
  const Step all(call);
  float* p = call.t[0].as<float>();
  const float lr = call.t[5] ? all.lr * call.t[5].as<float>()[0] : all.lr;
  parallel(call, (all.n + kPiece - 1) / kPiece, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin * kPiece; i < end * kPiece && i < all.n; i += 16) {
      const int some = all.n - i < 16 ? (int)(all.n - i) : 16;
      const f32x16 given = load_n(all.g + i, some), before = load_n(p + i, some);
      f32x16 s[3];
      all.states(i, some, s);
      const f32x16 u = all.update<kRule>(all.gradient(i, some, given), s);
      f32x16 after = before * all.shrink - lr * u;
      if (all.skip) after = given == zero() ? before : after;
      for (int j = 0; j < 3; j++) {
        if (!all.state[j]) continue;
        if (all.skip) s[j] = given == zero() ? load_n(all.state[j] + i, some) : s[j];
        store_n(call.t[2 + j].as<float>() + i, s[j], some);
      }
      store_n(p + i, after, some);
    }
  });
  return nullptr;
}

constexpr int64_t kStateBlock = 256;  // elements of a block of 8-bit states

// Blocks are decoded, stepped and encoded again while they are in the L1 cache.
template <int kRule>
const char* step_8bit(const Call& call) {
  const Step all(call, true);
  float* p = call.t[0].as<float>();
  const bool two = (bool)call.t[4];
  const float* maps = call.t[6].as<float>();
  const Map256 values[2] = {Map256(maps), Map256(two ? maps + 256 : maps)};
  const Nearest nearest1(maps), nearest2(two ? maps + 256 : maps);
  parallel(call, (all.n + kStateBlock - 1) / kStateBlock, kPiece / kStateBlock, [&](int64_t begin, int64_t end, int) {
    alignas(64) float decoded[2][kStateBlock];
    for (int64_t b = begin; b < end; b++) {
      const int64_t first = b * kStateBlock, count = at_most(kStateBlock, all.n - first);
      for (int j = 0; j <= (int)two; j++) {
        const uint8_t* codes = call.t[2 + 2 * j].as<uint8_t>() + first;
        const f32p scale = splat_part(call.t[3 + 2 * j].as<float>()[b]);
        for (int64_t i = 0; i < kStateBlock; i += kPartLanes) {
          u8p code = {};
          if (i < count) std::memcpy(&code, codes + i, (size_t)at_most(kPartLanes, count - i));
          store_part(decoded[j] + i, rounded(values[j].at(__builtin_convertvector(code, u32p)) * scale));
        }
      }
      for (int64_t i = 0; i < count; i += 16) {
        const int some = (int)at_most(16, count - i);
        const f32x16 given = load_n(all.g + first + i, some), before = load_n(p + first + i, some);
        const f32x16 old1 = load(decoded[0] + i), old2 = two ? load(decoded[1] + i) : zero();
        f32x16 s[3] = {old1, old2, zero()};
        const f32x16 u = all.update<kRule>(all.gradient(first + i, some, given), s);
        f32x16 after = before * all.shrink - all.lr * u;
        if (all.skip) {
          after = given == zero() ? before : after;
          s[0] = given == zero() ? old1 : s[0];
          s[1] = given == zero() ? old2 : s[1];
        }
        store_n(p + first + i, after, some);
        // What lies behind the end of the tensor must not count for the scale.
        store(decoded[0] + i, some == 16 ? s[0] : first_of(s[0], some));
        if (two) store(decoded[1] + i, some == 16 ? s[1] : first_of(s[1], some));
      }
      for (int j = 0; j <= (int)two; j++) {
        i32p bits = {};
        for (int64_t i = 0; i < count; i += kPartLanes)
          bits = max_part((i32p)abs_part(load_part(decoded[j] + i)), bits);  // NaN is the highest
        const int32_t top = highest_part(bits);
        float high;
        std::memcpy(&high, &top, 4);
        call.t[3 + 2 * j].as<float>()[b] = high;
        const f32p factor = splat_part(unit_factor(high));
        uint8_t* codes = call.t[2 + 2 * j].as<uint8_t>() + first;
        const Nearest& nearest = j == 0 ? nearest1 : nearest2;
        for (int64_t i = 0; i < count; i += kPartLanes) {
          const u8p code = __builtin_convertvector(nearest.code(load_part(decoded[j] + i), factor), u8p);
          std::memcpy(codes + i, &code, (size_t)at_most(kPartLanes, count - i));
        }
      }
    }
  });
  return nullptr;
}

const char* optimizer_step_8bit(const Call& call) {
  switch (call.attr[kRule].i) {
    case kAdam: return step_8bit<kAdam>(call);
    case kMomentum: return step_8bit<kMomentum>(call);
    case kLion: return step_8bit<kLion>(call);
    case kRmsprop: return step_8bit<kRmsprop>(call);
    case kAdagrad: return step_8bit<kAdagrad>(call);
    default: return sentence("there is no optimizer %d with states in 8 bits", call.attr[kRule].i);
  }
}

// Sums of pieces, added in order: they do not depend on the number of threads.
template <int kRule>
const char* clip(const Call& call) {
  const Step all(call);
  const int64_t pieces = (all.n + kPiece - 1) / kPiece;
  double* sums = (double*)call.need(sizeof(double) * (size_t)(2 * pieces + 2));
  if (!sums) return "there is no memory for the sums of the norms";
  parallel(call, pieces, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t at = begin; at < end; at++) {
      double parameters = 0, updates = 0;
      for (int64_t i = at * kPiece; i < (at + 1) * kPiece && i < all.n; i += 16) {
        const int some = all.n - i < 16 ? (int)(all.n - i) : 16;
        const f32x16 given = load_n(all.g + i, some), value = load_n(all.p + i, some);
        f32x16 s[3];
        all.states(i, some, s);
        const f32x16 u = all.update<kRule>(all.gradient(i, some, given), s);
        for (int l = 0; l < some; l++) {
          parameters += (double)value[l] * value[l];
          if (!(all.skip && given[l] == 0)) updates += (double)u[l] * u[l];
        }
      }
      sums[2 * at] = parameters;
      sums[2 * at + 1] = updates;
    }
  });
  double parameters = 0, updates = 0;
  for (int64_t at = 0; at < pieces; at++) parameters += sums[2 * at], updates += sums[2 * at + 1];
  const double ratio = call.attr[kMost].f * __builtin_sqrt(parameters) / __builtin_sqrt(updates);
  call.t[5].as<float>()[0] = updates == 0 || ratio >= 1 ? 1.0f : (float)ratio;  // NaN stays
  return nullptr;
}

const char* optimizer_step(const Call& call) {
  switch (call.attr[kRule].i) {
    case kAdam: return step<kAdam>(call);
    case kAdemamix: return step<kAdemamix>(call);
    case kMomentum: return step<kMomentum>(call);
    case kLion: return step<kLion>(call);
    case kRmsprop: return step<kRmsprop>(call);
    case kAdagrad: return step<kAdagrad>(call);
    default: return sentence("there is no optimizer %d", call.attr[kRule].i);
  }
}

const char* optimizer_clip(const Call& call) {
  switch (call.attr[kRule].i) {
    case kAdam: return clip<kAdam>(call);
    case kAdemamix: return clip<kAdemamix>(call);
    case kMomentum: return clip<kMomentum>(call);
    case kLion: return clip<kLion>(call);
    case kRmsprop: return clip<kRmsprop>(call);
    case kAdagrad: return clip<kAdagrad>(call);
    default: return sentence("there is no optimizer %d", call.attr[kRule].i);
  }
}

#define OCTAVO_NUMBERS                                                                                               \
  "rule:i32 lr:f32 shrink:f32 decay:f32 b1:f32 r1:f32 b2:f32 r2:f32 b3:f32 r3:f32 eps:f32 alpha:f32 limit:f32 " \
  "flags:i32"

}  // namespace

OCTAVO_KERNELS(optimizer,
               {"optimizer_step",
                "optimizer_step: p[n]:f32! g[n]:f32 state1[n]:f32! state2[n]:f32?! state3[n]:f32?! factor[1]:f32? ; "
                OCTAVO_NUMBERS " ->",
                optimizer_step},
               {"optimizer_step_8bit",
                "optimizer_step_8bit: p[n]:f32! g[n]:f32 codes1[n]:u8! absmax1[B]:f32! codes2[n]:u8?! absmax2[B]:f32?! "
                "maps[S,256]:f32 ; " OCTAVO_NUMBERS " ->",
                optimizer_step_8bit},
               {"optimizer_clip",
                "optimizer_clip: p[n]:f32 g[n]:f32 state1[n]:f32 state2[n]:f32? state3[n]:f32? ; " OCTAVO_NUMBERS
                " most:f32 -> factor[1]:f32",
                optimizer_clip})

}  // namespace octavo::OCTAVO_ISA
