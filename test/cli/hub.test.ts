// The commands over the Hugging Face cache, as processes: what they print, two at once, and processes that are killed on the way.

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { MAIN, octavo, READY_TIMEOUT, ready } from "../support/cli.js";
import { gitSha1, sha256 } from "../support/fake-hub.js";
import { hub, modelFiles, place, tree, useHub, weights } from "../support/hub-suite.js";
import { uniforms } from "../support/random.js";
import { temporary } from "../support/temporary.js";

beforeAll(ready, READY_TIMEOUT);
useHub();

const MB = 1 << 20;
const CONFIG = '{"model_type":"llama"}';
const BODY = weights(6 * MB);

const publish = (): string =>
  hub.commit("org/tiny", { "config.json": CONFIG, "tokenizer.json": "{}", "model.safetensors": BODY });
const asJson = (text: string): Record<string, unknown> => JSON.parse(text) as Record<string, unknown>;

describe("pull, list, inspect, remove", () => {
  test("from the hub to nothing", async () => {
    const commit = publish();
    hub.commit("org/llama", modelFiles());
    const pulled = await octavo(["pull", "org/tiny"]);
    const folder = join(place.cache, "models--org--tiny", "snapshots", commit);
    expect(pulled).toMatchObject({ code: 0, stdout: `${folder}\n` });
    expect(pulled.stderr).toMatch(/^3 files, 6\.29 MB; 6\.29 MB came over the network\n$/);
    const again = await octavo(["pull", "org/tiny", "--json", "--quiet"]);
    expect(again.stderr).toBe("");
    expect(asJson(again.stdout)).toMatchObject({
      folder,
      received_bytes: 0,
      files: [{ file: "config.json" }, { file: "model.safetensors", bytes: BODY.length }, { file: "tokenizer.json" }],
    });
    const looked = await octavo(["inspect", "org/llama", "--json"]);
    expect(asJson(looked.stdout)).toMatchObject({
      model_type: "llama",
      revision: hub.repos.get("org/llama")!.refs.get("main"),
    });

    const listed = await octavo(["list"]);
    expect(listed.stdout).toMatch(/org\/tiny +main +3 +6\.29 MB +\d{4}-\d\d-\d\d\n.*2 models, 6\.\d+ MB in /s);
    expect(asJson((await octavo(["list", "--json"])).stdout)).toMatchObject({
      cache: place.cache,
      models: [
        { id: "org/llama" },
        { id: "org/tiny", incomplete_bytes: 0, revisions: [{ commit, refs: ["main"], files: 3 }] },
      ],
    });

    const asked = await octavo(["remove", "org/tiny"]);
    expect(asked).toMatchObject({ code: 2, stdout: "" });
    expect(asked.stderr).toMatch(/deletes org\/tiny with all of its revisions: 6\.29 MB\n {2}hint: add --yes/);
    expect(existsSync(folder)).toBe(true);
    const removed = await octavo(["remove", "org/tiny", "--yes", "--json"]);
    expect(removed.stderr).toMatch(/^deletes org\/tiny/);
    expect(asJson(removed.stdout)).toMatchObject({ commits: [commit], whole: true });
    expect(readdirSync(place.cache)).toEqual(["CACHEDIR.TAG", "models--org--llama"]);
  }, 120_000);

  test("inspect reads headers where they lie; large weights stay there", async () => {
    const { "config.json": config, "model.safetensors": small } = modelFiles();
    const padding = Buffer.alloc(5 * MB); // behind the tensors, which the header must know
    const length = Number(small!.readBigUInt64LE());
    const header = JSON.parse(small!.subarray(8, 8 + length).toString()) as Record<string, unknown>;
    header.padding = {
      dtype: "U8",
      shape: [padding.length],
      data_offsets: [small!.length - 8 - length, small!.length - 8 - length + padding.length],
    };
    const text = Buffer.from(JSON.stringify(header));
    const head = Buffer.alloc(8);
    head.writeBigUInt64LE(BigInt(text.length));
    const large = Buffer.concat([head, text, small!.subarray(8 + length), padding]);
    hub.commit("org/large", { "config.json": config!, "model.safetensors": large });
    const { code, stdout } = await octavo(["inspect", "org/large", "--json"]);
    expect(code).toBe(0);
    expect(asJson(stdout)).toMatchObject({ files: [{ file: "model.safetensors", bytes: large.length }] });
    expect(tree(place.cache).filter((name) => name.endsWith("model.safetensors"))).toEqual([]);
  }, 60_000);

  test("warnings reach the user of every command that reads a model, once, and not with --quiet", async () => {
    hub.commit("org/llama", modelFiles());
    await octavo(["pull", "org/llama", "--quiet"]);
    const model = "org/llama";
    const commands: [args: string[], quiet?: string[]][] = [
      [["inspect", model]],
      [["plan", model, "--max-memory", "cpu=1GB"]],
      [["estimate-memory", model]],
      [
        ["quantize", model, temporary("int8"), "--load-in-8bit"],
        ["--force", "-q"],
      ],
      [["bench", model, "--quick", "--compare", "int8"]],
    ];
    // The cache is the flag's.
    const env = { HF_ENDPOINT: "http://127.0.0.1:9", HF_HOME: temporary("other-home") };
    const warnings = (text: string): string[] => text.split("\n").filter((line) => line.startsWith("warning"));
    for (const [given, quiet] of commands) {
      const args = [...given, "--cache-dir", place.cache];
      const told = await octavo(args, { env });
      expect(told.code, told.stderr).toBe(0);
      const cached = warnings(told.stderr).filter((line) => line.endsWith("using what is cached of org/llama"));
      expect(cached.length, `${args}: ${told.stderr}`).toBe(1);
      if (quiet) expect((await octavo([...args, ...quiet], { env })).stderr).toBe("");
    }
  }, 240_000);

  test("plan looks for the weights that would be loaded: what config.json names, and a variant", async () => {
    const { "config.json": config, "model.safetensors": body } = modelFiles();
    const json = { ...(JSON.parse(config!.toString()) as object), dtype: undefined, torch_dtype: undefined };
    hub.commit("org/named", {
      "config.json": JSON.stringify({ ...json, transformers_weights: "own/named.safetensors" }),
      "own/named.safetensors": body!,
    });
    hub.commit("org/variant", { "config.json": JSON.stringify(json), "model.fp16.safetensors": "no such file" });
    const named = await octavo(["plan", "org/named", "--max-memory", "cpu=1GB"]);
    expect(named).toMatchObject({ code: 0 });
    hub.commit("org/named", { "config.json": JSON.stringify({ ...json, transformers_weights: "gone.safetensors" }) });
    const gone = await octavo(["plan", "org/named", "--max-memory", "cpu=1GB"]);
    expect(gone.stderr).toMatch(/transformers_weights names "gone.safetensors", which is not there/);
    const address = `${hub.address}/org/variant/resolve/main`; // of a server that lists nothing
    const variant = await octavo(["plan", address, "--max-memory", "cpu=1GB", "--variant", "fp16"]);
    expect(variant.stderr).toMatch(/model.fp16.safetensors/);
  }, 60_000);

  test("failures: exit codes, and no token in them", async () => {
    publish();
    const cases: [string[], number, RegExp][] = [
      [["pull", "org/none"], 3, /there is no model "org\/none"/],
      [["pull", "org/tiny", "--token", "hf_hunter2"], 1, /does not accept the token/],
      [["remove", "org/none", "--yes"], 3, /not in the cache/],
    ];
    for (const [args, code, message] of cases) {
      const got = await octavo([...args, "--json"]);
      expect(got.stderr).toMatch(message);
      expect(got.stderr + got.stdout).not.toContain("hunter2");
      expect(got.code, args.join(" ")).toBe(code);
    }
  }, 60_000);
});

