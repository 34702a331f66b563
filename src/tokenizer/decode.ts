// Decoders: tokens to text, as in Python's `tokenizers`, in one pass. A decoder takes tokens as they come and gives the text that
// no later token can change, so that a whole text and a stream are decoded by the same steps. Not here: ids (engine.ts).

import type { Components } from "./components.js";
import { fail, isObject, type JsonObject } from "./json-file.js";
import { patternOf } from "./pattern.js";
import { byteLevelBytes } from "./pre-tokenize.js";
import { cleanUp, Sink, StreamReplacer } from "./replace.js";
import { longest, replacer, TooLong, trimmed } from "./text.js";

const KEY = "decoder";
const NONE: ReadonlySet<string> = new Set();
/** Characters of the longest string of any engine that is in use. */
const LONGEST_TEXT = 2 ** 29 - 24;

/** Tokens, or after a step that joins them (`Fuse`, `ByteLevel`) pieces of the one token that there is. */
interface Step {
  push(tokens: readonly string[], out: Sink): void;
  end(out: Sink): void;
}

/** Decodes one text: adds tokens and gives the text that is final; with `last` the rest, and nothing may follow. */
export type Decoding = (tokens: readonly string[], last: boolean) => string;

/** A step without memory beyond the number of the token. */
function each(change: (token: string, index: number) => string): Step {
  let index = 0;
  return {
    push: (tokens, out) => {
      for (const token of tokens) out.push(change(token, index++));
    },
    end: () => {},
  };
}

/** A step over the joined text that needs all of it. */
function whole(make: () => Step): Step {
  let text = "";
  return {
    push: (parts) => {
      for (const part of parts) text += part;
    },
    end: (out) => {
      const step = make();
      step.push([text], out);
      step.end(out);
    },
  };
}

/** The byte of a byte-fallback token such as `<0xE2>`. */
export function fallbackByte(token: string): number | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : undefined;
}

/**
 * A run of byte tokens is one UTF-8 string, or, if it is none, one U+FFFD for each byte. Only the token after the run tells,
 * so its text comes with that.
 */
function byteFallback(): Step {
  let run: number[] = [];
  const flush = (out: Sink) => {
    if (run.length === 0) return;
    try {
      out.push(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(run)));
    } catch {
      for (let i = 0; i < run.length; i++) out.push("\uFFFD");
    }
    run = [];
  };
  return {
    push: (tokens, out) => {
      for (const token of tokens) {
        const byte = fallbackByte(token);
        if (byte !== undefined) run.push(byte);
        else {
          flush(out);
          out.push(token);
        }
      }
    },
    end: flush,
  };
}

function byteLevel(): Step {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  return {
    push: (tokens, out) => void out.push(utf8.decode(byteLevelBytes(tokens), { stream: true })),
    end: (out) => void out.push(utf8.decode()),
  };
}

/** Marks become spaces, but nothing in the first token. */
function metaspace(config: JsonObject, joined: boolean): Step {
  const { prepend_scheme, add_prefix_space } = config;
  const keep = prepend_scheme === "never" || (typeof prepend_scheme !== "string" && add_prefix_space === false);
  const mark = String(config.replacement ?? "\u2581");
  return each((token, i) => token.replaceAll(mark, (joined || i === 0) && !keep ? "" : " "));
}

/** What a word or a part of one adds to a text, by its number in it. */
export function wordPieceOf(config: JsonObject): (token: string, index: number) => string {
  const prefix = String(config.prefix ?? "");
  return (token, i) => {
    const continues = prefix !== "" && token.startsWith(prefix);
    const text = i === 0 ? token : continues ? token.slice(prefix.length) : ` ${token}`;
    return config.cleanup === true ? tidy(text) : text;
  };
}

/** The clean-up of decoders knows one rule more than that of tokenizers. */
function tidy(token: string): string {
  return cleanUp(token).replaceAll(" do not", " don't");
}

/** The mark at the end of words becomes a space, but nothing in the last token. */
function bpe(config: JsonObject): Step {
  const suffix = String(config.suffix || "</w>");
  let last: string | undefined;
  return {
    push: (tokens, out) => {
      for (const token of tokens) {
        if (last !== undefined) out.push(last.replaceAll(suffix, " "));
        last = token;
      }
    },
    end: (out) => {
      if (last !== undefined) out.push(last.replaceAll(suffix, ""));
    },
  };
}

