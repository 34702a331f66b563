// BART's classifier: encoder and decoder read the same text, and the decoder's state at the text's last end is judged.

import * as z from "zod";
import { OptionError, ShapeError } from "../core/errors.js";
import { scope, type Tensor } from "../core/tensor.js";
import type { ConfigJson } from "../nn/architecture.js";
import { type EncoderGeometry, EncoderModel, type EncoderOutputs } from "../nn/encoder.js";
import type { Vocabulary } from "../nn/model.js";
import { Linear, Module } from "../nn/module.js";
import { Pass } from "../nn/pass.js";
import { rowsAt } from "../ops/pool.js";
import { type BartKind, BartModel, readBart } from "./_bart-model.js";
import { labelCount, readConfig } from "./_config.js";

class BartClassificationHead extends Module {
  dense: Linear;
  out_proj: Linear;

  constructor(width: number, labels: number) {
    super();
    this.dense = new Linear(width, width, { bias: true });
    this.out_proj = new Linear(width, labels, { bias: true });
  }
}

/** What ends a text, and what the decoder reads first. */
const ends = z.object({ eos_token_id: z.int().default(2), decoder_start_token_id: z.int().default(2) });

export class BartForSequenceClassification extends EncoderModel {
  model: BartModel;
  classification_head: BartClassificationHead;
  readonly geometry: EncoderGeometry;
  readonly per_token = false;
  readonly #ends: z.infer<typeof ends>;

  constructor(json: ConfigJson, kind: BartKind) {
    super();
    const c = readBart(json, kind);
    this.#ends = readConfig(json, ends);
    this.model = new BartModel(c, kind);
    this.classification_head = new BartClassificationHead(c.d_model, labelCount(json));
    this.geometry = {
      layers: c.encoder_layers + c.decoder_layers,
      hidden: c.d_model,
      vocab: c.vocab_size,
      token_types: 0,
      max_positions: c.max_position_embeddings,
    };
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.model.encoder.layers, this.model.decoder.layers];
  }

  override vocabulary(): Vocabulary {
    return { words: this.model.shared, geometry: this.geometry };
  }

  override modules_not_quantized(): readonly string[] {
    return ["classification_head.out_proj"];
  }

  override beside({ ids, rows, steps }: { ids: Int32Array; rows: number; steps: number }) {
    const { eos_token_id, decoder_start_token_id } = this.#ends;
    const decoder_ids = new Int32Array(rows * steps);
    const chosen = new Int32Array(rows);
    let wanted: number | undefined;
    for (let row = 0; row < rows; row++) {
      const text = ids.subarray(row * steps, (row + 1) * steps);
      decoder_ids.set(text.subarray(0, -1), row * steps + 1);
      const own = text.reduce((count, id) => count + Number(id === eos_token_id), 0);
      if (own === 0 || own !== (wanted ?? own)) {
        throw new OptionError("All examples must have the same number of <eos> tokens.", {
          hint: `each text ends with id ${eos_token_id}, which the tokenizer adds`,
          details: { option: "input_ids", row },
        });
      }
      wanted = own;
      const end = text.lastIndexOf(eos_token_id);
      chosen[row] = row * steps + end;
      decoder_ids[row * steps] = decoder_start_token_id;
    }
    return { decoder_ids, chosen };
  }

  /** The decoder's state at the last end of each text, [B,1,hidden]. */
  hidden(pass: Pass, ids: Tensor): Tensor {
    const { positions, mask, judged } = pass.input;
    const { decoder_ids, chosen } = judged ?? {};
    if (!decoder_ids || !chosen) throw new ShapeError("a classifier with a decoder ran without what the decoder reads");
    return scope(() => {
      const hidden = this.model.encoder.forward(pass, ids);
      const { attention, place, checkpoint } = pass;
      using decoding = new Pass({ positions, encoded: { hidden, mask } }, { attention, place, checkpoint });
      const states = this.model.decoder.forward(decoding, decoder_ids);
      return rowsAt(states, chosen).view(-1, 1, this.geometry.hidden);
    });
  }

  outputs(hidden: Tensor): EncoderOutputs {
    const { dense, out_proj } = this.classification_head;
    return scope(() => {
      const state = hidden.view(-1, this.geometry.hidden);
      return { logits: out_proj.forward(dense.forward(state, { act: "tanh" })) };
    });
  }
}
