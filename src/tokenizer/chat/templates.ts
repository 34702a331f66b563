// A tokenizer's chat templates, as texts: which of them a call takes. Not here: what they make of a conversation (template.ts).

import { OptionError } from "../../core/errors.js";
import { listed } from "../../core/show.js";

/** Templates as the files have them: one, or several by their names. */
export type Templates = string | Readonly<Record<string, string>> | null;

/** True for what can be a tokenizer's templates, whatever a caller gives. */
export function isTemplates(value: unknown): value is Templates {
  if (value === null || typeof value === "string") return true;
  try {
    return (
      typeof value === "object" && !Array.isArray(value) && Object.values(value).every((one) => typeof one === "string")
    );
  } catch {
    return false; // a proxy or a getter
  }
}

/**
 * The template of a call: the one that is named or given, "tool_use" where there are tools, or the default.
 * @throws OptionError when there is none
 */
export function chooseTemplate(templates: Templates, given: string | undefined, tools: boolean): string {
  if (typeof templates === "object" && templates !== null) {
    const has = (name: string) => Object.hasOwn(templates, name);
    if (given !== undefined) return has(given) ? templates[given]! : given;
    if (tools && has("tool_use")) return templates.tool_use!;
    if (has("default")) return templates.default!;
    throw new OptionError(
      `the tokenizer has several chat templates and none named "default": name one of ${listed(Object.keys(templates).sort())}`,
      { details: { option: "chat_template" } },
    );
  }
  const template = given ?? templates;
  if (template !== null) return template;
  throw new OptionError("there is no chat template: tokenizer.chat_template is not set, and none was given", {
    details: { option: "chat_template" },
    hint: 'pass one: apply_chat_template(messages, { chat_template: "..." })',
  });
}
