// Filters that lay out text: `wordwrap` as Python's textwrap breaks lines, `urlize` as Jinja finds links.

import { isAllBlank, lines } from "./blanks.js";
import type { Call, Filter } from "./call.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { pretty } from "./pretty.js";
import { escaped, text } from "./text-filters.js";
import { itemsOf, truth, type Value } from "./values.js";

const WORD = "[\\p{L}\\p{N}_]";
/** A character of a word that is no digit. */
const LETTER = "[\\p{L}\\p{Nl}\\p{No}_]";
const BLANK = "[\\t\\n\\x0b\\x0c\\r ]";
const BEFORE_DASH = "(?<=[\\p{L}\\p{N}_!\"'&.,?])";

/** White space, dashes between words, and words: these up to a hyphen between letters, to white space, or to dashes. */
const HYPHENATED = new RegExp(
  `${BLANK}+|${BEFORE_DASH}-{2,}(?=${WORD})|[^\\t\\n\\x0b\\x0c\\r ]+?(?:` +
    `-(?:(?<=${LETTER}{2}-)|(?<=${LETTER}-${LETTER}-))(?=${LETTER}-?${LETTER})|(?=${BLANK}|$)|${BEFORE_DASH}(?=-{2,}${WORD}))`,
  "gu",
);
const SIMPLE = new RegExp(`${BLANK}+|[^\\t\\n\\x0b\\x0c\\r ]+`, "gu");

interface Wrapping {
  readonly width: number;
  readonly breaksWords: boolean;
  readonly hyphens: boolean;
}

/** The beginning of a word that is too long for any line, and the rest of it. */
function cutWord(word: string, room: number, hyphens: boolean): [string, string] {
  const all = Array.from(word);
  let end = room;
  if (hyphens && all.length > room) {
    const hyphen = all.slice(0, room).lastIndexOf("-");
    if (hyphen > 0 && all.slice(0, hyphen).some((char) => char !== "-")) end = hyphen + 1;
  }
  return [all.slice(0, end).join(""), all.slice(end).join("")];
}

/** The lines of one paragraph. */
function wrapped(paragraph: string, { width, breaksWords, hyphens }: Wrapping, budget: Budget): string[] {
  const chunks = (paragraph.match(hyphens ? HYPHENATED : SIMPLE) ?? []).reverse();
  budget.items(chunks.length);
  const size = (part: string): number => Array.from(part).length;
  const made: string[] = [];
  while (chunks.length > 0) {
    if (made.length > 0 && isAllBlank(chunks.at(-1)!)) chunks.pop();
    const line: string[] = [];
    let length = 0;
    while (chunks.length > 0 && length + size(chunks.at(-1)!) <= width) {
      length += size(chunks.at(-1)!);
      line.push(chunks.pop()!);
    }
    if (chunks.length > 0 && size(chunks.at(-1)!) > width) {
      budget.walk(chunks.at(-1)!.length);
      if (breaksWords) {
        const [head, rest] = cutWord(chunks.at(-1)!, width - length, hyphens);
        line.push(head);
        chunks[chunks.length - 1] = rest;
      } else if (line.length === 0) line.push(chunks.pop()!);
    }
    if (line.length > 0 && (line.at(-1) === "" || isAllBlank(line.at(-1)!))) line.pop();
    if (line.length > 0) made.push(line.join(""));
  }
  return made;
}

function wordwrap(value: Value, given: Call, budget: Budget): string {
  if (typeof value !== "string") return refuse("wordwrap needs a text");
  const width = given.whole("width", 79);
  const breaksWords = truth(given.any("break_long_words") ?? true);
  const between = given.any("wrapstring") ?? "\n";
  const hyphens = truth(given.any("break_on_hyphens") ?? true);
  given.end();
  if (typeof between !== "string") return refuse("wordwrap: wrapstring must be text");
  const all = lines(value);
  budget.walk(value.length);
  budget.items(all.length);
  if (width <= 0 && all.length > 0) return refuse("wordwrap: width must be above 0");
  const made = all.map((line) => wrapped(line, { width, breaksWords, hyphens }, budget));
  budget.text(made.flat().reduce((sum, line) => sum + line.length + between.length, all.length * between.length));
  return made.map((part) => part.join(between)).join(between);
}

const LINK = new RegExp(
  `^(?:(?:https?://|www\\.)(?:(?:[\\p{L}\\p{N}_%-]+\\.)+)?(?:[a-z]{2,63}|xn--[\\p{L}\\p{N}_%]{2,59})` +
    `|(?:[\\p{L}\\p{N}_%-]{2,63}\\.)+(?:com|net|int|edu|gov|org|info|mil)` +
    `|https?://(?:\\p{Nd}{1,3}(?:\\.\\p{Nd}{1,3}){3}|\\[(?:[\\p{Nd}a-f]{0,4}:){2}(?:[\\p{Nd}a-f]{0,4}:?){1,6}\\]))` +
    `(?::\\p{Nd}{1,5})?(?:[/?#]\\S*)?$`,
  "iu",
);
const DOMAIN = /^[\p{L}\p{N}_][\p{L}\p{N}_.-]*$/u;
const SCHEME = /^[\p{L}\p{N}_.+-]{2,}:\/{0,2}$/u;

