// The requests of lm-evaluation-harness over a loaded language model and its tokenizer. The rules by which texts become tokens are
// those of its HFLM; the tokens are computed by scorer.ts and generate().

import { isOf, listOf } from "../../core/checks.js";
import { OptionError, throwIfAborted } from "../../core/errors.js";
import { choice, flag, type Options, readOptions, signal, such, whole } from "../../core/options.js";
import { show } from "../../core/show.js";
import { LoadedModel } from "../../generate/base.js";
import { unhealed } from "../../generate/healing.js";
import { paddedRows } from "../../generate/inputs.js";
import { PreTrainedModel } from "../../generate/model.js";
import { PreTrainedSeq2SeqLM } from "../../generate/seq2seq-model.js";
import { warnOnce } from "../../generate/warn.js";
import type { CacheDType } from "../../nn/cache.js";
import { type ChatMessage, PreTrainedTokenizer } from "../../tokenizer/api.js";
import { strip } from "../../tokenizer/chat/blanks.js";
import { isOptions, isSystem, isText, isTexts, listed, pairs } from "./arguments.js";
import { copyOf, type GenerationKwargs, generationOf, textUntil } from "./generation-kwargs.js";
import type { TokenText } from "./prefix-tree.js";
import { isRequestCache, keyOf, type RequestCache } from "./request-cache.js";
import { type Scored, type ScoreOptions, scoreTexts } from "./scorer.js";
import { scoreContinuations } from "./seq2seq-scorer.js";
import { endOf, rollingWindows } from "./windows.js";

/** A text and what may follow it. */
export type LoglikelihoodRequest = readonly [context: string, continuation: string];
/** Sum of the log-probabilities of a continuation's tokens, in nats, and whether each of them is the likeliest. */
export type Loglikelihood = readonly [loglikelihood: number, is_greedy: boolean];
export type GenerateRequest = readonly [context: string, generation_kwargs: GenerationKwargs];
export type ChoiceRequest = readonly [context: string, choices: readonly string[]];

const LM_OPTIONS = {
  /** Requests that are computed together; by default 64. Results do not depend on it. */
  batch_size: whole(1),
  /** Longest text in tokens; by default the model's. */
  max_length: whole(1),
  /** Whether the tokenizer adds its special tokens; by default as it does for any text. */
  add_bos_token: flag(),
  /**
   * Dtype of keys and values. By default f32 for log-likelihoods, which computes what a pass without a cache does, and generate()'s
   * own for texts.
   */
  cache_dtype: choice<CacheDType>(["f32", "bf16", "f16", "i8"]),
  /** Answers that were given before. */
  use_cache: such<RequestCache>(isRequestCache, "what openRequestCache gives"),
  signal: signal(),
};
export interface LMOptions extends Readonly<Options<typeof LM_OPTIONS>> {}

/** Hears how many requests of a call are answered. */
export type Progress = (done: number) => void;

/** Requests at once, where the caller does not say. */
const BATCH = 64;
/** Longest text of a model that does not say its own, as in lm-evaluation-harness. */
const USUAL_LENGTH = 2048;
const MAX_GEN_TOKS = 256;
const DTYPE_NAMES = { f32: "float32", bf16: "bfloat16", f16: "float16" } as const;
/** Tokens of a text whose scores stand for a model's weights in keys of the cache. */
const PROBE = 24;

export class LM {
  readonly model: PreTrainedModel | PreTrainedSeq2SeqLM;
  readonly tokenizer: PreTrainedTokenizer;
  readonly batch_size: number;
  /** Tokens that the model reads at once; an encoder-decoder, in each of the two. */
  readonly max_length: number;
  /** What a text without context follows: bos, else eos. */
  readonly prefix_token_id: number;
  /** Tokens that were computed. */
  computed_tokens = 0;
  /** Seconds that computing them took. */
  seconds = 0;
  /** Ends its work when it fires. */
  readonly signal: AbortSignal | undefined;
  readonly #options: LMOptions;
  #identity: Promise<string> | undefined;

