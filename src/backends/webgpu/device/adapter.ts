// Facts about an adapter as plain data, for `octavo doctor` and for choosing a device and its shaders.

import type { SubgroupMatrix } from "../kernel.js";

export interface AdapterFacts {
  /** One readable line. */
  readonly title: string;
  readonly vendor: string;
  readonly architecture: string;
  readonly device: string;
  /** Name and version of the driver, if the runtime gives them. */
  readonly driver: string;
  /** "vulkan", "metal", "d3d12", or "" if the runtime does not say. */
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

/** Dawn's feature name for subgroup matrices. */
export const SUBGROUP_MATRIX = "chromium-experimental-subgroup-matrix";

interface SubgroupMatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

/** Element types of the factors and of the sums. */
const SUMS = { f16: "f32", i8: "i32" } as const;
export type MatrixElement = keyof typeof SUMS;

/** True if the edges divide a tile's and the results fit its stage (kernels/matrices.ts). */
function fitting(
  element: MatrixElement,
  { componentType, resultComponentType, M, N, K }: SubgroupMatrixConfig,
): boolean {
  const edges = [M, N].every((edge) => edge === 8 || edge === 16) && (K === 8 || K === 16 || K === 32);
  return edges && componentType === element && resultComponentType === SUMS[element];
}

/** Probe shader with one multiplication: the WGSL of this experimental feature has changed before. */
function trial(element: MatrixElement, { M, N, K }: SubgroupMatrixConfig): string {
  const sums = SUMS[element];
  return `${element === "f16" ? "enable f16;" : ""}
enable subgroups;
enable chromium_experimental_subgroup_matrix;
@group(0) @binding(0) var<storage, read_write> y: array<${sums}>;
var<workgroup> a: array<${element === "i8" ? "i32" : element}, 512>;
var<workgroup> c: array<${sums}, 256>;
@compute @workgroup_size(128) fn main(@builtin(local_invocation_index) lid: u32) {
  let left = subgroupMatrixLoad<subgroup_matrix_left<${element}, ${K}, ${M}>, row_major>(&a, 0u, ${K}u);
  let right = subgroupMatrixLoad<subgroup_matrix_right<${element}, ${N}, ${K}>, col_major>(&a, 0u, ${K}u);
  var sum: subgroup_matrix_result<${sums}, ${N}, ${M}>;
  sum = subgroupMatrixMultiplyAccumulate(left, right, sum);
  subgroupMatrixStore<row_major>(&c, 0u, sum, ${N}u);
  workgroupBarrier();
  y[lid] = c[lid];
}`;
}

async function understood(device: GPUDevice, code: string): Promise<boolean> {
  device.pushErrorScope("validation");
  const module = device.createShaderModule({ code });
  const pipeline = device.createComputePipelineAsync({ layout: "auto", compute: { module } }).then(
    () => true,
    () => false,
  );
  const error = await device.popErrorScope();
  return (await pipeline) && error === null;
}

/**
 * The largest subgroup matrices of `element` with sums in 32 bits that the device compiles. Undefined if there are none, or
 * if subgroups may have more than 64 invocations. `wanted` as in WebGPUOptions.
 */
export async function subgroupMatrix(
  { info }: GPUAdapter,
  device: GPUDevice,
  element: MatrixElement,
  wanted: boolean | string = true,
): Promise<SubgroupMatrix | undefined> {
  if (wanted === false || !device.features.has(SUBGROUP_MATRIX)) return undefined;
  const { subgroupMaxSize = 128 } = info;
  const squares = subgroupMaxSize <= 32 ? 1 : 2;
  if (typeof wanted === "string") return { matrix: wanted, squares };
  if (subgroupMaxSize > 64) return undefined;
  const { subgroupMatrixConfigs = [] } = info as { subgroupMatrixConfigs?: Iterable<SubgroupMatrixConfig> };
  const found = [...subgroupMatrixConfigs]
    .filter((config) => fitting(element, config))
    .sort((a, b) => b.M * b.N * b.K - a.M * a.N * a.K);
  for (const config of found) {
    const matrix = `${config.M}x${config.N}x${config.K}`;
    if (await understood(device, trial(element, config))) return { matrix, squares };
  }
  return undefined;
}
