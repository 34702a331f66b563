// Where a model will run: whole blocks on several devices, in the CPU's memory or on the disk, and everything else on the main device.
// Devices are filled by accelerate's rules, from what each of them needs here: weights as they are stored, keys and values of a text,
// room for the blocks that come from elsewhere, and work space.

import { OptionError } from "../../core/errors.js";
import { bytes } from "../../core/show.js";
import { trainedContext } from "../../nn/architecture.js";
import { type CacheDType, cacheBytesPerToken, cacheDType } from "../../nn/cache.js";
import type { DecoderGeometry } from "../../nn/decoder.js";
import { Linear, type Module } from "../../nn/module.js";
import type { MetaModel } from "../meta.js";
import { describeStep, type Strategy } from "./index.js";
import { type Inferred, inferDeviceMap, keepingRoom } from "./infer.js";
import { balancedMemory, isOffloaded, type Memory, type Place } from "./memory.js";
import { moduleSizes } from "./sizes.js";
import { type Named, type TreeModule, type TreeTensor, tensorsOf, treeOf } from "./tree.js";

export interface PlanRequest {
  /** "auto" and "balanced": devices are used alike; "balanced_low_0": the first as little as possible; "sequential": one after the other. */
  readonly strategy: Strategy;
  /** What each device may take. */
  readonly memory: Memory;
  /** The memory is that of the machine, of which a single device uses nine tenths. */
  readonly ours?: boolean;
  /** Tokens of a text, prompt included; default: what the model was trained on, at most 2048. */
  readonly context?: number | undefined;
  /** Texts at once; default: 1. */
  readonly batch?: number | undefined;
  readonly cache_dtype?: CacheDType | undefined;
}

/** What lies on a device, the CPU or the disk, in bytes. */
export interface PlannedPlace {
  readonly place: Place;
  /** Most that it may take; undefined for a disk without a limit. */
  readonly limit: number | undefined;
  /** Paths of the blocks, in the order in which they run. */
  readonly blocks: readonly string[];
  /** True for the device that has everything besides blocks, and runs the blocks of the CPU and the disk. */
  readonly main: boolean;
  readonly weights: number;
  /** Keys and values. */
  readonly cache: number;
  /** Room for the blocks that come from the CPU or the disk, two at a time. */
  readonly visiting: number;
  /** Work space of a pass: an estimate. */
  readonly work: number;
  /** All of these. */
  readonly total: number;
}

export interface DevicePlan {
  readonly main: Place;
  /** The place of each block, and of each module beside them. */
  readonly device_map: ReadonlyMap<string, Place>;
  readonly places: readonly PlannedPlace[];
  /** Why the model goes on elsewhere, in words: one line for each device that is full. */
  readonly reasons: readonly string[];
  readonly context: number;
  readonly batch: number;
  readonly cache_dtype: CacheDType;
}

const OTHERS = "everything but the blocks";
/** Tokens of a context if nobody says how many. */
export const USUAL_CONTEXT = 2048;
/** Tokens that are computed at a time. */
const PIECE = 512;

/** A block, and its bytes. */
interface Block {
  readonly path: string;
  readonly weights: number;
  readonly cache: number;
}

/**
 * Plans a declared model.
 * @throws OptionError if what has to be on a device that computes fits on none
 */
export function planDevices(model: MetaModel, request: PlanRequest): DevicePlan {
  const { strategy, memory, batch = 1, cache_dtype = cacheDType(model.dtype) } = request;
  const context = request.context ?? Math.min(USUAL_CONTEXT, trainedContext(model.config) ?? USUAL_CONTEXT);
  const needs = needsOf(model, context * batch, batch, cache_dtype);
  const { blocks, tree } = needs;
  const computing = [...memory.keys()].filter((place) => !isOffloaded(place));
  // Without other devices the CPU computes.
  const workers: readonly Place[] = computing.length > 0 ? computing : [...memory.keys()].filter((p) => p === "cpu");
  if (workers.length === 0) throw noDevice(needs);
  const usable = new Map(memory);
  for (const place of workers) usable.set(place, Math.max(0, memory.get(place)! - needs.work));
  const planning = { no_split_module_classes: [], clean_result: false };
  const shared =
    strategy === "sequential"
      ? usable
      : balancedMemory(tree, usable, { ...planning, low_zero: strategy === "balanced_low_0", ours: request.ours });
  const inferred = settled(needs, shared, workers, (places) => inferDeviceMap(tree, places, planning));
  if (typeof inferred === "number") throw noDevice(needs, workers[0], memory.get(workers[0]!), inferred);
  const main = inferred.device_map.get(OTHERS)!;
  const at = (path: string): Place => inferred.device_map.get(path)!;
  const places = [...new Set([...memory.keys(), ...inferred.device_map.values()])].map((place) =>
    summed(place, { needs, memory, at, main, workers }),
  );
  const device_map = new Map<string, Place>();
  for (const [name] of needs.otherModules) device_map.set(name, main);
  for (const { path } of blocks) device_map.set(path, at(path));
  const reasons = inferred.steps.filter(({ kind }) => kind === "next device").map(describeStep);
  return { main, device_map, places, reasons, context, batch, cache_dtype };
}