  /** @throws OptionError for anything but a language model of text and its tokenizer, and for wrong options */
  constructor(model: PreTrainedModel | PreTrainedSeq2SeqLM, tokenizer: PreTrainedTokenizer, options: LMOptions = {}) {
    const known = LoadedModel.is(model) && (model instanceof PreTrainedModel || model instanceof PreTrainedSeq2SeqLM);
    if (!known || (model instanceof PreTrainedSeq2SeqLM && model.module.features)) {
      const task = LoadedModel.is(model) ? `one of the task "${model.task}"` : show(model);
      throw new OptionError(`LM: the model must be a language model of text, got ${task}`, {
        hint: "await AutoModelForCausalLM.from_pretrained(name), or AutoModelForSeq2SeqLM",
      });
    }
    if (!isOf(tokenizer, PreTrainedTokenizer)) {
      throw new OptionError(`LM: the tokenizer must be the model's, got ${show(tokenizer)}`, {
        hint: "await AutoTokenizer.from_pretrained(name)",
      });
    }
    this.#options = readOptions("LM", LM_OPTIONS, options);
    this.model = model;
    this.tokenizer = tokenizer;
    this.signal = this.#options.signal;
    this.batch_size = this.#options.batch_size ?? BATCH;
    this.max_length = longestOf(model, tokenizer, this.#options.max_length);
    const prefix = tokenizer.bos_token_id ?? tokenizer.eos_token_id;
    if (prefix === null) {
      throw new OptionError(
        "LM: the tokenizer has neither a bos nor an eos token for texts without context to follow",
        {
          hint: 'set one: tokenizer.eos_token = "..."',
        },
      );
    }
    this.prefix_token_id = prefix;
  }

  /** Log-likelihoods of continuations, in the order of the requests. @throws OptionError, AbortError, KernelError */
  async loglikelihood(requests: readonly LoglikelihoodRequest[], progress?: Progress): Promise<Loglikelihood[]> {
    const wanted = "pairs [context, continuation] of texts";
    const read = pairs("loglikelihood", requests, isText, isText, wanted);
    const texts = read.map(([context, continuation]) => {
      const [before, after] = this.encode_pair(context, continuation);
      if (after.length === 0) throw new OptionError(`loglikelihood: ${show(continuation)} has no tokens`);
      if (after.length > this.max_length) {
        throw new OptionError(
          `loglikelihood: a continuation of ${after.length} tokens is longer than the model's ${this.max_length}`,
        );
      }
      if (!(this.model instanceof PreTrainedSeq2SeqLM)) {
        return endOf([...before, ...after], after.length, this.max_length);
      }
      const read = before.slice(-this.max_length);
      return { ids: [...read, ...after], from: read.length };
    });
    const scored = await this.#score(texts, progress);
    return scored.map(({ loglikelihood, is_greedy }) => [loglikelihood, is_greedy]);
  }

  /** Log-likelihoods of the choices of each question. @throws what `loglikelihood` throws */
  async multiple_choice(requests: readonly ChoiceRequest[], progress?: Progress): Promise<Loglikelihood[][]> {
    const wanted = "pairs [context, choices] of a text and texts";
    const read = pairs("multiple_choice", requests, isText, isTexts, wanted);
    const all = await this.loglikelihood(
      read.flatMap(([context, choices]) => choices.map((choice): LoglikelihoodRequest => [context, choice])),
      progress,
    );
    let end = 0;
    return read.map(([, { length }]) => {
      end += length;
      return all.slice(end - length, end);
    });
  }

  /** Log-likelihoods of whole texts, of any length: each token once, in windows of the model's length. */
  async loglikelihood_rolling(texts: readonly string[], progress?: Progress): Promise<number[]> {
    const read = listed("loglikelihood_rolling", texts, isText, "texts");
    const windows = read.map((text) => rollingWindows(this.encode(text), this.prefix_token_id, this.max_length));
    const all = windows.flat();
    const scored = await this.#score(all, (done) =>
      progress?.(Math.floor((done / Math.max(1, all.length)) * read.length)),
    );
    let at = 0;
    return windows.map((own) => {
      const sum = scored.slice(at, at + own.length).reduce((total, { loglikelihood }) => total + loglikelihood, 0);
      at += own.length;
      return sum;
    });
  }

