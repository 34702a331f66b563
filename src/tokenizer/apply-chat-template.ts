// `tokenizer.apply_chat_template`: conversations to text by the tokenizer's template (chat/template.ts), and to tokens by the
// tokenizer itself.

import { isList } from "../core/checks.js";
import { entriesOf, namesOf, OptionError } from "../core/errors.js";
import { checkedLater, choice, flag, type Options, readOptions, such, text } from "../core/options.js";
import { show } from "../core/show.js";
import type { Range } from "./aligned.js";
import { type BatchEncoding, type Encoding, type IntTensor, type Row, stack, type TensorEncoding } from "./batch.js";
import { type Rendered, renderChat } from "./chat/template.js";
import { chooseTemplate, type Templates } from "./chat/templates.js";
import { reading } from "./ids.js";
import { CALL, type CallOptions } from "./options.js";

const PLACE = "tokenizer.apply_chat_template";

/** One message of a conversation; what else it may hold is up to the template. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: unknown;
  readonly [field: string]: unknown;
}
export type Conversation = readonly ChatMessage[];

/** Options of `apply_chat_template`, spelled as in Python. Any other name that the template mentions is a variable of it. */
export const APPLY = {
  /** Tools as JSON schemas: `{ type: "function", function: { name, description, parameters } }`. */
  tools: checkedLater<readonly object[] | null>(),
  /** Documents with `title` and `text`. */
  documents: checkedLater<readonly object[] | null>(),
  /** The text of a template, or the name of one of the tokenizer's. */
  chat_template: text(),
  /** Append the beginning of the assistant's next message. */
  add_generation_prompt: flag(),
  /** Leave the last message open, so that a model goes on with it; text names the field, which is `content` otherwise. */
  continue_final_message: such<boolean | string>(
    (value) => typeof value === "boolean" || (typeof value === "string" && value !== ""),
    "true, false or the name of a field",
  ),
  /** Give tokens, which is the default, or text. */
  tokenize: flag(),
  padding: CALL.padding,
  /** Default: false. */
  truncation: CALL.truncation,
  max_length: CALL.max_length,
  return_tensors: choice([true, false, "pt", "np"]),
  /** Give what a call of the tokenizer gives, which is the default, or the ids alone. */
  return_dict: flag(),
  /** Also give `assistant_masks`: 1 for tokens of the template's `{% generation %}` blocks. */
  return_assistant_tokens_mask: flag(),
  /** Options of the tokenizer's own call. */
  tokenizer_kwargs: checkedLater<CallOptions>(),
};
export interface ApplyChatTemplateOptions extends Readonly<Options<typeof APPLY>> {}

/** The options of a call, and variables of the template. */
export type ApplyOptions = ApplyChatTemplateOptions & Readonly<Record<string, unknown>>;
type Several = readonly Conversation[];

type Tensors = { readonly return_tensors: true | "pt" | "np" };

/** What the call gives for a conversation, or several, with these options. */
export type AppliedTo<C, O> = O extends { readonly tokenize: false }
  ? C extends Several
    ? string[]
    : string
  : O extends Tensors
    ? O extends { readonly return_dict: false }
      ? IntTensor
      : TensorEncoding
    : O extends { readonly return_dict: false }
      ? C extends Several
        ? number[][]
        : number[]
      : C extends Several
        ? BatchEncoding
        : Encoding;

/** What the call gives: text, ids, or an encoding, of one conversation or several. */
export type Applied = string | string[] | number[] | number[][] | IntTensor | Encoding | BatchEncoding | TensorEncoding;

/** What the call needs of a tokenizer. */
export interface ChatTokenizer {
  readonly chat_template: Templates;
  readonly special_tokens_map: Readonly<Record<string, string | undefined>>;
  /** A call of the tokenizer. `located`: rows say where in the text their tokens come from. */
  encode(text: string | string[], options: CallOptions, located: boolean): Encoded;
}

/** What a call of the tokenizer gives, and the rows of which it is made. */
export interface Encoded {
  readonly encoding: Encoding | BatchEncoding | TensorEncoding;
  readonly rows: readonly Row[];
}

/** True if an array holds conversations, and not messages. */
function isBatch(given: readonly unknown[]): given is readonly (readonly unknown[])[] {
  return Array.isArray(given[0]);
}

