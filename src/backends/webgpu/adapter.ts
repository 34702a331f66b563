// What an adapter says of itself, as plain data: for `octavo doctor`, and for choosing a device and its shaders.

import type { Target } from "./kernel.js";

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

/** The feature behind which Dawn hides its subgroup matrices. */
export const SUBGROUP_MATRIX = "chromium-experimental-subgroup-matrix";

interface SubgroupMatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** Edges that divide a tile's, and results that fit its stage (kernels/tiles.ts). */
function fitting({ componentType, resultComponentType, M, N, K }: SubgroupMatrixConfig): boolean {
  const edges = [M, N, K].every((edge) => edge === 8 || edge === 16);
  return edges && componentType === "f16" && resultComponentType === "f32";
}

/**
 * The subgroup matrices that products use on a device, the largest there are; undefined if there are none of f16 with
 * sums in f32, or subgroups may have more than 64 invocations. `wanted` as in WebGPUOptions.
 */
export function subgroupMatrix(
  { info }: GPUAdapter,
  { features }: GPUDevice,
  wanted: boolean | string = true,
): Target["matrix"] {
  if (wanted === false || !features.has(SUBGROUP_MATRIX)) return undefined;
  const { subgroupMaxSize = 128 } = info;
  const squares = subgroupMaxSize <= 32 ? 1 : 2;
  if (typeof wanted === "string") return { matrix: wanted, squares };
  const { subgroupMatrixConfigs = [] } = info as { subgroupMatrixConfigs?: Iterable<SubgroupMatrixConfig> };
  const [best] = [...subgroupMatrixConfigs].filter(fitting).sort((a, b) => b.M * b.N * b.K - a.M * a.N * a.K);
  if (!best || subgroupMaxSize > 64) return undefined;
  return { matrix: `${best.M}x${best.N}x${best.K}`, squares };
}
