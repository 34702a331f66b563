// What newcomers type: texts without a command, commands and flags of other tools; and failures as JSON.

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";
import { Command, CommanderError } from "commander";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { benchCommand } from "../../src/cli/bench.js";
import { errorReport, exitCodeOf, PrintedError } from "../../src/cli/failures.js";
import { generateCommand } from "../../src/cli/generate.js";
import { readPrompts } from "../../src/cli/prompt.js";
import { readsLikeText, routed, usageError } from "../../src/cli/usage.js";
import { AbortError, NotFoundError, OptionError } from "../../src/core/errors.js";
import { octavo, octavoHere, READY_TIMEOUT, ROOT, ready, run, STORYTELLER } from "../support/cli.js";

const root = new Command("octavo");
for (const command of [generateCommand(), benchCommand(), new Command("doctor")]) root.addCommand(command);

describe("a text in the place of a command or of a model", () => {
  const folder = mkdtempSync(join(tmpdir(), "octavo usage "));
  mkdirSync(join(folder, "some models"));
  afterAll(() => rmSync(folder, { recursive: true }));

  it.each([
    "Once upon a time",
    "Hello, world",
    "Hello!",
    "Hello.",
    "Grüße",
    "王",
    "either/or, as they say",
    "Note: this is a text",
    "two\nlines",
    "-- he said",
  ])("%j reads like one", (text) => expect(readsLikeText(text)).toBe(true));

  it.each([
    "",
    " ",
    "gpt2",
    " gpt2 ",
    "Hello",
    "org/name",
    "octavo/storyteller",
    "llama3:8b",
    "./no such folder",
    "../no such folder",
    "~/my models/one",
    "/srv/my models/one",
    "C:\\my models\\one",
    "https://host/a model",
    "file:///a model",
    "src/no such model", // its folder is there
  ])("%j does not", (text) => expect(readsLikeText(text)).toBe(false));

  it("is no text if there is a folder of that name", () => {
    expect(readsLikeText(join(folder, "some models"))).toBe(false);
    expect(readsLikeText(folder)).toBe(false);
  });

  it.each([
    [["Once upon a time"], ["generate", "Once upon a time"]],
    [
      ["Once upon a time", "--seed", "3"],
      ["generate", "Once upon a time", "--seed", "3"],
    ],
    [
      ["-p", "doctor"],
      ["-p", "doctor"],
    ], // may be meant either way: commander tells
    [
      ["-p", "a text"],
      ["generate", "-p", "a text"],
    ],
    [
      ["--load-in-8bit", "a text"],
      ["generate", "--load-in-8bit", "a text"],
    ],
    [
      ["--seed=3", "a text"],
      ["generate", "--seed=3", "a text"],
    ],
    [
      ["--no-color", "a text"],
      ["generate", "--no-color", "a text"],
    ],
    [["doctor"], ["doctor"]],
    [["help"], ["help"]],
    [["--help"], ["--help"]],
    [["--what"], ["--what"]],
    [["gpt2"], ["gpt2"]],
    [[], []],
  ])("%j means %j", (args, wanted) => expect(routed(args, root)).toEqual(wanted));
});

describe("commands of other tools", () => {
  const names = "serve download upload ls rm delete show convert finetune tokenize Serve".split(" ");
  it.each(names)("%s: one sentence with what to do", (name) => {
    const refused = (): unknown => routed([name, "x"], root);
    expect(refused).toThrow(OptionError);
    expect(refused).toThrow(new RegExp(`^there is no command ${name}: .{20,}$`));
  });

  it("name nothing that is a command", () => {
    for (const { name } of root.commands.map((command) => ({ name: command.name() }))) {
      expect(routed([name], root)).toEqual([name]);
    }
  });
});

