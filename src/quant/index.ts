// The list of quantization schemes: maps a BitsAndBytesConfig to the scheme it selects, and the config.json of a quantized
// checkpoint to the schemes that restore it.

import type { PackedFormat } from "../checkpoints/packed/format.js";
import { isPackedMethod, PACKED_METHODS } from "../checkpoints/packed/methods.js";
import { torchName } from "../core/dtype.js";
import { ConfigError, namesOf, OctavoError, OptionError, UnsupportedModelError } from "../core/errors.js";
import { listed, show } from "../core/show.js";
import type { FloatDType, Scheme } from "../nn/weight.js";
import type { Compute } from "../ops/linear.js";
import { PythonFloat } from "../sources/json-edit.js";
import { OWN_METHOD, sharedFields } from "./_shared.js";
import { BitsAndBytesConfig, type BitsAndBytesOptions } from "./config.js";
import { fourBitScheme } from "./four-bit.js";
import { llmInt8Scheme } from "./llm-int8.js";
import { o4Scheme } from "./o4.js";
import { type CodesName, isCodes, SelectiveConfig, type SelectiveOptions } from "./selective.js";

/** How the linears of a model are quantized: all alike, or each as its path says. */
export type Quantization = BitsAndBytesConfig | SelectiveConfig;

/** What callers give for one: the config, or its fields. */
export type QuantizationOptions = Quantization | BitsAndBytesOptions | SelectiveOptions;

/** Fields that only a SelectiveConfig has. */
const SELECTIVE_FIELDS = ["modules", "default"];

/** The config that a caller gave, or that its fields are for. @throws OptionError */
export function quantizationOf(given: QuantizationOptions): Quantization {
  if (BitsAndBytesConfig.is(given) || SelectiveConfig.is(given)) return given;
  const names = namesOf("quantization_config", given);
  return SELECTIVE_FIELDS.some((name) => names.includes(name))
    ? new SelectiveConfig(given as SelectiveOptions)
    : new BitsAndBytesConfig(given as BitsAndBytesOptions);
}

/** Storage of the output head: like the rest of the model, or in 8 bits. */
export const HEAD_DTYPES = ["auto", "int8"] as const;
export type HeadDType = (typeof HEAD_DTYPES)[number];

/** The scheme of a separately stored output head; undefined for "auto". LLM.int8() with its usual threshold. */
export function headScheme(dtype: HeadDType | undefined): Scheme | undefined {
  return dtype === "int8" ? llmInt8Scheme(6) : undefined;
}

/** The fields of a BitsAndBytesConfig that mean a scheme of a SelectiveConfig. */
const CODES = {
  int8: { load_in_8bit: true },
  nf4: { load_in_4bit: true, bnb_4bit_quant_type: "nf4" },
  "nf4-dq": { load_in_4bit: true, bnb_4bit_quant_type: "nf4", bnb_4bit_use_double_quant: true },
  fp4: { load_in_4bit: true, bnb_4bit_quant_type: "fp4" },
  "fp4-dq": { load_in_4bit: true, bnb_4bit_quant_type: "fp4", bnb_4bit_use_double_quant: true },
  o4: { load_in_4bit: true, bnb_4bit_quant_type: "o4" },
} as const satisfies Record<CodesName, BitsAndBytesOptions>;

/** The configuration of linears that a SelectiveConfig puts into one of its schemes. */
export function codesConfig(config: SelectiveConfig, scheme: CodesName): BitsAndBytesConfig {
  const { bnb_4bit_blocksize, bnb_4bit_scale_search, ...products } = sharedFields(config);
  // O4 has only one way to make codes.
  const made = scheme === "o4" ? {} : { bnb_4bit_blocksize, bnb_4bit_scale_search };
  return new BitsAndBytesConfig({ ...CODES[scheme], ...products, ...made });
}

/**
 * The scheme for the linears of a model; undefined if they are not quantized, or not all alike.
 * @param backward how gradients through 8-bit matrices may round
 */
