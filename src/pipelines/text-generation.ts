// text-generation: texts and chats that a decoder continues.

import { isList, listOf } from "../core/checks.js";
import { entriesOf, OptionError } from "../core/errors.js";
import { choice, flag, type Options, omit, pick, such, text } from "../core/options.js";
import type { GenerationOptions } from "../generate/config.js";
import { STRUCTURED_FIELDS } from "../generate/grammar/options.js";
import { parseOutput, type SchemaInput, type SchemaValue } from "../generate/grammar/standard-schema.js";
import { unhealed } from "../generate/healing.js";
import { paddedRows } from "../generate/inputs.js";
import type { PreTrainedModel } from "../generate/model.js";
import { GENERATE } from "../generate/options.js";
import { type ConfigJson, trainedContext } from "../nn/architecture.js";
import type { ChatMessage, Conversation, PreTrainedTokenizer } from "../tokenizer/api.js";
import { StreamDecoder } from "../tokenizer/stream.js";
import { taskParameters, withDefaults } from "./generation-defaults.js";
import { forBatch, inBatches, isText, kind, listed, type Parts, TOKENIZER_CALL } from "./kinds.js";

/** What transformers' pipeline sets if nothing else does. */
const USUAL: GenerationOptions = { max_new_tokens: 256, do_sample: true, temperature: 0.7 };

const isObject = (value: unknown): value is object => typeof value === "object" && value !== null && !isList(value);
const isObjects = (value: unknown): boolean => listOf(value, isObject) !== undefined;

const OWN = {
  /** The prompt before the new text; true by default. Of chats, the messages before the new one. */
  return_full_text: flag(),
  /** Token ids, prompt and new ones, instead of text. */
  return_tensors: flag(),
  /** Leave special tokens out of the text; true by default. */
  skip_special_tokens: flag(),
  clean_up_tokenization_spaces: flag(),
  /** Text before each prompt, which the results do not show. */
  prefix: text(),
  /** "hole" cuts a prompt that leaves no room for the new tokens at its left. */
  handle_long_generation: choice(["hole"]),
  /** Of a chat that ends with the assistant's message: continue that one; true by default. */
  continue_final_message: flag(),
  /** Of chats: tools as JSON schemas. */
  tools: such<readonly object[] | null>((value) => value === null || isObjects(value), "a list of tools"),
  /** Of chats: documents with `title` and `text`. */
  documents: such<readonly object[] | null>((value) => value === null || isObjects(value), "a list of documents"),
  /** More options of the tokenizer's call, or variables of the chat template. */
  tokenizer_encode_kwargs: such<Readonly<Record<string, unknown>>>(isObject, "an object"),
  add_special_tokens: TOKENIZER_CALL.add_special_tokens,
  truncation: TOKENIZER_CALL.truncation,
};

/** Options of generate() that a pipeline of text takes. */
const OF_GENERATE = omit(GENERATE, [
  ...(["input_ids", "attention_mask", "token_type_ids", "tokenizer", "use_cache"] as const),
  ...(["return_dict_in_generate", "output_scores", "output_logits", "logprobs"] as const),
]);
const CONTINUE = { ...OF_GENERATE, ...OWN };
export interface TextGenerationOptions extends Options<typeof CONTINUE> {}

/** A continued text. */
export interface GeneratedText {
  readonly generated_text: string;
}
/** A continued chat; without `return_full_text` the new message's text alone. */
export interface GeneratedChat {
  readonly generated_text: ChatMessage[] | string;
}
/** With `json_schema`. */
export interface Parsed<S extends SchemaInput> {
  /** The value of the new text; null if it ended by its length, or if the schema's validator refuses it. */
  readonly parsed: SchemaValue<S> | null;
}
/** With `return_tensors`. */
export interface GeneratedIds {
  readonly generated_token_ids: readonly number[];
}

const isMessage = (value: unknown): value is ChatMessage => isObject(value) && isText((value as ChatMessage).role);

