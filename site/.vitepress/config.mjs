// How VitePress makes the site of what `build.mjs` has laid out in build/pages.

import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitepress";
import { CONTENTS, placeOf } from "../contents.mjs";
import { sideBySide } from "../side-by-side.mjs";

const file = (path) => fileURLToPath(new URL(path, import.meta.url));
/** Anchors of headings as GitHub and typedoc make them: the files are read there, too. */
const slug = (heading) =>
  heading
    .trim()
    .toLowerCase()
    .replace(/[^\p{L}\p{N}\s_-]/gu, "")
    .replaceAll(" ", "-");
/** The sidebar of the API, which `build.mjs` writes. */
const api = file("../build/api-sidebar.json");

/** The site works in a folder of any server. */
const base = process.env.OCTAVO_DOCS_BASE ?? "/";
/** Pages of programs side by side take the room of the outline, too. */
const WIDE = ["python.md", "transformers-js.md"];

export default defineConfig({
  title: "Octavo",
  description: "Language models in 8 and 4 bits, from TypeScript",
  lang: "en",
  srcDir: "build/pages",
  outDir: "dist",
  cacheDir: "build/cache",
  cleanUrls: false,
  base,
  transformPageData: (page) => {
    if (WIDE.includes(page.relativePath)) page.frontmatter.aside = false;
  },
  markdown: {
    // Colours with which comments, too, stand out from the background by 4.5 to 1.
    theme: { light: "github-light-high-contrast", dark: "github-dark-high-contrast" },
    anchor: { slugify: slug },
    config: sideBySide,
  },
  themeConfig: {
    search: { provider: "local" },
    outline: { level: [2, 3] },
    nav: [
      { text: "Quick start", link: "/quick-start" },
      { text: "Tour", link: "/tour/1-install" },
      { text: "API", link: "/api/" },
      { text: "Errors", link: "/errors" },
    ],
    sidebar: {
      "/": CONTENTS.map(({ title, pages }) => ({
        text: title,
        items: [
          ...pages.map((page) => ({ text: page.title, link: `/${placeOf(page)}` })),
          ...(title === "Reference" ? [{ text: "API", link: "/api/" }] : []),
        ],
      })),
      "/api/": existsSync(api) ? JSON.parse(readFileSync(api, "utf8")) : [],
    },
    footer: {
      message: `Apache-2.0. This site for language models: <a href="${base}llms.txt" target="_self">llms.txt</a>`,
    },
  },
});
