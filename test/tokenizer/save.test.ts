// save_pretrained: what is written opens with the same ids, here and (scripts/check-saved-tokenizers.mjs) in Python; what was read
// and has not changed is written byte for byte.

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { OctavoError, OptionError } from "../../src/core/errors.js";
import { autoTokenizer } from "../../src/generate/pretrained.js";
import { NODE } from "../../src/load/node.js";
import { Disk } from "../../src/sources/disk.js";
import { loadTokenizer } from "../../src/tokenizer/load.js";
import { temporary } from "../support/temporary.js";
import { STORYTELLER } from "./golden.js";

const FOLDER = new URL("../fixtures/tokenizers/", import.meta.url);
interface Kind {
  readonly name: string;
  readonly files: Readonly<Record<string, string>>;
  readonly settings: Readonly<Record<string, object>>;
  readonly encoded: readonly [ids: number[], plain: number[], decoded: string, skipped: string][];
}
const [texts, ...kinds] = readFileSync(new URL("cases.jsonl", FOLDER), "utf8")
  .trimEnd()
  .split("\n")
  .map((line) => JSON.parse(line)) as [string[], ...Kind[]];

const AutoTokenizer = autoTokenizer(NODE);

function folderOf(files: Readonly<Record<string, string | Uint8Array>>): string {
  const folder = temporary("tokenizer");
  for (const [name, content] of Object.entries(files)) {
    mkdirSync(join(folder, name, ".."), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
  return folder;
}
const read = (...path: string[]) => readFileSync(join(...path), "utf8");

describe("older files", () => {
  it.each(kinds.map((kind) => [kind.name, kind] as const))("%s", async (_name, { files, settings, encoded }) => {
    const folder = folderOf({
      ...Object.fromEntries(Object.entries(files).map(([name, file]) => [name, readFileSync(new URL(file, FOLDER))])),
      ...Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, JSON.stringify(value)])),
    });
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    const copy = temporary("copy");
    const names = await tokenizer.save_pretrained(copy);
    expect(readdirSync(copy).sort()).toEqual([...names].sort());
    const again = await AutoTokenizer.from_pretrained(copy);
    expect(again.special_tokens_map).toEqual(tokenizer.special_tokens_map);
    expect([again.size, again.padding_side]).toEqual([tokenizer.size, tokenizer.padding_side]);
    for (const [i, [ids, , decoded]] of encoded.entries()) {
      expect([texts[i], again.encode(texts[i]!)]).toEqual([texts[i], ids]);
      expect([texts[i], again.decode(ids)]).toEqual([texts[i], decoded]);
    }
    again.add_tokens(["<new>", { content: "<wide>", lstrip: true }]);
    again.add_special_tokens({ cls_token: "<first>", extra_special_tokens: ["<other>"] });
    for (const [i, [ids]] of encoded.slice(0, 10).entries()) expect(again.encode(texts[i]!)).toEqual(ids);
    await expect(
      (again.save_pretrained as (...args: unknown[]) => unknown)(copy, { legacy_format: false }),
    ).rejects.toThrow(OptionError);
    await again.save_pretrained(copy);
    const third = await AutoTokenizer.from_pretrained(copy);
    const sample = "a <new>b <wide> c<other><first>";
    expect(third.encode(sample)).toEqual(again.encode(sample));
    expect(third.encode(sample)).toEqual(expect.arrayContaining([...again.get_added_vocab().values()].slice(-4)));
    expect([third.size, third.cls_token]).toEqual([again.size, "<first>"]);
    expect(third.additional_special_tokens).toContain("<other>");
  });
});

