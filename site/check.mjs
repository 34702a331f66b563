// Checks the site in dist/: every link within it leads to a page, and to a place that exists on that page. Then the spelling
// of what the site is made of (cspell.json). Prints each breach; exits 1 if there is one.

import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");
const base = process.env.OCTAVO_DOCS_BASE ?? "/";

const pages = new Map();
for (const file of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
  if (!file.endsWith(".html")) continue;
  const html = readFileSync(join(dist, file), "utf8");
  const ids = new Set([...html.matchAll(/\sid="([^"]*)"/g)].map(([, id]) => id));
  const links = new Set(
    [...html.matchAll(/<a\s[^>]*?href="([^"]*)"/g)].map(([, link]) => link.replaceAll("&amp;", "&")),
  );
  pages.set(file.replaceAll("\\", "/"), { ids, links });
}

let checked = 0;
const breaches = [];
for (const [file, { links }] of pages) {
  for (const link of links) {
    if (/^[a-z]+:/.test(link)) continue;
    checked++;
    const [path, anchor] = decodeURI(link).split("#");
    const inSite = path.startsWith(base) ? path.slice(base.length) : posix.join(posix.dirname(file), path);
    const target = path === "" ? file : inSite === "" || inSite.endsWith("/") ? `${inSite}index.html` : inSite;
    const page = pages.get(target) ?? pages.get(`${target}.html`);
    if (!page && !existsSync(join(dist, target))) breaches.push(`${file}: no page ${link}`);
    else if (page && anchor && !page.ids.has(anchor)) breaches.push(`${file}: no place ${link}`);
  }
}
for (const breach of breaches) console.error(breach);
console.log(`${pages.size} pages, ${checked} links checked, ${breaches.length} breaches`);

const cspell = join(here, "node_modules", "cspell", "bin.mjs");
const spelling = spawnSync(process.execPath, [cspell, "--no-progress", "--config", join(here, "cspell.json")], {
  stdio: "inherit",
});
if (breaches.length > 0 || spelling.status !== 0) process.exit(1);
