// What a run trains, whatever its class: the loss and the outputs of a batch, the parameters, and its files.

import type { FolderFiles } from "../checkpoints/folder.js";
import { readSafetensorsHeader } from "../checkpoints/safetensors.js";
import { isFunction, isOf } from "../core/checks.js";
import { OctavoError, OptionError } from "../core/errors.js";
import { omit } from "../core/options.js";
import { listed, show } from "../core/show.js";
import { scope, Tensor } from "../core/tensor.js";
import { LoadedModel } from "../generate/base.js";
import { PreTrainedEncoder } from "../generate/encoder-model.js";
import { PreTrainedFeatureModel } from "../generate/feature-model.js";
import { PreTrainedModel } from "../generate/model.js";
import { ENCODER_FORWARD, FEATURE_FORWARD, FORWARD, SEQ2SEQ_FORWARD, SPEECH_FORWARD } from "../generate/options.js";
import { PreTrainedSeq2SeqLM } from "../generate/seq2seq-model.js";
import { hasClasses } from "../generate/task-loss.js";
import { bytesInOrder } from "../load/read.js";
import type { Model } from "../nn/model.js";
import { Module } from "../nn/module.js";
import { StateTensor } from "../nn/state.js";
import { copyInto } from "../ops/copy.js";
import { dropUnheld } from "../ops/graph.js";
import { taping } from "../ops/tape.js";
import type { Source } from "../sources/source.js";
import type { Batch } from "./data/types.js";
import { anyAnswer, itemsOf } from "./items.js";
import { type Named, trainedOf } from "./optimizers.js";
import type { ForwardOutput, LossFunction } from "./types.js";

/** How the losses of a batch become one. */
export interface Reduction {
  /** Labels that count in all batches of the update; undefined for those of this batch. */
  readonly items: number | undefined;
  readonly smoothing: number;
}

/** What a batch is for. */
export type Mode = "train" | "eval";

/** What a model is trained by, instead of a loss of its outputs. */
export interface Objective {
  /** Rows of a batch for each example. */
  readonly rows_per_example: number;
  /** Dropout is at work. */
  readonly dropout: boolean;
  /** Records the mean loss of a batch, f32[1]. @throws ShapeError, OptionError */
  loss(model: PreTrainedModel, batch: Batch): Tensor;
  /** A run or an evaluation begins: what an earlier one left behind, as it failed, is none of its. @throws OptionError */
  begin(mode: Mode, model: PreTrainedModel): void;
  /** Reads what it noted of the last batch, whose loss was read. */
  noted(mode: Mode): Promise<void>;
  /** Frees what it noted of a batch that failed. */
  forget(): void;
}

/** Opens the folder of a checkpoint (""), or a folder in it. */
export type OpenFolder = (folder: string) => Promise<Source>;

const WEIGHTS = "model.safetensors";

/** Tasks whose labels are those of tokens: losses of an update's batches are divided by all of them. */
const OF_TOKENS: readonly string[] = ["causal-lm", "seq2seq-lm", "speech-seq2seq", "masked-lm", "token-classification"];

/** Tasks whose models give no loss. */
const WITHOUT_LOSS: readonly string[] = ["base", "clip"];

const POSITIONS = ["start_positions", "end_positions"] as const;

/** The columns that a model takes; undefined if nobody knows. */
function columnsOf(model: unknown): ReadonlySet<string> | undefined {
  if (model instanceof PreTrainedModel) return new Set(Object.keys(FORWARD));
  if (model instanceof PreTrainedEncoder) {
    const left = model.task === "question-answering" ? (["labels"] as const) : POSITIONS;
    return new Set(Object.keys(omit(ENCODER_FORWARD, left)));
  }
  if (model instanceof PreTrainedSeq2SeqLM) {
    return new Set(Object.keys(model.module.features ? SPEECH_FORWARD : SEQ2SEQ_FORWARD));
  }
  return model instanceof PreTrainedFeatureModel ? new Set(Object.keys(FEATURE_FORWARD)) : undefined;
}

export class Subject {
  readonly model: LoadedModel<Model> | Module;
  readonly columns: ReadonlySet<string> | undefined;
  readonly objective: Objective | undefined;
  readonly #loss: LossFunction | undefined;
  readonly #inputs: object;
  /** True if the parameters ask for gradients because this said so. */
  #asked = false;
  /** The same for checkpoints of blocks. */
  #checkpoints = false;

