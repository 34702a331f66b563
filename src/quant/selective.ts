// SelectiveConfig: a scheme for each linear of a model, chosen by the paths of modules. A configuration of Octavo's own, under a
// `quant_method` that other programs refuse by name; each matrix is stored in exactly the layout of its scheme.

import { DTYPE_SPELLINGS, type FloatName, parseDType, torchName } from "../core/dtype.js";
import { entriesOf, OptionError, suggestion } from "../core/errors.js";
import { type Options, option, readOptions, such, withoutFlags } from "../core/options.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import type { FloatDType } from "../nn/weight.js";
import { OWN_METHOD, SHARED, type Shared, sharedFields, sharedOf } from "./_shared.js";

/** The schemes with codes. "-dq" quantizes the scales of 4-bit blocks as well. */
const CODES = ["int8", "nf4", "nf4-dq", "fp4", "fp4-dq", "o4"] as const;
export type CodesName = (typeof CODES)[number];

/** "int8" is LLM.int8(), "o4" Octavo's own; "-dq" quantizes the scales of 4-bit blocks as well; "auto" is the model's own dtype. */
export type SchemeName = CodesName | FloatName | "auto";

/** A scheme as it is used: codes, a float dtype, or the model's own dtype. */
export type LinearScheme = CodesName | FloatDType | "auto";

const SCHEMES: readonly string[] = [...CODES, "auto", ...DTYPE_SPELLINGS];

/** The scheme of a name; undefined if it is none. */
function schemeNamed(name: unknown): LinearScheme | undefined {
  if (typeof name !== "string") return undefined;
  if (name === "auto" || isCodes(name)) return name;
  return parseDType(name);
}

/** True for a scheme with codes. */
export function isCodes(scheme: string): scheme is CodesName {
  return (CODES as readonly string[]).includes(scheme);
}

const OWN = {
  /** Only "octavo". */
  quant_method: option<typeof OWN_METHOD>(z.literal(OWN_METHOD), `"${OWN_METHOD}"`),
  /**
   * Schemes by patterns of module paths: `{ self_attn: "int8", mlp: "nf4", lm_head: "bfloat16" }`. A pattern is one or more whole
   * components of a path, "mlp" or "layers.0.mlp", anywhere in it; one "*" in a component stands for any characters. Of several patterns
   * that match a linear, the first one counts.
   */
  modules: such<Readonly<Record<string, SchemeName>>>(
    (value) => typeof value === "object" && value !== null && !Array.isArray(value),
    "an object with a scheme for each pattern of module paths",
  ),
  /** The scheme of linears that no pattern matches, except the output head (default: "auto", they stay in the model's dtype). */
  default: such<SchemeName>((value) => schemeNamed(value) !== undefined, `one of ${SCHEMES.join(", ")}`),
};

/** The fields of a SelectiveConfig. */
export const SELECTIVE = { ...OWN, ...withoutFlags(SHARED) };

export interface SelectiveOptions extends Options<typeof OWN>, Options<typeof SHARED> {}

/** One entry of `modules`. */
interface Rule {
  readonly pattern: string;
  readonly matches: RegExp;
  readonly scheme: LinearScheme;
}

/** What a config says of one linear. */
interface Said {
  readonly scheme: LinearScheme;
  /** The pattern that said it; undefined: the default. */
  readonly pattern: string | undefined;
}

export class SelectiveConfig {
  readonly default: LinearScheme;
  readonly llm_int8_threshold: number;
  readonly bnb_4bit_compute_dtype: Shared["bnb_4bit_compute_dtype"];
  readonly bnb_4bit_blocksize: Shared["bnb_4bit_blocksize"];
  readonly bnb_4bit_scale_search: boolean;
  /** The fields that were set explicitly. */
  readonly given: ReadonlySet<string>;
  readonly #rules: readonly Rule[];

  /** True for a config itself, which a proxy of one is not. */
  static is(value: unknown): value is SelectiveConfig {
    return typeof value === "object" && value !== null && #rules in value;
  }