describe("refusals of commander", () => {
  const refusal = (code: string, message: string, ...args: string[]): string =>
    usageError(new CommanderError(1, `commander.${code}`, `error: ${message}`), args, root).message;

  it.each([
    ["generate", "-n", "--max-new-tokens"],
    ["generate", "--max-tokens", "--max-new-tokens"],
    ["generate", "--max_tokens", "--max-new-tokens"],
    ["generate", "--temp", "--temperature"],
    ["generate", "--int8", "--load-in-8bit"],
    ["bench", "--gpu", "--device webgpu"],
  ])("octavo %s %s leads to %s", (command, flag, meant) => {
    const said = refusal("unknownOption", `unknown option '${flag}'`, command, flag);
    expect(said).toBe(`unknown option '${flag}'\n(Did you mean ${meant}?)`);
  });

  it("leads to no flag that the command does not have", () => {
    expect(refusal("unknownOption", "unknown option '-n'", "bench", "-n")).toBe("unknown option '-n'");
  });

  it("says what a word may have been meant as", () => {
    const unknown = (...args: string[]) => refusal("unknownCommand", `unknown command '${args[0]}'`, ...args);
    expect(unknown("Hello")).toMatch(/hint: octavo --help .*octavo -p "Hello"$/);
    expect(unknown("Once", "upon", "a", "time", "--seed", "3")).toMatch(/octavo "Once upon a time"$/);
    expect(unknown("org/name", "Hello")).toMatch(/octavo generate "org\/name"$/);
    const near = "unknown command 'generat'\n(Did you mean generate?)";
    expect(refusal("unknownCommand", near, "generat")).toBe(near);
  });

  it.each([
    ["--choices", "a,b", "--regex", "a"],
    ["--json-schema", "none.json", "--grammar", "none.gbnf"],
    ["--prompt-lookup", "3", "--choices", "a,b"],
  ])("generate %s %s cannot have %s %s", (...flags) => {
    const command = generateCommand()
      .exitOverride()
      .configureOutput({ writeErr() {} });
    expect(() => command.parse(["model", "text", ...flags], { from: "user" })).toThrow(/cannot be used with option/);
  });

  it("hold no password of an address", () => {
    const said = refusal("unknownCommand", "unknown command 'https://me:secret@host/x?token=secret'", "https://x/y");
    expect(said).not.toContain("secret");
  });
});

describe("a prompt that is typed", () => {
  const source = { prompt: undefined, batchFile: undefined, escape: false };
  const terminal = (text?: string) => {
    const stdin = new PassThrough() as PassThrough & { isTTY?: boolean };
    stdin.isTTY = true;
    if (text !== undefined) stdin.end(text);
    return stdin;
  };

  it("is asked for, and a pipe is not", async () => {
    const said = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    try {
      expect(await readPrompts({ ...source, stdin: terminal("The wolf\n") })).toEqual(["The wolf"]);
      expect(said.mock.calls.flat().join("")).toMatch(/^type a prompt, end with Ctrl/);
      said.mockClear();
      expect(await readPrompts({ ...source, quiet: true, stdin: terminal("") })).toEqual([""]);
      expect(
        await readPrompts({ ...source, prompt: "-", stdin: Object.assign(terminal("x"), { isTTY: false }) }),
      ).toEqual(["x"]);
      expect(said).not.toHaveBeenCalled();
    } finally {
      said.mockRestore();
    }
  });

  it("is given up when the work is aborted", async () => {
    const abort = new AbortController();
    const waiting = readPrompts({ ...source, quiet: true, stdin: terminal(), signal: abort.signal });
    const reason = new Error("enough");
    abort.abort(reason);
    await expect(waiting).rejects.toMatchObject({ name: "AbortError", cause: reason });
    const late = readPrompts({ ...source, quiet: true, stdin: terminal("x"), signal: abort.signal });
    await expect(late).rejects.toThrow(AbortError);
  });
});

