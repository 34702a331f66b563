// The runs of a call: found in its lanes, checked against the table, and the places of their keys.
#pragma once

#include "../../registry.h"
#include "job.h"

namespace octavo::OCTAVO_ISA {
namespace {

// An error sentence if pages of a run do not exist, or cannot hold what its tokens see.
const char* check_pages(const Job& job, const Run& run) {
  const int64_t pages = job.k.dim[0], room = job.columns * job.S;
  const int64_t widest = job.causal ? run.count - 1 : 0;  // the token that sees the most keys
  const int64_t seen = job.high(run, widest) - job.low(run, widest);
  if (seen > room) return sentence("%lld keys do not fit pages of %lld tokens", (long long)seen, (long long)room);
  const int64_t from = job.low(run, 0) / job.S, to = (run.total + job.S - 1) / job.S;
  const int64_t most = to - from < job.columns ? to : from + job.columns;
  for (int64_t i = from; i < most; i++) {
    const int32_t page = run.pages[i % job.columns];
    if (page < 0 || page >= pages) return sentence("the table names page %d; the cache has %lld", page, (long long)pages);
  }
  return nullptr;
}

// Calls f(run) for each run, in the order of the lanes; tasks and chunk results are not set yet. Lanes of row -1 are skipped.
// An error sentence if a lane or its pages are out of range.
template <class F>
const char* each_run(const Job& job, const Call& call, const F& f) {
  Run run{};
  const auto give = [&] {
    run.rows = run.count * job.R;
    run.blocks = (run.rows + kRows - 1) / kRows;
    run.first = job.low(run, 0) / kChunk;
    const int64_t end = (run.total + kChunk - 1) / kChunk;
    run.chunks = end > run.first ? end - run.first : 1;
    run.tiles = kTiles && run.rows >= 16 && (call.attr[COMPUTE].i & kDeterministic) == 0;
#if defined(OCTAVO_CODE_ATTENTION)
    run.codes = !run.tiles && job.k.dtype == DType::i8 && job.v.dtype == DType::i8;
#endif
    f(run);
  };
  const Tensor& table = call.t[TABLE];
  const int32_t *rows = call.t[LANES].as<int32_t>(), *positions = rows + job.B * job.T;
  for (run.b = 0; run.b < job.B; run.b++) {
    if (!table) {
      run.count = job.T;
      run.past = job.S - job.T;
      run.total = job.S;
      give();
      continue;
    }
    const int64_t base = run.b * job.T;
    for (run.t0 = 0; run.t0 < job.T; run.t0 += run.count) {
      const int64_t at = base + run.t0, row = rows[at];
      run.past = positions[at];
      run.count = 1;
      if (row < 0) continue;
      if (row >= table.dim[0]) return sentence("a lane is of row %lld; the table has %lld", (long long)row, (long long)table.dim[0]);
      if (run.past < 0) return sentence("a lane stands at position %lld", (long long)run.past);
      while (run.t0 + run.count < job.T && rows[at + run.count] == row && positions[at + run.count] == run.past + run.count)
        run.count++;
      const int32_t* held = table.as<int32_t>() + row * (job.columns + 1);
      run.pages = held + 1;
      run.total = job.causal ? run.past + run.count : *held;
      if (const char* problem = check_pages(job, run)) return problem;
      give();
    }
  }
  return nullptr;
}

// The run of a task, or of a merged row: the last whose number is not above it.
template <int64_t Run::*kNumber>
const Run& run_of(const Job& job, int64_t number) {
  int64_t low = 0, high = job.count;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (job.runs[middle].*kNumber <= number) low = middle;
    else high = middle;
  }
  return job.runs[low];
}

// Page and place of a key; `advance` moves on by some keys.
struct Place {
  int64_t page, at;
};
class Walk {
 public:
  OCTAVO_INLINE Walk(const Job& job, const Run& run, int64_t j)
      : pages_(run.pages), size_((uint32_t)job.S), columns_((uint32_t)job.columns), page_(run.b), at_(j) {
    if (pages_ == nullptr) return;
    const uint32_t n = (uint32_t)j / size_;
    at_ = j - (int64_t)n * size_;
    column_ = n % columns_;
    page_ = pages_[column_];
  }
  OCTAVO_INLINE Place place() const { return {page_, at_}; }
  OCTAVO_INLINE void advance(int64_t keys) {
    at_ += keys;
    if (at_ < size_) return;
    do {
      at_ -= size_;
      column_ = column_ + 1 == columns_ ? 0 : column_ + 1;
    } while (at_ >= size_);
    page_ = pages_[column_];
  }