describe("special tokens with names of the model's own", () => {
  const json = read(STORYTELLER, "tokenizer.json");
  const settings = { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>", tokenizer_class: "GPT2Tokenizer" };
  const four = { extra_special_tokens: { image_token: "<image>", boi_token: { content: "<boi>" } } };
  const five = {
    image_token: "<image>",
    model_specific_special_tokens: { image_token: "<image>", boi_token: "<boi>" },
  };
  it.each([
    ["transformers 4", [], four, { ...four, additional_special_tokens: ["<new>"] }],
    [
      "transformers 5",
      ["<old>"],
      { ...five, extra_special_tokens: ["<old>"] },
      { ...five, extra_special_tokens: ["<new>"] },
    ],
  ])("as %s writes them, stay when others are added and saved", async (_, before, named, written) => {
    const folder = folderOf({
      "tokenizer.json": json,
      "tokenizer_config.json": JSON.stringify({ ...settings, ...named }),
    });
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    const all = (more: readonly string[]) => ["<|endoftext|>", "<image>", "<boi>", ...more];
    expect(tokenizer.additional_special_tokens).toEqual(before);
    expect(tokenizer.all_special_tokens).toEqual(all(before));
    tokenizer.add_special_tokens({ additional_special_tokens: ["<new>"] });
    expect(tokenizer.all_special_tokens).toEqual(all(["<new>"]));
    const copy = temporary("copy");
    await tokenizer.save_pretrained(copy);
    expect(JSON.parse(read(copy, "tokenizer_config.json"))).toMatchObject(written);
    const again = await AutoTokenizer.from_pretrained(copy);
    expect(again.all_special_tokens).toEqual(all(["<new>"]));
    expect(again.encode("<boi><image>")).toEqual(tokenizer.encode("<boi><image>"));
  });
});

describe("tokenizer.json", () => {
  it("is copied byte for byte with its settings and templates, beside what is there", async () => {
    const config = '{"tokenizer_class": "GPT2Tokenizer",   "odd": 1.0, "chat_template": "in the config"}';
    const folder = folderOf({
      "tokenizer.json": readFileSync(join(STORYTELLER, "tokenizer.json")),
      "tokenizer_config.json": config,
      "special_tokens_map.json": '{"eos_token":   "<|endoftext|>"}',
      "chat_template.jinja": "D",
      "additional_chat_templates/rag.jinja": "R",
    });
    const copy = folderOf({ "model.safetensors": "stays", "additional_chat_templates/old.jinja": "goes" });
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    expect(tokenizer.chat_template).toEqual({ default: "D", rag: "R" });
    await tokenizer.save_pretrained(copy);
    for (const name of ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"]) {
      expect(read(copy, name)).toBe(read(folder, name));
    }
    expect(readdirSync(join(copy, "additional_chat_templates"))).toEqual(["rag.jinja"]);
    expect(read(copy, "model.safetensors")).toBe("stays");
  });

  it("keeps what was changed, and the rest of the settings as they were written", async () => {
    const folder = folderOf({
      "tokenizer.json": readFileSync(join(STORYTELLER, "tokenizer.json")),
      "tokenizer_config.json": '{\n  "odd": 1.0,\n  "chat_template": "old",\n  "padding_side": "right"\n}\n',
    });
    const tokenizer = await AutoTokenizer.from_pretrained(folder);
    tokenizer.pad_token = "<|endoftext|>";
    tokenizer.padding_side = "left";
    tokenizer.model_max_length = 64;
    tokenizer.chat_template = { default: "D", tool_use: "T" };
    const copy = temporary("copy");
    await tokenizer.save_pretrained(copy);
    expect(read(copy, "tokenizer_config.json")).toContain('"odd": 1.0');
    expect(read(copy, "tokenizer_config.json")).not.toContain("chat_template");
    const again = await AutoTokenizer.from_pretrained(copy);
    expect([again.pad_token, again.padding_side, again.model_max_length]).toEqual(["<|endoftext|>", "left", 64]);
    expect(again.chat_template).toEqual({ default: "D", tool_use: "T" });
    again.chat_template = null;
    await again.save_pretrained(copy);
    expect((await AutoTokenizer.from_pretrained(copy)).chat_template).toBe(null);
  });

  it("refuses what names no folder, a name of a template that leads elsewhere, and a tokenizer without files", async () => {
    const tokenizer = await AutoTokenizer.from_pretrained(STORYTELLER);
    await expect(tokenizer.save_pretrained(5 as never)).rejects.toThrow(OptionError);
    tokenizer.chat_template = { default: "D", "../../x": "X" };
    await expect(tokenizer.save_pretrained(temporary("copy"))).rejects.toThrow(/cannot be the name of a template/);
    const other = await loadTokenizer(new Disk(STORYTELLER));
    await expect(other.save_pretrained(temporary("copy"))).rejects.toThrow(OctavoError);
  });
});
