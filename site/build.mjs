// Builds the documentation site into dist/. What it needs is installed here first, without running a script of any package;
// after that nothing asks the network.
//
//   npm run docs [-- --pages]      in the repository's root; --pages lays out the pages alone, without VitePress
//
// The pages are files of the repository (contents.mjs) and the API, which typedoc takes from the declarations. They
// are laid out in build/pages, where VitePress finds them, and copied beside the site for readers that are programs: llms.txt
// lists them, llms-full.txt holds the guides.

import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join, posix } from "node:path";
import { fileURLToPath } from "node:url";
import { CONTENTS, placeOf } from "./contents.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const build = join(here, "build");
const pages = join(build, "pages");
const dist = join(here, "dist");
const base = process.env.OCTAVO_DOCS_BASE ?? "/";
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));

function run(command, args, cwd = here) {
  const { status } = spawnSync(command, args, { cwd, stdio: "inherit", shell: process.platform === "win32" });
  if (status !== 0) process.exit(status ?? 1);
}

function write(path, text) {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}

/** Packages of the lock file, if they are not there. */
function install() {
  const stamp = join(here, "node_modules", ".octavo-lock");
  const lock = readFileSync(join(here, "package-lock.json"), "utf8");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
  writeFileSync(stamp, lock);
}

/** The named sections, behind what stands above the first of all if the page asks for it. */
function excerpt(text, { title, sections, opening }) {
  const [head = "", ...rest] = text.split(/^(?=## )/m);
  const chosen = sections.map((name) => {
    const found = rest.find((part) => part.startsWith(`## ${name}\n`));
    if (!found) throw new Error(`no section "${name}" for the page "${title}"`);
    return found;
  });
  return `# ${title}\n\n${opening ? head.replace(/^# .*\n/, "").trim() : ""}\n\n${chosen.join("")}`;
}

const all = CONTENTS.flatMap((part) => part.pages);

/** The page that shows a file of the repository, or of its sections the one with that anchor. */
function pageOf(file, anchor) {
  const showing = all.filter((page) => page.file === file);
  const named = (name) => `#${name.toLowerCase().replaceAll(" ", "-")}` === anchor;
  return showing.find(({ sections }) => sections?.some(named)) ?? showing[0];
}

/** Links between files of the repository become links of the site; a file that is no page is named without a link. */
function relinked(text, file, place) {
  return text.replace(/\[([^\]]+)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)/g, (_, words, path, anchor = "") => {
    const page = pageOf(posix.join(posix.dirname(file), path), anchor);
    if (page === undefined) return words;
    return `[${words}](${posix.relative(posix.dirname(place), placeOf(page))}.md${anchor})`;
  });
}

function layOutGuides() {
  for (const page of all) {
    const text = readFileSync(join(root, page.file), "utf8");
    const place = placeOf(page);
    write(join(pages, `${place}.md`), relinked(page.sections ? excerpt(text, page) : text, page.file, place));
  }
  cpSync(join(here, "index.md"), join(pages, "index.md"));
}

/** The comment at the head of an entry's source says what the entry is for. */
function headOf(types) {
  const source = join(root, "src", types.replace(/^\.\/dist\//, "").replace(/\.d\.ts$/, ".ts"));
  const [comment = ""] = /^(\/\/.*\n)+/.exec(readFileSync(source, "utf8")) ?? [];
  return comment.replace(/^\/\/ ?/gm, "").trim();
}

/** A file for each entry of the package, named like it, through which typedoc finds what it exports. */
function entries() {
  rmSync(join(build, "entries"), { recursive: true, force: true });
  return Object.entries(manifest.exports).flatMap(([name, target]) => {
    const types = target.types ?? undefined;
    if (types === undefined) return [];
    const entry = posix.join("octavo", name);
    const path = join(build, "entries", `${entry}.ts`);
    const from = "../".repeat(entry.split("/").length) + types.replace(/^\.\/dist/, "types").replace(/\.d\.ts$/, ".js");
    write(path, `/**\n${headOf(types)}\n@module\n*/\nexport * from "${from}";\n`);
    return [path];
  });
}

function layOutApi() {
  const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
  if (!existsSync(tsc)) run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"], root);
  const how = ["--emitDeclarationOnly", "--declarationMap", "false", "--outDir", join(build, "types")];
  run(process.execPath, [tsc, "-p", join(root, "tsconfig.json"), ...how]);
  const entryPoints = entries();
  write(
    join(build, "tsconfig.json"),
    JSON.stringify({
      compilerOptions: {
        ...{ target: "ES2023", lib: ["ES2023", "ESNext.Disposable", "DOM"], module: "NodeNext", strict: true },
        ...{ noEmit: true, skipLibCheck: true, typeRoots: [join(root, "node_modules", "@types")], types: ["node"] },
      },
      files: entryPoints,
    }),
  );
  const options = {
    entryPoints,
    tsconfig: join(build, "tsconfig.json"),
    plugin: ["typedoc-plugin-markdown"],
    out: join(pages, "api"),
    name: "octavo",
    readme: "none",
    logLevel: "Warn",
    disableSources: true,
    excludePrivate: true,
    excludeInternal: true,
    // Types that an export mentions and nobody needs to name are told where they stand.
    validation: { notExported: false, invalidLink: true },
    // Of the plugin: a page for each export, with tables.
    entryFileName: "index",
    outputFileStrategy: "members",
    hidePageHeader: true,
    hideBreadcrumbs: false,
    sanitizeComments: true,
    excludeExternals: true,
    parametersFormat: "table",
    interfacePropertiesFormat: "table",
    typeDeclarationFormat: "table",
    indexFormat: "table",
    expandObjects: false,
  };
  write(join(build, "typedoc.json"), JSON.stringify(options));
  run(process.execPath, [
    join(here, "node_modules", "typedoc", "bin", "typedoc"),
    "--options",
    join(build, "typedoc.json"),
  ]);
}

/** @returns {string[]} all files below a folder with that ending, as paths from it */
const filesBelow = (folder, ending) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(ending))
    .map((file) => file.replaceAll("\\", "/"))
    .sort();

/** The parts of the API: the entries, and the kinds of what they export. A list of all names would be in each page. */
function writeApiSidebar() {
  const entries = filesBelow(join(pages, "api"), "/index.md").filter((file) => !file.includes("/namespaces/"));
  const items = entries.map((file) => {
    const folder = posix.dirname(file);
    const kinds = [...readFileSync(join(pages, "api", file), "utf8").matchAll(/^## ([A-Z][A-Za-z ]+)$/gm)];
    const link = (kind) => `/api/${folder}/#${kind.toLowerCase().replaceAll(" ", "-")}`;
    return {
      text: folder,
      link: `/api/${folder}/`,
      collapsed: folder !== "octavo",
      items: kinds.map(([, kind]) => ({ text: kind, link: link(kind) })),
    };
  });
  write(join(build, "api-sidebar.json"), JSON.stringify([{ text: "Guides", link: "/quick-start" }, ...items]));
}

/** What a page says first: the first paragraph below its title. */
function summary(text) {
  const [, paragraph = ""] = /^# .*\n+((?:(?!#|\||```|-|<).+\n?)+)/m.exec(text) ?? [];
  return paragraph
    .replace(/\[([^\]]+)\]\([^)]*\)/g, "$1")
    .replace(/\s+/g, " ")
    .trim();
}

/** Every page as text beside the site's own, llms.txt (see llmstxt.org), and the guides in one file. */
function writeForPrograms() {
  for (const file of filesBelow(pages, ".md")) {
    if (file === "index.md") continue;
    mkdirSync(dirname(join(dist, file)), { recursive: true });
    cpSync(join(pages, file), join(dist, file));
  }
  const line = (place, title, text) => `- [${title}](${base}${place}.md): ${summary(text)}`.replace(/: $/, "");
  const parts = CONTENTS.map(({ title, pages: list }) => {
    const lines = list.map((page) => {
      const place = placeOf(page);
      return line(place, page.title, readFileSync(join(pages, `${place}.md`), "utf8"));
    });
    return `## ${title}\n\n${lines.join("\n")}`;
  });
  const api = filesBelow(join(pages, "api"), "/index.md").map((file) =>
    line(`api/${file.replace(/\.md$/, "")}`, posix.dirname(file), readFileSync(join(pages, "api", file), "utf8")),
  );
  const head = `# Octavo\n\n> ${manifest.description}\n\nVersion ${manifest.version}. All guides in one file: ${base}llms-full.txt`;
  write(join(dist, "llms.txt"), `${[head, ...parts, `## Optional\n\n${api.join("\n")}`].join("\n\n")}\n`);
  const texts = all.map((page) => readFileSync(join(pages, `${placeOf(page)}.md`), "utf8").trim());
  write(join(dist, "llms-full.txt"), `${texts.join("\n\n")}\n`);
}

install();
rmSync(pages, { recursive: true, force: true });
layOutGuides();
layOutApi();
writeApiSidebar();
if (!process.argv.includes("--pages")) {
  rmSync(dist, { recursive: true, force: true });
  const vitepress = createRequire(import.meta.url).resolve("vitepress/package.json");
  run(process.execPath, [join(dirname(vitepress), "bin", "vitepress.js"), "build", here]);
  writeForPrograms();
  run(process.execPath, [join(here, "check.mjs")]);
}
