// What Python's datasets wrote with save_to_disk: a folder of Arrow files with state.json, or such a folder for each split with
// dataset_dict.json.

import { listOf } from "../../core/checks.js";
import { FormatError, NotFoundError, OptionError } from "../../core/errors.js";
import { show } from "../../core/show.js";
import { arrowExamples } from "./arrow.js";
import { Dataset } from "./dataset.js";
import { type DataPlace, type DataReader, opened, wholeText } from "./files.js";
import { isObject } from "./json-lines.js";
import type { Feature } from "./types.js";

/** The file that names a data set's Arrow files. */
const STATE = "state.json";
/** The file that names the splits. */
const SPLITS = "dataset_dict.json";

/** A folder of save_to_disk: the Arrow files of each split, or of the only data set, which has no name. */
export type Saved = ReadonlyMap<string | undefined, readonly DataPlace[]>;

/**
 * Loads what Python's datasets wrote with `save_to_disk`: a data set, or those of all splits by their names.
 * @param path the folder
 * @throws OptionError; NotFoundError; FormatError; OctavoError without the optional package `@uwdata/flechette`
 */
export type LoadFromDisk = (path: string) => Promise<Dataset | Record<string, Dataset>>;

/** load_from_disk on a platform. */
export function diskLoaderOf(reader: DataReader): LoadFromDisk {
  return async (path) => {
    if (typeof path !== "string" || path === "" || /^https?:/i.test(path)) {
      throw new OptionError(`load_from_disk: expected the path of a folder, got ${show(path)}`);
    }
    const saved = await savedIn(await reader.find(path));
    if (!saved) {
      throw new NotFoundError(`load_from_disk: ${show(path)} is no folder that save_to_disk wrote`, {
        details: { file: path },
        hint: "files of examples are loaded by load_dataset",
      });
    }
    const made: Record<string, Dataset> = {};
    for (const [split, places] of saved) {
      const rows: Feature[] = [];
      for (const place of places) for await (const row of opened(place, arrowExamples)) rows.push(row);
      const dataset = Dataset.from_list(rows);
      if (split === undefined) return dataset;
      made[split] = dataset;
    }
    return made;
  };
}

/** What save_to_disk wrote among the files of a folder; undefined if it did not. @throws FormatError */
export async function savedIn(places: readonly DataPlace[]): Promise<Saved | undefined> {
  const byPath = new Map(places.flatMap((place) => (place.below === undefined ? [] : [[pathOf(place), place]])));
  const splits = await namesIn(byPath.get(SPLITS), "splits");
  if (!splits && !byPath.has(STATE)) return undefined;
  const saved = new Map<string | undefined, readonly DataPlace[]>();
  for (const split of splits ?? [undefined]) {
    const folder = split === undefined ? "" : `${split}/`;
    const stated = byPath.get(`${folder}${STATE}`);
    const files = await namesIn(stated, "_data_files");
    if (!files) throw wrong(byPath.get(SPLITS)!, `the split ${show(split)} has no ${STATE}`);
    const own = files.map((name) => {
      const place = byPath.get(`${folder}${name}`);
      if (place) return place;
      throw wrong(stated!, `there is no file ${show(name)}`);
    });
    saved.set(split, own);
  }
  return saved;
}

function pathOf({ below }: DataPlace): string {
  return below!.replaceAll("\\", "/");
}

/** The names that a file lists: as they are, or as `filename` of objects. @throws FormatError */
async function namesIn(place: DataPlace | undefined, key: string): Promise<readonly string[] | undefined> {
  if (!place) return undefined;
  const file = await place.open();
  let stated: unknown;
  try {
    stated = JSON.parse(await wholeText(file));
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw wrong(place, cause.message, cause);
  } finally {
    await file.close();
  }
  const given = isObject(stated) ? stated[key] : undefined;
  const names = Array.isArray(given) ? given.map((one: unknown) => (isObject(one) ? one.filename : one)) : undefined;
  const list = listOf(names, (one): one is string => typeof one === "string");
  if (!list) throw wrong(place, `${show(key)} must be a list of names, got ${show(given)}`);
  const { _indices_files: indices } = stated as Feature;
  if (Array.isArray(indices) && indices.length > 0) {
    throw wrong(place, "it chooses rows by a file of indices, as datasets 1 did: save it again");
  }
  return list;
}

function wrong({ name }: DataPlace, problem: string, cause?: unknown): FormatError {
  return new FormatError(`${name}: ${problem}`, { details: { file: name }, cause });
}
