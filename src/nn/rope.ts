// Inverse frequencies of rotary position embedding, with the scalings for longer texts that config.json can name. Pure
// numbers; the rotation itself is an op.

import { CONFIG_HINT, ConfigError, suggestion } from "../core/errors.js";
import { show } from "../core/show.js";
import type { OfLength } from "./text-lengths.js";

/** RoPE settings of config.json, in the old layout (`rope_theta`, `rope_scaling`) or the new (`rope_parameters`). */
export interface RopeConfig {
  readonly theta: number;
  /** Dims of a head that rotate. */
  readonly dim: number;
  readonly scaling: Readonly<Record<string, unknown>> | null;
  /** The original length where the scaling block does not say it. */
  readonly original?: unknown;
  /** The original length, whatever the block says (Phi-3). */
  readonly trained?: number | undefined;
  /** The type of scaling, whatever the block calls it (Phi-3). */
  readonly kind?: string;
  /** `max_position_embeddings`. */
  readonly longest?: unknown;
}

export interface RopeFrequencies {
  /** f32[dim / 2]; where they depend on a text's length, those of short texts. */
  readonly inverse: Float32Array;
  /** Factor on cos and sin. */
  readonly scale: number;
  /** Inverse frequencies of a text of so many tokens; absent if they are the same for all. */
  readonly ofLength?: OfLength;
}

const ORIGINAL = "original_max_position_embeddings";
const KINDS = ["default", "linear", "dynamic", "yarn", "longrope", "llama3"];

/** What config.json says of rotary positions, beside the dims that rotate. */
export type RopeFields = Omit<RopeConfig, "dim">;

/** Names of layer types: blocks of `rope_parameters` in files of Gemma 3. */
const LAYER_TYPES = ["full_attention", "sliding_attention"];

/**
 * The scaling block and theta from either layout of config.json, as transformers 5 reads them: one block, `rope_scaling` if it
 * says anything, else `rope_parameters`; theta and the original length from the block, then from the top level, where the
 * model's length stands in for the original one.
 * @param usual theta where the file has none
 * @throws ConfigError for a block that is no object or has one for each layer type, or a theta that is no positive number
 */
export function ropeFields(config: Readonly<Record<string, unknown>>, usual = 10000): RopeFields {
  const parameters = block(config.rope_parameters, "rope_parameters");
  const named = block(config.rope_scaling, "rope_scaling");
  const chosen = named && Object.keys(named).length > 0 ? named : parameters;
  const typed = chosen && LAYER_TYPES.find((type) => Object.hasOwn(chosen, type));
  if (typed) {
    throw new ConfigError(`config.json: rope_parameters for "${typed}" alone are not supported by this architecture`, {
      hint: CONFIG_HINT,
    });
  }
  const { rope_theta, max_position_embeddings: longest } = config;
  const theta = chosen?.rope_theta ?? rope_theta ?? usual;
  const original = config.original_max_position_embeddings ?? longest;
  if (typeof theta !== "number" || !(theta > 0) || !Number.isFinite(theta)) {
    throw new ConfigError(`config.json: rope_theta must be a positive number, got ${show(theta)}`, {
      hint: CONFIG_HINT,
    });
  }
  return { theta, scaling: chosen, original, longest };
}

function block(value: unknown, name: string): Readonly<Record<string, unknown>> | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== "object" || Array.isArray(value))
    throw new ConfigError(`config.json: ${name} must be an object`, { hint: CONFIG_HINT });
  return value as Readonly<Record<string, unknown>>;
}

/**
 * Inverse frequencies, as transformers computes them: in f32, step by step.
 * @throws ConfigError for an unknown or incomplete `rope_scaling`
 */
export function ropeFrequencies(config: RopeConfig): RopeFrequencies {
  const { theta, dim, scaling, original, trained } = config;
  const inverse = frequenciesOf(theta, dim);
  // Files of the time between two versions have both.
  const { rope_type, type } = scaling ?? {};
  const kind = config.kind ?? rope_type ?? type ?? "default";
  if (scaling === null || kind === "default") return { inverse, scale: 1 };
  const read = new Block(scaling, kind);
  const length = (): number => trained ?? read.number(ORIGINAL, original);
  switch (kind) {
    case "linear": {
      const factor = read.number("factor");
      return { inverse: inverse.map((f) => f / factor), scale: 1 };
    }
    case "llama3":
      return { inverse: llama3(inverse, read, length()), scale: 1 };
    case "dynamic":
      return dynamic(config, inverse, read);
    case "yarn":
      return yarn(config, inverse, read, length());
    case "su": // the name in Microsoft's first files
    case "longrope":
      return longrope(config, read, length());
    default: {
      const near = typeof kind === "string" ? suggestion(kind, KINDS) : undefined;
      throw new ConfigError(
        `config.json: rope_scaling type ${show(kind)} is not supported${near ? `; did you mean "${near}"?` : ""}`,
        { hint: `supported: ${KINDS.join(", ")}` },
      );
    }
  }
}

const f32 = Math.fround;

/** `theta ^ (2i / dim)` for each pair of dims. */
function powers(theta: number, dim: number): Float32Array {
  return Float32Array.from({ length: dim / 2 }, (_, i) => theta ** f32((2 * i) / dim));
}

function frequenciesOf(theta: number, dim: number): Float32Array {
  return powers(theta, dim).map((power) => 1 / power);
}

/** Reads a scaling block key by key. */
class Block {
  readonly #fields: Readonly<Record<string, unknown>>;
  readonly #kind: unknown;

