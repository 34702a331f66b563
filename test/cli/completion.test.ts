// octavo completion: what a shell that has read the script offers.

import { execFileSync, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { beforeAll, expect, it } from "vitest";
import { COMMANDS } from "../../src/cli/commands.js";
import { completionScript, SHELLS } from "../../src/cli/completion.js";
import { temporary } from "../support/temporary.js";

const scripts = new Map<string, string>();
beforeAll(async () => {
  for (const shell of SHELLS) scripts.set(shell, await completionScript(shell, COMMANDS));
}, 30_000);

const has = (shell: string): boolean => spawnSync(shell, ["-c", "exit 0"]).status === 0;

it("knows every command, in each shell", () => {
  for (const script of scripts.values()) for (const name of Object.keys(COMMANDS)) expect(script).toContain(name);
});

it.skipIf(!has("bash"))("offers commands, their flags and values of flags in bash", () => {
  const file = temporary("completion.bash");
  writeFileSync(file, scripts.get("bash")!);
  const offered = (...words: string[]): string[] => {
    const line = `. "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _octavo; echo "\${COMPREPLY[@]}"`;
    return execFileSync("bash", ["-c", line, file, ...words], { encoding: "utf8" })
      .trim()
      .split(" ");
  };
  expect(offered("octavo", "in")).toEqual(["inspect"]);
  expect(offered("octavo", "generate", "--load-in")).toEqual(["--load-in-8bit", "--load-in-4bit"]);
  expect(offered("octavo", "completion", "")).toEqual(["bash", "zsh", "fish"]);
  expect(offered("octavo", "help", "ins")).toEqual(["inspect"]);
  expect(offered("octavo", "inspect", "--he")).toEqual(["--help"]);
  // The shell's files, where anything goes.
  expect(offered("octavo", "inspect", "")).toEqual([""]);
  expect(offered("octavo", "explain", "--html", "")).toEqual([""]);
  expect(offered("octavo", "pull", "--nothing")).toEqual([""]);
});

it.each(["zsh", "fish"].filter(has))("%s reads the script without a complaint", (shell) => {
  const file = temporary(`completion.${shell}`);
  writeFileSync(file, scripts.get(shell)!);
  expect(spawnSync(shell, ["-n", file], { encoding: "utf8" })).toMatchObject({ status: 0, stderr: "" });
});
