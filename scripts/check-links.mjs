// Checks the links of the Markdown files in the repository: the file is there, and so is the heading that an anchor names.
// Prints each breach; exits 1 if there is one. (site/check.mjs does the same for the pages of the site.)

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const files = [
  ...readdirSync(root).filter((file) => file.endsWith(".md")),
  ...readdirSync(join(root, "docs"), { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".md"))
    .map((file) => `docs/${file.replaceAll("\\", "/")}`),
];

/** The text without blocks of code and spans of code, in which nothing is a link or a heading. */
const prose = (text) => text.replace(/^```.*\n[\s\S]*?^```$/gm, "").replace(/`[^`\n]*`(?!\]\()/g, "``");

/** Anchors of a file's headings as GitHub makes them; a heading that comes again gets a number. */
function anchorsOf(file) {
  const seen = new Map();
  const text = readFileSync(join(root, file), "utf8").replace(/^```.*\n[\s\S]*?^```$/gm, "");
  return new Set(
    [...text.matchAll(/^#+ (.+)$/gm)].map(([, heading]) => {
      const slug = heading
        .trim()
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\s_-]/gu, "")
        .replaceAll(" ", "-");
      const count = seen.get(slug) ?? 0;
      seen.set(slug, count + 1);
      return count === 0 ? slug : `${slug}-${count}`;
    }),
  );
}

let checked = 0;
const breaches = [];
for (const file of files) {
  for (const [, link] of prose(readFileSync(join(root, file), "utf8")).matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(link)) continue;
    checked++;
    const [path = "", anchor] = link.split("#");
    const target = path === "" ? file : posix.join(posix.dirname(file), path);
    if (!existsSync(join(root, target))) breaches.push(`${file}: no file ${link}`);
    else if (anchor && !anchorsOf(target).has(anchor)) breaches.push(`${file}: no heading ${link}`);
  }
}
for (const breach of breaches) console.error(breach);
console.log(`${files.length} files, ${checked} links checked, ${breaches.length} breaches`);
if (breaches.length > 0) process.exit(1);
