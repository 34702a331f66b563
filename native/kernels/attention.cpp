// Attention: softmax(q·kᵀ)·v with all masks, never T×S in memory.
//
// The rows of a task are query tokens of a run times the query heads of one kv head (row = t·R + r), so grouped heads read
// the keys and values once. A task walks over its keys in blocks of kKeys: keys are transposed, values copied, both in f32,
// and every strip of up to kStrip rows then computes scores, online softmax and values while the block stays in the L1
// cache. The results of chunks of keys are merged by their maxima and sums, in order (job.h); when there are too few tasks
// for a large machine, each chunk is a task of its own.
//
// A cache of i8 codes is read as numbers times one scale per key: scores are multiplied by the keys' scales, weights by
// the values'. On machines that multiply bytes, the products stay in codes (attention/codes.h). If the caller allows it and
// the machine multiplies bf16 pairs, a bf16 cache is multiplied with queries and weights in bf16 (attention/pairs.h).
//
// isa: portable avx2 avx512 avx512bf16 amx
#include "../parallel.h"
#include "../registry.h"
#include "attention/pack.h"
#include "attention/runs.h"
#include "attention/strip.h"

namespace octavo::OCTAVO_ISA {
namespace {

// Merges a chunk's results for some rows into the earlier ones: each is weighted by e^(its maximum - the highest). A row that
// sees nothing of the chunk (acc and sum zero, top -infinity) keeps its bits. Sums are vectors, `step` floats apart.
struct Results {
  float *acc, *top, *sum;
  int64_t acc_step, sum_step;
};
void begin_whole(const Results& whole, int64_t rows, int64_t Ew) {
  for (int64_t r = 0; r < rows; r++) {
    whole.top[r] = -INFINITY;
    store_part(whole.sum + r * whole.sum_step, f32p{});
    for (int64_t e = 0; e < Ew; e += kPartLanes) store_part(whole.acc + r * whole.acc_step + e, f32p{});
  }
}
__attribute__((noinline)) void add_chunk(const Results& part, const Results& whole, int64_t rows, int64_t Ew) {
  for (int64_t r0 = 0; r0 < rows; r0 += kPartLanes) {
    const f32p old = load_part(whole.top + r0), top = load_part(part.top + r0), high = max_part(top, old);
    const f32p from = high == -INFINITY ? f32p{} : high;
    float before[kPartLanes], now[kPartLanes];
    store_part(before, exp_down(old - from));
    store_part(now, exp_down(top - from));
    store_part(whole.top + r0, high);
    for (int64_t i = 0; i < kPartLanes && r0 + i < rows; i++) {
      const f32p x = splat_part(before[i]), y = splat_part(now[i]);
      const auto add = [&](const float* from_part, float* to) {
        store_part(to, fma_part(load_part(from_part), y, load_part(to) * x));
      };
      const int64_t r = r0 + i;
      add(part.sum + r * part.sum_step, whole.sum + r * whole.sum_step);
      for (int64_t e = 0; e < Ew; e += kPartLanes) add(part.acc + r * part.acc_step + e, whole.acc + r * whole.acc_step + e);
    }
  }
}

// A sink is one more key of a head, whose value is zero.
void put_row(const Job& job, const Run& run, int64_t g, int64_t row, const float* acc, const float* sums, float top) {
  const int64_t h = g * job.R + row % job.R;
  float* out = job.y + ((run.b * job.T + run.t0 + row / job.R) * job.H + h) * job.E;
  float sum = sum_part(load_part(sums)), share = 1.0f;
  if (job.sinks != nullptr) {
    const float sink = job.sinks[h], high = sink > top ? sink : top, from = high == -INFINITY ? 0.0f : high;
    float factors[kPartLanes] = {top - from, sink - from};
    store_part(factors, exp_down(load_part(factors)));
    share = factors[0];
    sum = sum * share + factors[1];
  }
  const float inverse = sum != 0 ? share / sum : 0.0f;
  for (int64_t e = 0; e < job.E; e++) out[e] = acc[e] * inverse + 0.0f;  // (+ 0 turns -0 to 0, as merging a second chunk would)
}

// Processes keys [from, to) of a chunk for a block of rows: w.acc, w.top and w.sum.
struct Rows {
  const Job& job;
  const Run& run;
  const Bench& w;
  int64_t g, row0, rows;