function ctc(config: JsonObject): Step {
  const pad = String(config.pad_token ?? "<pad>");
  const delimiter = String(config.word_delimiter_token ?? "|");
  const clean = (token: string) => (delimiter === "" ? tidy(token) : tidy(token).replaceAll(delimiter, " "));
  let last: string | undefined;
  return {
    push: (tokens, out) => {
      for (const token of tokens) {
        if (token === last) continue;
        last = token;
        const kept = pad === "" ? token : token.replaceAll(pad, "");
        const text = config.cleanup === false ? kept : clean(kept);
        if (text !== "") out.push(text);
      }
    },
    end: () => {},
  };
}

/** Text of a CTC model's every frame: repetitions are one token, and what the model says between tokens is left out. */
function frames(config: JsonObject): Step {
  let last: string | undefined;
  let text = "";
  return {
    push: (tokens) => {
      for (const token of tokens) {
        if (token === last) continue;
        last = token;
        if (token !== config.pad_token) text += token === config.word_delimiter_token ? String(config.content) : token;
      }
    },
    end: (out) => {
      const whole = trimmed(text, true, true);
      out.push(config.lowercase === true ? whole.toLowerCase() : whole);
    },
  };
}

/** Removes up to `start` and `stop` times `content` from the two ends of a token. */
export function stripOf(config: JsonObject): (token: string) => string {
  const content = String(config.content ?? " ");
  const [start, stop] = [Number(config.start ?? 0), Number(config.stop ?? 0)];
  return (token) => {
    let [from, to] = [0, token.length];
    for (let i = 0; i < start && token.startsWith(content, from); i++) from += content.length;
    for (let i = 0; i < stop && to > 0 && token.endsWith(content, to); i++) to -= content.length;
    return token.slice(from, Math.max(from, to));
  };
}

/** The same for a text that comes in pieces: a run of `content` at its end waits. */
function stripStream(config: JsonObject): Step {
  const content = String(config.content ?? " ");
  let start = Number(config.start ?? 0);
  const stop = Number(config.stop ?? 0);
  let waiting = 0;
  return {
    push: (parts, out) => {
      let rest = parts.join("");
      while (start > 0 && rest !== "") {
        start = rest.startsWith(content) ? start - 1 : 0;
        if (rest.startsWith(content)) rest = rest.slice(content.length);
      }
      let end = rest.length;
      let run = 0;
      for (; end > 0 && rest.endsWith(content, end); run++) end -= content.length;
      if (end > 0) {
        out.push(content.repeat(waiting));
        out.push(rest.slice(0, end));
        waiting = 0;
      }
      waiting += run;
      if (waiting > stop) {
        out.push(content.repeat(waiting - stop));
        waiting = stop;
      }
    },
    end: () => {},
  };
}

/** A text that comes in pieces, without white space at its ends. */
function trimStream(): Step {
  let waiting = "";
  let begun = false;
  return {
    push: (parts, out) => {
      const part = parts.join("");
      const text = begun ? part : trimmed(part, true, false);
      if (text === "") return;
      begun = true;
      const kept = trimmed(text, false, true);
      if (kept !== "") {
        out.push(waiting);
        out.push(kept);
        waiting = "";
      }
      waiting += text.slice(kept.length);
    },
    end: () => {},
  };
}

/** Runs of pieces between special tokens, each a text of its own, without white space at the ends of the whole. */
function pieces({ after }: JsonObject, special: ReadonlySet<string>): Step {
  const trim = trimStream();
  let begins = true;
  const textOf = (token: string): string => {
    const first = begins;
    begins = special.has(token);
    if (begins) return token + String(after ?? "");
    const text = token.replaceAll("\u2581", " ");
    return first && text.startsWith(" ") ? text.slice(1) : text;
  };
  return { push: (tokens, out) => trim.push(tokens.map(textOf), out), end: trim.end };
}

