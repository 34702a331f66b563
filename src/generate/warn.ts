// Warnings while a model is used, each said once per process: the next call would only repeat it.

const told = new Set<string>();

/** Warns on the console, once for each `key`. */
export function warnOnce(key: string, message: string): void {
  if (told.has(key)) return;
  told.add(key);
  console.warn(`octavo: ${message}`);
}
