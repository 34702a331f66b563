// The blocks of code in the documentation: README.md and docs/.
//
//   ```ts            is a program that compiles
//   ```ts run        is one that runs, too, with the storyteller and nothing else
//   ```ts more       goes on with the block before it on its page
//
// Blocks of Python and of JavaScript are what readers come from, and are not looked at.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { ROOT } from "../support/cli.js";

export interface Block {
  readonly language: string;
  readonly words: readonly string[];
  readonly text: string;
}

export interface Program {
  /** Where its first block stands, such as `docs/generate.md:12`. */
  readonly place: string;
  readonly runs: boolean;
  readonly text: string;
}

export const FILES: readonly string[] = [
  "README.md",
  ...readdirSync(join(ROOT, "docs"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".md"))
    .map((file) => `docs/${file.replaceAll("\\", "/")}`)
    .sort(),
];

/** The blocks of a file by the line on which each begins. */
export function blocksOf(file: string): ReadonlyMap<number, Block> {
  const text = readFileSync(join(ROOT, file), "utf8");
  const blocks = new Map<number, Block>();
  for (const { index, 1: info = "", 2: body = "" } of text.matchAll(/^```(\S.*|)\n([\s\S]*?)^```$/gm)) {
    const [language = "", ...words] = info.split(" ");
    blocks.set(text.slice(0, index).split("\n").length, { language, words, text: body });
  }
  return blocks;
}

/** The programs in TypeScript of a file. */
export function programsOf(file: string): Program[] {
  const programs: Program[] = [];
  for (const [line, { language, words, text }] of blocksOf(file)) {
    if (language !== "ts") continue;
    const before = words.includes("more") ? programs.pop() : undefined;
    if (words.includes("more") && !before) throw new Error(`${file}:${line} goes on with nothing`);
    const { place = `${file}:${line}`, runs = words.includes("run") } = before ?? {};
    programs.push({ place, runs, text: `${before?.text ?? ""}${text}` });
  }
  return programs;
}

/** The commands of `octavo` in a file, as words. */
export function commandsOf(file: string): readonly string[][] {
  return [...blocksOf(file).values()].flatMap(({ language, text }) =>
    ["", "sh"].includes(language)
      ? text
          .replace(/\\\n\s*/g, "")
          .split("\n")
          .flatMap((command) => (command.startsWith("npx octavo ") ? [wordsOf(command)] : []))
      : [],
  );
}

/** What a shell makes of a line, without its comment, behind `npx octavo`. */
function wordsOf(command: string): string[] {
  const [plain = ""] = command.split(/ #| \|| > /);
  return [...plain.matchAll(/"[^"]*"|'[^']*'|\S+/g)].slice(2).map(([word]) => word.replace(/^["']|["']$/g, ""));
}
