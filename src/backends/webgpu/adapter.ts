// What an adapter says of itself, as plain data: for `octavo doctor`, and for choosing a device.

export interface AdapterFacts {
  /** One line for people. */
  readonly title: string;
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  /** Name and version of the driver, as far as the runtime tells. */
  readonly driver: string;
  /** "vulkan", "metal", "d3d12", or "" where the runtime does not tell. */
  readonly backend: string;
  /** True if it computes on the processor: correct, and slower than the cpu device. */
  readonly software: boolean;
  readonly features: readonly string[];
  /** The limits that matter here, by their names in WebGPU. */
  readonly limits: Readonly<Record<string, number>>;
}

const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupsPerDimension",
] as const satisfies readonly (keyof GPUSupportedLimits)[];

const SOFTWARE = /swiftshader|llvmpipe|lavapipe|basic render|warp/i;

export function describeAdapter({ info, features, limits }: GPUAdapter, backend = ""): AdapterFacts {
  const { vendor, architecture, device, description } = info;
  const words = [vendor, architecture, device, description];
  return {
    title: description || words.filter(Boolean).join(" ") || "unnamed adapter",
    vendor,
    architecture,
    device,
    driver: description,
    backend,
    software: info.isFallbackAdapter === true || words.some((word) => SOFTWARE.test(word)),
    features: [...features].sort(),
    limits: Object.fromEntries(LIMITS.map((name) => [name, limits[name]])),
  };
}
