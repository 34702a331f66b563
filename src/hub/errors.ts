// The errors of a hub, in words about models and data sets: what is wrong, and what to do. A hub says which it is in two headers
// (http-errors.ts keeps them in the details).

import { AbortError, NetworkError, NotFoundError, OctavoError, OptionError, suggestion } from "../core/errors.js";
import { quote } from "../sources/files.js";
import type { Token } from "./environment.js";
import { pageOf, type Repo } from "./listing.js";

/** What was asked for. */
export interface Asked extends Repo {
  readonly revision: string;
  readonly token: Token;
  /** Ids that may have been meant. */
  readonly known?: readonly string[];
}

/** True where what is cached may be used instead, as in Python: the hub cannot be asked, or does not tell this user. */
export function mayUseCache(error: unknown): boolean {
  if (!(error instanceof OctavoError) || error instanceof AbortError || error instanceof OptionError) return false;
  return error.details.error_code !== "RevisionNotFound";
}

const LOGIN = "set HF_TOKEN, run hf auth login, or pass `token`";

/**
 * The error in words about the model or data set; others as they are.
 * @param ofFile it is about a file that the hub has listed, so that it is there
 */
export function explained(error: unknown, asked: Asked, ofFile = false): unknown {
  if (!(error instanceof OctavoError) || error.details.status === undefined) return error;
  const { endpoint, id, kind, revision, token } = asked;
  const { status, error_code: code, error_message: said, url } = error.details;
  const details = { id, revision, url, status, error_code: code };
  const page = pageOf(asked);
  if (code === "GatedRepo") {
    const hint = token.token
      ? `the account of the token (from ${token.from}) has no access: ask for it on ${page}, or use another token`
      : `accept its terms on ${page}, then ${LOGIN}`;
    return new NetworkError(
      `${kind} ${quote(id)} is gated: the hub gives it to those who accepted its terms (${status})`,
      {
        details,
        hint,
        cause: error,
      },
    );
  }
  if (status === 401 && token.token && /credentials|token/i.test(String(said ?? ""))) {
    return new NetworkError(`the hub does not accept the token (${status}: ${String(said)})`, {
      details,
      hint: `it comes from ${token.from}: renew it, or pass token: false for a public ${kind}`,
      cause: error,
    });
  }
  if (code === "RevisionNotFound") {
    return new NotFoundError(`${kind} ${quote(id)} has no revision ${quote(revision)}`, {
      details,
      hint: `${page}/tree/main shows its branches and tags`,
      cause: error,
    });
  }
  if (said === "Access to this resource is disabled.") {
    return new NetworkError(`${kind} ${quote(id)} is disabled on the hub`, { details, hint: page, cause: error });
  }
  if (code === "RepoNotFound" || (!ofFile && (status === 401 || status === 404))) {
    const near = suggestion(id, asked.known ?? []);
    const question = near === undefined ? "" : `; did you mean ${quote(near)}?`;
    return new NotFoundError(`there is no ${kind} ${quote(id)} on ${endpoint}, or it is private${question}`, {
      details: { ...details, suggestion: near },
      hint: token.token
        ? `is the id right (org/name), and may the account of the token (from ${token.from}) read it?`
        : `is the id right (org/name)? For a private ${kind} ${LOGIN}`,
      cause: error,
    });
  }
  return error;
}