describe("failures as JSON", () => {
  const folder = mkdtempSync(join(tmpdir(), "octavo-json-"));
  beforeAll(ready, READY_TIMEOUT);
  afterAll(() => rmSync(folder, { recursive: true }));

  it("have a code, a message without the hint, and the hint", () => {
    const details = { id: "x", suggestion: undefined };
    expect(errorReport(new NotFoundError("it is gone", { hint: "look there", details }))).toEqual({
      code: "ERR_NOT_FOUND",
      message: "it is gone",
      hint: "look there",
      details,
    });
    expect(JSON.stringify(errorReport(new OptionError("no", { details: { x: undefined } })))).toBe(
      '{"code":"ERR_OPTION","message":"no"}',
    );
    const child = { code: "ERR_OUT_OF_MEMORY", message: "too large" };
    expect(errorReport(new PrintedError("measuring failed", 4, child))).toEqual(child);
    expect(exitCodeOf(new PrintedError("measuring failed", 4, child))).toBe(4);
    expect(errorReport(new TypeError("fetch https://me:secret@host/x?y=secret"))).toMatchObject({
      code: "ERR_UNEXPECTED",
      message: "fetch https://...@host/x?...",
    });
    expect(errorReport("thrown as text")).toMatchObject({ code: "ERR_UNEXPECTED", message: "thrown as text" });
  });

  it.each<[args: string[], code: number, name: string, message: RegExp]>([
    [["generate", "./no/such", "x"], 3, "ERR_NOT_FOUND", /^\.\/no\/such: no such folder$/],
    [["generate", STORYTELLER, "x", "--max-tokens", "3"], 2, "ERR_OPTION", /Did you mean --max-new-tokens/],
    [["generate", STORYTELLER, "x", "--temperature", "-1"], 2, "ERR_OPTION", /^temperature must be/],
    [["inspect"], 2, "ERR_OPTION", /^missing required argument 'model'$/],
    [["inspect", "https://me:secret@host/model"], 2, "ERR_OPTION", /without a user name and password/],
    [["eval", "--compare", "int9"], 2, "ERR_OPTION", /unknown storage "int9"/],
    [["bench"], 2, "ERR_OPTION", /^bench needs a model or a --shape/],
    [["doctor", "--threads", "x"], 2, "ERR_OPTION", /must be a whole number/],
    [["serve"], 2, "ERR_OPTION", /^there is no command serve: /],
  ])("octavo %j", async (args, code, name, message) => {
    const [plain, got] = [await octavoHere(args), await octavo([...args, "--json"])];
    expect({ ...plain, stdout: "" }).toEqual(plain);
    expect(got).toMatchObject({ code, stderr: plain.stderr });
    expect(plain.code).toBe(code);
    const { error, ...rest } = JSON.parse(got.stdout) as { error: Record<string, string> };
    expect(rest).toEqual({});
    expect(error.code).toBe(name);
    expect(error.message).toMatch(message);
    expect(error.message).not.toContain("hint:");
    if (error.hint !== undefined) expect(plain.stderr).toContain(`hint: ${error.hint}\n`);
    expect(got.stdout).not.toContain("secret");
  });

  it("are those of the process that measured", async () => {
    writeFileSync(join(folder, "config.json"), '{"model_type":"llama","hidden_size":8}');
    const { code, stdout, stderr } = await octavo(["bench", folder, "--compare", "f32", "--quick", "--json", "-q"]);
    expect(code).not.toBe(0);
    expect(stderr.match(/error: /g)).toHaveLength(1);
    expect(JSON.parse(stdout).error).toMatchObject({ code: expect.stringMatching(/^ERR_(?!CHILD|UNEXPECTED)/) });
  });

  // Windows has no signals to send.
  it.skipIf(process.platform === "win32")("are told of an interruption too", async () => {
    let sent = false;
    const { code, stdout, stderr } = await octavo(["bench", "--shape", "XS", "--quick", "--json"], {
      watch: (child, _, said) => {
        if (!sent && said.includes("measuring")) sent = child.kill("SIGINT");
      },
    });
    expect(code).toBe(130);
    expect(JSON.parse(stdout)).toEqual({ error: { code: "ERR_ABORTED", message: "the benchmark was interrupted" } });
    expect(stderr).toMatch(/interrupted\n$/);
  });

  it("work in the files that the compiler writes, not in the bundle alone", async () => {
    const [compiled, bundled] = [
      await run([join(ROOT, "dist", "cli", "main.js"), "list", "--help"]),
      await octavo(["list", "--help"]),
    ];
    expect(bundled.stdout).toContain("octavo list");
    expect(compiled).toEqual(bundled);
  });

  it("say version and help as before", async () => {
    const version = await octavo(["version"]);
    expect(version).toMatchObject({ code: 0, stderr: "", stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/) });
    for (const flag of ["-v", "-V", "--version"]) expect(await octavo([flag])).toEqual(version);
  });
});
