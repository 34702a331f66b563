// octavo push: uploads the folder of a model to the hub.

import { Command } from "commander";
import { pushFolder } from "../hub/push.js";
import { jsonOption } from "./arguments.js";
import { onInterrupt } from "./failures.js";
import { bytes, note, plural, print, printJson, table } from "./output.js";

interface PushFlags {
  revision?: string;
  token?: string;
  private?: boolean;
  message?: string;
  dryRun?: boolean;
  json?: boolean;
  quiet?: boolean;
}

export function pushCommand(): Command {
  return new Command("push")
    .argument("<folder>", "folder whose files are uploaded, as one commit")
    .argument("<id>", 'id of the model on the hub, such as "org/name"; made if it does not exist')
    .option("--revision <name>", "branch to write to (default: main)")
    .option("--token <token>", "token with the right to write (default: HF_TOKEN, or what hf auth login has written)")
    .option("--private", "make a new model for its owners alone")
    .option("-m, --message <text>", "first line of the commit")
    .option("--dry-run", "only list what would be uploaded")
    .addOption(jsonOption())
    .option("-q, --quiet", "nothing on stderr but errors")
    .addHelpText(
      "after",
      `
Uploads use the package @huggingface/hub: npm install @huggingface/hub. A dry run opens no connection.

Examples:
  octavo push ./my-model org/my-model --dry-run
  octavo push ./my-model org/my-model --private --message "First version"`,
    )
    .action(push);
}

async function push(folder: string, id: string, flags: PushFlags): Promise<void> {
  const stop = new AbortController();
  onInterrupt(() => stop.abort(new Error("interrupted")));
  const { revision, token, private: hidden, message: commit_message, dryRun: dry_run, json, quiet } = flags;
  const options = { revision, token, private: hidden, commit_message, dry_run, signal: stop.signal };
  const { url, files, bytes: all, commit } = await pushFolder(folder, id, options);
  if (json) {
    const list = files.map(({ name, bytes: size }) => ({ file: name, bytes: size }));
    printJson({ id, url, files: list, bytes: all, commit: commit ?? null, dry_run: dry_run === true });
    return;
  }
  const count = `${plural(files.length, "file")}, ${bytes(all)}`;
  if (dry_run) {
    print(
      table(
        files.map(({ name, bytes: size }) => [name, bytes(size)]),
        [1],
      ),
    );
    if (!quiet) note(`${count} would be uploaded to ${url}`);
    return;
  }
  if (!quiet) note(`${count} uploaded`);
  print(`${url}\n`);
}
