// The tree of a model as text, in the layout that Python prints: modules by their names, and equal neighbours of a list as one.

/** What is printed of a module. */
interface Printed {
  readonly class_name: string;
  children(): Iterable<readonly [string, Printed]>;
  extra_repr(): string;
}

/** The tree of a module and all below it. */
export function treeOf(module: Printed): string {
  if (module.class_name === "ModuleList") {
    return block("ModuleList", runsOf([...module.children()].map(([, child]) => child)));
  }
  const lines: string[] = [];
  for (const [name, children] of fieldsOf(module)) {
    lines.push(`(${name}): ${Array.isArray(children) ? block("ModuleList", runsOf(children)) : treeOf(children)}`);
  }
  return block(module.class_name, lines, module.extra_repr());
}

/** Children by their fields; a field that holds a list has all of them. */
function fieldsOf(module: Printed): Map<string, Printed | Printed[]> {
  const fields = new Map<string, Printed | Printed[]>();
  for (const [path, child] of module.children()) {
    const list = /^(.+)\.\d+$/.exec(path)?.[1];
    if (list === undefined) fields.set(path, child);
    else fields.set(list, [...((fields.get(list) as Printed[] | undefined) ?? []), child]);
  }
  return fields;
}

/** The entries of a list, neighbours with the same text as one: "(0-5): 6 x Block(...)". */
function runsOf(list: readonly Printed[]): string[] {
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
