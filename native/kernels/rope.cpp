// rope_table: cosines and sines of all positions of a step, once for all layers. rope: the rotation itself.

#include "../parallel.h"
#include "../registry.h"
#include "../simd/vec.h"

namespace octavo::OCTAVO_ISA {

namespace {

const char* rope_table(const Call& call) {
  const Tensor &positions = call.t[0], &frequencies = call.t[1], &rows = call.t[2], &table = call.t[3];
  const int64_t T = positions.dim[1], V = frequencies.dim[0], R = frequencies.dim[1];
  const float scale = call.attr[0].f;
  if (!rows && V != 1 && V != positions.dim[0]) return "there are neither frequencies for all rows nor for each of them";
  parallel(call, positions.size(), row_grain(R * 16), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const float position = (float)positions.as<int32_t>()[row];
      const int64_t own = rows ? rows.as<int32_t>()[row] : V == 1 ? 0 : row / T;
      // Rows outside are those of unused lanes.
      const float* inv = frequencies.as<float>() + (own < 0 ? 0 : own < V ? own : V - 1) * R;
      float* cosines = table.as<float>() + row * 2 * R;
      float* sines = cosines + R;
      for (int64_t r = 0; r < R; r++) {
        const double angle = (double)(position * inv[r]);  // the product is rounded to f32, as in the models
        cosines[r] = (float)__builtin_cos(angle) * scale;
        sines[r] = (float)__builtin_sin(angle) * scale;
      }
    }
  });
  return nullptr;
}

// One head with contiguous elements.
OCTAVO_INLINE void rotate(const float* x, const float* c, const float* s, float* y, int64_t R, int64_t D,
                          bool interleaved) {
  if (interleaved) {
    for (int64_t r = 0; r < R; r++) {
      const float x1 = x[2 * r], x2 = x[2 * r + 1];
      y[2 * r] = x1 * c[r] - x2 * s[r];
      y[2 * r + 1] = x2 * c[r] + x1 * s[r];
    }
  } else {
    int64_t r = 0;
    for (; r + 16 <= R; r += 16) {
      const f32x16 x1 = load(x + r), x2 = load(x + R + r), vc = load(c + r), vs = load(s + r);
      store(y + r, x1 * vc - x2 * vs);
      store(y + R + r, x2 * vc + x1 * vs);
    }
    if (r < R) {
      const int n = (int)(R - r);
      const f32x16 x1 = load_n(x + r, n), x2 = load_n(x + R + r, n), vc = load_n(c + r, n), vs = load_n(s + r, n);
      store_n(y + r, x1 * vc - x2 * vs, n);
      store_n(y + R + r, x2 * vc + x1 * vs, n);
    }
  }
  if (D > 2 * R) std::memcpy(y + 2 * R, x + 2 * R, sizeof(float) * (size_t)(D - 2 * R));
}

const char* rope(const Call& call) {
  const Tensor &x = call.t[0], &table = call.t[1], &y = call.t[2];
  const int64_t T = x.dim[1], H = x.dim[2], D = x.dim[3], R = table.dim[3];
  const bool interleaved = call.attr[0].i != 0;
  if (2 * R > D) return sentence("the table rotates %lld dims, a head has %lld", (long long)(2 * R), (long long)D);
  parallel(call, x.dim[0] * T, row_grain(H * D), [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; row++) {
      const float* from = x.as<float>() + row / T * x.stride[0] + row % T * x.stride[1];
      const float* c = table.as<float>() + row * 2 * R;
      float* to = y.as<float>() + row * H * D;
      for (int64_t h = 0; h < H; h++) {
        const float* head = from + h * x.stride[2];
        float* out = to + h * D;
        if (x.stride[3] == 1) {
          rotate(head, c, c + R, out, R, D, interleaved);
        } else {
          const int64_t step = x.stride[3], apart = interleaved ? 1 : R;
          for (int64_t r = 0; r < R; r++) {
            const int64_t at = interleaved ? 2 * r : r;
            const float x1 = head[at * step], x2 = head[(at + apart) * step];
            out[at] = x1 * c[r] - x2 * c[R + r];
            out[at + apart] = x2 * c[r] + x1 * c[R + r];
          }
          for (int64_t d = 2 * R; d < D; d++) out[d] = head[d * step];
        }
      }
    }
  });
  return nullptr;
}

}  // namespace

OCTAVO_KERNELS(rope,
    {"rope_table", "rope_table: positions[B,T]:i32 inv_freq[V,R]:f32 rows[B,T]:i32? ; scale:f32 -> table[B,T,2,R]:f32", rope_table},
    {"rope", "rope: x[B,T,H,D]:f32~ table[B,T,2,R]:f32 ; interleaved:i32 -> y[B,T,H,D]:f32", rope})

}  // namespace octavo::OCTAVO_ISA