/** A component with the pattern of a Replace, which is translated once. */
export interface Part {
  readonly config: JsonObject;
  /** Special tokens. */
  readonly special: ReadonlySet<string>;
  readonly pattern: RegExp | string;
  readonly run: (text: string, most: number) => string;
}

export function partOf(file: string, config: JsonObject, special: ReadonlySet<string> = NONE): Part {
  const { pattern: given } = config;
  const literal = isObject(given) && typeof given.Regex !== "string";
  const pattern = config.type !== "Replace" ? "" : literal ? String(given.String) : patternOf(file, KEY, given);
  return { config, special, pattern, run: replacer(pattern, String(config.content ?? "")) };
}

function stepOf({ config, special, run }: Part): Step {
  switch (config.type) {
    case "BPEDecoder":
      return bpe(config);
    case "ByteFallback":
      return byteFallback();
    case "ByteLevel":
      return byteLevel();
    case "CTC":
      return ctc(config);
    case "Frames":
      return frames(config);
    case "Metaspace":
      return metaspace(config, false);
    case "Pieces":
      return pieces(config, special);
    case "Replace":
      return {
        push: (tokens, out) => {
          for (const token of tokens) out.push(run(token, out.most));
        },
        end: () => {},
      };
    case "Strip":
      return each(stripOf(config));
    case "WordPiece":
      return each(wordPieceOf(config));
    default: // Fuse: its pieces are joined anyway
      return each((token) => token);
  }
}

/** The step where all tokens have been joined: it works on pieces where it can, else on the whole text. */
function joinedStepOf(part: Part): Step {
  const { config, pattern } = part;
  if (config.type === "Fuse") return stepOf(part);
  if (config.type === "Metaspace") return metaspace(config, true);
  if (config.type === "Strip") return stripStream(config);
  if (config.type === "Replace" && typeof pattern === "string") {
    return new StreamReplacer(pattern, String(config.content ?? ""));
  }
  return whole(() => stepOf(part));
}

/** Without a decoder, tokens are joined by spaces. */
function spaced(): Step {
  return each((token, i) => (i === 0 ? token : ` ${token}`));
}

/** True if the decoder joins the tokens' bytes, as UTF-8, and does nothing else. */
function isByteLevel(components: Components | null): boolean {
  return components?.length === 1 && components[0]!.type === "ByteLevel";
}

/**
 * A function that begins to decode a text.
 * @param suffix the mark at the end of words, which CLIP's decoder keeps; Python wraps it in the same way
 * @param special tokens that are no part of the text around them
 * @throws FormatError for a pattern that cannot be translated; the decoding throws it for a text that it would make more than
 * 32 times longer
 */
export function buildDecoder(
  file: string,
  components: Components | null,
  suffix: string | undefined,
  special: ReadonlySet<string>,
): () => Decoding {
  const parts = components?.map((config) => partOf(file, config, special));
  const makeSteps = (): Step[] => {
    if (parts === undefined) return [spaced()];
    let joined = false;
    const steps = parts.map((part) => {
      const step = joined ? joinedStepOf(part) : stepOf(part);
      joined ||= part.config.type === "ByteLevel" || part.config.type === "Fuse";
      return step;
    });
    const wrapped = suffix !== undefined && isByteLevel(components);
    return wrapped ? [...steps, new StreamReplacer(suffix, " "), trimStream()] : steps;
  };
  return () => {
    const steps = makeSteps().map((step) => ({ step, out: new Sink() }));
    let taken = 0;
    return (given, last) => {
      for (const token of given) taken += token.length + 1;
      const most = Math.min(longest(taken), LONGEST_TEXT);
      if (taken > LONGEST_TEXT) fail(file, KEY, `${taken} characters are more than a text can have`);
      let tokens = given;
      try {
        for (const { step, out } of steps) {
          out.begin(most);
          step.push(tokens, out);
          if (last) step.end(out);
          tokens = out.texts;
        }
        return tokens.join("");
      } catch (cause) {
        if (!(cause instanceof TooLong)) throw cause;
        const makes = `makes more than ${most} characters of ${taken}, which is the most that is allowed`;
        return fail(file, KEY, makes, undefined, cause);
      }
    };
  };
}
