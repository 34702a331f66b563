// The names of devices that callers use: Octavo's own, and those of GPUs in Python, which mean WebGPU here.

/** A GPU as people from Python name it, with its number. */
const GPU = /^(?:gpu|cuda|mps|xpu)(?::(\d{1,3}))?$/;

/**
 * The name of a device as Octavo spells it: "gpu", "cuda", "mps" and 0 are "webgpu", and "cuda:1" and 1 are "webgpu:1". Any
 * other text is returned as it is; undefined for what is no name.
 */
export function deviceName(name: unknown): string | undefined {
  if (typeof name === "number") return Number.isInteger(name) && name >= 0 && name < 1000 ? webgpu(name) : undefined;
  if (typeof name !== "string") return undefined;
  const [all, number] = GPU.exec(name) ?? /^(\d{1,3})$/.exec(name) ?? [];
  return all === undefined ? name : webgpu(Number(number ?? 0));
}

/** The first GPU has no number: which adapter it is, the runtime decides. */
function webgpu(number: number): string {
  return number === 0 ? "webgpu" : `webgpu:${number}`;
}

/** True if what is on device `here` is also on `asked`: "cpu" is every device that computes on the CPU, "auto" any. */
export function isOn(here: string, asked: string | undefined): boolean {
  if (asked === undefined) return false;
  if (asked === here || asked === "auto") return true;
  if (asked === "cpu") return /^(?:cpu:\d+|wasm|reference)$/.test(here);
  return asked === "webgpu" && here.startsWith("webgpu");
}
