// Errors in a reader's words: what is wrong, and what to do about it here, in this page.

/** The facts of the library's errors. */
interface Facts {
  readonly code?: string;
  readonly message?: string;
  readonly hint?: string | undefined;
  readonly details?: Readonly<Record<string, unknown>>;
}

/** Where the page is. */
export interface Place {
  readonly origin: string;
  readonly online: boolean;
}

export interface Explanation {
  readonly what: string;
  readonly how?: string | undefined;
}

/** @param own the address in the details is of the page's own server */
type Words = (
  facts: { message: string; details: NonNullable<Facts["details"]> },
  place: Place,
  own: boolean,
) => Explanation | undefined;

const SILENT: Explanation = {
  what: "The server of this page does not answer.",
  how: "See if it still runs, and press Write again. What has arrived is kept.",
};

/** Errors that this page can say more about than the library, which does not know it. */
const KNOWN: Readonly<Record<string, Words>> = {
  ERR_NETWORK: ({ details: { url, status } }, { online }, own) => {
    if (status === 401 || status === 403) {
      return {
        what: `${host(url)} does not let this page read the model.`,
        how: "There is no such model, or only people who have logged in may read it. Choose one that everybody may read.",
      };
    }
    if (status !== undefined) return undefined;
    if (!online) return { what: "This browser is offline.", how: "Connect it, and press Write again." };
    return own ? SILENT : undefined;
  },
  ERR_NOT_FOUND: ({ details: { url } }) =>
    String(url).endsWith("/config.json")
      ? {
          what: `There is no model at ${String(url).slice(0, -"config.json".length)}`,
          how: "Give the address of a folder that holds config.json, or the id of a model on the hub, such as org/name.",
        }
      : undefined,
  ERR_DEVICE: ({ message, details: { url, status, got } }, _, own) => {
    if (message.startsWith("the Worker failed")) {
      return { what: `The part of this page that runs models has failed: ${message}.`, how: "Reload the page." };
    }
    if (!own || !String(url).endsWith(".wasm")) return undefined;
    if (got === "nothing") return SILENT;
    // Some servers answer unknown addresses with a page.
    if (status !== 404 && got !== "an HTML page") return undefined;
    return {
      what: "WebAssembly cannot be loaded: the server of this page has no octavo.wasm.",
      how: "Whoever serves the page: run npm run build:wasm, and build the page again. With a GPU, choose the device WebGPU.",
    };
  },
};

/**
 * What to show for an error.
 * @param error any value that was thrown
 */
export function explain(error: unknown, place: Place): Explanation {
  const { code = "", message = String(error), hint, details = {} } = (error ?? {}) as Facts;
  const own =
    typeof details.url === "string" && URL.canParse(details.url) && new URL(details.url).origin === place.origin;
  // The library's messages end with their hints.
  const what = hint === undefined ? message : message.replace(`\n  hint: ${hint}`, "");
  const known = KNOWN[code]?.({ message: what, details }, place, own);
  if (known) return known;
  return { what: sentence(what), how: hint === undefined ? undefined : sentence(hint) };
}

function host(url: unknown): string {
  return typeof url === "string" && URL.canParse(url) ? new URL(url).host : "The server";
}

/** With a capital where it begins with a word, and a full stop. */
function sentence(text: string): string {
  const begin = /^[a-z]+ /.test(text) ? text[0]!.toUpperCase() + text.slice(1) : text;
  return /[.?!:]$/.test(begin) ? begin : `${begin}.`;
}
