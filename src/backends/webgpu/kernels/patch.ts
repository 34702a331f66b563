// Writes part of one word, for host writes that begin or end inside a word.

import { family, writes } from "../shader.js";

export const PATCH = family("write", () => ({
  bindings: [writes("y", "array<u32>")],
  params: ["word", "mask", "value"],
  workgroup: 1,
  body: "y[P.word] = (y[P.word] & ~P.mask) | P.value;",
}))({});