  /**
   * Texts that follow contexts, up to the first of the `until` texts. A context that leaves no room is cut at its beginning.
   * @throws OptionError for options that generate() does not know, and where `max_gen_toks` leaves no room for a context
   */
  async generate_until(given: readonly GenerateRequest[], progress?: Progress): Promise<string[]> {
    const wanted = "pairs [context, generation_kwargs] of a text and an object";
    const requests = pairs("generate_until", given, isText, isOptions, wanted).map(
      ([context, kwargs]): GenerateRequest => [context, copyOf(kwargs)],
    );
    this.model.checkUsable();
    this.model.hold();
    try {
      return await this.#answers(requests, progress);
    } finally {
      await this.model.release();
    }
  }

  async #answers(requests: readonly GenerateRequest[], progress: Progress | undefined): Promise<string[]> {
    const answers = new Array<string>(requests.length);
    const { use_cache, signal: stopped } = this.#options;
    const identity = use_cache && (await this.#id());
    const end = this.tokenizer.eos_token_id;
    const eos = end === null ? [] : [this.tokenizer.decode([end], { skip_special_tokens: false })];
    const groups = new Map<string, { ids: number[]; request: number; key: string }[]>();
    const left = requests.map(([context, kwargs]) => {
      const { max_gen_toks = MAX_GEN_TOKS } = generationOf(kwargs);
      // The encoder has room of its own.
      const room = this.model instanceof PreTrainedSeq2SeqLM ? this.max_length : this.max_length - max_gen_toks;
      if (room < 1) {
        throw new OptionError(
          `generate_until: max_gen_toks ${max_gen_toks} leaves no room for a text in the model's ${this.max_length} tokens`,
        );
      }
      return this.encode(context).slice(-room);
    });
    let done = 0;
    for (const [request, ids] of left.entries()) {
      const kwargs = JSON.stringify(requests[request]![1]);
      const greedy = generationOf(requests[request]![1]).options.do_sample === false;
      const key = use_cache && greedy ? keyOf(identity, "generate_until", ids, kwargs, this.#options.cache_dtype) : "";
      const known = key === "" ? undefined : use_cache?.get(key);
      if (typeof known === "string") {
        answers[request] = known;
        done++;
        continue;
      }
      const group = groups.get(kwargs);
      if (group) group.push({ ids, request, key });
      else groups.set(kwargs, [{ ids, request, key }]);
    }
    for (const group of groups.values()) {
      const kwargs = generationOf(requests[group[0]!.request]![1]);
      const until = [...new Set([...kwargs.until, ...eos])].filter((text) => text !== "");
      group.sort((a, b) => b.ids.length - a.ids.length || a.request - b.request);
      for (let at = 0; at < group.length; at += this.batch_size) {
        throwIfAborted(stopped, "evaluation");
        const batch = group.slice(at, at + this.batch_size);
        const texts = await this.#generate(
          batch.map(({ ids }) => ids),
          kwargs,
          until,
        );
        texts.forEach((text, n) => {
          answers[batch[n]!.request] = textUntil(text, until);
        });
        const kept = batch.filter(({ key }) => key !== "");
        await use_cache?.set(kept.map(({ request, key }) => [key, answers[request]!] as const));
        done += batch.length;
        progress?.(done);
      }
    }
    return answers;
  }

