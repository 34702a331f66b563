// The config of DeBERTa v2 and v3, and attention whose scores depend on distances by way of queries and of keys (He et al. 2020,
// "Disentangled attention"): (q·k + q·K[d] + k·Q[d]) / √(n·size), where K and Q are projections of a table of relative positions, d is
// the row of the distance query - key, and n the number of terms.

import { CONFIG_HINT, ConfigError } from "../core/errors.js";
import * as z from "../core/schema.js";
import { show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { attendAll, attendBiased, type BiasOfQueries } from "../nn/attend.js";
import { signedBucketOf } from "../nn/buckets.js";
import { Linear, Module } from "../nn/module.js";
import type { Pass } from "../nn/pass.js";
import { add } from "../ops/add.js";
import { contiguous } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { expertLinear } from "../ops/experts.js";
import { scale } from "../ops/scale.js";
import { bertFields } from "./_bert.js";
import { activationName, count, headSize, readConfig } from "./_config.js";

const { position_embedding_type: _, is_decoder: __, ...fields } = bertFields;

const schema = z.object({
  ...fields,
  type_vocab_size: z.int().min(0).max(16_777_216).default(0),
  layer_norm_eps: bertFields.layer_norm_eps.unwrap().default(1e-7),
  relative_attention: z.boolean().default(false),
  max_relative_positions: z.int().max(65_536).default(-1),
  position_buckets: z.int().max(65_536).default(-1),
  position_biased_input: z.boolean().default(true),
  pos_att_type: z.union([z.string(), z.array(z.string())]).nullish(),
  share_att_key: z.boolean().default(false),
  norm_rel_ebd: z.string().default("none"),
  conv_kernel_size: z.int().min(0).max(1023).default(0),
  conv_groups: count.default(1),
  conv_act: activationName.default("tanh"),
  pooler_hidden_act: activationName.default("gelu"),
  legacy: z.boolean().default(true),
  // Other widths than hidden_size, of which no published file has any.
  pooler_hidden_size: count.nullish(),
  embedding_size: count.nullish(),
  attention_head_size: count.nullish(),
});

export interface DebertaConfig extends Omit<z.infer<typeof schema>, "embedding_size"> {
  /** Scores by queries and relative keys, and by keys and relative queries. */
  readonly c2p: boolean;
  readonly p2c: boolean;
  /** Rows of the table of relative positions on either side of zero. */
  readonly span: number;
  /** Distances from here on share the last bucket. */
  readonly farthest: number;
}

function refuse(what: string): never {
  throw new ConfigError(`config.json of a "deberta-v2" model: ${what}`, { hint: CONFIG_HINT });
}

/** @throws ConfigError for what is not done here, too */
export function read(json: ConfigJson): DebertaConfig {
  const c = readConfig(json, schema);
  const { hidden_size: hidden, pos_att_type: given, position_buckets: buckets } = c;
  const size = headSize(hidden, c.num_attention_heads);
  const widths = [
    ["pooler_hidden_size", hidden],
    ["embedding_size", hidden],
    ["attention_head_size", size],
  ] as const;
  for (const [key, usual] of widths) {
    if ((c[key] ?? usual) !== usual) refuse(`${key} other than ${usual} is not supported (got ${c[key]})`);
  }
  if (c.conv_kernel_size > 0 && c.conv_kernel_size % 2 === 0) {
    refuse(`conv_kernel_size must be odd, got ${c.conv_kernel_size}`);
  }
  if (c.conv_kernel_size > 0 && hidden % c.conv_groups !== 0) {
    refuse(`conv_groups ${c.conv_groups} do not divide ${hidden} channels`);
  }
  const names = typeof given === "string" ? given.toLowerCase().split("|") : (given ?? []);
  const kinds = names.map((name) => name.trim()).filter((name) => name !== "");
  const other = kinds.find((name) => name !== "c2p" && name !== "p2c");
  if (other !== undefined) refuse(`pos_att_type ${show(other)} is not supported (known: c2p, p2c)`);
  const farthest = c.max_relative_positions < 1 ? c.max_position_embeddings : c.max_relative_positions;
  if (c.relative_attention && buckets > 0 && (buckets < 4 || farthest - 1 <= buckets / 2)) {
    refuse(`position_buckets ${buckets} do not fit max_relative_positions ${farthest}`);
  }
  const span = buckets > 0 ? buckets : farthest;
  return { ...c, c2p: kinds.includes("c2p"), p2c: kinds.includes("p2c"), span, farthest };
}

/** The row of a distance in the table of relative positions, which has 2 * span. */
export function rowOf(distance: number, { span, farthest, position_buckets: buckets }: DebertaConfig): number {
  const bucket = buckets > 0 ? signedBucketOf(distance, buckets, farthest) : distance;
  return Math.max(0, Math.min(2 * span - 1, bucket + span));
}

/** The rows of the table that texts of some length look at. */
export class RelativeRows {
  readonly first: number;
  readonly count: number;
  /** Rows, counted from `first`, of the distances steps - 1 to -(steps - 1): those of a query's keys are in the keys' order. */
  readonly #rows: Int32Array;
  readonly #steps: number;

  constructor(c: DebertaConfig, steps: number) {
    const all = Int32Array.from({ length: 2 * steps - 1 }, (_, at) => rowOf(steps - 1 - at, c));
    this.first = all.at(-1)!; // rows grow with distances
    this.count = all[0]! - this.first + 1;
    this.#rows = all.map((row) => row - this.first);
    this.#steps = steps;
  }

  /**
   * Where in a table [N,count] of queries the numbers of queries `from` to `from + count` and all keys are, i32[count,T]; or, `byKey`, in
   * one of keys.
   */
  places(from: number, count: number, byKey: boolean): Int32Array {
    const [steps, rows, wide] = [this.#steps, this.#rows, this.count];
    const places = new Int32Array(count * steps);
    for (let i = 0, at = 0; i < count; i++) {
      const first = steps - 1 - from - i;
      for (let j = 0; j < steps; j++) places[at++] = (byKey ? j : i) * wide + rows[first + j]!;
    }
    return places;
  }
}

/** Places that a pass keeps for all its layers: 16 MB. */
const KEPT = 1 << 22;

/** What the layers of a pass share. */
export class Relative {
  readonly #pass: Pass;
  readonly #table: Tensor;
  readonly #rows: RelativeRows;
  readonly #steps: number;
  /** Keys of what is made once for each device. */
  readonly #keys = new Map<string, object>();

  /** @param table relative positions [rows.count,hidden] */
  constructor(pass: Pass, steps: number, rows: RelativeRows, table: Tensor) {
    this.#pass = pass;
    this.#table = table;
    this.#rows = rows;
    this.#steps = steps;
  }

  #once(name: string, { device }: Tensor, make: () => Tensor): Tensor {
    const key = this.#keys.get(name) ?? {};
    this.#keys.set(name, key);
    return this.#pass.once(key, device, make);
  }

  /** What `projection` makes of the table for each head, [H,count,D], times `factor`; on the device of `x`. */
  projected(x: Tensor, projection: Linear, heads: number, factor: number): Tensor {
    return scope(() => {
      const all = projection.forward(this.#pass.at(x.device, this.#table)).view(this.#rows.count, heads, -1);
      return scale(contiguous(all.permute(1, 0, 2)), factor);
    });
  }

  /** Products of x[R,N,H,D] with each head's w[H,W,D], as a table of rows for each token and row of w: [N*W,R*H]. */
  products(x: Tensor, w: Tensor): Tensor {
    const [rows = 0, tokens = 0, heads = 0, size = 0] = x.shape;
    const width = w.shape[1]!;
    const [batch, most] = [this.#pass.input.positions.shape[0]!, this.#steps];
    const numbers = (): Tensor =>
      Tensor.from(
        x.device,
        Int32Array.from({ length: heads }, (_, head) => head),
        [1, heads],
      ).expand(batch * most, heads);
    return scope(() => {
      const experts = this.#once("heads", x, () => contiguous(numbers())).narrow(0, 0, rows * tokens);
      const all = expertLinear(contiguous(x).view(rows * tokens, heads, size), w, { experts }); // [R*N,H,W]
      const table = contiguous(all.view(rows, tokens, heads, width).permute(1, 3, 0, 2));
      return table.view(tokens * width, rows * heads);
    });
  }

  /** The numbers of a table of queries, or of keys, for queries `from` to `from + count` and all keys: [count,T,R*H]. */
  look(table: Tensor, from: number, count: number, byKey: boolean): Tensor {
    const make = (): Tensor => Tensor.from(table.device, this.#rows.places(from, count, byKey), [count, this.#steps]);
    const kept = this.#steps ** 2 <= KEPT;
    return embedding(table, kept ? this.#once(`${from} ${byKey}`, table, make) : make());
  }
}

export class DisentangledSelfAttention extends Module {
  query_proj: Linear;
  key_proj: Linear;
  value_proj: Linear;
  /** Where relative positions have projections of their own. */
  pos_key_proj: Linear | undefined;
  pos_query_proj: Linear | undefined;
  readonly #c: DebertaConfig;

  constructor(c: DebertaConfig) {
    super();
    const projection = (): Linear => new Linear(c.hidden_size, c.hidden_size, { bias: true });
    this.query_proj = projection();
    this.key_proj = projection();
    this.value_proj = projection();
    const own = c.relative_attention && !c.share_att_key;
    this.pos_key_proj = own && c.c2p ? projection() : undefined;
    this.pos_query_proj = own && c.p2c ? projection() : undefined;
    this.#c = c;
  }

  forward(x: Tensor, pass: Pass, relative: Relative | undefined): Tensor {
    const { num_attention_heads: heads, c2p, p2c } = this.#c;
    const [batch = 0, steps = 0, width = 0] = x.shape;
    const size = width / heads;
    const factor = (size * (1 + Number(c2p) + Number(p2c))) ** -0.5;
    const split = (projection: Linear): Tensor => projection.forward(x).view(batch, steps, heads, size); // [B,T,H,D]
    const [q, k, v] = [split(this.query_proj), split(this.key_proj), split(this.value_proj)];
    if (!relative || !(c2p || p2c)) return attendAll(pass, q, k, v, { scale: factor });
    const keys = c2p ? relative.projected(x, this.pos_key_proj ?? this.key_proj, heads, factor) : undefined;
    const queries = p2c ? relative.projected(x, this.pos_query_proj ?? this.query_proj, heads, factor) : undefined;
    const biasOf = (row: number, count: number): BiasOfQueries => {
      const byKey = queries && relative.products(k.narrow(0, row, count), queries);
      return (from, some) =>
        scope(() => {
          const mine = q.narrow(0, row, count).narrow(1, from, some);
          const first = keys && scope(() => relative.look(relative.products(mine, keys), from, some, false));
          const second = byKey && relative.look(byKey, from, some, true);
          const sum = first && second ? add(first, second) : (first ?? second)!; // [some,T,R*H]
          return contiguous(sum.view(some, steps, count, heads).permute(2, 3, 0, 1));
        });
    };
    return attendBiased(pass, q, k, v, { scale: factor, biasOf });
  }
}