export function schemeOf(config: Quantization | undefined, backward?: Compute): Scheme | undefined {
  const method = BitsAndBytesConfig.is(config) ? config.quantization_method() : undefined;
  if (!BitsAndBytesConfig.is(config) || method === undefined) return undefined;
  if (method === "llm_int8") return llmInt8Scheme(config.llm_int8_threshold, backward);
  const compute = config.bnb_4bit_compute_dtype === "f16" ? "f32" : config.bnb_4bit_compute_dtype;
  if (method === "o4") return o4Scheme(compute);
  return fourBitScheme({
    kind: method,
    blocksize: config.bnb_4bit_blocksize,
    double_quant: config.bnb_4bit_use_double_quant,
    scale_search: config.bnb_4bit_scale_search,
    compute,
  });
}

/** Fields of a stored configuration that are used here; others are ignored. */
const READ = [
  "llm_int8_threshold",
  "llm_int8_skip_modules",
  "bnb_4bit_quant_type",
  "bnb_4bit_use_double_quant",
  "bnb_4bit_compute_dtype",
] as const satisfies readonly (keyof BitsAndBytesOptions)[];

/** A field's value in words, without quotes. */
function shown(value: unknown): string {
  return typeof value === "string" ? value : show(value);
}

/** Fields that say how the codes were made: they cannot be changed once codes exist. */
const MADE = [
  "bnb_4bit_quant_type",
  "bnb_4bit_use_double_quant",
  "bnb_4bit_scale_search",
  "llm_int8_skip_modules",
] as const;
/** Fields that only say how products are computed: the caller's values override the stored ones. */
const COMPUTED = ["llm_int8_threshold", "bnb_4bit_compute_dtype"] as const;

/**
 * The block `quantization_config` of a config.json, in the layout of any version; undefined if nothing is quantized, or by one of
 * the methods of `storedPacked`.
 * @throws UnsupportedModelError for a method other than bitsandbytes; ConfigError for invalid fields
 */
export function storedQuantization(json: unknown, location: string): Quantization | undefined {
  if (json === undefined || json === null) return undefined;
  if (typeof json !== "object" || Array.isArray(json)) {
    throw new ConfigError("config.json: quantization_config must be an object");
  }
  const fields = json as Readonly<Record<string, unknown>>;
  const flag = (name: string): boolean => fields[name] === true || fields[`_${name}`] === true;
  const method = fields.quant_method ?? "bitsandbytes"; // older files of bitsandbytes name none
  if (fields.quant_method == null && (fields.bits ?? fields.group_size ?? fields.config_groups) !== undefined) {
    throw new UnsupportedModelError(`${location}: quantization_config of config.json names no quant_method`, {
      hint: `its method is one of ${listed(PACKED_METHODS, 9)}: add it as quant_method`,
    });
  }
  if (isPackedMethod(method)) return undefined;
  if (method === OWN_METHOD) return checkedFields(() => ownMethod(fields));
  if (method !== "bitsandbytes") {
    throw new UnsupportedModelError(`${location} holds a checkpoint that was quantized with ${show(method)}`, {
      hint: `read are bitsandbytes, ${listed(PACKED_METHODS, 9)}; load the original checkpoint with load_in_8bit or load_in_4bit`,
      details: { quant_method: show(method) },
    });
  }
  const own = ownFields(fields.octavo);
  if (own.selective !== undefined) return checkedFields(() => new SelectiveConfig(own.selective));
  const options: Record<string, unknown> = { load_in_8bit: flag("load_in_8bit"), load_in_4bit: flag("load_in_4bit") };
  for (const key of READ) if (fields[key] !== undefined && fields[key] !== null) options[key] = fields[key];
  if (own.compute_dtype !== undefined) options.bnb_4bit_compute_dtype = own.compute_dtype;
  const config = checkedFields(() => new BitsAndBytesConfig(options));
  return config.quantization_method() ? config : undefined;
}

/** The config under a `quant_method` that is Octavo's: of linears that are all in O4, or each as its path says. */
function ownMethod({ quant_method: _, ...fields }: Readonly<Record<string, unknown>>): Quantization {
  if (fields.bnb_4bit_quant_type !== "o4") return new SelectiveConfig(fields);
  return new BitsAndBytesConfig({ ...fields, load_in_4bit: true });
}

/** What `make` makes of a file's fields. @throws ConfigError for its errors */
function checkedFields<T>(make: () => T): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof OctavoError)) throw error;
    throw new ConfigError(`config.json: quantization_config: ${error.message}`, { details: error.details });
  }
}

/**
 * What Octavo adds to `quantization_config` of the files that it writes, where Python has no word for it: products in 8-bit codes,
 * decoded values that are not rounded, and a SelectiveConfig that names only one scheme with codes.
 */