/**
 * The map in which the main device has room for what visits it; the most room that was kept on a device, if then no worker is left
 * for the main part. What a device keeps only ever grows, so this ends: a device that was full with its visitors stays full.
 */
function settled(
  { blocks }: Needs,
  memory: Memory,
  workers: readonly Place[],
  infer: (memory: Memory) => Inferred,
): Inferred | number {
  const kept = new Map<Place, number>();
  const keepsOne = keepingRoom([...memory.keys()]);
  for (;;) {
    const now = new Map(memory);
    for (const [place, room] of kept) now.set(place, Math.max(0, memory.get(place)! - room));
    const inferred = infer(now);
    const main = inferred.device_map.get(OTHERS)!;
    if (!workers.includes(main)) return Math.max(0, ...kept.values());
    // What visits needs the room of two blocks, of which accelerate's rule keeps one on the first device, and its keys and values lie
    // on the main device.
    const elsewhere = blocks.filter(({ path }) => !workers.includes(inferred.device_map.get(path)!));
    const visitors = Math.min(2, elsewhere.length) - (keepsOne.includes(main) ? 1 : 0);
    const more = elsewhere.reduce((sum, { cache }) => sum + cache, Math.max(0, visitors) * largest(blocks));
    if (more <= (kept.get(main) ?? 0)) return inferred;
    kept.set(main, more);
  }
}

function noDevice({ others, work }: Needs, place?: Place, limit?: number, room = 0): OptionError {
  const where =
    place === undefined ? "max_memory names no device that computes" : `device ${place} may take ${bytes(limit!)}`;
  const visitors = room > 0 ? `, and ${bytes(room)} for blocks that visit it` : "";
  const what = `${OTHERS} has to be on one, which takes ${bytes(others)} beside ${bytes(work)} of work space${visitors}`;
  return new OptionError(`${where}: ${what}`, {
    details: { option: "max_memory" },
    hint: place === undefined ? 'add one: { cpu: "8GB" }' : "raise its max_memory, or leave the device out",
  });
}

interface Needs {
  readonly tree: TreeModule;
  readonly blocks: readonly Block[];
  /** Bytes of everything but the blocks. */
  readonly others: number;
  readonly otherModules: readonly Named<TreeModule>[];
  readonly work: number;
}

/** What the parts of a model need, and a tree of them in which blocks have their keys and values. */
function needsOf(model: MetaModel, tokens: number, batch: number, cache: CacheDType): Needs {
  const { module } = model;
  const whole = treeOf(model);
  const paths = new Set(module.blocks.flat().map((block) => block.path));
  const otherModules: Named<TreeModule>[] = [];
  const blockTrees: Named<TreeModule>[] = [];
  const walk = (tree: TreeModule, path: string): void => {
    for (const [name, child] of tree.children) {
      const below = path === "" ? name : `${path}.${name}`;
      if (paths.has(below)) blockTrees.push([below, child]);
      else if ([...paths].some((one) => one.startsWith(`${below}.`))) walk(child, below);
      else otherModules.push([below, child]);
    }
  };
  walk(whole, "");
  // In the order in which they run.
  const order = new Map([...paths].map((path, i) => [path, i]));
  blockTrees.sort(([a], [b]) => order.get(a)! - order.get(b)!);
  const others = leafOf([...tensorsOf(whole, "parameters")].filter(([name]) => !isBelow(name, paths)));
  const perToken = cachePerLayer(model, cache);
  const cached = new Set(module.blocks.at(-1)?.map((block) => block.path) ?? []);
  const blocks = blockTrees.map(([path, tree]) => ({
    path,
    weights: moduleSizes(tree, {}).get("") ?? 0,
    cache: cached.has(path) ? perToken * tokens : 0,
  }));
  const children: Named<TreeModule>[] = [
    [OTHERS, others],
    ...blocks.map(({ path, weights, cache: held }): Named<TreeModule> => [path, sized(weights + held)]),
  ];
  return {
    tree: { identity: whole, class_name: "", parameters: [], buffers: [], children },
    blocks,
    others: moduleSizes(others, {}).get("") ?? 0,
    otherModules,
    work: workOf(module, model, Math.min(PIECE, tokens), batch),
  };
}