  async #generate(
    rows: readonly number[][],
    kwargs: ReturnType<typeof generationOf>,
    until: string[],
  ): Promise<string[]> {
    const longest = Math.max(...rows.map(({ length }) => length));
    const pad = this.tokenizer.pad_token_id ?? this.prefix_token_id;
    const { model } = this;
    const seq2seq = model instanceof PreTrainedSeq2SeqLM;
    const { max_gen_toks = MAX_GEN_TOKS, options } = kwargs;
    const { signal: stopped, cache_dtype } = this.#options;
    const start = performance.now();
    const why = "generate_until: token_healing changes the context, which answers follow";
    const healing = unhealed(undefined, model.generation_config.token_healing === true, why);
    const given = {
      // An encoder's positions are counted from the row's start.
      ...paddedRows(rows, pad, seq2seq ? "right" : "left"),
      max_new_tokens: max_gen_toks,
      pad_token_id: pad,
      tokenizer: this.tokenizer,
      ...(until.length > 0 ? { stop_strings: until } : {}),
      ...(stopped ? { signal: stopped } : {}),
      ...(cache_dtype === "i8" ? { cache_implementation: "quantized" as const } : {}),
      ...(cache_dtype && cache_dtype !== "i8" ? { cache_dtype: DTYPE_NAMES[cache_dtype] } : {}),
      ...options,
      ...healing,
      num_return_sequences: 1,
    };
    const sequences = seq2seq ? await model.generate(given) : await model.generate(given);
    // An encoder-decoder's sequences begin with its start token alone.
    const prompt = seq2seq ? 1 : longest;
    this.seconds += (performance.now() - start) / 1000;
    this.computed_tokens +=
      rows.reduce((sum, { length }) => sum + length, 0) + rows.length * (sequences[0]!.length - prompt);
    return sequences.map((ids) => this.tokenizer.decode(ids.slice(prompt), { skip_special_tokens: true }));
  }

  /**
   * A conversation as the tokenizer's chat template writes it; without its system's message where the template refuses that.
   * @param add_generation_prompt append the beginning of the assistant's message; false: the last message goes on
   * @param chat_template the name of one of the tokenizer's templates
   * @throws OptionError, FormatError as `tokenizer.apply_chat_template` throws
   */
  apply_chat_template(messages: readonly ChatMessage[], add_generation_prompt = true, chat_template?: string): string {
    const apply = (conversation: readonly ChatMessage[]): string =>
      this.tokenizer.apply_chat_template(conversation, {
        tokenize: false,
        add_generation_prompt,
        continue_final_message: !add_generation_prompt,
        ...(chat_template === undefined ? {} : { chat_template }),
      });
    try {
      return apply(messages);
    } catch (cause) {
      const all = listOf(messages, isOptions);
      const others = all?.filter((one) => !isSystem(one)) as ChatMessage[] | undefined;
      if (!others || others.length === 0 || others.length === all!.length) throw cause;
      const text = apply(others);
      warnOnce("eval:system", "the chat template refuses a system's message, which is left out");
      return text;
    }
  }

  /** Ids of a text; its special tokens are left out where it begins with the prefix token's text. */
  encode(text: string): number[] {
    if (typeof text !== "string") throw new OptionError(`LM.encode takes a text, got ${show(text)}`);
    const prefix = this.tokenizer.decode([this.prefix_token_id], { skip_special_tokens: false });
    const add = text.startsWith(prefix) && prefix !== "" ? false : this.#options.add_bos_token;
    return this.tokenizer.encode(text, add === undefined ? {} : { add_special_tokens: add });
  }

  /**
   * Ids of a context, and those by which it and its continuation go on: blanks at the context's end belong to the continuation.
   * Without a context, the continuation follows the prefix token. Of an encoder-decoder, both have ids of their own.
   */
  encode_pair(context: string, continuation: string): readonly [context: number[], continuation: number[]] {
    if (typeof context !== "string" || typeof continuation !== "string") {
      throw new OptionError(`LM.encode_pair takes two texts, got ${show(context)} and ${show(continuation)}`);
    }
    const start = strip(context, undefined, false, true);
    const rest = context.slice(start.length) + continuation;
    const before = start === "" ? [] : this.encode(start);
    if (before.length > 0 && !(this.model instanceof PreTrainedSeq2SeqLM)) {
      return [before, this.encode(start + rest).slice(before.length)];
    }
    const ids = this.tokenizer.encode(rest, { add_special_tokens: false });
    if (before.length > 0) return [before, ids];
    return ids[0] === this.prefix_token_id ? [[ids[0]], ids.slice(1)] : [[this.prefix_token_id], ids];
  }

  /** Scores texts, those of the cache without computing them. */
  async #score(texts: readonly TokenText[], progress: Progress | undefined): Promise<Scored[]> {
    const { use_cache, cache_dtype, signal: stopped } = this.#options;
    const results = new Array<Scored>(texts.length);
    const identity = use_cache && (await this.#id());
    const keys = use_cache && texts.map(({ ids, from }) => keyOf(identity, "loglikelihood", ids, from, cache_dtype));
    const left: number[] = [];
    for (const n of texts.keys()) {
      const known = keys && use_cache?.get(keys[n]!);
      if (Array.isArray(known)) results[n] = { loglikelihood: Number(known[0]), is_greedy: known[1] === true };
      else left.push(n);
    }
    let done = texts.length - left.length;
    const start = performance.now();
    await this.#compute(
      left.map((n) => texts[n]!),
      {
        rows: this.batch_size,
        cache_dtype,
        signal: stopped,
        ran: (tokens) => {
          this.computed_tokens += tokens;
        },
        scored: async (batch) => {
          for (const [text, scored] of batch) results[left[text]!] = scored;
          if (keys) {
            await use_cache.set(
              batch.map(
                ([text, { loglikelihood, is_greedy }]) => [keys[left[text]!]!, [loglikelihood, is_greedy]] as const,
              ),
            );
          }
          done += batch.length;
          progress?.(done);
        },
      },
    );
    this.seconds += (performance.now() - start) / 1000;
    return results;
  }

  #compute(texts: readonly TokenText[], options: ScoreOptions): Promise<void> {
    const { model } = this;
    return model instanceof PreTrainedSeq2SeqLM
      ? scoreContinuations(model, texts, options)
      : scoreTexts(model, texts, options);
  }

  /** What stands for the model in keys: its scores of a fixed text, to the last bit, which change with weights and kernels. */
  #id(): Promise<string> {
    const { vocab } = this.model.module.geometry;
    const length = Math.min(PROBE, this.max_length);
    const ids = Array.from({ length: length + 1 }, (_, i) => (i * 7919 + 11) % vocab);
    this.#identity ??= (async () => {
      const bits: number[] = [];
      const probes = [1, Math.ceil(length / 2)].map((from) => ({ ids, from }));
      await this.#compute(probes, {
        rows: 2,
        scored: (batch) => {
          for (const [, { loglikelihood }] of batch) bits.push(loglikelihood);
        },
      });
      return keyOf(this.model.config, this.model.weight_bytes, bits);
    })();
    return this.#identity;
  }
}

/** The longest text of a model: from its config, its tokenizer, or the usual one; never more than its positions. */
function longestOf(
  { config, module }: PreTrainedModel | PreTrainedSeq2SeqLM,
  tokenizer: PreTrainedTokenizer,
  given: number | undefined,
): number {
  const named = [config.n_positions, config.max_position_embeddings, config.n_ctx, tokenizer.model_max_length];
  const own = named.find((value): value is number => Number.isSafeInteger(value) && (value as number) > 0);
  const most = module.geometry.max_positions;
  if (given !== undefined && given > most) {
    throw new OptionError(`LM: max_length ${given} is more than the model's ${most} positions`);
  }
  return Math.min(given ?? own ?? USUAL_LENGTH, most);
}
