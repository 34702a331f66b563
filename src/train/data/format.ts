// Examples as tokens with labels, in the formats of TRL's supervised fine-tuning: plain text, a prompt and a completion, messages.

import { isList, listOf } from "../../core/checks.js";
import { OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { warnOnce } from "../../generate/warn.js";
import { IGNORED } from "../../ops/cross-entropy.js";
import type { PreTrainedTokenizer } from "../../tokenizer/api.js";
import type { ChatMessage } from "../../tokenizer/apply-chat-template.js";
import { isObject } from "./json-lines.js";
import type { SFTOptions } from "./sft-options.js";
import type { Feature } from "./types.js";

/** A text as a model learns it. */
export interface Tokens {
  readonly input_ids: readonly number[];
  /** The ids again, and -100 for those that are not learned. */
  readonly labels: readonly number[];
}

/** The format of an example. */
export type Format = "text" | "prompt-completion" | "messages";

const WANTED = "expected text, prompt and completion, or messages";
/** Who speaks in older chats, `{ from, value }`. */
const ROLES = new Map([
  ["human", "user"],
  ["user", "user"],
  ["gpt", "assistant"],
  ["assistant", "assistant"],
  ["system", "system"],
  ["tool", "tool"],
  ["observation", "tool"],
]);

/** @param place of the example, for messages @throws OptionError for an example of no format */
export function formatOf(example: Feature, options: SFTOptions, place: string): Format {
  const { dataset_text_field: field = "text" } = options;
  if (example.messages !== undefined || example.conversations !== undefined) return "messages";
  if (example.prompt !== undefined && example.completion !== undefined) return "prompt-completion";
  if (example[field] !== undefined) return "text";
  const names = Object.keys(example).join(", ") || "nothing";
  const missing = example.prompt !== undefined ? "; a prompt alone has nothing to learn" : "";
  throw new OptionError(`${place}: ${WANTED}, got ${names}${missing}`, {
    hint: "dataset.map(...) or rename_column makes one of them; dataset_text_field names another field of texts",
  });
}

/**
 * The tokens of an example, whole.
 * @throws OptionError, with `place`, for fields of the wrong kind; what the chat template throws
 */
export function tokensOf(example: Feature, tokenizer: PreTrainedTokenizer, options: SFTOptions, place: string): Tokens {
  switch (formatOf(example, options, place)) {
    case "text":
      return plainText(example, tokenizer, options, place);
    case "prompt-completion":
      return isList(example.prompt) || isList(example.completion)
        ? chatCompletion(example, tokenizer, options, place)
        : plainCompletion(example, tokenizer, options, place);
    default:
      return messages(example, tokenizer, options, place);
  }
}

function textOf(example: Feature, field: string, place: string): string {
  const value = example[field];
  if (typeof value === "string") return value;
  throw new OptionError(`${place}: ${field} must be text, got ${show(value)}`);
}

/** A text that ends with the token of the end. */
function ended(text: string, tokenizer: PreTrainedTokenizer, { eos_token }: SFTOptions): string {
  const end = eos_token ?? tokenizer.eos_token ?? "";
  return text.endsWith(end) ? text : text + end;
}

/** @throws OptionError for an option that plain text cannot have */
function checkPlain(options: SFTOptions, place: string): void {
  if (!options.assistant_only_loss) return;
  throw new OptionError(`${place}: assistant_only_loss is for messages, and this is plain text`, {
    details: { option: "assistant_only_loss" },
  });
}

function plainText(example: Feature, tokenizer: PreTrainedTokenizer, options: SFTOptions, place: string): Tokens {
  checkPlain(options, place);
  if (options.completion_only_loss) throw noCompletion(place);
  const text = textOf(example, options.dataset_text_field ?? "text", place);
  const input_ids = tokenizer(ended(text, tokenizer, options)).input_ids;
  return { input_ids, labels: input_ids };
}

function noCompletion(place: string): OptionError {
  return new OptionError(`${place}: completion_only_loss needs examples with a prompt and a completion`, {
    details: { option: "completion_only_loss" },
  });
}

function plainCompletion(example: Feature, tokenizer: PreTrainedTokenizer, options: SFTOptions, place: string): Tokens {
  checkPlain(options, place);
  const prompt = textOf(example, "prompt", place);
  const text = prompt + ended(textOf(example, "completion", place), tokenizer, options);
  const input_ids = tokenizer(text).input_ids;
  return masked(input_ids, options.completion_only_loss === false ? [] : tokenizer(prompt).input_ids);
}

/** The tokens behind those of the prompt are learned; as in TRL by their number, whether they are the same or not. */
function masked(input_ids: readonly number[], prompt: readonly number[], speech?: readonly number[]): Tokens {
  if (prompt.some((id, at) => input_ids[at] !== id)) {
    warnOnce(
      "prompt tokens",
      "the tokens of a prompt are not the first ones of prompt and completion together, so that a few tokens at the border may be learned that are the prompt's, or the other way round; a prompt that ends with a blank does this",
    );
  }
  const labels = input_ids.map((id, at) => (at < prompt.length || speech?.[at] === 0 ? IGNORED : id));
  return { input_ids, labels };
}

/** Messages of a field, those of older chats with today's names. @throws OptionError */
export function chatOf(example: Feature, field: string, place: string): ChatMessage[] {
  const value = example[field];
  const list = listOf(value, isObject);
  if (!list || list.length === 0) {
    throw new OptionError(`${place}: ${field} must be a list of messages, got ${show(value)}`);
  }
  return list.map((one) => {
    if (typeof one.role === "string") return one as ChatMessage;
    if (typeof one.from === "string" && ROLES.has(one.from)) {
      return { role: ROLES.get(one.from)!, content: one.value };
    }
    throw new OptionError(`${place}: a message needs a role, got ${show(one)}`);
  });
}

/** Options of the chat template: the call's, and what the example says of its tools and its variables. */
function chatOptions(
  example: Feature,
  { chat_template, chat_template_kwargs }: Pick<SFTOptions, "chat_template" | "chat_template_kwargs">,
  place: string,
) {
  const own = example.chat_template_kwargs ?? {};
  if (!isObject(own)) throw new OptionError(`${place}: chat_template_kwargs must be an object, got ${show(own)}`);
  const tools = toolsOf(example.tools, place);
  return { ...chat_template_kwargs, ...own, ...(tools ? { tools } : {}), chat_template };
}

/** Tools as a list, or as the text of one in JSON. @throws OptionError */
function toolsOf(tools: unknown, place: string): readonly object[] | undefined {
  if (tools === undefined || tools === null || tools === "") return undefined;
  let list = tools;
  if (typeof tools === "string") {
    try {
      list = JSON.parse(tools);
    } catch (cause) {
      throw new OptionError(`${place}: tools are no JSON: ${(cause as Error).message}`, { cause });
    }
  }
  const objects = listOf(list, isObject);
  if (objects) return objects.length > 0 ? objects : undefined;
  throw new OptionError(`${place}: tools must be a list of objects, got ${show(list)}`);
}

function messages(example: Feature, tokenizer: PreTrainedTokenizer, options: SFTOptions, place: string): Tokens {
  if (options.completion_only_loss) throw noCompletion(place);
  const field = example.messages === undefined ? "conversations" : "messages";
  const { input_ids, speech } = applied(chatOf(example, field, place), example, tokenizer, options, place);
  return masked(input_ids, [], speech);
}

function chatCompletion(example: Feature, tokenizer: PreTrainedTokenizer, options: SFTOptions, place: string): Tokens {
  const [prompt, completion] = [chatOf(example, "prompt", place), chatOf(example, "completion", place)];
  const { input_ids, speech } = applied([...prompt, ...completion], example, tokenizer, options, place);
  if (options.completion_only_loss === false) return masked(input_ids, [], speech);
  const how = { ...chatOptions(example, options, place), add_generation_prompt: true };
  return masked(input_ids, tokenizer.apply_chat_template(prompt, how).input_ids, speech);
}

/** The tokens of a chat by the template. @param asked the assistant is to speak next */
export function chatTokens(
  chat: readonly ChatMessage[],
  example: Feature,
  tokenizer: PreTrainedTokenizer,
  options: Pick<SFTOptions, "chat_template">,
  place: string,
  asked = false,
): readonly number[] {
  checkTemplate(tokenizer, options, place);
  const how = { ...chatOptions(example, options, place), ...(asked ? { add_generation_prompt: true } : {}) };
  return (tokenizer.apply_chat_template(chat, how) as { readonly input_ids: readonly number[] }).input_ids;
}

/** @throws OptionError if there is none */
function checkTemplate(
  tokenizer: PreTrainedTokenizer,
  { chat_template }: Pick<SFTOptions, "chat_template">,
  place: string,
): void {
  if (chat_template !== undefined || tokenizer.chat_template !== null) return;
  throw new OptionError(`${place}: messages need a chat template, and the tokenizer has none`, {
    hint: "pass the text of one as chat_template (octavo train --chat-template <file>)",
    details: { option: "chat_template" },
  });
}

/** A chat by the template; `speech` is 1 for what the assistant says, where that is asked for. */
function applied(
  chat: readonly ChatMessage[],
  example: Feature,
  tokenizer: PreTrainedTokenizer,
  options: SFTOptions,
  place: string,
): { readonly input_ids: readonly number[]; readonly speech: readonly number[] | undefined } {
  checkTemplate(tokenizer, options, place);
  const return_assistant_tokens_mask = options.assistant_only_loss === true;
  const how = { ...chatOptions(example, options, place), return_assistant_tokens_mask };
  const made = tokenizer.apply_chat_template(chat, how) as {
    readonly input_ids: readonly number[];
    readonly assistant_masks?: readonly number[];
  };
  const { input_ids, assistant_masks: speech } = made;
  if (speech && !speech.includes(1)) {
    throw new OptionError(`${place}: assistant_only_loss is set, but no token is the assistant's`, {
      hint: "the chat template marks what it says by {% generation %} and {% endgeneration %}: pass one as chat_template",
      details: { option: "assistant_only_loss" },
    });
  }
  return { input_ids, speech };
}
