// Functions that chat templates may call: Jinja's, and the two of transformers.

import { OptionError } from "../../core/errors.js";
import { Call } from "./call.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { textOf } from "./text-of.js";
import { Attributes, Callable, Dict, itemsOf, type Key, keyOf, listOf, Namespace, type Value, View } from "./values.js";

const MONTHS = "January February March April May June July August September October November December".split(" ");
const DAYS = "Sunday Monday Tuesday Wednesday Thursday Friday Saturday".split(" ");

/** Python's strftime() in the C locale and local time. @throws FormatError for directives that are not known */
export function strftime(format: string, date: Date): string {
  const two = (value: number, dropped: boolean) => (dropped ? String(value) : String(value).padStart(2, "0"));
  const [month, day, hour] = [date.getMonth(), date.getDay(), date.getHours()];
  const start = Date.UTC(date.getFullYear(), 0, 1);
  const dayOfYear = Math.round((Date.UTC(date.getFullYear(), month, date.getDate()) - start) / 86_400_000) + 1;
  return format.replace(/%(-?)([\s\S]?)/g, (found, dash: string, directive: string) => {
    const dropped = dash === "-";
    switch (directive) {
      case "Y":
        return String(date.getFullYear());
      case "y":
        return two(date.getFullYear() % 100, dropped);
      case "m":
        return two(month + 1, dropped);
      case "d":
        return two(date.getDate(), dropped);
      case "e":
        return String(date.getDate()).padStart(2, " ");
      case "B":
        return MONTHS[month]!;
      case "b":
      case "h":
        return MONTHS[month]!.slice(0, 3);
      case "A":
        return DAYS[day]!;
      case "a":
        return DAYS[day]!.slice(0, 3);
      case "H":
        return two(hour, dropped);
      case "I":
        return two(hour % 12 || 12, dropped);
      case "p":
        return hour < 12 ? "AM" : "PM";
      case "M":
        return two(date.getMinutes(), dropped);
      case "S":
        return two(date.getSeconds(), dropped);
      case "j":
        return dropped ? String(dayOfYear) : String(dayOfYear).padStart(3, "0");
      case "w":
        return String(day);
      case "F":
        return strftime("%Y-%m-%d", date);
      case "T":
        return strftime("%H:%M:%S", date);
      case "%":
        return "%";
      default:
        return refuse(`strftime_now: ${found} is not supported`);
    }
  });
}

function range(call: Call, budget: Budget): Value {
  const [first, second, step] = [call.whole("start", 0), call.any("stop"), call.whole("step", 1)];
  call.end();
  const [from, to] = second === undefined ? [0, first] : [first, second];
  if (typeof to !== "number" || step === 0) return refuse("range needs whole numbers, and a step that is not 0");
  const count = Math.max(0, Math.ceil((to - from) / step));
  budget.items(count);
  const items = Array.from({ length: count }, (_, i) => from + i * step);
  return new View("range", items, [from, to, step]);
}

function entriesOf(call: Call, named: ReadonlyMap<string, Value>, budget: Budget): Map<Key, Value> {
  const given = call.any("");
  const entries = new Map<Key, Value>();
  if (given instanceof Dict) for (const [key, value] of given.entries) entries.set(key, value);
  else if (given !== undefined) {
    for (const pair of itemsOf(given, budget)) {
      const items = listOf(pair);
      if (items?.length !== 2) refuse("dict needs pairs of keys and values");
      entries.set(keyOf(items![0]), items![1]);
    }
  }
  for (const [key, value] of named) entries.set(key, value);
  budget.items(entries.size);
  return entries;
}

/** The functions and constants of every template. @param now the time of `strftime_now` */
export function globals(budget: Budget, now: () => Date): Map<string, Value> {
  const all = new Map<string, Value>();
  for (const [names, value] of [
    ["true True", true],
    ["false False", false],
    ["none None", null],
  ] as const) {
    for (const name of names.split(" ")) all.set(name, value);
  }
  const add = (name: string, run: (call: Call, named: ReadonlyMap<string, Value>, args: readonly Value[]) => Value) =>
    all.set(name, new Callable(name, (given) => run(new Call(name, given), given.named, given.args)));
  add("range", (call) => range(call, budget));
  add("dict", (call, named) => new Dict(entriesOf(call, named, budget)));
  add("namespace", (call, named) => {
    const entries = new Map<string, Value>();
    for (const [key, value] of entriesOf(call, named, budget)) entries.set(String(key), value);
    return new Namespace(entries);
  });
  add("raise_exception", (call) => {
    const message = textOf(call.any("message"), budget);
    throw new OptionError(`chat template: ${message}`, {
      hint: "the template of this model does not accept these messages",
      details: { key: "chat_template" },
    });
  });
  add("strftime_now", (call) => {
    const format = call.text("format");
    call.end();
    budget.text(format.length);
    return strftime(format, now());
  });
  add("cycler", (_call, _named, args) => {
    let at = 0;
    if (args.length === 0) return refuse("cycler needs values");
    return new Attributes((name) => {
      if (name === "current") return args[at];
      if (name === "reset") {
        return new Callable(name, () => {
          at = 0;
          return null;
        });
      }
      if (name !== "next") return undefined;
      return new Callable(name, () => {
        const value = args[at];
        at = (at + 1) % args.length;
        return value;
      });
    });
  });
  add("joiner", (call) => {
    const separator = call.text("sep", ", ");
    let used = false;
    return new Callable("joiner", () => {
      const text = used ? separator : "";
      used = true;
      return text;
    });
  });
  return all;
}