  /**
   * A null field gets its default.
   * @throws OptionError for unknown fields and schemes, patterns that are no paths, and a config without any scheme
   */
  constructor(options: SelectiveOptions = {}) {
    const given = entriesOf("SelectiveConfig", options, Object.keys(SELECTIVE));
    const fields = readOptions(
      "SelectiveConfig",
      SELECTIVE,
      Object.fromEntries(given.filter(([, value]) => value !== null)),
    );
    this.given = new Set(Object.keys(fields));
    this.#rules = rulesOf(fields.modules ?? {});
    this.default = schemeNamed(fields.default ?? "auto")!;
    if (this.#rules.length === 0 && this.default === "auto") {
      throw new OptionError("SelectiveConfig: neither modules nor default names a scheme", {
        hint: '{ modules: { self_attn: "int8", mlp: "nf4" } }',
      });
    }
    const shared = sharedOf(fields);
    this.llm_int8_threshold = shared.llm_int8_threshold;
    this.bnb_4bit_compute_dtype = shared.bnb_4bit_compute_dtype;
    this.bnb_4bit_blocksize = shared.bnb_4bit_blocksize;
    this.bnb_4bit_scale_search = shared.bnb_4bit_scale_search;
  }

  /** Schemes by patterns, in their order. */
  get modules(): Readonly<Record<string, LinearScheme>> {
    return Object.fromEntries(this.#rules.map(({ pattern, scheme }) => [pattern, scheme]));
  }

  /** What the first pattern says that matches one of these paths of a linear. */
  said(...paths: readonly string[]): Said {
    const rule = this.#rules.find(({ matches }) => paths.some((path) => matches.test(`.${path}.`)));
    return rule ?? { scheme: this.default, pattern: undefined };
  }

  /** The schemes that it names. */
  get schemes(): ReadonlySet<LinearScheme> {
    return new Set([...this.#rules.map(({ scheme }) => scheme), this.default]);
  }

  /** Always "selective". */
  quantization_method(): "selective" {
    return "selective";
  }

  /** The same with other fields that say how products are computed. */
  computed(fields: Pick<SelectiveOptions, "llm_int8_threshold" | "bnb_4bit_compute_dtype">): SelectiveConfig {
    return new SelectiveConfig({ ...this.to_dict(), ...fields });
  }

  /** The block for config.json, and the contents of a plan's file. */
  to_dict(): Required<SelectiveOptions> {
    const word = (scheme: LinearScheme): SchemeName =>
      scheme === "f32" || scheme === "f16" || scheme === "bf16" ? torchName(scheme) : scheme;
    return {
      quant_method: OWN_METHOD,
      modules: Object.fromEntries(this.#rules.map(({ pattern, scheme }) => [pattern, word(scheme)])),
      default: word(this.default),
      ...sharedFields(this),
    };
  }
}

/** The rules of `modules`. @throws OptionError */
function rulesOf(modules: object): Rule[] {
  return entriesOf(MODULES, modules).map(([pattern, name]) => {
    const scheme = schemeNamed(name);
    if (scheme === undefined) {
      const near = typeof name === "string" ? suggestion(name, SCHEMES) : undefined;
      throw new OptionError(
        `${MODULES}: the scheme of ${show(pattern)} must be one of ${SCHEMES.join(", ")}, got ${show(name)}`,
        { details: { option: "modules" }, hint: near && `did you mean "${near}"?` },
      );
    }
    const components = pattern.split(".");
    // One star each: several would be tried in all their places, and a pattern may come from a file.
    if (pattern.length > LONGEST || components.some((one) => !/^[^\s*]*\*?[^\s*]*$/.test(one) || one === "")) {
      throw new OptionError(`${MODULES}: ${show(pattern)} is no path of modules`, {
        details: { option: "modules" },
        hint: 'components with dots between them, with one "*" each at most: "layers.0.mlp", "layers.*.mlp"',
      });
    }
    if (/^\d+$/.test(pattern)) {
      throw new OptionError(
        `${MODULES}: ${show(pattern)} is a number, which objects put first wherever it was written`,
        {
          details: { option: "modules" },
          hint: `name the list as well: "layers.${pattern}"`,
        },
      );
    }
    const parts = components.map((one) => one.replace(/[\\^$|?+()[\]{}/-]/g, "\\$&").replace("*", "[^.]*"));
    return { pattern, matches: new RegExp(`\\.${parts.join("\\.")}\\.`), scheme };
  });
}

const MODULES = "SelectiveConfig: modules";
/** Characters of a pattern. */
const LONGEST = 500;
