// What all files of a process share. Suites that run on every device share one process (vitest.config.ts), and modules may
// be loaded anew for each file.

/** The value of that name; `make` gives it the first time. */
export function processWide<T>(name: string, make: () => T): T {
  const key = Symbol.for(`octavo.test.${name}`);
  const all = globalThis as unknown as Record<symbol, T | undefined>;
  return (all[key] ??= make());
}
