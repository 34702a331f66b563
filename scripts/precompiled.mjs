// The header that costs most: a compiler reads the intrinsics of x86 for a second, anew for each file. g++ reads them once for
// each set of flags, and compiles the same object from them, byte for byte.

import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const HEADER = "#include <immintrin.h>\n#include <cmath>\n#include <cstdint>\n#include <cstring>\n";
/** Fewer files than this are compiled sooner without it. */
const ENOUGH = 4;

/**
 * Precompiles the header for every level that has enough files.
 *
 * @param {readonly { level: string, args: readonly string[] }[]} jobs what is compiled; `args` is the command line up to "-c",
 *   the same for all files of a level
 * @param {string} folder for the headers, some 40 MB a level; what it holds is lost
 * @param {(args: string[]) => Promise<boolean>} compile runs the compiler, and says whether it succeeded
 * @returns {Promise<Map<string, string[]>>} by level, what stands in front of "-c"
 */
export async function precompile(jobs, folder, compile) {
  rmSync(folder, { recursive: true, force: true });
  const headers = new Map();
  const levels = new Set(jobs.map(({ level }) => level));
  await Promise.all(
    [...levels].map(async (level) => {
      const members = jobs.filter((job) => job.level === level);
      const [{ args }] = members;
      if (members.length < ENOUGH || !args.includes("-mavx2")) return;
      mkdirSync(join(folder, level), { recursive: true });
      const header = join(folder, level, "intrinsics.h");
      writeFileSync(header, HEADER);
      if (await compile([...args, "-x", "c++-header", header, "-o", `${header}.gch`]))
        headers.set(level, ["-include", header]);
    }),
  );
  return headers;
}
