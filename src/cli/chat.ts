// octavo chat: a conversation with a model that has a chat template, on a terminal or through a pipe.

import { writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { Command, Option } from "commander";
import { isList } from "../core/checks.js";
import { AbortError, FormatError, OctavoError, OptionError, suggestion } from "../core/errors.js";
import { omit, pick } from "../core/options.js";
import { AutoModelForCausalLM, AutoTokenizer } from "../generate/auto.js";
import { GENERATION, type GenerationOptions } from "../generate/config.js";
import type { PreTrainedModel } from "../generate/model.js";
import type { PromptProgress } from "../generate/prefill.js";
import { Turns } from "../generate/turns.js";
import { SOURCE } from "../load/options.js";
import { writing } from "../sources/file-errors.js";
import type { ChatMessage, PreTrainedTokenizer } from "../tokenizer/api.js";
import { A_MODEL, addFlags, kvCacheOption, optionsOf } from "./arguments.js";
import { Messages } from "./chat-messages.js";
import { EXIT, onInterrupt } from "./failures.js";
import {
  addStructuredFlags,
  checkTemperature,
  type GenerateFlags,
  generationOptions,
  SAMPLING,
  structuredOptions,
} from "./generate-options.js";
import { addRunFlags, addWeightFlags, interruption, loadOn, loadOptions } from "./load-flags.js";
import { bytes, dim, isInteractive, note, plural, print, warner } from "./output.js";
import { PromptBar } from "./progress.js";
import { readText } from "./text.js";

interface Flags extends GenerateFlags {
  system?: string;
}

/** Of an answer, unless someone says more. */
const LONGEST_ANSWER = 1024;
const OPTIONS = omit(GENERATION, ["prompt_lookup_num_tokens"]);
const COMMANDS: Readonly<Record<string, string>> = {
  "/system <text>": "say how the model shall behave, and begin anew",
  "/reset": "forget the conversation",
  "/save <file>": "write the conversation as JSON",
  "/load <file>": "go on with a conversation that was saved",
  "/stats": "tokens, speed and memory",
  "/help": "this list",
  "/exit": "leave; so do Ctrl-D, and Ctrl-C where nothing is under way",
};
const HELP = `${Object.entries(COMMANDS)
  .map(([name, what]) => `  ${name.padEnd(16)} ${what}\n`)
  .join(
    "",
  )}A line that ends with \\ goes on in the next one; """ begins and ends a text of several lines. Ctrl-C ends an answer.
A message that begins with / needs a blank before it.`;

export function chatCommand(): Command {
  const command = new Command("chat")
    .argument("<model>", A_MODEL)
    .option("--system <text>", "how the model shall behave");
  addWeightFlags(command).optionsGroup("Generation (defaults: the model's own):");
  addFlags(command, OPTIONS).max_new_tokens.description += ` (default: ${LONGEST_ANSWER})`;
  addStructuredFlags(command);
  command.addOption(new Option("--greedy", "take the likeliest token").conflicts(SAMPLING)).addOption(kvCacheOption());
  return addRunFlags(command)
    .addHelpText(
      "after",
      `
In the conversation:
${HELP}

Through a pipe each line is a message. --json prints one object for each answer.

Examples:
  octavo chat <model> --load-in-4bit
  octavo chat <model> --system "Answer in one sentence." --temperature 0.3
  octavo chat <model> --json-schema answer.json
  echo "What is a llama?" | octavo chat <model> --quiet`,
    )
    .action(chat);
}

async function chat(name: string, flags: Flags): Promise<void> {
  const load = loadOptions("chat", flags);
  const given = { ...optionsOf("chat", OPTIONS, flags), ...(await structuredOptions(flags)) };
  checkTemperature(given, flags);
  const signal = interruption();
  const tokenizer = await AutoTokenizer.from_pretrained(name, { ...pick(SOURCE, load), signal });
  if (tokenizer.chat_template === null) {
    throw new OptionError(`${name} has no chat template`, {
      hint: `octavo generate ${name} "Once upon a time" continues a text`,
    });
  }
  const loaded = await loadOn(flags, load, signal, (how) => AutoModelForCausalLM.from_pretrained(name, how));
  await using _device = loaded.device;
  await using model = loaded;
  model.warnings.forEach(warner(flags.quiet));
  await using talk = new Talk(model, tokenizer, flags, given);
  await talk.run();
}

/** What `--json` prints of an answer; later versions only add fields. */
interface AnswerReport {
  readonly role: "assistant";
  readonly content: string;
  readonly prompt_tokens: number;
  /** Of these, read in earlier turns. */
  readonly reused_tokens: number;
  readonly new_tokens: number;
  readonly finish_reason: string;
  readonly seconds: number;
}

class Talk implements AsyncDisposable {
  readonly #model: PreTrainedModel;
  readonly #tokenizer: PreTrainedTokenizer;
  readonly #turns: Turns;
  readonly #flags: Flags;
  readonly #given: GenerationOptions;
  readonly #terminal = process.stdin.isTTY === true;
  #messages: ChatMessage[] = [];
  #last: AnswerReport | undefined;
  /** Ends the answer that is being written. */
  #answering: AbortController | undefined;

  constructor(model: PreTrainedModel, tokenizer: PreTrainedTokenizer, flags: Flags, given: GenerationOptions) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#turns = new Turns(model);
    this.#flags = flags;
    this.#given = given;
    this.#begin(flags.system);
  }

  async run(): Promise<void> {
    const lines = createInterface({ input: process.stdin, output: this.#terminal ? process.stderr : undefined });
    const messages = new Messages(lines, this.#terminal);
    /** The exit code of a conversation that a signal ended. */
    let left = 0;
    lines.on("SIGINT", () => {
      // On a terminal Ctrl-C ends what is under way: an answer, a text of several lines, or the conversation.
      if (this.#answering) this.#answering.abort(new Error("interrupted"));
      else if (!messages.discard()) lines.close();
    });
    const leave = (): void => {
      left = EXIT.interrupted;
      this.#answering?.abort(new Error("interrupted"));
      lines.close();
    };
    onInterrupt(leave);
    if (this.#terminal && !this.#flags.quiet) note(dim("/help lists the commands; Ctrl-D leaves"));
    try {
      for await (const text of messages) {
        if (text.trim() === "") continue;
        const done = await this.#command(text);
        if (done === "leave") break;
        if (done === "no command") await this.#turn(text);
        if (left) break;
      }
    } finally {
      lines.close();
      process.stdin.destroy(); // whoever writes to it need not close it first
    }
    if (this.#terminal) note("");
    if (left) process.exitCode = left;
  }

  /** Does a command of the conversation's; a blank before a slash makes a message of it. */
  async #command(text: string): Promise<"done" | "leave" | "no command"> {
    const [, word, rest = ""] = /^(\/[a-z]+)(?:\s+([\s\S]*))?$/.exec(text.trimEnd()) ?? [];
    if (word === undefined) return "no command";
    try {
      switch (word) {
        case "/exit":
        case "/quit":
          return "leave";
        case "/help":
          note(HELP);
          return "done";
        case "/reset":
          this.#begin(this.#system);
          return "done";
        case "/system":
          if (rest === "") note(this.#system ?? "there is no system message; /system <text> sets one");
          else this.#begin(rest);
          return "done";
        case "/stats":
          note(this.#stats());
          return "done";
        case "/save":
          await this.#save(rest);
          return "done";
        case "/load":
          await this.#load(rest);
          return "done";
        default: {
          const known = Object.keys(COMMANDS).map((name) => name.split(" ")[0]!);
          const near = suggestion(word, known);
          throw new OptionError(`there is no command ${word}${near ? `; did you mean ${near}?` : ""}`, {
            hint: "/help lists them; a message that begins with / needs a blank before it",
          });
        }
      }
    } catch (error) {
      this.#tell(error);
      return "done";
    }
  }

  /** On a terminal a failure ends nothing. */
  #tell(error: unknown): void {
    if (!this.#terminal || !(error instanceof OctavoError)) throw error;
    note(`error: ${error.message}`);
  }

  get #system(): string | undefined {
    const [first] = this.#messages;
    return first?.role === "system" ? String(first.content) : undefined;
  }

  #begin(system: string | undefined): void {
    this.#messages = system === undefined ? [] : [{ role: "system", content: system }];
  }

  async #turn(text: string): Promise<void> {
    const before = this.#messages.length;
    this.#messages.push({ role: "user", content: text });
    try {
      await this.#answer();
    } catch (error) {
      this.#messages.length = before; // it was not answered
      this.#tell(error);
    }
  }

  async #answer(): Promise<void> {
    const { quiet, json } = this.#flags;
    const ids = this.#tokenizer.apply_chat_template(this.#messages, {
      add_generation_prompt: true,
      return_dict: false,
    });
    const room = this.#turns.context - ids.length;
    const own = this.#model.generation_config.max_new_tokens;
    const max_new_tokens = this.#given.max_new_tokens ?? (typeof own === "number" ? own : LONGEST_ANSWER);
    const options = generationOptions({ ...this.#given, max_new_tokens, num_beams: 1 }, this.#flags, this.#model, room);
    this.#answering = new AbortController();
    const { signal } = this.#answering;
    const decoder = this.#tokenizer.streamDecoder({ skip_special_tokens: true });
    decoder.push(ids);
    const bar = !quiet && isInteractive() ? new PromptBar() : undefined;
    const began = performance.now();
    let content = "";
    let count = 0;
    let finish_reason = "abort";
    const write = (piece: string): void => {
      // A template may end with the blank that the answer would begin with.
      const shown = content === "" ? piece.trimStart() : piece;
      content += shown;
      if (!json) print(shown);
    };
    try {
      const turn = {
        signal,
        tokenizer: this.#tokenizer,
        progress: bar && ((event: PromptProgress) => bar.hear(event)),
      };
      for await (const { id, finish_reason: reason } of this.#turns.next(ids, options, turn)) {
        if (count === 0) bar?.stop();
        count++;
        finish_reason = reason === "eos" ? "stop" : (reason ?? finish_reason);
        write(decoder.push(id));
        await new Promise(setImmediate); // signals arrive between tokens
      }
    } catch (error) {
      if (!(error instanceof AbortError)) throw error;
    } finally {
      bar?.stop();
      this.#answering = undefined;
    }
    if (count === 0 && finish_reason === "abort") {
      this.#messages.pop(); // nothing was said to it
      if (!json) print("\n");
      return;
    }
    write(decoder.end());
    if (!json) print("\n");
    const seconds = (performance.now() - began) / 1000;
    this.#messages.push({ role: "assistant", content });
    this.#last = {
      role: "assistant",
      content,
      prompt_tokens: ids.length,
      reused_tokens: this.#turns.reused,
      new_tokens: count,
      finish_reason,
      seconds,
    };
    if (json) print(`${JSON.stringify(this.#last)}\n`);
    else if (!quiet && this.#terminal) note(dim(this.#stats()));
  }

  #stats(): string {
    const { context } = this.#turns;
    const { device } = this.#model;
    const memory = `${bytes(device.memory.live)} in use`;
    if (!this.#last) return `no answer yet; ${memory}`;
    const { prompt_tokens, reused_tokens, new_tokens, seconds } = this.#last;
    const used = `${prompt_tokens + new_tokens}${Number.isFinite(context) ? ` of ${context}` : ""} tokens of context`;
    const speed = `${plural(new_tokens, "token")} in ${seconds.toFixed(1)} s`;
    return `${speed}; ${used}, ${reused_tokens} reused; ${memory}`;
  }

  async #save(file: string): Promise<void> {
    if (file === "") throw new OptionError("/save needs the name of a file");
    const hints = { full: "free some space", otherwise: "name another file" };
    await writing(file, hints, () => writeFile(file, `${JSON.stringify(this.#messages, null, 2)}\n`));
    note(`${plural(this.#messages.length, "message")} in ${file}`);
  }

  async #load(file: string): Promise<void> {
    if (file === "") throw new OptionError("/load needs the name of a file");
    this.#messages = conversationOf(await readText(file), file);
    note(`${plural(this.#messages.length, "message")} from ${file}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#turns[Symbol.asyncDispose]();
  }
}

/** @throws FormatError for what is no list of messages */
function conversationOf(text: string, file: string): ChatMessage[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new FormatError(`${file} is not JSON`, { cause });
  }
  const isMessage = (one: unknown): boolean =>
    typeof one === "object" && one !== null && typeof (one as ChatMessage).role === "string";
  if (isList(value) && value.every(isMessage)) return value as ChatMessage[];
  throw new FormatError(`${file} is not a list of messages { role, content }`);
}
