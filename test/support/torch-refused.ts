// The readers of hand-made files of torch.save, and the check of a refusal.

import { expect } from "vitest";
import { readTorchHeader } from "../../src/checkpoints/torch.js";
import { FormatError } from "../../src/core/errors.js";
import { MemorySource } from "../fuzz/support/memory-source.js";
import { failure } from "./source-tools.js";
import type { TorchTensor } from "./torch-file.js";

/** The path that messages name. */
export const FILE = "model/pytorch_model.bin";

/** The only storage of most files, and its only tensor. */
export const one = new Uint8Array(16);
export const TENSORS: readonly TorchTensor[] = [{ name: "a", storage: "FloatStorage", shape: [2, 2], bytes: one }];

/** @param local reads the file as one on disk is read */
export const open = (bytes: Uint8Array, local = true) =>
  readTorchHeader(new MemorySource({ "pytorch_model.bin": bytes }, local), FILE);

/** Expects a refusal that says `message`, fast and without much memory. */
export async function refused(bytes: Uint8Array, message: RegExp, local = true): Promise<FormatError> {
  const before = process.memoryUsage().arrayBuffers;
  const start = process.cpuUsage();
  const error = await failure(() => open(bytes, local));
  const { user, system } = process.cpuUsage(start);
  if (!(error instanceof FormatError)) throw new Error("expected a FormatError", { cause: error });
  expect(error.message).toMatch(message);
  expect(error.message).toContain(FILE);
  expect(error.details.file).toBe(FILE);
  // A millisecond as a rule; the process's other threads count too.
  expect((user + system) / 1000, "milliseconds of processor time").toBeLessThan(500);
  expect(process.memoryUsage().arrayBuffers - before, "bytes").toBeLessThan(16 << 20);
  return error;
}
