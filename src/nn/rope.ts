// Inverse frequencies of rotary position embedding, with the scalings for longer texts that config.json can name. Pure
// numbers; the rotation itself is an op.

import { CONFIG_HINT, ConfigError, suggestion } from "../core/errors.js";
import { show } from "../core/show.js";

/** RoPE settings of config.json, in the old layout (`rope_theta`, `rope_scaling`) or the new (`rope_parameters`). */
export interface RopeConfig {
  readonly theta: number;
  /** Dims of a head that rotate. */
  readonly dim: number;
  readonly scaling: Readonly<Record<string, unknown>> | null;
  /** The original length where the scaling block does not say it. */
  readonly original?: unknown;
}

export interface RopeFrequencies {
  /** f32[dim / 2] */
  readonly inverse: Float32Array;
  /** Factor on cos and sin. */
  readonly scale: number;
}

const ORIGINAL = "original_max_position_embeddings";
const KINDS = ["default", "linear", "llama3"];

/**
 * The scaling block and theta from either layout of config.json, as transformers 5 reads them: one block, `rope_scaling` if it
 * says anything, else `rope_parameters`; theta and the original length from the block, then from the top level, where the
 * model's length stands in for the original one.
 * @throws ConfigError for a block that is no object, or a theta that is no positive number
 */
export function ropeFields(config: Readonly<Record<string, unknown>>): {
  theta: number;
  scaling: RopeConfig["scaling"];
  original: unknown;
} {
  const parameters = block(config.rope_parameters, "rope_parameters");
  const named = block(config.rope_scaling, "rope_scaling");
  const chosen = named && Object.keys(named).length > 0 ? named : parameters;
  const { rope_theta } = config;
  const theta = chosen?.rope_theta ?? rope_theta ?? 10000;
  const original = config.original_max_position_embeddings ?? config.max_position_embeddings;
  if (typeof theta !== "number" || !(theta > 0) || !Number.isFinite(theta)) {
    throw new ConfigError(`config.json: rope_theta must be a positive number, got ${show(theta)}`, {
      hint: CONFIG_HINT,
    });
  }
  return { theta, scaling: chosen, original };
}

function block(value: unknown, name: string): Readonly<Record<string, unknown>> | null {
  if (value === undefined || value === null) return null;
  if (typeof value !== "object" || Array.isArray(value))
    throw new ConfigError(`config.json: ${name} must be an object`, { hint: CONFIG_HINT });
  return value as Readonly<Record<string, unknown>>;
}

/**
 * Inverse frequencies, as transformers computes them.
 * @throws ConfigError for an unknown or incomplete `rope_scaling`
 */
export function ropeFrequencies({ theta, dim, scaling, original }: RopeConfig): RopeFrequencies {
  const inverse = Float32Array.from({ length: dim / 2 }, (_, i) =>
    Math.fround(1 / Math.fround(theta ** ((2 * i) / dim))),
  );
  // Files of the time between two versions have both.
  const { rope_type, type } = scaling ?? {};
  const kind = rope_type ?? type ?? "default";
  if (scaling === null || kind === "default") return { inverse, scale: 1 };
  const number = (key: string): number => {
    const value = scaling[key] ?? (key === ORIGINAL ? original : undefined);
    if (typeof value !== "number" || !(value > 0) || !Number.isFinite(value)) {
      throw new ConfigError(
        `config.json: rope_scaling of type ${show(kind)} needs a positive "${key}", got ${show(value)}`,
        { hint: CONFIG_HINT },
      );
    }
    return value;
  };
  switch (kind) {
    case "linear": {
      const factor = number("factor");
      return { inverse: inverse.map((f) => f / factor), scale: 1 };
    }
    case "llama3":
      return { inverse: llama3(inverse, number), scale: 1 };
    default: {
      const near = typeof kind === "string" ? suggestion(kind, KINDS) : undefined;
      throw new ConfigError(
        `config.json: rope_scaling type ${show(kind)} is not supported${near ? `; did you mean "${near}"?` : ""}`,
        { hint: `supported: ${KINDS.join(", ")}` },
      );
    }
  }
}

/** Llama 3.1: long wavelengths are divided by the factor, short ones kept, those between blended. */
function llama3(inverse: Float32Array, number: (key: string) => number): Float32Array {
  const factor = number("factor");
  const low = number("low_freq_factor");
  const high = number("high_freq_factor");
  const original = number(ORIGINAL);
  return inverse.map((f) => {
    const wavelength = (2 * Math.PI) / f;
    if (wavelength < original / high) return f;
    if (wavelength > original / low) return f / factor;
    const smooth = (original / wavelength - low) / (high - low);
    return ((1 - smooth) * f) / factor + smooth * f;
  });
}