test("push --dry-run lists what would go, and opens no connection", async () => {
  const folder = temporary("pushed");
  mkdirSync(join(folder, ".git"), { recursive: true });
  mkdirSync(join(folder, "sub"));
  for (const name of ["config.json", ".git/HEAD", "sub/a.txt", "x.incomplete"])
    writeFileSync(join(folder, name), "1234");
  const dry = await octavo(["push", folder, "org/new", "--dry-run"]);
  expect(dry.stdout).toBe("config.json  4 B\nsub/a.txt    4 B\n");
  expect(dry.stderr).toMatch(/^2 files, 8 B would be uploaded to http.*\/org\/new\n$/);
  const wet = await octavo(["push", folder, "org/new", "--token", "hf_hunter2"]);
  expect(wet.stderr).toMatch(/@huggingface\/hub, which is not installed\n {2}hint: npm install @huggingface\/hub/);
  expect(hub.asked).toEqual([]);
}, 60_000);

/** Serves large files slowly enough that a process can be met on the way; counts what was sent. */
function slowly(bytesSent: (count: number) => void): void {
  hub.cdnFault = (request, response, body) => {
    const [, first, last] = /(\d+)-(\d+)/.exec(request.headers.range ?? "0-999999999")!.map(Number) as [
      number,
      number,
      number,
    ];
    const end = Math.min(last + 1, body!.length);
    response.writeHead(206, {
      "Content-Range": `bytes ${first}-${end - 1}/${body!.length}`,
      "Content-Length": end - first,
      ETag: '"same"',
    });
    let at = first;
    const send = (): void => {
      if (at >= end || response.destroyed) {
        response.end();
        return;
      }
      const part = body!.subarray(at, Math.min(end, at + 256 * 1024));
      at += part.length;
      bytesSent(part.length);
      response.write(part, () => setTimeout(send, 5));
    };
    send();
    return true;
  };
}