interface OwnFields {
  readonly compute_dtype?: "int8";
  readonly values?: "float32";
  readonly selective?: SelectiveOptions;
}

/** The block `octavo`, as far as it is known. @throws ConfigError for values that this version does not know */
function ownFields(block: unknown): OwnFields {
  if (block === undefined || block === null) return {};
  const fields = block as OwnFields;
  const known =
    typeof block === "object" &&
    (fields.compute_dtype ?? "int8") === "int8" &&
    (fields.values ?? "float32") === "float32" &&
    (fields.selective === undefined || typeof fields.selective === "object") &&
    Object.keys(block).every((key) => key === "compute_dtype" || key === "values" || key === "selective");
  if (known) return fields;
  throw new ConfigError(`config.json: quantization_config.octavo: ${show(block)} is not known here`, {
    hint: "a newer version of Octavo wrote this checkpoint",
  });
}

/** What a SelectiveConfig comes to where it names one scheme with codes: everything else is skipped. */
export interface OneScheme {
  readonly config: BitsAndBytesConfig;
  readonly skip: readonly string[];
}

/**
 * The block for a SelectiveConfig. Programs that do not know `quant_method` refuse it, or trip over the shapes of codes. Codes of
 * LLM.int8() have the shape of floats, and transformers only warns of a method that it does not know: so what bitsandbytes can say
 * is said in its words.
 */
export function selectiveJson(
  config: SelectiveConfig,
  dtype: FloatDType,
  one: OneScheme | undefined,
): Record<string, unknown> {
  const selective = { ...config.to_dict(), llm_int8_threshold: new PythonFloat(config.llm_int8_threshold) };
  if (one?.config.quantization_method() === "o4" || !one) return selective;
  const block = quantizationJson(one.config, dtype);
  return {
    ...block,
    llm_int8_skip_modules: one.skip,
    octavo: { ...(block.octavo as OwnFields | undefined), selective },
  };
}

/** The block `quantization_config` for a model in `dtype` that was quantized here. Keys and types are those of transformers. */
export function quantizationJson(config: BitsAndBytesConfig, dtype: FloatDType): Record<string, unknown> {
  // transformers takes a block with load_in_4bit for bitsandbytes', whatever its method.
  if (config.quantization_method() === "o4") {
    const { quant_method, bnb_4bit_quant_type, bnb_4bit_compute_dtype, llm_int8_skip_modules } = config.to_dict();
    return { quant_method, bnb_4bit_quant_type, bnb_4bit_compute_dtype, llm_int8_skip_modules };
  }
  const { load_in_4bit, load_in_8bit, bnb_4bit_compute_dtype: compute } = config;
  const own: OwnFields = {
    ...(load_in_4bit && compute === "int8" ? { compute_dtype: "int8" } : {}),
    ...(load_in_4bit && dtype !== "f32" ? { values: "float32" } : {}),
  };
  return {
    _load_in_4bit: load_in_4bit,
    _load_in_8bit: load_in_8bit,
    bnb_4bit_compute_dtype: torchName(compute === "int8" ? dtype : compute),
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_quant_type: config.bnb_4bit_quant_type,
    bnb_4bit_use_double_quant: config.bnb_4bit_use_double_quant,
    llm_int8_enable_fp32_cpu_offload: false,
    llm_int8_has_fp16_weight: false,
    llm_int8_skip_modules: config.llm_int8_skip_modules,
    llm_int8_threshold: new PythonFloat(config.llm_int8_threshold),
    load_in_4bit,
    load_in_8bit,
    ...(Object.keys(own).length > 0 ? { octavo: own } : {}),
    quant_method: "bitsandbytes",
  };
}

/** How others have packed the matrices of a checkpoint; undefined if they have not. @throws ConfigError, UnsupportedModelError */
export async function storedPacked(json: unknown, location: string): Promise<PackedFormat | undefined> {
  const fields = json as Readonly<Record<string, unknown>> | null | undefined;
  if (!isPackedMethod(fields?.quant_method)) return undefined;
  const { packedFormat } = await import("../checkpoints/packed/index.js");
  return packedFormat(fields!, location);
}

