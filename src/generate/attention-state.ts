// How a loaded model computes attention, by transformers' names (attn_implementation) and optimum's (BetterTransformer). There is one
// fused kernel, which serves all of them: what they decide is which calls a choice of kernels (nn/kernel-choice.ts) holds for, and
// what is refused, as it is there.

import { OctavoError, OptionError } from "../core/errors.js";
import { show } from "../core/show.js";
import { ATTN_IMPLEMENTATIONS, type AttnImplementation, checkFlash } from "../load/attn-implementation.js";
import type { ConfigJson } from "../nn/architecture.js";
import { chosenKernel, SDPBackend } from "../nn/kernel-choice.js";
import type { Model } from "../nn/model.js";
import type { AttentionChoice } from "../nn/pass.js";
import { RoundedAlibi } from "../nn/rounded-alibi.js";
import type { FloatDType } from "../nn/weight.js";

/** Architectures that BetterTransformer converts, of all that optimum had. */
const CONVERTED =
  `albert bark bart bert bert-generation blenderbot bloom camembert blip-2 clip codegen data2vec-text deit distilbert electra
    ernie fsmt gpt2 gptj gpt_neo gpt_neox hubert layoutlm m2m_100 marian markuplm mbart opt pegasus rembert prophetnet roberta
    roc_bert roformer splinter tapas t5 vilt vit vit_mae vit_msn wav2vec2 xlm-roberta yolos`.split(/\s+/);

/** Those that optimum refuses, because transformers has the same itself. */
const NATIVE: readonly unknown[] = ["falcon", "gpt_bigcode", "llama", "whisper"];

const NO_NEED =
  "there is no need to use model.to_bettertransformer() or BetterTransformer.transform(model): attention is fused without it";

/** What a state reads of its model. */
interface Facts {
  readonly model: Model;
  readonly config: ConfigJson;
  dtype(): FloatDType;
  /** What the caller of from_pretrained chose. */
  readonly given: AttnImplementation | undefined;
}

export class AttentionState {
  readonly #facts: Facts;
  #implementation: AttnImplementation;
  /** It was chosen, not left to the default. */
  #chosen: boolean;
  #better = false;

  constructor(facts: Facts) {
    this.#facts = facts;
    // Falcon's ALiBi counts twice with "eager", which it then is, whatever computes it.
    const twice = roundedAlibi(facts.model)?.factor === 2;
    this.#implementation = facts.given ?? (twice ? "eager" : "sdpa");
    this.#chosen = facts.given !== undefined;
  }

  get implementation(): AttnImplementation {
    return this.#implementation;
  }

  get better(): boolean {
    return this.#better;
  }

  /** @throws OptionError */
  set(name: AttnImplementation): void {
    if (!ATTN_IMPLEMENTATIONS.includes(name)) {
      throw new OptionError(
        `set_attn_implementation: it must be one of ${ATTN_IMPLEMENTATIONS.map((one) => `"${one}"`).join(", ")}, got ${show(name)}`,
      );
    }
    const { model } = this.#facts;
    if (name === "flash_attention_2") {
      checkFlash(model.class_name, this.#facts.dtype(), false);
      if (this.#better) {
        throw new OptionError("set_attn_implementation: Flash Attention 2 does not go with BetterTransformer", {
          hint: "model.reverse_bettertransformer() first",
        });
      }
    }
    const changes = (name === "eager") !== (this.#implementation === "eager");
    if (changes && roundedAlibi(model)) {
      throw new OptionError(
        `set_attn_implementation: this model's ALiBi counts once or twice by its attn_implementation, and was loaded with "${this.#implementation}"`,
        { hint: `load it so: from_pretrained(name, { attn_implementation: "${name}" })` },
      );
    }
    this.#implementation = name;
    this.#chosen = true;
  }

  /** @throws OptionError for a dtype that the implementation does not take */
  checkCast(dtype: FloatDType): void {
    if (this.#implementation === "flash_attention_2") checkFlash(this.#facts.model.class_name, dtype, false);
  }

  /** @throws OctavoError, OptionError for a model that optimum refuses */
  transform(): void {
    const { config } = this.#facts;
    const type = config.model_type;
    if (NATIVE.includes(type)) {
      throw new OptionError(
        `Transformers now supports natively BetterTransformer optimizations (torch.nn.functional.scaled_dot_product_attention) for the model type ${show(type)}`,
        { hint: NO_NEED, details: { model_type: String(type) } },
      );
    }
    if (this.#chosen && this.#implementation === "sdpa") {
      throw new OptionError(
        "This model already uses BetterTransformer optimizations from Transformers (torch.nn.functional.scaled_dot_product_attention)",
        { hint: NO_NEED },
      );
    }
    if (this.#better) {
      throw new OctavoError(
        "ERR_BETTER_TRANSFORMER",
        "`BetterTransform.transform()` was called on a model already using Better Transformer modeling.",
      );
    }
    if (!CONVERTED.includes(String(type))) {
      throw new OptionError(`The model type ${show(type)} is not yet supported to be used with BetterTransformer`, {
        hint: `${NO_NEED}; convertible are: ${CONVERTED.join(", ")}`,
        details: { model_type: String(type) },
      });
    }
    this.#better = true;
  }

  /** @throws OctavoError for a model that was not converted */
  reverse(): void {
    if (!this.#better) {
      throw new OctavoError(
        "ERR_BETTER_TRANSFORMER",
        "The method BetterTransformer.reverse() should be used on a model already transformed to the BetterTransformer format, which appears to not be the case.",
      );
    }
    this.#better = false;
  }

  /** @throws OctavoError for a model that is converted */
  checkSavable(): void {
    if (!this.#better) return;
    throw new OctavoError(
      "ERR_BETTER_TRANSFORMER",
      "You are trying to save or push a model that has been converted with `BetterTransformer`. Please revert the model to its original state before calling `save_pretrained` or `push_to_hub`.",
      { hint: "model.reverse_bettertransformer()" },
    );
  }

  /**
   * How attention is computed in passes of a call that is made now.
   * @throws OctavoError where no kernel is allowed that can serve it; OptionError for weights of a converted model
   */
  choice(output_attentions: boolean): AttentionChoice {
    const { attention } = this.#facts.model;
    if (this.#better && output_attentions) {
      throw new OptionError("output_attentions=True can not be supported with BetterTransformer.", {
        details: { option: "output_attentions" },
        hint: "model.reverse_bettertransformer() first",
      });
    }
    if (!this.#better && this.#implementation !== "sdpa") return attention;
    return chosenKernel() === SDPBackend.MATH ? { ...attention, compute: "f32" } : attention;
  }
}

function roundedAlibi(model: Model): RoundedAlibi | undefined {
  for (const [, buffer] of model.named_buffers()) if (buffer instanceof RoundedAlibi) return buffer;
  return undefined;
}