 private:
  const int32_t* pages_;
  uint32_t size_, columns_, column_ = 0;
  int64_t page_, at_;
};
OCTAVO_INLINE const char* element(const Tensor& x, const Place& place, int64_t g) {
  return x.data + width_of(x.dtype) * (place.page * x.stride[0] + g * x.stride[1] + place.at * x.stride[2]);
}

// Copies keys that are not adjacent.
void gather_block(const Job& job, const Bench& w, const Run& run, int64_t g, int64_t j0, KeyBlock& block) {
  const int64_t size_k = width_of(job.k.dtype) * job.D, size_v = width_of(job.v.dtype) * job.E;
  Walk walk(job, run, j0);
  for (int j = 0; j < block.n; j++, walk.advance(1)) {
    const Place place = walk.place();
    std::memcpy(w.gathered_k + j * size_k, element(job.k, place, g), (size_t)size_k);
    std::memcpy(w.gathered_v + j * size_v, element(job.v, place, g), (size_t)size_v);
    const int64_t scale = (place.page * job.G + g) * job.S + place.at;
    if (job.k_scales != nullptr) w.gathered_k_scale[j] = job.k_scales[scale];
    if (job.v_scales != nullptr) w.gathered_v_scale[j] = job.v_scales[scale];
  }
  block.k.step = job.D;
  block.v.step = job.E;
  for (int i = 0; i < kPlaces; i++) {
    block.k.at[i] = w.gathered_k + i * 16 * size_k;
    block.v.at[i] = w.gathered_v + i * 16 * size_v;
    block.k_scale[i] = w.gathered_k_scale + i * 16;
    block.v_scale[i] = w.gathered_v_scale + i * 16;
  }
  block.k.one = block.v.one = true;
  block.next_k = block.k;
  block.next_v = block.v;
}

// Finds the n keys from j0 on.
void find_block(const Job& job, const Bench& w, const Run& run, int64_t g, int64_t j0, int n, KeyBlock& block) {
  block.n = n;
  block.k.step = block.next_k.step = job.k.stride[2];
  block.v.step = block.next_v.step = job.v.stride[2];
  Walk walk(job, run, j0);
  const Place begin = walk.place();
  block.k.one = block.v.one = run.pages == nullptr || begin.at + n <= job.S;
  block.next_k.one = block.next_v.one = block.k.one;
  if (block.k.one) {
    const char *k = element(job.k, begin, g), *v = element(job.v, begin, g);
    const int64_t size_k = 16 * width_of(job.k.dtype) * block.k.step, size_v = 16 * width_of(job.v.dtype) * block.v.step;
    const int64_t scale = (begin.page * job.G + g) * job.S + begin.at;
    for (int i = 0; i < kPlaces; i++) {
      block.k.at[i] = k + i * size_k;
      block.v.at[i] = v + i * size_v;
      block.next_k.at[i] = k + (i + kPlaces) * size_k;
      block.next_v.at[i] = v + (i + kPlaces) * size_v;
      block.k_scale[i] = job.k_scales != nullptr ? job.k_scales + scale + i * 16 : nullptr;
      block.v_scale[i] = job.v_scales != nullptr ? job.v_scales + scale + i * 16 : nullptr;
    }
    return;
  }
  Place place[2 * kPlaces];
  for (int i = 0; i < 2 * kPlaces; i++, walk.advance(16)) {
    // Nothing beyond the keys of a row is prefetched.
    const bool none = i * 16 >= n && (i < kPlaces || j0 + i * 16 >= run.total);
    place[i] = none ? place[i < kPlaces ? 0 : i - kPlaces] : walk.place();
    const int64_t left = n - i * 16 < 16 ? n - i * 16 : 16;
    if (i * 16 < n && place[i].at + left > job.S) return gather_block(job, w, run, g, j0, block);
  }
  for (int i = 0; i < kPlaces; i++) {
    block.k.at[i] = element(job.k, place[i], g);
    block.v.at[i] = element(job.v, place[i], g);
    block.next_k.at[i] = element(job.k, place[kPlaces + i], g);
    block.next_v.at[i] = element(job.v, place[kPlaces + i], g);
    const int64_t scale = (place[i].page * job.G + g) * job.S + place[i].at;
    block.k_scale[i] = job.k_scales != nullptr ? job.k_scales + scale : nullptr;
    block.v_scale[i] = job.v_scales != nullptr ? job.v_scales + scale : nullptr;
  }
}

}  // namespace
}  // namespace octavo::OCTAVO_ISA
