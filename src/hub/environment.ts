// What the environment says of the hub, by the names that huggingface_hub reads: its address, whether it may be asked at all, and
// the token of this machine. A token is never part of a message.

import { readFile } from "node:fs/promises";
import { homedir } from "node:os";
import { join } from "node:path";
import { OptionError } from "../core/errors.js";
import { folderAddress, HUB, TOKEN } from "../sources/address.js";

type Environment = Readonly<Record<string, string | undefined>>;

/** Python's idea of a variable that is on. */
export function isOn(value: string | undefined): boolean {
  return /^(1|on|yes|true)$/i.test(value ?? "");
}

/** The hub's address, without a slash at its end: HF_ENDPOINT, else Hugging Face's. @throws OptionError for another thing than that */
export function hubEndpoint(env: Environment = process.env): string {
  return folderAddress(env.HF_ENDPOINT || HUB, "HF_ENDPOINT");
}

/** The variable that forbids to ask the hub, if one does. */
export function offlineBy(env: Environment = process.env): string | undefined {
  // As in Python, the second counts only where the first is not set.
  const name = env.HF_HUB_OFFLINE ? "HF_HUB_OFFLINE" : "TRANSFORMERS_OFFLINE";
  return isOn(env[name]) ? name : undefined;
}

/** The folder of all that the hub's programs keep. */
export function hubHome(env: Environment = process.env): string {
  return env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), ".cache"), "huggingface");
}

/** The file that `hf auth login` writes. */
export function tokenFile(env: Environment = process.env): string {
  const file = env.HF_TOKEN_PATH || join(hubHome(env), "token");
  return /^~(?=[/\\]|$)/.test(file) ? join(homedir(), file.slice(1)) : file;
}

/** A token, and where it is from; for messages, which name only the latter. */
export interface Token {
  readonly token: string | undefined;
  readonly from: string;
}

/**
 * The token for requests to the hub.
 * @param given a token; false for none; true for that of this machine, which must be there; by default that of this machine, if
 * there is one and HF_HUB_DISABLE_IMPLICIT_TOKEN is not on
 * @throws OptionError for `true` without one, and for one that no header can hold
 */
export async function hubToken(given?: string | boolean, env: Environment = process.env): Promise<Token> {
  if (typeof given === "string" && given !== "") return { token: given, from: "the option `token`" };
  if (given === false || given === "") return { token: undefined, from: "" };
  if (given === undefined && isOn(env.HF_HUB_DISABLE_IMPLICIT_TOKEN)) return { token: undefined, from: "" };
  for (const name of ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"]) {
    const token = checked(env[name], name);
    if (token) return { token, from: name };
  }
  const file = tokenFile(env);
  const token = checked(await readFile(file, "utf8").catch(() => undefined), file);
  if (!token && given === true) {
    throw new OptionError("token is true, and there is no token on this machine", {
      hint: `set HF_TOKEN, or run hf auth login, which writes ${file}`,
    });
  }
  return { token, from: file };
}

function checked(text: string | undefined, from: string): string | undefined {
  const token = text?.replace(/[\r\n]/g, "").trim();
  if (!token || TOKEN.test(token)) return token || undefined;
  throw new OptionError(`${from} holds characters that no token has`, { details: { option: "token" } });
}