/** True if decoded 4-bit values of a checkpoint with this `quantization_config` are not rounded: Octavo made the codes. */
export function storedExact(json: unknown): boolean {
  const fields = json as { octavo?: unknown; quant_method?: unknown } | null | undefined;
  return fields?.quant_method === OWN_METHOD || ownFields(fields?.octavo).values === "float32";
}

/**
 * The effective configuration of a checkpoint quantized as `stored`, if the caller asked for `asked`.
 * @throws OptionError if other codes were requested than the checkpoint holds
 */
export function agree(stored: Quantization, asked: Quantization | undefined, location: string): Quantization {
  const wanted = asked?.quantization_method();
  if (asked === undefined || wanted === undefined) return stored;
  const contradict = (option: string, want: unknown, is: unknown): never => {
    throw new OptionError(
      `${option}: ${shown(want)} was asked for, but ${location} is quantized already: ${shown(is)}`,
      {
        details: { option, asked: shown(want), stored: shown(is) },
        hint: `in Python the checkpoint's own quantization_config wins; leave ${option} out, or load the original checkpoint`,
      },
    );
  };
  if (SelectiveConfig.is(asked) || SelectiveConfig.is(stored)) {
    if (!SelectiveConfig.is(asked) || !SelectiveConfig.is(stored)) {
      return contradict("quantization_config", wanted, stored.quantization_method());
    }
    if (JSON.stringify(choices(asked)) !== JSON.stringify(choices(stored))) {
      contradict("quantization_config", choices(asked), choices(stored));
    }
    const search = "bnb_4bit_scale_search";
    if (asked.given.has(search) && asked[search] !== stored[search]) contradict(search, asked[search], stored[search]);
    return stored.computed(Object.fromEntries(computedBy(asked)));
  }
  if (asked.load_in_8bit !== stored.load_in_8bit) {
    contradict(asked.load_in_8bit ? "load_in_8bit" : "load_in_4bit", wanted, stored.quantization_method());
  }
  for (const key of MADE) {
    if (!asked.given.has(key) || shown(asked[key]) === shown(stored[key])) continue;
    contradict(key, asked[key], stored[key]);
  }
  const { quant_method: _, bnb_4bit_blocksize: __, bnb_4bit_scale_search: ___, ...own } = stored.to_dict();
  return new BitsAndBytesConfig({ ...own, ...Object.fromEntries(computedBy(asked)) });
}

/** The fields about products that a caller set. */
function computedBy(asked: Quantization): [string, unknown][] {
  const fields: Readonly<Record<string, unknown>> = asked.to_dict();
  return COMPUTED.filter((key) => asked.given.has(key)).map((key) => [key, fields[key]]);
}

/** What a config chooses for the matrices. */
function choices({ modules, default: rest }: SelectiveConfig) {
  return { modules: Object.entries(modules), default: rest };
}

/**
 * The schemes that may claim matrices of a checkpoint quantized like this.
 * @param exact products with 4-bit matrices are exact, whatever the checkpoint's `bnb_4bit_compute_dtype`
 * @param values decoded 4-bit values stay f32, whatever dtype the checkpoint names
 * @param backward how gradients through 8-bit matrices may round
 */
export function storedSchemes(
  config: Quantization,
  exact = false,
  values = false,
  backward?: Compute,
): readonly Scheme[] {
  if (SelectiveConfig.is(config)) {
    const kinds = [...config.schemes].filter(isCodes).map((scheme) => codesConfig(config, scheme));
    // One scheme for the 4-bit codes of bitsandbytes claims all kinds of them.
    const own = kinds.find((one) => one.quantization_method() === "o4");
    const four = kinds.find((one) => one.load_in_4bit && one.quantization_method() !== "o4");
    const eight = kinds.find(({ load_in_8bit }) => load_in_8bit);
    return [eight, own, four].flatMap((one) => (one ? storedSchemes(one, exact, values, backward) : []));
  }
  if (config.load_in_8bit) return [llmInt8Scheme(config.llm_int8_threshold, backward)];
  const compute = exact || config.bnb_4bit_compute_dtype === "f16" ? "f32" : config.bnb_4bit_compute_dtype;
  const { bnb_4bit_quant_type: kind, bnb_4bit_use_double_quant: double_quant } = config;
  if (kind === "o4") return [o4Scheme(compute)];
  // The blocksize of each matrix is stored beside its codes.
  return [fourBitScheme({ kind, double_quant, compute, blocksize: config.bnb_4bit_blocksize, exact_values: values })];
}
