// Translation between many languages: the pipeline says both, as transformers' does (`_build_translation_inputs` of its tokenizers).

import { copyFileSync, cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { OptionError } from "../../src/core/errors.js";
import { AutoModelForSeq2SeqLM, AutoTokenizer } from "../../src/generate/auto.js";
import { pipeline } from "../../src/pipelines/node.js";
import { FIXTURES, readJson } from "../support/fixtures.js";
import { temporary } from "../support/temporary.js";

/** The M2M-100 of the fixtures, with a vocabulary of 60 pieces in front of the hundred languages. */
function translator(): string {
  const folder = temporary("translator");
  cpSync(join(FIXTURES, "models", "m2m_100"), folder, { recursive: true });
  copyFileSync(join(FIXTURES, "tokenizers", "t5.model"), join(folder, "sentencepiece.bpe.model"));
  const pieces = Object.keys(readJson<Record<string, number>>("tokenizers", "m2m-vocab.json")).slice(0, 60);
  writeFileSync(join(folder, "vocab.json"), JSON.stringify(Object.fromEntries(pieces.map((one, id) => [one, id]))));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ tokenizer_class: "M2M100Tokenizer" }));
  return folder;
}

test("languages of a call, and of the task's name", async () => {
  const folder = translator();
  const tokenizer = await AutoTokenizer.from_pretrained(folder, { src_lang: "de" });
  const model = await AutoModelForSeq2SeqLM.from_pretrained(folder, { device: "cpu" });
  const texts = ["the king", "a fox and a hen"];
  const how = { num_beams: 1, max_new_tokens: 6 };
  const ids = await model.generate({
    ...tokenizer(texts, { padding: true }),
    ...how,
    forced_bos_token_id: tokenizer.get_lang_id("fr"),
  });
  expect(ids.map(([, first]) => first)).toEqual(texts.map(() => tokenizer.get_lang_id("fr")));
  model.dispose();
  const want = ids.map((row) => ({ translation_text: tokenizer.decode(row, { skip_special_tokens: true }) }));
  {
    await using translate = await pipeline("translation", folder, { device: "cpu" });
    expect(await translate(texts, { ...how, src_lang: "de", tgt_lang: "fr" })).toEqual(want);
    await expect(translate("a", how)).rejects.toThrow(/requires a `src_lang` and a `tgt_lang`/);
    await expect(translate("a", { ...how, src_lang: "de" })).rejects.toThrow(OptionError);
    await expect(translate("a", { ...how, src_lang: "de", tgt_lang: "franz" })).rejects.toThrow(/no language/);
  }
  await using named = await pipeline("translation_de_to_fr", folder, { device: "cpu" });
  expect(await named(texts, how)).toEqual(want);
});
