// Reads a template: its text becomes a tree that can be run any number of times.

import { Lexer } from "./lexer.js";
import { refuse } from "./limits.js";
import { Parser } from "./parser.js";
import type { Block } from "./syntax.js";

/** Characters of a template. Published ones have up to some 20,000. */
const LONGEST_SOURCE = 1024 * 1024;

/**
 * Reads a template.
 * @param chat blocks on lines of their own leave none, and the newline at the end goes first; false: the text stays as it is
 * @throws FormatError for what is no template, longer than a million characters, or nested too deeply
 */
export function readTemplate(source: string, chat = true): Block {
  if (source.length > LONGEST_SOURCE) {
    refuse(`it has ${source.length} characters, at most ${LONGEST_SOURCE} are read`);
  }
  const text = chat ? source.replace(/(?:\r\n|\r|\n)$/, "") : source;
  try {
    return new Parser(new Lexer(text, { alone: chat }).all()).program();
  } catch (cause) {
    if (cause instanceof RangeError) refuse("it cannot be read: it is nested too deeply", cause);
    throw cause;
  }
}
