// octavo completion: a script by which a shell completes commands, flags and their values. Nothing is loaded when it runs.

import { Argument, Command } from "commander";
import type { CommandEntry } from "./command-entry.js";
import { print } from "./output.js";

export const SHELLS = ["bash", "zsh", "fish"] as const;
type Shell = (typeof SHELLS)[number];
type Entries = Readonly<Record<string, CommandEntry>>;

/** @param entries all commands */
export function completionCommand(entries: Entries): Command {
  return new Command("completion")
    .addArgument(new Argument("<shell>", "the shell").choices(SHELLS))
    .addHelpText(
      "after",
      `
Examples:
  octavo completion bash >> ~/.bashrc
  octavo completion zsh > "\${fpath[1]}/_octavo"
  octavo completion fish > ~/.config/fish/completions/octavo.fish`,
    )
    .action(async (shell: Shell) => print(await completionScript(shell, entries)));
}

interface Flag {
  readonly name: string;
  readonly about: string;
  /** What it may be given; undefined for a flag that takes nothing, empty where anything goes. */
  readonly values: readonly string[] | undefined;
}

interface Completed {
  readonly name: string;
  readonly about: string;
  readonly flags: readonly Flag[];
  /** What its operands may be, if there are few. */
  readonly operands: readonly string[];
}

/** What that shell is to read. */
export async function completionScript(shell: Shell, entries: Entries): Promise<string> {
  return SCRIPTS[shell](await completed(entries));
}

async function completed(entries: Entries): Promise<Completed[]> {
  const all = await Promise.all(
    Object.values(entries).map(async ({ description, load }) => (await load()).description(description)),
  );
  const help: Flag = { name: "--help", about: "print the help of the command", values: undefined };
  const commands = all.map((command) => ({
    name: command.name(),
    about: command.description(),
    flags: [
      ...command.options
        .filter(({ hidden, long }) => !hidden && long)
        .map(({ long, description, required, optional, argChoices }) => ({
          name: long!,
          about: description,
          values: required || optional ? (argChoices ?? []) : undefined,
        })),
      help,
    ],
    operands: command.registeredArguments.flatMap(({ argChoices }) => argChoices ?? []),
  }));
  const operands = commands.map(({ name }) => name);
  return [...commands, { name: "help", about: "print the help of a command", flags: [], operands }];
}

const SCRIPTS: Readonly<Record<Shell, (commands: readonly Completed[]) => string>> = { bash, zsh, fish };

/** Text between single quotes, for all three shells. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function bash(commands: readonly Completed[]): string {
  const names = commands.map(({ name }) => name);
  // Where nothing is offered the shell completes files: behind a flag that takes any value, and where an operand begins.
  const cases = commands.map(({ name, flags, operands }) => {
    const values = flags
      .filter((flag) => flag.values)
      .map((flag) => `      ${name}:${flag.name}) words=${quoted(flag.values!.join(" "))} ;;\n`);
    const known = quoted(flags.map((flag) => flag.name).join(" "));
    const others = `case $word in -*) words=${known} ;; *) words=${quoted(operands.join(" "))} ;; esac`;
    return `${values.join("")}      ${name}:*) ${others} ;;\n`;
  });
  return `_octavo() {
  local word=\${COMP_WORDS[COMP_CWORD]} before=\${COMP_WORDS[COMP_CWORD-1]} words=
  if [ "$COMP_CWORD" = 1 ]; then
    words=${quoted(names.join(" "))}
  else
    case \${COMP_WORDS[1]}:$before in
${cases.join("")}    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _octavo octavo
`;
}

function zsh(commands: readonly Completed[]): string {
  // Brackets and colons part the fields of a specification.
  const plain = (text: string) => text.replaceAll(/[[\]:\\]/g, "\\$&");
  const cases = commands.map(({ name, flags }) => {
    const specs = flags.map(({ name: flag, about, values }) => {
      const value = values === undefined ? "" : values.length > 0 ? `:value:(${values.join(" ")})` : ":value:_files";
      return quoted(`${flag}[${plain(about)}]${value}`);
    });
    return `    ${name}) _arguments ${[...specs, "'*:file:_files'"].join(" \\\n      ")} ;;`;
  });
  return `#compdef octavo
_octavo() {
  local -a commands=(
${commands.map(({ name, about }) => `    ${quoted(`${plain(name)}:${about}`)}`).join("\n")}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local command=$words[2]
  shift words
  (( CURRENT-- ))
  case $command in
${cases.join("\n")}
  esac
}
if [ "$funcstack[1]" = "_octavo" ]; then _octavo "$@"; else compdef _octavo octavo; fi
`;
}

function fish(commands: readonly Completed[]): string {
  const lines = commands.flatMap(({ name, about, flags }) => [
    `complete -c octavo -n __fish_use_subcommand -a ${name} -d ${quoted(about)}`,
    ...flags.map(({ name: flag, about: what, values }) => {
      const value = values === undefined ? "" : values.length > 0 ? ` -x -a ${quoted(values.join(" "))}` : " -r";
      return `complete -c octavo -n ${quoted(`__fish_seen_subcommand_from ${name}`)} -l ${flag.slice(2)}${value} -d ${quoted(what)}`;
    }),
  ]);
  return `${lines.join("\n")}\n`;
}
