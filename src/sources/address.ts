// Addresses of models' folders: what an address may be, and addresses in messages. A message ends in logs, so neither the user
// name and password of an address nor its query, which may hold a token, ever stands in one.

import { OptionError } from "../core/errors.js";
import { kindOf } from "../core/show.js";
import { quote } from "./files.js";
import { checkRevision, isModelId, subfolderParts } from "./model-id.js";

/** What a token may consist of: what a header can hold. */
export const TOKEN = /^[\x21-\x7e]*$/;

export const HUB = "https://huggingface.co";

/** Anything that may be meant as an address: a scheme of two letters at least ("C:" is a drive), or two slashes. */
const LIKE_ADDRESS = /^\s*(?:([a-z][a-z0-9+.-]+:)|\/\/)/i;

/** A text for messages that may be an address: without user, password, query and fragment. Others are returned as they are. */
export function withoutSecrets(text: string): string {
  const like = LIKE_ADDRESS.exec(text);
  if (!like || !/[@?#]/.test(text)) return text;
  const url = URL.canParse(text) ? new URL(text) : undefined;
  // Of what no parser understands, any part may be a password.
  if (!url || url.host === "") return `${like[1] ?? ""}...`;
  const user = url.username || url.password ? "...@" : "";
  return `${url.protocol}//${user}${url.host}${url.pathname}${url.search && "?..."}${url.hash && "#..."}`;
}

/** What was given for an address, quoted for messages: relative ones have queries too. */
export function quoteAddress(text: string): string {
  return quote(LIKE_ADDRESS.test(text) ? withoutSecrets(text) : text.replace(/([?#]).*$/s, "$1..."));
}

/** Text of the platform for messages: the addresses in it lose their secrets. */
export function scrub(text: string): string {
  return text.replace(/\b[a-z][a-z0-9+.-]+:\/\/[^\s"'<>]+/gi, withoutSecrets);
}

/**
 * The address of a model's folder: what is given if it is an address, else the folder of that id on the hub.
 * @param given an address or an id
 * @param hub address of a hub; by default the one of Hugging Face
 * @throws OptionError for what is neither an http address nor an id, an address with a password, or a bad revision
 */
export function modelAddress(given: string | URL, hub: string = HUB, revision?: string, subfolder = ""): string {
  const folder = rootAddress(given instanceof URL ? given.href : given, hub, revision);
  return [folder, ...subfolderParts(subfolder).map(encodeURIComponent)].join("/");
}

/** The token for a server that is no hub of this machine's. @throws OptionError for `true`: no token goes anywhere by itself */
export function tokenForServer(token: string | boolean | undefined): string | undefined {
  if (token !== true) return token || undefined;
  throw new OptionError("token: true is the token of this machine, which goes to the hub alone", {
    hint: "pass the token itself for another server",
  });
}

function rootAddress(model: string, hub: string, revision: string | undefined): string {
  if (typeof model === "string" && /^https?:\/\//i.test(model)) {
    if (revision !== undefined) {
      throw new OptionError("revision belongs to the id of a model on a hub; an address has its own");
    }
    return folderAddress(model, "the model");
  }
  if (typeof model !== "string" || !isModelId(model)) {
    const got = typeof model === "string" ? quoteAddress(model) : kindOf(model);
    throw new OptionError(`expected a model id such as "org/name" or an http address, got ${got}`, {
      details: { got },
    });
  }
  checkRevision(revision ?? "main");
  return `${folderAddress(hub, "hub")}/${model}/resolve/${encodeURIComponent(revision ?? "main")}`;
}

/** An address without its last slash. @throws OptionError */
export function folderAddress(text: string, what: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const got = quoteAddress(text);
  if (!url || !/^https?:$/.test(url.protocol)) {
    throw new OptionError(`${what} must be an http address, got ${got}`);
  }
  if (url.username || url.password) {
    throw new OptionError(`${what} must be an address without a user name and password, got ${got}`, {
      hint: "requests cannot carry them in the address; pass an access token as `token`, or use a server that needs none",
    });
  }
  if (url.search || url.hash) {
    throw new OptionError(`${what} must be the address of a folder, without "?" or "#", got ${got}`);
  }
  return url.href.replace(/[?#]*$/, "").replace(/\/+$/, "");
}