function asPrompt(value: unknown): string | Conversation | undefined {
  if (isText(value)) return value;
  const chat = listOf(value, isMessage);
  return chat && chat.length > 0 ? chat : undefined;
}

/** A decoder's texts come with the spaces that their place in the text asks for. */
function newText(
  tokenizer: PreTrainedTokenizer,
  before: readonly number[],
  ids: readonly number[],
  options: { readonly skip_special_tokens: boolean; readonly clean_up_tokenization_spaces?: boolean | undefined },
): string {
  const decoder = new StreamDecoder(tokenizer, options);
  decoder.push(before);
  return decoder.push(ids) + decoder.end();
}

/** @throws OptionError for an empty prompt where the tokenizer has no token to begin with */
function promptIds(
  tokenizer: PreTrainedTokenizer,
  prompt: string | Conversation,
  options: TextGenerationOptions,
): number[] {
  const { prefix = "", add_special_tokens, truncation, tools, documents, tokenizer_encode_kwargs = {} } = options;
  const { max_length } = options; // as in Python the prompt's as well, which is cut to it
  const more = Object.fromEntries(entriesOf("tokenizer_encode_kwargs", tokenizer_encode_kwargs));
  if (!isText(prompt)) {
    const continues = continuesOwn(prompt, options);
    return tokenizer.apply_chat_template(prompt, {
      tools,
      documents,
      add_generation_prompt: !continues,
      continue_final_message: continues,
      ...(truncation === undefined ? {} : { truncation }),
      ...(max_length === undefined ? {} : { max_length }),
      ...more,
      tokenize: true,
      return_dict: false,
    }) as number[];
  }
  const { input_ids } = tokenizer(prefix + prompt, { add_special_tokens, truncation, max_length, ...more });
  if (input_ids.length > 0) return input_ids as number[];
  const first = tokenizer.bos_token_id ?? tokenizer.eos_token_id;
  if (first === null) throw new OptionError("the prompt is empty");
  return [first];
}

function continuesOwn(chat: Conversation, { continue_final_message }: TextGenerationOptions): boolean {
  return continue_final_message ?? chat.at(-1)!.role === "assistant";
}

/** The rest of a prompt that leaves room. @throws OptionError */
function cutFor(
  ids: readonly number[],
  most: number,
  max_new_tokens: number,
  how: TextGenerationOptions["handle_long_generation"],
): readonly number[] {
  if (how === undefined || ids.length + max_new_tokens <= most) return ids;
  if (max_new_tokens >= most) {
    throw new OptionError(`max_new_tokens ${max_new_tokens} leaves no room for a prompt in ${most} tokens`, {
      details: { option: "handle_long_generation" },
    });
  }
  return ids.slice(max_new_tokens - most);
}