/** True for what looks like an address of mail: the domain is what follows the last at sign. */
function isMail(word: string): boolean {
  const at = word.lastIndexOf("@");
  const domain = word.slice(at + 1);
  const dot = domain.lastIndexOf(".");
  return at > 0 && dot > 0 && DOMAIN.test(domain) && /^[\p{L}\p{N}_]+$/u.test(domain.slice(dot + 1));
}

/** A word without the marks around it: brackets before it, and brackets, dots and commas behind. */
function bare(word: string): [head: string, middle: string, tail: string] {
  const head = /^(?:[(<]|&lt;)+/.exec(word)?.[0] ?? "";
  let end = word.length;
  for (let mark: string | undefined = ""; mark !== undefined; ) {
    mark = [")", ">", ".", ",", "&gt;"].find((one) => end - one.length >= head.length && word.endsWith(one, end));
    end -= mark?.length ?? 0;
  }
  let [middle, tail] = [word.slice(head.length, end), word.slice(end)];
  // A bracket that closes one within the address belongs to it.
  for (const [open, close] of [
    ["(", ")"],
    ["<", ">"],
    ["&lt;", "&gt;"],
  ] as const) {
    const count = (where: string, what: string): number => where.split(what).length - 1;
    const opened = count(middle, open);
    if (opened <= count(middle, close)) continue;
    for (let n = Math.min(opened, count(tail, close)); n > 0; n--) {
      const to = tail.indexOf(close) + close.length;
      middle += tail.slice(0, to);
      tail = tail.slice(to);
    }
  }
  return [head, middle, tail];
}

function urlize(value: Value, given: Call, budget: Budget): string {
  const limit = given.any("trim_url_limit") ?? null;
  const follows = !truth(given.any("nofollow"));
  const [target, rel] = [given.any("target") ?? null, given.any("rel") ?? null];
  const schemes = given.any("extra_schemes") ?? null;
  given.end();
  const isText = (one: Value): one is string | null => one === null || typeof one === "string";
  if ((limit !== null && typeof limit !== "number") || !isText(target) || !isText(rel)) {
    return refuse("urlize: trim_url_limit must be a whole number, target and rel text");
  }
  const extra = schemes === null ? [] : itemsOf(schemes, budget);
  for (const scheme of extra) {
    if (typeof scheme !== "string" || !SCHEME.test(scheme)) return refuse("urlize: extra_schemes must be schemes");
  }
  const names = new Set([...(rel ?? "").split(/\s+/), ...(follows ? [] : ["nofollow"]), "noopener"].filter(Boolean));
  const attributes = ` rel="${escaped([...names].sort().join(" "))}"${target ? ` target="${escaped(target)}"` : ""}`;
  const source = escaped(text(value, budget));
  budget.walk(source.length);
  const shown = (url: string): string => {
    const all = Array.from(url);
    return limit !== null && all.length > limit ? `${all.slice(0, limit).join("")}...` : url;
  };
  const linked = (word: string): string => {
    const [head, middle, tail] = bare(word);
    let link = middle;
    if (LINK.test(middle)) {
      const scheme = middle.startsWith("https://") || middle.startsWith("http://") ? "" : "https://";
      link = `<a href="${scheme}${middle}"${attributes}>${shown(middle)}</a>`;
    } else if (middle.startsWith("mailto:") && isMail(middle.slice(7))) {
      link = `<a href="${middle}">${middle.slice(7)}</a>`;
    } else if (!/^www\.|^@|:/.test(middle) && isMail(middle)) {
      link = `<a href="mailto:${middle}">${middle}</a>`;
    } else {
      for (const scheme of extra as string[]) {
        if (link !== scheme && link.startsWith(scheme)) link = `<a href="${link}"${attributes}>${link}</a>`;
      }
    }
    return head + link + tail;
  };
  const made = source.split(/(\s+)/).map((word, i) => (i % 2 === 0 && word !== "" ? linked(word) : word));
  budget.items(made.length);
  budget.text(made.reduce((sum, word) => sum + word.length, 0));
  return made.join("");
}

export const LAYOUT_FILTERS: readonly (readonly [string, Filter])[] = [
  [
    "pprint",
    (value, given, budget) => {
      given.end();
      return pretty(value, budget);
    },
  ],
  ["urlize", urlize],
  ["wordwrap", wordwrap],
];
