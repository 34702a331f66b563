// Regular expressions as Python writes them.

import { ConfigError } from "../../core/errors.js";
import { show } from "../../core/show.js";

/** What `\w` means: letters and digits of all scripts. */
const WORD = "\\p{L}\\p{N}_";
const WORDS: Readonly<Record<string, string>> = {
  w: `[${WORD}]`,
  W: `[^${WORD}]`,
  d: "\\p{Nd}",
  D: "\\P{Nd}",
  b: `(?:(?<=[${WORD}])(?![${WORD}])|(?<![${WORD}])(?=[${WORD}]))`,
  B: `(?:(?<=[${WORD}])(?=[${WORD}])|(?<![${WORD}])(?![${WORD}]))`,
  A: "(?<![^])",
  Z: "(?![^])",
  a: "\\x07",
};

/** An escape that means the character itself, as JavaScript takes it where Unicode counts. */
function itself(char: string, inClass: boolean): string {
  return /[\^$\\.*+?()[\]{}|/]/.test(char) || (inClass && char === "-") ? `\\${char}` : char;
}

/** A class from its bracket on, and where it ends. */
function classAt(source: string, from: number, ascii: boolean): { readonly made: string; readonly end: number } {
  const negated = source[from + 1] === "^";
  let [made, others] = ["", false];
  let at = from + (negated ? 2 : 1);
  for (let first = true; at < source.length && (first || source[at] !== "]"); at++, first = false) {
    const unit = source[at]!;
    if (unit !== "\\") {
      made += unit === "]" || unit === "[" ? `\\${unit}` : unit;
      continue;
    }
    const next = source[++at] ?? "";
    if (next === "W" && !ascii) others = true;
    else if (next === "w" && !ascii) made += WORD;
    else if (/[dD]/.test(next) && !ascii) made += WORDS[next]!;
    else if (next === "a") made += "\\x07";
    else made += /[A-Za-z0-9]/.test(next) ? `\\${next}` : itself(next, true);
  }
  // A class that is negated cannot stand in another.
  const own = made === "" ? "[]" : `[${made}]`;
  if (!others) return { made: negated ? `[^${made}]` : own, end: at };
  return { made: negated ? `(?:(?!${own})${WORDS.w})` : `(?:${own}|${WORDS.W})`, end: at };
}

function translated(source: string, flags: readonly string[]): string {
  const ascii = flags.includes("a");
  let made = "";
  for (let at = 0; at < source.length; at++) {
    const unit = source[at]!;
    if (unit === "\\") {
      const next = source[++at] ?? "";
      const word = ascii && /[wWdDbB]/.test(next) ? undefined : WORDS[next];
      made += word ?? (/[A-Za-z0-9]/.test(next) ? `\\${next}` : itself(next, false));
    } else if (unit === "[") {
      const { made: own, end } = classAt(source, at, ascii);
      made += own;
      at = end;
    } else if (unit === "$") made += flags.includes("m") ? "(?=\\n|(?![^]))" : "(?=\\n?(?![^]))";
    else if (unit === "^" && flags.includes("m")) made += "(?<=\\n|(?<![^]))";
    else if (unit === "." && !flags.includes("s")) made += "[^\\n]";
    else if (source.startsWith("(?P<", at)) {
      made += "(?<";
      at += 3;
    } else if (source.startsWith("(?P=", at)) {
      const end = source.indexOf(")", at);
      made += `\\k<${source.slice(at + 4, end)}>`;
      at = end < 0 ? source.length : end;
    } else if (unit === "{") {
      const count = /^\{(\d*)(,?)(\d*)\}/.exec(source.slice(at, at + 24));
      if (count && (count[1] !== "" || count[3] !== "")) {
        made += `{${count[1] || "0"}${count[2]}${count[3]}}`;
        at += count[0].length - 1;
      } else made += "\\{";
    } else made += unit === "}" || unit === "]" ? `\\${unit}` : unit;
  }
  return made;
}

/**
 * A pattern of Python's `re`, for all matches. Letters and digits are those of all scripts, flags may stand at its beginning.
 * @throws ConfigError for what JavaScript does not know
 */
export function pythonRegex(place: string, pattern: string): RegExp {
  const given = /^\(\?([aimsux]+)\)/.exec(pattern);
  const flags = [...(given?.[1] ?? "")];
  const kept = flags.filter((flag) => "ims".includes(flag));
  try {
    return new RegExp(translated(pattern.slice(given?.[0].length ?? 0), flags), `gu${kept.join("")}`);
  } catch (cause) {
    throw new ConfigError(`${place}: ${show(pattern)} is no regular expression that can be used here`, { cause });
  }
}
