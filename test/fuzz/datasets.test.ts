// Mutants of files of examples: JSON Lines, CSV and Parquet.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { load_dataset } from "../../src/train.js";
import { FIXTURES } from "../support/fixtures.js";
import { mutateBytes, mutateLines } from "./support/bytes.js";
import { fuzz } from "./support/fuzz.js";

const LINES =
  '{"text":"Größe","n":1}\n{"messages":[{"role":"user","content":"a\\n"}]}\r\n\n{"a":null,"b":[1.5e3,true]}\n';
const TABLE = 'prompt,completion,label\r\n"a ""b"", c",x,1\n"two\nlines",,2\nä,"",3\n';
const PARQUET = ["rows.parquet", "zstd.parquet"].map((name) => readFileSync(join(FIXTURES, "training", name)));

async function read(format: "json" | "csv" | "parquet", bytes: Uint8Array): Promise<string | undefined> {
  for (const row of await load_dataset(format, { data_files: bytes, split: "train" })) {
    if (typeof row !== "object" || row === null) return "a row that is no object";
  }
  return undefined;
}

fuzz<Buffer>({
  name: "examples in JSON",
  mutants: 4000,
  make: (chance) =>
    chance.is(0.5)
      ? mutateBytes(chance, Buffer.from(LINES))
      : mutateLines(chance, LINES, ["[]", "{}", "{", "NaN", "[", '"']),
  read: (bytes) => read("json", bytes),
});

fuzz<Buffer>({
  name: "examples in CSV",
  mutants: 4000,
  make: (chance) =>
    chance.is(0.5)
      ? mutateBytes(chance, Buffer.from(TABLE))
      : mutateLines(chance, TABLE, ['"', '""', ",", '"a', ",,,"]),
  read: (bytes) => read("csv", bytes),
});

fuzz<Buffer>({
  name: "examples in Parquet",
  mutants: 2000,
  make: (chance) => mutateBytes(chance, chance.one(PARQUET)),
  read: (bytes) => read("parquet", bytes),
});