  constructor(fields: Readonly<Record<string, unknown>>, kind: unknown) {
    this.#fields = fields;
    this.#kind = kind;
  }

  /** @throws ConfigError unless the block, or else `instead`, has a positive number */
  number(key: string, instead?: unknown): number {
    const value = this.#fields[key] ?? instead;
    if (typeof value === "number" && value > 0 && Number.isFinite(value)) return value;
    throw this.#wrong(`a positive "${key}"`, value);
  }

  /** The same for a key that may be missing or null. */
  optional(key: string): number | undefined {
    return (this.#fields[key] ?? undefined) === undefined ? undefined : this.number(key);
  }

  flag(key: string): boolean | undefined {
    const value = this.#fields[key] ?? undefined;
    if (value === undefined || typeof value === "boolean") return value;
    throw this.#wrong(`true or false as "${key}"`, value);
  }

  /** @throws ConfigError unless the key has `count` positive numbers */
  numbers(key: string, count: number): Float32Array {
    const value = this.#fields[key];
    const fits = Array.isArray(value) && value.length === count;
    if (fits && value.every((one) => typeof one === "number" && one > 0 && Number.isFinite(one))) {
      return Float32Array.from(value as number[]);
    }
    throw this.#wrong(`${count} positive numbers as "${key}"`, value);
  }

  #wrong(wanted: string, value: unknown): ConfigError {
    return new ConfigError(
      `config.json: rope_scaling of type ${show(this.#kind)} needs ${wanted}, got ${show(value)}`,
      { hint: CONFIG_HINT },
    );
  }
}

/** The model's length. @throws ConfigError if config.json has none */
function modelLength({ longest }: RopeConfig): number {
  if (typeof longest === "number" && longest > 0) return longest;
  throw new ConfigError(`config.json: this rope_scaling needs max_position_embeddings, got ${show(longest)}`, {
    hint: CONFIG_HINT,
  });
}

/** Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between blended. */
function llama3(inverse: Float32Array, read: Block, original: number): Float32Array {
  const factor = read.number("factor");
  const low = read.number("low_freq_factor");
  const high = read.number("high_freq_factor");
  return inverse.map((f) => {
    const wavelength = (2 * Math.PI) / f;
    if (wavelength < original / high) return f;
    if (wavelength > original / low) return f / factor;
    const smooth = (original / wavelength - low) / (high - low);
    return ((1 - smooth) * f) / factor + smooth * f;
  });
}

/** Dynamic NTK: the base grows with texts beyond the model's length. */
function dynamic(config: RopeConfig, inverse: Float32Array, read: Block): RopeFrequencies {
  const { theta, dim } = config;
  const factor = read.number("factor");
  const most = modelLength(config);
  if (dim < 4) {
    throw new ConfigError(`config.json: rope_scaling of type "dynamic" needs 4 rotating dims, got ${dim}`, {
      hint: CONFIG_HINT,
    });
  }
  const ofLength = (length: number): Float32Array => {
    if (length <= most) return inverse;
    const growth = f32(f32(f32(factor * length) / most) - (factor - 1));
    return frequenciesOf(f32(theta * f32(growth ** (dim / (dim - 2)))), dim);
  };
  return { inverse, scale: 1, ofLength };
}

/** YaRN (Peng et al. 2023): short wavelengths kept, long ones divided by the factor, a ramp over the dims between. */
function yarn(config: RopeConfig, inverse: Float32Array, read: Block, original: number): RopeFrequencies {
  const { theta, dim } = config;
  const longer = modelLength(config) / original;
  // Where no length says it either, a factor is missing.
  const factor = longer === 1 ? read.number("factor") : (read.optional("factor") ?? longer);
  const [mscale, all] = [read.optional("mscale"), read.optional("mscale_all_dim")];
  const magnitude = (by = 1): number => (factor <= 1 ? 1 : 0.1 * by * Math.log(factor) + 1);
  const scale = read.optional("attention_factor") ?? (mscale && all ? magnitude(mscale) / magnitude(all) : magnitude());
  /** The dim that turns `rotations` times within the original length. */
  const turning = (rotations: number): number =>
    (dim * Math.log(original / (rotations * 2 * Math.PI))) / (2 * Math.log(theta));
  const whole = read.flag("truncate") ?? true;
  const first = turning(read.optional("beta_fast") ?? 32);
  const last = turning(read.optional("beta_slow") ?? 1);
  const low = Math.max(whole ? Math.floor(first) : first, 0);
  const high = Math.min(whole ? Math.ceil(last) : last, dim - 1);
  const width = high === low ? 0.001 : high - low;
  const divided = powers(theta, dim).map((power) => 1 / f32(factor * power));
  const blended = inverse.map((f, i) => {
    const kept = f32(1 - Math.min(1, Math.max(0, f32(f32(i - f32(low)) / f32(width)))));
    return f32(divided[i]! * f32(1 - kept)) + f32(f * kept);
  });
  return { inverse: blended, scale };
}

/** LongRoPE (Ding et al. 2024): a factor for each frequency; one list for texts up to the original length, one for others. */
function longrope(config: RopeConfig, read: Block, original: number): RopeFrequencies {
  const { theta, dim } = config;
  const factor = read.optional("factor") ?? modelLength(config) / original;
  const scale =
    read.optional("attention_factor") ?? (factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original)));
  const plain = powers(theta, dim);
  const [short, long] = ["short_factor", "long_factor"].map((key) =>
    read.numbers(key, dim / 2).map((one, i) => 1 / f32(one * plain[i]!)),
  ) as [Float32Array, Float32Array];
  return { inverse: short, scale, ofLength: (length) => (length > original ? long : short) };
}