  /**
   * @param loss instead of the model's own
   * @param kind an objective instead of a loss, of a language model; what its forward gets beside a batch
   * @throws OptionError for what is no model, and for a model that gives no loss
   */
  constructor(
    model: unknown,
    loss: LossFunction | undefined,
    { objective, inputs = {} }: { readonly objective?: Objective; readonly inputs?: object } = {},
  ) {
    const module = isOf(model, Module) && isFunction((model as unknown as { forward?: unknown }).forward);
    if (!LoadedModel.is(model) && !module) {
      throw new OptionError(
        `Trainer: model must be one of from_pretrained or a Module of octavo/nn, got ${show(model)}`,
      );
    }
    if (LoadedModel.is(model) && WITHOUT_LOSS.includes(model.task) && !loss) {
      throw new OptionError(`Trainer: a model for ${model.task} gives no loss`, {
        details: { option: "compute_loss_func" },
        hint: "compute_loss_func: (outputs, labels) => functional.cross_entropy(outputs.logits, ...), of octavo/nn",
      });
    }
    this.model = model as Subject["model"];
    this.columns = columnsOf(model);
    this.#loss = loss;
    this.objective = objective;
    this.#inputs = inputs;
  }

  /** A model with a loss of its own. */
  get #own(): LoadedModel<Model> | undefined {
    return LoadedModel.is(this.model) && !this.#loss && !this.objective ? this.model : undefined;
  }

  /** The labels of an update, by which its losses are divided; undefined if each batch has a mean of its own. */
  items(window: readonly Batch[]): number | undefined {
    const counts = this.#ofTokens || (this.#loss && window.some(({ labels }) => labels !== undefined));
    return counts ? itemsOf(window, this.#shifts) : undefined;
  }

  /** True for a loss of its own that is about tokens. */
  get #ofTokens(): boolean {
    return this.#own !== undefined && OF_TOKENS.includes(this.#own.task);
  }

  /** True if the first label of a row is nobody's: causal language models shift them. */
  get #shifts(): boolean {
    return this.#own?.task === "causal-lm";
  }

  get root(): Module {
    return this.model instanceof Module ? this.model : this.model.module;
  }

  get trained(): Named[] {
    return trainedOf(this.model.named_parameters());
  }

  /** @throws OctavoError while something uses the model, or some of its weights are offloaded */
  check(): void {
    if (LoadedModel.is(this.model)) this.model.checkTrainable();
  }

  /**
   * Asks for gradients if nobody has.
   * @param checkpointing only the inputs of blocks are kept for the backward pass
   * @throws OptionError if there is nothing that can be trained; OctavoError
   */
  begin(checkpointing: boolean): Named[] {
    const { model } = this;
    this.#checkpoint(checkpointing);
    model.zero_grad();
    let { trained } = this;
    if (trained.length > 0) return trained;
    if (LoadedModel.is(model)) {
      if (model.adapters) {
        throw new OptionError(
          `train: no parameter of the adapters ${listed(model.adapters.names)} asks for a gradient`,
          {
            hint: "load_adapter(folder, { is_trainable: true })",
          },
        );
      }
      if (model.quantized_modules.length > 0) {
        throw new OptionError("train: a purely quantized model cannot be fine-tuned", {
          hint: "get_peft_model(model, new LoraConfig({ r: 8 })) adds an adapter that can",
        });
      }
    }
    model.requires_grad_();
    this.#asked = true;
    trained = this.trained;
    if (trained.length > 0) return trained;
    throw new OptionError("train: the model has no parameter that can be trained");
  }

  #checkpoint(on: boolean): void {
    const { model } = this;
    if (!on || (LoadedModel.is(model) && model.is_gradient_checkpointing)) return;
    if (!LoadedModel.is(model)) {
      throw new OptionError("gradient_checkpointing is for models of from_pretrained", {
        details: { option: "gradient_checkpointing" },
      });
    }
    model.gradient_checkpointing_enable();
    this.#checkpoints = true;
  }

  /** Takes back what `begin` has asked. */
  end(): void {
    if (this.#checkpoints && LoadedModel.is(this.model)) this.model.gradient_checkpointing_disable();
    this.#checkpoints = false;
    this.model.zero_grad();
    if (this.#asked) for (const [, parameter] of this.trained) parameter.requires_grad_(false);
    this.#asked = false;
    dropUnheld(); // a pass that failed halfway may have filled the memory
  }

  train(mode: boolean): void {
    this.model.train(mode && this.objective?.dropout !== false);
  }

  /** Begins a run or an evaluation of an objective, if there is one. @throws OptionError */
  open(mode: Mode): void {
    this.objective?.begin(mode, this.model as PreTrainedModel);
  }

  /** What the model gives for a batch. @throws OptionError for what is no object */
  #outputs(batch: object): ForwardOutput {
    const outputs: unknown = (this.model as unknown as { forward(batch: object): unknown }).forward(batch);
    if (Tensor.is(outputs)) return { logits: outputs };
    if (typeof outputs === "object" && outputs !== null) return outputs as ForwardOutput;
    throw new OptionError(`Trainer: forward must give an object with a loss, got ${show(outputs)}`);
  }

  /** The names under which a batch has its labels; none if it has none. */
  labelled(batch: Batch): readonly string[] {
    if (this.objective) return ["input_ids"]; // each batch has a loss
    const names = this.#own?.task === "question-answering" ? POSITIONS : ["labels"];
    return names.filter((name) => batch[name] !== undefined);
  }

  /**
   * Records the loss of a batch: f32[1].
   * @throws OptionError if there is none; what `forward` throws
   */
  loss(batch: Batch, reduction: Reduction): Tensor {
    return scope(() => this.#lossOf(batch, reduction, false).loss);
  }

  /** @param wanted its outputs are wanted too */
  #lossOf(
    batch: Batch,
    { items, smoothing }: Reduction,
    wanted: boolean,
  ): { readonly loss: Tensor; readonly outputs: ForwardOutput } {
    if (this.objective) return { loss: this.objective.loss(this.model as PreTrainedModel, batch), outputs: {} };
    if (!this.#own && smoothing > 0) {
      throw new OptionError("label_smoothing_factor is for models with their own loss", {
        details: { option: "label_smoothing_factor" },
      });
    }
    const { labels, ...inputs } = batch;
    const outputs = this.#outputs(
      this.#own ? { ...batch, ...this.#reduction(batch, items, smoothing, wanted) } : this.#loss ? inputs : batch,
    );
    const loss: unknown = this.#loss ? this.#loss(outputs, labels, items) : outputs.loss;
    if (Tensor.is(loss) && loss.size === 1) return { loss, outputs };
    const names = Object.keys(outputs);
    throw new OptionError(`Trainer: the loss must be a Tensor of one number, got ${show(loss)}`, {
      hint: this.#loss ? "compute_loss_func gives it" : `the model gave ${listed(names)}: did the batch have labels?`,
    });
  }

  /** How a model's own loss is made of a batch. @throws OptionError for a batch without labels */
  #reduction(batch: Batch, items: number | undefined, smoothing: number, wanted: boolean): object {
    if (this.labelled(batch).length === 0) {
      throw new OptionError(`train: a batch has no labels, only ${listed(Object.keys(batch))}`, {
        hint: "examples with labels (such as their input_ids), or a data_collator for language modelling that makes them",
      });
    }
    const decodes = this.model instanceof PreTrainedModel || this.model instanceof PreTrainedSeq2SeqLM;
    return {
      ...this.#inputs,
      ...(items === undefined ? {} : { num_items_in_batch: Math.max(1, items) }),
      ...(smoothing > 0 ? { label_smoothing: smoothing } : {}),
      ...(decodes && !wanted ? { skip_logits: true } : {}),
    };
  }

  /** Loss (if the batch has labels that count) and logits of a batch, without gradients. */
  evaluate(batch: Batch, smoothing: number, wanted: boolean): { loss?: Tensor; logits?: Tensor } {
    return taping(undefined, () =>
      scope(() => {
        const labelled = this.labelled(batch).length > 0;
        const learns = labelled && this.#counts(batch);
        // Of no label there is no mean; of tokens the sum, which is 0, is taken so that the labels are checked.
        const reduction = { items: labelled && !learns ? 1 : undefined, smoothing };
        const { loss, outputs } =
          learns || (labelled && this.#ofTokens)
            ? this.#lossOf(batch, reduction, wanted)
            : { loss: undefined, outputs: wanted ? this.#outputs(without(batch, this.labelled(batch))) : {} };
        const logits = wanted ? this.#logitsOf(outputs) : undefined;
        return { ...(loss && learns ? { loss } : {}), ...(logits ? { logits } : {}) };
      }),
    );
  }

  /** Whether any label of a batch counts. */
  #counts(batch: Batch): boolean {
    const own = this.#own;
    if (this.#ofTokens) return itemsOf([batch], this.#shifts) > 0;
    if (own?.task === "question-answering") return anyAnswer(batch);
    return !(own && hasClasses(own)) || itemsOf([batch], false) > 0;
  }

  /** What a model says by its outputs: logits, those of both ends of answers, or the first output of a model that names none so. */
  #logitsOf(outputs: ForwardOutput): Tensor | undefined {
    const { logits, start_logits, end_logits } = outputs as Readonly<Record<string, unknown>>;
    if (Tensor.is(logits)) return logits;
    const answers = LoadedModel.is(this.model) && this.model.task === "question-answering";
    if (answers && Tensor.is(start_logits) && Tensor.is(end_logits)) return sideBySide(start_logits, end_logits);
    return Object.entries(outputs).flatMap(([name, one]) => (name !== "loss" && Tensor.is(one) ? [one] : []))[0];
  }

  /** The first block whose output for a batch holds what is no number: for the message of a failure. */
  async brokenBlock(batch: Batch): Promise<string | undefined> {
    const { model } = this;
    if (!(model instanceof PreTrainedModel)) return undefined;
    const inputs = Object.entries(batch).filter(([name]) => name !== "labels" && this.columns!.has(name));
    const { hidden_states = [], logits } = taping(undefined, () =>
      model.forward({ ...(Object.fromEntries(inputs) as { input_ids: number[][] }), output_hidden_states: true }),
    );
    try {
      const blocks = model.module.blocks[0] ?? [];
      for (const [i, state] of hidden_states.entries()) {
        if ((await state.readFloats()).every(Number.isFinite)) continue;
        return i === 0 ? "the embeddings" : blocks[i - 1]?.path;
      }
      return (await logits.readFloats()).every(Number.isFinite) ? undefined : "the head";
    } finally {
      for (const one of [...hidden_states, logits]) one.dispose();
    }
  }

  /** Writes the model, or its adapters alone, into a folder that is being written. */
  async save(files: FolderFiles): Promise<void> {
    const { model } = this;
    if (LoadedModel.is(model)) {
      await model.saveInto(files);
      return;
    }
    const state = await model.state_dict();
    const tensors = [...state].map(([name, one]) => {
      return { name, dtype: one.dtype, shape: one.shape, data: () => one.bytes() };
    });
    await files.tensors(WEIGHTS, tensors, { format: "pt" });
  }

  /** Takes that back, in place. @throws NotFoundError, FormatError, CheckpointError */
  async restore(open: OpenFolder): Promise<void> {
    const { model } = this;
    if (LoadedModel.is(model)) return model.restore(open);
    const source = await open("");
    try {
      const { tensors } = await readSafetensorsHeader(source, source.path(WEIGHTS));
      const state = [...tensors].map(([name, stored]) => {
        const { dtype, shape } = stored;
        return [name, new StateTensor({ dtype, shape, bytes: () => bytesInOrder(source, stored) })] as const;
      });
      await model.load_state_dict(new Map(state));
    } finally {
      await source.close();
    }
  }

  /** Begins work that reads the weights. */
  hold(): void {
    if (LoadedModel.is(this.model)) this.model.hold();
  }

  async release(): Promise<void> {
    if (LoadedModel.is(this.model)) await this.model.release();
  }
}

function without(batch: Batch, names: readonly string[]): Batch {
  return Object.fromEntries(Object.entries(batch).filter(([name]) => !names.includes(name)));
}

/** [B,T,2] of two tensors [B,T]. */
function sideBySide(a: Tensor, b: Tensor): Tensor {
  const both = Tensor.empty(a.device, [...a.shape, 2], "f32", "logits");
  copyInto(a, both.select(2, 0));
  copyInto(b, both.select(2, 1));
  return both;
}

/** @throws OctavoError for a loss that is no number */
export async function refuseBroken(subject: Subject, batch: Batch, loss: number, step: number): Promise<void> {
  if (Number.isFinite(loss)) return;
  const block = await subject.brokenBlock(batch).catch(() => undefined); // what goes wrong while it looks hides nothing
  throw new OctavoError("ERR_NOT_FINITE", `the loss of update ${step} is ${loss}${block ? `, from ${block} on` : ""}`, {
    details: { step, module: block, got: String(loss) },
    hint: "a lower learning_rate, or a smaller max_grad_norm; the weights are those of the update before",
  });
}
