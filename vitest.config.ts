import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts"],
    pool: "forks",
    // Two cores: kernels bring their own threads.
    maxWorkers: 2,
    testTimeout: 60_000,
    // Browsers and software adapters start slowly on a machine that is busy.
    hookTimeout: 120_000,
    setupFiles: ["./test/support/awaited.ts"],
    reporters: ["default", "./test/support/reporter.ts"],
  },
});
