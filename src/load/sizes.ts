// Sizes of memory and files as options give them.

const UNITS: Readonly<Record<string, number>> = {
  B: 1,
  ...{ KB: 1e3, MB: 1e6, GB: 1e9, TB: 1e12 },
  ...{ KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 },
};

/** Bytes of a size: a whole number above 0, or a text such as "1.5GB"; undefined for anything else. */
export function bytesOf(size: unknown): number | undefined {
  const [, number, unit] = typeof size === "string" ? (/^\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B|B)\s*$/.exec(size) ?? []) : [];
  const bytes = number === undefined ? size : Math.floor(Number(number) * UNITS[unit!]!);
  return Number.isSafeInteger(bytes) && (bytes as number) > 0 ? (bytes as number) : undefined;
}