/** Whatever can be seen in the cache is right: blobs have their hashes, snapshots their files, and refs a snapshot. */
function checkCache(): void {
  const model = join(place.cache, "models--org--tiny");
  if (!existsSync(model)) return;
  for (const name of existsSync(join(model, "blobs")) ? readdirSync(join(model, "blobs")) : []) {
    if (name.endsWith(".incomplete")) continue;
    const body = readFileSync(join(model, "blobs", name));
    expect(name.length === 64 ? sha256(body) : gitSha1(body), "a blob").toBe(name);
  }
  const snapshots = join(model, "snapshots");
  for (const file of existsSync(snapshots) ? tree(snapshots) : []) {
    const expected = {
      "config.json": Buffer.from(CONFIG),
      "tokenizer.json": Buffer.from("{}"),
      "model.safetensors": BODY,
    };
    const name = file.slice(41) as keyof typeof expected;
    expect(readFileSync(join(snapshots, file)).equals(expected[name]), file).toBe(true);
  }
  for (const ref of existsSync(join(model, "refs")) ? readdirSync(join(model, "refs")) : []) {
    expect(existsSync(join(snapshots, readFileSync(join(model, "refs", ref), "utf8")))).toBe(true);
  }
}

test("two processes at once are both right, and download once", async () => {
  publish();
  let sent = 0;
  slowly((count) => {
    sent += count;
  });
  const both = await Promise.all([octavo(["pull", "org/tiny", "-q"]), octavo(["pull", "org/tiny", "-q"])]);
  for (const { code, stderr } of both) expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  checkCache();
  expect(tree(place.cache).filter((name) => /incomplete|\.tmp-/.test(name))).toEqual([]);
  expect(sent).toBeLessThan(2 * BODY.length);
}, 60_000);

/** `OCTAVO_KILLS=100` kills so many; each takes a second or two. */
const KILLS = Number(process.env.OCTAVO_KILLS ?? 3);

test.skipIf(process.platform === "win32")(
  `killed ${KILLS} times on the way, the cache is never wrong`,
  async () => {
    const commit = publish();
    const random = uniforms(Number(process.env.FUZZ_SEED ?? 1));
    const done = join(place.cache, "models--org--tiny", "refs", "main");
    let killed = 0;
    let complete = 0;
    let resumed = 0;
    for (let round = 0; round < KILLS; round++) {
      // By bytes on the way; now and then behind the last one, where files are renamed and linked.
      let left = random() * BODY.length * 1.1;
      let child: ChildProcess | undefined;
      const kill = (): void => void setTimeout(() => child?.kill("SIGKILL"), 40 * random());
      slowly((count) => {
        const before = left;
        left -= count;
        if (before > 0 && left <= 0) kill();
      });
      hub.cdn.asked.length = 0;
      child = spawn(process.execPath, [MAIN, "pull", "org/tiny", "-q"], { stdio: "ignore" });
      const end = await new Promise((resolve) => child!.on("close", (code, signal) => resolve(signal ?? code)));
      checkCache();
      // Killed, or at its end before that.
      expect(["SIGKILL", 0]).toContain(end);
      if (end === "SIGKILL") killed++;
      else expect(existsSync(done)).toBe(true);
      if (hub.cdn.asked.some(({ range }) => !/^bytes=(0|1048576)-/.test(range ?? ""))) resumed++;
      if (!existsSync(done)) continue;
      complete++;
      rmSync(place.cache, { recursive: true });
    }
    hub.cdnFault = undefined;
    const last = await octavo(["pull", "org/tiny"]);
    expect(last.code).toBe(0);
    expect(last.stdout).toContain(commit);
    checkCache();
    expect(tree(place.cache).filter((name) => name.endsWith(".incomplete"))).toEqual([]);
    process.stderr.write(
      `*** ${killed} of ${KILLS} downloads killed; ${complete} were complete, ${resumed} went on with another's part ***\n`,
    );
    expect(killed).toBeGreaterThan(0);
  },
  30_000 + KILLS * 6000,
);