/** Splits what was given into options of the call and variables of the template. */
function readGiven(tokenizer: ChatTokenizer, given: object) {
  const entries = entriesOf(PLACE, given, namesOf(PLACE, given));
  const own: Record<string, unknown> = Object.create(null) as Record<string, unknown>;
  const others: (readonly [string, unknown])[] = [];
  for (const [name, value] of entries) {
    if (Object.hasOwn(APPLY, name)) own[name] = value;
    else if (value !== undefined) others.push([name, value]);
  }
  const options = readOptions(PLACE, APPLY, { ...own });
  const source = chooseTemplate(tokenizer.chat_template, options.chat_template, isList(options.tools));
  const mentioned = ([name]: readonly [string, unknown]) =>
    name !== "messages" && /^[A-Za-z_]\w{0,99}$/.test(name) && new RegExp(`\\b${name}\\b`).test(source);
  const strange = others.filter((entry) => !mentioned(entry));
  if (strange.length > 0) entriesOf(PLACE, Object.fromEntries(strange), Object.keys(APPLY)); // throws
  return { options, source, variables: Object.fromEntries(others) };
}

/**
 * 1 for the tokens of what the assistant says, whatever was cut off or put around them. As in Python, the first token of a character
 * counts for it, what ends beyond the row goes on to its end, and no text is marked after one whose beginning was cut off.
 */
function maskOf({ spans }: Rendered, offsets: readonly Range[]): number[] {
  const mask = offsets.map(() => 0);
  const tokenAt = (character: number) => offsets.findIndex(([start, end]) => start <= character && character < end);
  for (const [start, end] of spans) {
    const first = tokenAt(start);
    if (first < 0) break;
    const last = tokenAt(end - 1);
    mask.fill(1, first, last <= 0 ? undefined : last + 1);
  }
  return mask;
}

/**
 * Renders conversations and turns them into tokens.
 * @throws OptionError for wrong options, for options that the template does not know, for what is no conversation, for messages
 * that the template refuses, and when there is no template
 * @throws FormatError when the template cannot be read, fails, or takes more time or space than it may
 */
export function applyChatTemplate(
  tokenizer: ChatTokenizer,
  conversation: unknown,
  given: ApplyChatTemplateOptions,
): Applied {
  const { options, source, variables } = readGiven(tokenizer, given);
  const { tokenize = true, continue_final_message: goes = false, add_generation_prompt = false } = options;
  const return_dict = tokenize && options.return_dict !== false;
  const spans = options.return_assistant_tokens_mask === true;
  const refuse = (message: string, option: string): never => {
    throw new OptionError(`${PLACE}: ${message}`, { details: { option } });
  };
  if (spans && !return_dict) {
    refuse("return_assistant_tokens_mask needs return_dict and tokenize", "return_assistant_tokens_mask");
  }
  if (goes !== false && add_generation_prompt) {
    refuse("continue_final_message and add_generation_prompt are not compatible", "continue_final_message");
  }
  if (goes !== false && spans) {
    refuse("continue_final_message is not compatible with return_assistant_tokens_mask", "continue_final_message");
  }
  const { chats, batch } = reading(PLACE, "messages", conversation, () => {
    if (!Array.isArray(conversation))
      refuse(`messages must be a list of messages, got ${show(conversation)}`, "messages");
    const list = conversation as readonly unknown[];
    if (list.length === 0) {
      refuse("an empty conversation has no text: provide at least one message", "messages");
    }
    return isBatch(list) ? { chats: [...list], batch: true } : { chats: [list], batch: false };
  });
  const rendered = chats.map((chat) =>
    renderChat(source, chat, {
      place: PLACE,
      tools: options.tools,
      documents: options.documents,
      add_generation_prompt,
      continued: goes === false ? undefined : goes === true ? "content" : goes,
      variables: { ...tokenizer.special_tokens_map, ...variables },
      spans,
    }),
  );
  const texts = rendered.map(({ text }) => text);
  if (!tokenize) return batch ? texts : texts[0]!;
  const { tokenizer_kwargs: kwargs = {} } = options;
  const more = Object.fromEntries(entriesOf(`${PLACE}: tokenizer_kwargs`, kwargs, Object.keys(CALL)));
  const { padding = false, truncation = false, max_length, return_tensors } = options;
  const call: CallOptions = { padding, truncation, max_length, return_tensors, add_special_tokens: false, ...more };
  const { encoding, rows } = tokenizer.encode(batch ? texts : texts[0]!, call, spans);
  if (!spans) return return_dict ? encoding : encoding.input_ids;
  const masks = rendered.map((one, i) => maskOf(one, rows[i]!.offsets!));
  return Object.assign(encoding, { assistant_masks: call.return_tensors ? stack(masks) : batch ? masks : masks[0]! });
}
