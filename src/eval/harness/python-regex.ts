// Regular expressions as Python writes them.

import { ConfigError } from "../../core/errors.js";
import { show } from "../../core/show.js";

/**
 * A pattern of Python's `re`, for all matches. Flags at its beginning, named groups, `\Z` and `$` (which also matches before a newline
 * at the end) are translated.
 * @throws ConfigError for what JavaScript does not know
 */
export function pythonRegex(place: string, pattern: string): RegExp {
  const given = /^\(\?([aimsux]+)\)/.exec(pattern);
  const flags = [...(given?.[1] ?? "")].filter((flag) => "ims".includes(flag));
  const multiline = flags.includes("m");
  let [made, inClass] = ["", false];
  const source = pattern.slice(given?.[0].length ?? 0);
  for (let at = 0; at < source.length; at++) {
    const unit = source[at]!;
    if (unit === "\\") {
      const next = source[++at] ?? "";
      made += next === "Z" && !inClass ? "(?![\\s\\S])" : next === "A" && !inClass ? "(?<![\\s\\S])" : unit + next;
    } else if (unit === "$" && !inClass && !multiline) made += "(?=\\n?(?![\\s\\S]))";
    else if (!inClass && source.startsWith("(?P<", at)) {
      made += "(?<";
      at += 3;
    } else {
      if (unit === "[") inClass = true;
      if (unit === "]") inClass = false;
      made += unit;
    }
  }
  try {
    return new RegExp(made, `g${flags.join("")}`);
  } catch (cause) {
    throw new ConfigError(`${place}: ${show(pattern)} is no regular expression that can be used here`, { cause });
  }
}