function isBelow(name: string, paths: ReadonlySet<string>): boolean {
  for (let dot = name.indexOf("."); dot >= 0; dot = name.indexOf(".", dot + 1)) {
    if (paths.has(name.slice(0, dot))) return true;
  }
  return false;
}

/** A module that holds tensors and stays whole. */
function leafOf(tensors: readonly Named<TreeTensor>[]): TreeModule {
  const parameters = tensors.map(([, tensor], i): Named<TreeTensor> => [String(i), tensor]);
  return { identity: {}, class_name: "", parameters, buffers: [], children: [] };
}

function sized(size: number): TreeModule {
  const tensor = { identity: {}, dtype: "uint8", elements: size, saved: true };
  return leafOf([["0", tensor]]);
}

function geometryOf({ module }: MetaModel): DecoderGeometry | undefined {
  return "geometry" in module && "head_dim" in module.geometry ? module.geometry : undefined;
}

/** Bytes of keys and values of a token in one layer; with an encoder those of its tokens as well. */
function cachePerLayer(model: MetaModel, dtype: CacheDType): number {
  const geometry = geometryOf(model);
  if (!geometry) return 0;
  return cacheBytesPerToken({ ...geometry, layers: 1 }, dtype) * Math.min(2, model.module.blocks.length);
}

/** An estimate of what a pass takes beside all else: hidden states, the widest products, and scores of the vocabulary. */
function workOf(module: Module, model: MetaModel, tokens: number, batch: number): number {
  let widest = 0;
  let hidden = 0;
  const head = model.module.output_embeddings();
  for (const [, one] of module.named_modules()) {
    if (!(one instanceof Linear) || one === head) continue;
    const [outputs, inputs] = one.weight.shape;
    widest = Math.max(widest, outputs / one.weight.experts, inputs);
    hidden = Math.max(hidden, Math.min(outputs / one.weight.experts, inputs));
  }
  const vocab = geometryOf(model)?.vocab ?? 0;
  return 4 * (tokens * (2 * widest + 4 * hidden) + 2 * batch * vocab);
}

function largest(blocks: readonly Block[]): number {
  return blocks.reduce((most, { weights }) => Math.max(most, weights), 0);
}

interface Sum {
  readonly needs: Needs;
  readonly memory: Memory;
  readonly at: (path: string) => Place;
  readonly main: Place;
  readonly workers: readonly Place[];
}

function summed(place: Place, { needs, memory, at, main, workers }: Sum): PlannedPlace {
  const here = needs.blocks.filter(({ path }) => at(path) === place);
  const isMain = place === main;
  const elsewhere = isMain ? needs.blocks.filter(({ path }) => !workers.includes(at(path))) : [];
  const computes = workers.includes(place) && (isMain || here.length > 0);
  const weights = here.reduce((sum, one) => sum + one.weights, isMain ? needs.others : 0);
  const cached = computes ? [...here, ...elsewhere] : [];
  const cache = cached.reduce((sum, one) => sum + one.cache, 0);
  const visiting = Math.min(2, elsewhere.length) * largest(elsewhere);
  const work = computes ? needs.work : 0;
  const total = weights + cache + visiting + work;
  const blocks = here.map(({ path }) => path);
  return { place, limit: memory.get(place), blocks, main: isMain, weights, cache, visiting, work, total };
}
