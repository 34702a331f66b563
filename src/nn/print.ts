// The tree of a model as text, in the layout that Python prints: modules by their names, equal neighbours of a list as one, and
// with each weight how it is stored.

import { shapeText } from "../core/show.js";
import { Embedding, Linear, Matrix, type Module, Parameter } from "./module.js";

/** The tree of a module and all below it. */
export function treeOf(module: Module): string {
  const lines: string[] = [];
  for (const [name, children] of fieldsOf(module)) {
    lines.push(`(${name}): ${Array.isArray(children) ? block("ModuleList", runsOf(children)) : treeOf(children)}`);
  }
  return block(module.class_name, lines, factsOf(module));
}

/** Children by their fields; a field that holds a list has all of them. */
function fieldsOf(module: Module): Map<string, Module | Module[]> {
  const fields = new Map<string, Module | Module[]>();
  for (const [path, child] of module.children()) {
    const list = /^(.+)\.\d+$/.exec(path)?.[1];
    if (list === undefined) fields.set(path, child);
    else fields.set(list, [...((fields.get(list) as Module[] | undefined) ?? []), child]);
  }
  return fields;
}

/** The entries of a list, neighbours with the same text as one: "(0-5): 6 x Block(...)". */
function runsOf(list: readonly Module[]): string[] {
  const texts = list.map(treeOf);
  const lines: string[] = [];
  for (let from = 0; from < texts.length; ) {
    let to = from + 1;
    while (to < texts.length && texts[to] === texts[from]) to++;
    const count = to - from;
    lines.push(count === 1 ? `(${from}): ${texts[from]}` : `(${from}-${to - 1}): ${count} x ${texts[from]}`);
    from = to;
  }
  return lines;
}

function block(name: string, lines: readonly string[], facts = ""): string {
  if (lines.length === 0) return `${name}(${facts})`;
  const body = lines.map((line) => `\n  ${line.replaceAll("\n", "\n  ")}`).join("");
  return `${name}(${facts}${body}\n)`;
}

/** What a module itself holds, in one line. */
function factsOf(module: Module): string {
  if (module instanceof Linear) {
    const { shape, experts } = module.weight;
    const sizes = `in_features=${shape[1]}, out_features=${shape[0] / experts}, bias=${module.bias !== undefined}`;
    return `${sizes}${experts > 1 ? `, experts=${experts}` : ""}, weight=${storageOf(module.weight)}`;
  }
  if (module instanceof Embedding) return `${module.weight.shape.join(", ")}, weight=${storageOf(module.weight)}`;
  const facts: string[] = [];
  for (const [name, value] of Object.entries(module)) {
    if (value instanceof Parameter) facts.push(`${name}=${shapeText(value.shape)}`);
    else if (value instanceof Matrix) facts.push(`${name}=${shapeText(value.shape)} ${storageOf(value)}`);
    else if (name === "eps") facts.push(`eps=${value}`);
  }
  return facts.join(", ");
}

/** How a matrix is stored: its scheme, or its dtype if it is not quantized. */
function storageOf(matrix: Matrix): string {
  if (!matrix.filled) return "not loaded";
  const { scheme, tensors } = matrix.weight;
  return scheme === "dense" ? (tensors[0]?.dtype ?? scheme) : scheme;
}
