// Writes part of one word: the ends of host writes that are not whole words.

import { family, writes } from "../shader.js";

export const PATCH = family("write", () => ({
  bindings: [writes("y", "array<u32>")],
  params: ["word", "mask", "value"],
  workgroup: 1,
  body: "y[P.word] = (y[P.word] & ~P.mask) | P.value;",
}))({});