  void meet(const Strips& strips, int64_t from, int64_t to) const;
};

void Rows::meet(const Strips& strips, int64_t from, int64_t to) const {
  const int64_t t0 = row0 / job.R, t1 = (row0 + rows - 1) / job.R, b = run.b;
  const int64_t zeros = (kTiles ? round_up(rows, 16) : rows) * job.Ew;
  for (int64_t i = 0; i < zeros; i += kPartLanes) store_part(w.acc + i, f32p{});
  for (int64_t r = 0; r < rows; r++) {
    w.top[r] = -INFINITY;
    store_part(w.sum + r * kPartLanes, f32p{});
  }

  int32_t segment_min = 0, segment_max = 0;  // of the queries
  if (job.segments != nullptr) {
    bool any = false;
    for (int64_t t = t0; t <= t1; t++) {
      const int64_t i = run.past + t;
      if (i < 0) continue;
      const int32_t x = job.segments[b * job.S + i];
      if (!any || x < segment_min) segment_min = x;
      if (!any || x > segment_max) segment_max = x;
      any = true;
    }
  }

  // With few rows memory is the bottleneck, so the next block is prefetched during this one; with many rows one request per
  // row while a block is packed is enough.
  const bool few = !run.tiles && strips.count <= 2;
  const bool fetch_k = few && job.k.stride[2] == job.D, fetch_v = few && job.v.stride[2] == job.E;
  for (int64_t j0 = from; j0 < to; j0 += kKeys) {
    const int n = (int)(to - j0 < kKeys ? to - j0 : kKeys);
    bool partial = false;
    const int32_t* keep = nullptr;
    if (job.mask != nullptr) {
      const uint8_t* mask = job.mask + b * job.S + j0;
      int kept = 0;
      for (int j = 0; j < kKeys; j++) w.keep[j] = j < n && mask[j] != 0 ? -1 : 0;
      for (int j = 0; j < n; j++) kept -= w.keep[j];
      if (kept == 0) continue;
      if (kept < n) {
        keep = w.keep;
        partial = true;
      }
    }
    const int32_t* seg = nullptr;
    if (job.segments != nullptr) {
      const int32_t* p = job.segments + b * job.S + j0;
      int32_t least = p[0], most = p[0];
      for (int j = 0; j < n; j++) {
        w.seg[j] = p[j];
        least = p[j] < least ? p[j] : least;
        most = p[j] > most ? p[j] : most;
      }
      for (int j = n; j < kKeys; j++) w.seg[j] = 0;
      if (most < segment_min || least > segment_max) continue;
      if (least != most || segment_min != segment_max || run.past + t0 < 0) {
        seg = w.seg;
        partial = true;
      }
    }
    KeyBlock block;
    find_block(job, w, run, g, j0, n, block);
    pack_block(job, run, w, block, keep, !fetch_k, !fetch_v);
    for (int64_t s = 0; s < strips.count; s++) {
      const int64_t at = strips.start(s);
      const int count = (int)(strips.start(s + 1) - at);
      const int64_t ta = (row0 + at) / job.R, tb = (row0 + at + count - 1) / job.R;
      const int64_t end = job.high(run, tb) < j0 + n ? job.high(run, tb) : j0 + n;
      if (end <= j0 || job.low(run, ta) >= end) continue;
      Meeting m;
      m.job = &job;
      m.run = &run;
      m.g = g;
      m.row = row0 + at;
      m.j0 = j0;
      m.n = n;
      m.nk = (int)(end - j0);
      m.partial = partial || m.nk % kPartLanes != 0 || job.high(run, ta) < end || job.low(run, tb) > j0;
      m.keep = keep;
      m.seg = seg;
#if defined(OCTAVO_AMX)
      if (run.tiles) {
        tile_strip(m, w, at, count);
        continue;
      }
#endif
      const bool ask_k = s == 0 && fetch_k, ask_v = s == 0 && fetch_v;
      m.ahead_k = ask_k ? &block.next_k : nullptr;
      m.ahead_v = ask_v ? &block.next_v : nullptr;
#if defined(OCTAVO_CODE_ATTENTION)
      if (run.codes) {
        any_code_strip(count, m, w, at);
        continue;
      }
#endif
#if defined(OCTAVO_PAIR_ATTENTION)
      if (job.pairs) {
        if (ask_k || ask_v)
          any_strip<Pairs, true>(count, m, w, at);
        else
          any_strip<Pairs, false>(count, m, w, at);
        continue;
      }
#endif
      if (ask_k || ask_v)
        any_strip<Floats, true>(count, m, w, at);
      else
        any_strip<Floats, false>(count, m, w, at);
    }
  }
}

// One task: a block of rows of a run, with all its chunks or one of them.
void attend(const Job& job, int64_t index, int worker) {
  Bench w = bench_at(job, worker);
  const Run& run = run_of<&Run::task>(job, index);
  index -= run.task;
  // Late rows see the most keys: they go first.
  const int64_t pieces = job.split ? run.chunks : 1, piece = index % pieces;
  const int64_t block = run.blocks - 1 - index / pieces % run.blocks, g = index / (pieces * run.blocks);
  const int64_t row0 = block * kRows;
  const Rows rows = {job, run, w, g, row0, run.rows - row0 < kRows ? run.rows - row0 : kRows};
  const Strips strips(rows.rows, run.tiles);
  pack_queries(job, run, w, g, row0, strips);

  const int64_t low = job.low(run, row0 / job.R), high = job.high(run, (row0 + rows.rows - 1) / job.R);
  const auto chunk = [&](int64_t n) {
    const int64_t from = n * kChunk > low / kKeys * kKeys ? n * kChunk : low / kKeys * kKeys;
    rows.meet(strips, from, (n + 1) * kChunk < high ? (n + 1) * kChunk : high);
  };
  if (job.split) {
    chunk(run.first + piece);
    float* out = job.partial + run.partial + ((g * run.chunks + piece) * run.rows + row0) * job.part();
    for (int64_t r = 0; r < rows.rows; r++, out += job.part()) {
      std::memcpy(out, w.acc + r * job.Ew, sizeof(float) * (size_t)job.Ew);
      store_part(out + job.Ew, load_part(w.sum + r * kPartLanes));
      out[job.Ew + kPartLanes] = w.top[r];
    }
    return;
  }
  const int64_t first = low / kChunk, last = high > low ? (high - 1) / kChunk : first;
  // The first chunk's results stay in place, and the others are added to them.
  chunk(first);
  const Results whole = {w.acc, w.top, w.sum, job.Ew, kPartLanes};
  w.acc = w.whole, w.top = w.whole_top, w.sum = w.whole_sum;
  for (int64_t n = first + 1; n <= last; n++) {
    chunk(n);
    add_chunk({w.acc, w.top, w.sum, job.Ew, kPartLanes}, whole, rows.rows, job.Ew);
  }
  for (int64_t r = 0; r < rows.rows; r++)
    put_row(job, run, g, row0 + r, whole.acc + r * job.Ew, whole.sum + r * kPartLanes, whole.top[r]);
}

// One merge task: combines the chunks of some rows.
void merge(const Job& job, int64_t index, int worker) {
  const Bench w = bench_at(job, worker);
  const Results whole = {w.whole, w.whole_top, w.whole_sum, job.Ew, kPartLanes};
  const Run& end = job.runs[job.count - 1];
  const int64_t all = end.merged + job.G * end.rows, last = (index + 1) * kMergeRows < all ? (index + 1) * kMergeRows : all;
  for (int64_t at = index * kMergeRows; at < last;) {
    const Run& run = run_of<&Run::merged>(job, at);
    const int64_t g = (at - run.merged) / run.rows, row = (at - run.merged) % run.rows;
    const int64_t rows = run.rows - row < last - at ? run.rows - row : last - at;
    begin_whole(whole, rows, job.Ew);
    for (int64_t n = 0; n < run.chunks; n++) {
      float* acc = job.partial + run.partial + ((g * run.chunks + n) * run.rows + row) * job.part();
      for (int64_t r = 0; r < rows; r++) w.top[r] = acc[r * job.part() + job.Ew + kPartLanes];
      add_chunk({acc, w.top, acc + job.Ew, job.part(), job.part()}, whole, rows, job.Ew);
    }
    for (int64_t r = 0; r < rows; r++)
      put_row(job, run, g, row + r, whole.acc + r * job.Ew, whole.sum + r * kPartLanes, whole.top[r]);
    at += rows;
  }
}

const char* attention(const Call& call) {
  Job job;
  job.q = call.t[Q];
  job.k = call.t[K];
  job.v = call.t[V];
  job.mask = call.t[MASK].as<uint8_t>();
  job.segments = call.t[SEGMENTS].as<int32_t>();
  job.slopes = call.t[SLOPES].as<float>();
  job.distances = call.t[DISTANCES].as<float>();
  job.bias = call.t[BIAS];
  job.sinks = call.t[SINKS].as<float>();
  job.y = call.t[Y].as<float>();
  job.B = job.q.dim[0];
  job.T = job.q.dim[1];
  job.H = job.q.dim[2];
  job.D = job.q.dim[3];
  job.G = job.k.dim[1];
  job.S = job.k.dim[2];
  job.E = job.v.dim[3];
  const bool paged = (bool)call.t[TABLE];
  job.columns = paged ? call.t[TABLE].dim[1] - 1 : 1;
  job.reach = job.distances != nullptr ? (call.t[DISTANCES].dim[1] - 1) / 2 : 0;
  if (job.G < 1 || job.H % job.G != 0) return "the number of query heads must be a multiple of the number of key heads";
  if ((job.q.stride[3] != 1 && job.D > 1) || (job.k.stride[3] != 1 && job.D > 1) || (job.v.stride[3] != 1 && job.E > 1))
    return "attention needs the last dimension of q, k and v to be contiguous";
  if (paged != (bool)call.t[LANES]) return "lanes and table must be given together";
  if (paged && (job.mask != nullptr || job.segments != nullptr || job.bias)) return "mask, segments and bias cannot be combined with a table";
  if (paged && (job.columns < 1 || job.S < 1)) return "a row of the table needs a page";
  if (!paged && job.k.dim[0] != job.B) return "keys without a table must have as many rows as queries";
  const float* scales = call.t[SCALES].as<float>();
  if ((job.k.dtype == DType::i8 || job.v.dtype == DType::i8) && scales == nullptr) return "keys or values in i8 need scales";
  job.k_scales = job.k.dtype == DType::i8 ? scales : nullptr;
  job.v_scales = job.v.dtype == DType::i8 ? scales + job.k.dim[0] * job.G * job.S : nullptr;
  job.scale = call.attr[SCALE].f;
  job.causal = call.attr[CAUSAL].i != 0;
  job.window = call.attr[WINDOW].i > 0 ? call.attr[WINDOW].i : 0;
  job.softcap = call.attr[SOFTCAP].f;
  job.general = job.softcap > 0 || job.slopes != nullptr || job.distances != nullptr || (bool)job.bias;
  if (!paged && job.T > job.S && (job.causal || job.window > 0 || job.segments != nullptr || job.slopes != nullptr || job.distances != nullptr))
    return "more queries than keys cannot be the last of the keys";
  job.R = job.H / job.G;
  job.Ew = round_up(job.E, kPartLanes);
  job.Dw = kTiles ? round_up(job.D, 32) * kParts3 / 2 : job.D;
  job.gather = paged && job.S % 16 != 0;
  job.pairs = false;
#if defined(OCTAVO_PAIR_ATTENTION)
  job.pairs = (call.attr[COMPUTE].i & kBf16) != 0 && job.k.dtype == DType::bf16 && job.v.dtype == DType::bf16;
#endif
#if defined(OCTAVO_CODE_ATTENTION)
  const int64_t parts = round_up(job.D, 64) / 4 * kQueryParts;
  if (job.k.dtype == DType::i8 && job.v.dtype == DType::i8 && job.Dw < parts) job.Dw = parts;
#endif
  if (job.B == 0 || job.T == 0 || job.R == 0 || job.E == 0) return nullptr;
  if (paged) {
    const int32_t* rows = call.t[LANES].as<int32_t>();
    for (int64_t i = 0; i < job.B * job.T; i++)
      if (rows[i] < 0) std::memset(job.y + i * job.H * job.E, 0, sizeof(float) * (size_t)(job.H * job.E));
  }
  // Chunks become tasks of their own if there are few tasks otherwise, and more than one chunk for a row.
  int64_t tasks = 0, merged = 0, partial = 0;
  bool several = false, tiles = false;
  job.count = 0;
  const char* problem = each_run(job, call, [&](const Run& run) {
    job.count++;
    tasks += job.G * run.blocks;
    partial += job.G * run.chunks * run.rows * job.part();
    several = several || run.chunks > 1;
    tiles = tiles || run.tiles;
  });
  if (problem != nullptr) return problem;
  if (job.count == 0) return nullptr;
  job.split = several && tasks < kEnoughTasks && partial <= kMostPartial;
  const int workers = call.pool != nullptr ? call.pool->threads() : 1;
  lay_out(job, nullptr, &job.worker_bytes);
  const size_t benches = job.worker_bytes * (size_t)workers, runs = sizeof(Run) * (size_t)round_up(job.count, 8);
  job.scratch = call.need(benches + runs + (job.split ? (size_t)partial * sizeof(float) : 0));
  if (job.scratch == nullptr) return "out of memory for the scratch of attention";
  job.runs = (Run*)(job.scratch + benches);
  job.partial = (float*)(job.scratch + benches + runs);
  tasks = merged = partial = 0;
  int64_t n = 0;
  each_run(job, call, [&](const Run& found) {
    Run& run = job.runs[n++];
    run = found;
    run.task = tasks;
    run.merged = merged;
    run.partial = partial;
    tasks += job.G * run.blocks * (job.split ? run.chunks : 1);
    merged += job.G * run.rows;
    partial += job.G * run.chunks * run.rows * job.part();
  });
  parallel(call, tasks, 1, [&](int64_t begin, int64_t end, int worker) {
#if defined(OCTAVO_AMX)
    if (tiles) matrix_begin();
#endif
    for (int64_t i = begin; i < end; i++) attend(job, i, worker);
#if defined(OCTAVO_AMX)
    if (tiles) matrix_end();
#endif
  });
  if (job.split)
    parallel(call, (merged + kMergeRows - 1) / kMergeRows, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; i++) merge(job, i, worker);
    });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(attention,
               {"attention",
                "attention: q[B,T,H,D]:f32~ k[P,G,S,D]:f32|f16|bf16|i8~ v[P,G,S,E]:f32|f16|bf16|i8~ scales[2,P,G,S]:f32? "
                "lanes[2,B,T]:i32? table[R,C]:i32? mask[B,S]:u8? segments[B,S]:i32? slopes[H]:f32? distances[H,W]:f32? "
                "bias[B,H,T,S]:f32~? sinks[H]:f32? ; scale:f32 causal:i32 window:i32 softcap:f32 compute:i32 -> y[B,T,H,E]:f32",
                attention})

}  // namespace octavo::OCTAVO_ISA
