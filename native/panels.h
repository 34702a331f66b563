// Panels: the layout of matrix weights for the matrix kernels. A panel holds 16 outputs over all of K in steps of 64 bytes, one
// dword per output, so every kernel reads its weights once, in order:
//
//   f32        [ceil(N/16)][K][16]             one k per step
//   f16, bf16  [ceil(N/16)][ceil(K/2)][16][2]  two
//   i8         [ceil(N/16)][ceil(K/4)][16][4]  four, as code + 128
//   u4         [ceil(N/16)][K/8][16]           eight, k = 8i + j in bits 4j..4j+3 of the dword; only if K % 8 == 0
//
// Places beyond N or K hold zero weights (u4 beyond N is never used: its absmax counts as 0).
#pragma once

#include "call.h"

namespace octavo {

constexpr int64_t kPanelRows = 16;
constexpr int64_t kStepBytes = 64;

// Bytes of a rows x cols matrix in panels, or -1 if it stays in rows: other dtypes, u4 with cols % 8 != 0, and all matrices
// if the environment sets OCTAVO_PANELS=0.
int64_t panel_bytes(DType dtype, int64_t rows, int64_t cols);

}  // namespace octavo