export const textGeneration = kind({
  models: ["causal-lm"],
  needs: ["tokenizer"],
  calls: CONTINUE,
  async run({ model, tokenizer, batch_size }: Parts<PreTrainedModel>, inputs, options: TextGenerationOptions) {
    const { items, many } = listed(inputs, asPrompt, "a text, or a chat of messages { role, content }");
    if (options.streamer && items.length > 1) {
      throw new OptionError("a streamer takes one input", { details: { option: "streamer" } });
    }
    const why = "text-generation: token_healing changes the prompt, which new text follows here";
    const hint = "generate() and heal_tokens() of the model heal prompts";
    const healing = unhealed(options.token_healing, model.generation_config.token_healing === true, why, hint);
    const generation = { ...pick(OF_GENERATE, options), ...healing };
    const { max_positions } = model.module.geometry;
    const context = Math.min(tokenizer.model_max_length, trainedContext(model.config) ?? max_positions);
    // Of the task's parameters a length is not read, as in Python, whose own wins.
    const { max_length: _, ...task } = taskParameters(model.config, "text-generation");
    const { prefix = task.prefix, handle_long_generation } = options;
    const prompts = items.map((item) =>
      promptIds(tokenizer, item, { ...options, prefix: isText(prefix) ? prefix : undefined }),
    );
    // What is generated depends on each prompt alone, so those of a batch have as many new tokens.
    const runs = prompts.map((ids, n) => {
      const wanted = withDefaults(
        model,
        generation,
        USUAL,
        task,
        handle_long_generation ? context - 1 : max_positions - ids.length,
      );
      const { max_length: __, ...rest } = wanted;
      const tokens = newTokens(wanted, model.generation_config, ids.length);
      return { n, ids: cutFor(ids, context, tokens, handle_long_generation), wanted: rest, tokens };
    });
    const found = await inBatches(
      runs,
      batch_size,
      ({ ids }) => ids.length,
      async (batch, numbers) => {
        const rows = batch.map(({ ids }) => ids);
        const padded = paddedRows(rows, 0, "left");
        const { wanted, tokens } = batch[0]!;
        const how = forBatch(wanted, numbers);
        const texts = await model.generate({ ...padded, ...how, max_new_tokens: tokens, tokenizer });
        const each = texts.length / batch.length;
        const width = padded.input_ids[0]!.length;
        return await Promise.all(
          batch.map(({ n }, row) => {
            const own = texts.slice(row * each, (row + 1) * each).map((ids) => ids.slice(width));
            return Promise.all(own.map((ids) => shown(items[n]!, rows[row]!, ids, tokenizer, options)));
          }),
        );
      },
      ({ tokens }) => tokens,
    );
    return many ? found : found[0];
  },
});

/** New tokens of a prompt, by the caller or the file. @throws OptionError if the caller's `max_length` leaves none */
function newTokens({ max_new_tokens, max_length }: GenerationOptions, inFile: ConfigJson, prompt: number): number {
  if (max_new_tokens !== undefined) return max_new_tokens;
  const number = (value: unknown): number | undefined => (typeof value === "number" ? value : undefined);
  if (max_length === undefined) {
    return number(inFile.max_new_tokens) ?? Math.max(1, (number(inFile.max_length) ?? 20) - prompt);
  }
  if (max_length > prompt) return max_length - prompt;
  throw new OptionError(`max_length ${max_length} leaves no room after a prompt of ${prompt} tokens`, {
    details: { option: "max_length" },
    hint: "use max_new_tokens instead",
  });
}

/** A text that is to be as the call says is not cleaned up, which would change it. */
const isExact = (options: TextGenerationOptions): boolean =>
  STRUCTURED_FIELDS.some((name) => options[name] !== undefined);

async function shown(
  prompt: string | Conversation,
  before: readonly number[],
  ids: readonly number[],
  tokenizer: PreTrainedTokenizer,
  options: TextGenerationOptions,
): Promise<((GeneratedText | GeneratedChat) & Partial<Parsed<SchemaInput>>) | GeneratedIds> {
  const { json_schema, return_tensors } = options;
  if (return_tensors) return { generated_token_ids: [...before, ...ids] };
  const generated = shownText(prompt, before, ids, tokenizer, options);
  if (json_schema === undefined) return generated;
  const exact = newText(tokenizer, before, ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  return { ...generated, parsed: await parseOutput(json_schema, exact) };
}

function shownText(
  prompt: string | Conversation,
  before: readonly number[],
  ids: readonly number[],
  tokenizer: PreTrainedTokenizer,
  options: TextGenerationOptions,
): GeneratedText | GeneratedChat {
  const { return_full_text = true, skip_special_tokens = true } = options;
  const { clean_up_tokenization_spaces = isExact(options) ? false : undefined } = options;
  const fresh = newText(tokenizer, before, ids, { skip_special_tokens, clean_up_tokenization_spaces });
  if (!return_full_text) return { generated_text: fresh };
  if (isText(prompt)) return { generated_text: prompt + fresh };
  const last = prompt.at(-1)!;
  if (!continuesOwn(prompt, options)) return { generated_text: [...prompt, { role: "assistant", content: fresh }] };
  return { generated_text: [...prompt.slice(0, -1), { ...last, content: `${String(last.content ?? "")}${fresh}` }] };
}
