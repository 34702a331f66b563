// Runs a chat template: walks its tree and computes as Jinja in Python does. Every step is counted (limits.ts), and the values are
// plain data, so that a template reaches nothing but what it was given.

import { filter } from "./filters.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { memberOf, sliced } from "./members.js";
import { operate } from "./operators.js";
import { type End, Output, ofLoop, Scope } from "./scope.js";
import type * as syntax from "./syntax.js";
import { test } from "./tests.js";
import { textOf } from "./text-of.js";
import {
  type Arguments,
  Attributes,
  Callable,
  Dict,
  Float,
  itemsOf,
  type Key,
  keyOf,
  Namespace,
  numberOf,
  Tuple,
  truth,
  typeOf,
  type Value,
  wholeNumber,
} from "./values.js";

/** What a turn of a loop or a call costs beside its steps, in characters. */
const HEAVY = 256;

/** True if a name occurs in a part of a tree. */
function mentions(part: unknown, name: string): boolean {
  if (typeof part !== "object" || part === null) return false;
  if (part instanceof Map) return [...(part as Map<unknown, unknown>)].some((pair) => mentions(pair, name));
  if ((part as syntax.Identifier).type === "Identifier") return (part as syntax.Identifier).value === name;
  return Object.values(part).some((inner) => mentions(inner, name));
}

export class Interpreter {
  readonly #budget: Budget;
  readonly #top = new Scope();
  readonly #mark: string;

  /** @param mark a text that is put before and after what the assistant says; empty if nobody asks */
  constructor(budget: Budget, variables: ReadonlyMap<string, Value>, mark: string) {
    this.#budget = budget;
    this.#mark = mark;
    for (const [name, value] of variables) this.#top.set(name, value);
  }

  /** The text of a template. @throws FormatError, and OptionError where the template refuses the messages */
  run(program: syntax.Block): string {
    const out = new Output();
    this.#block(program.body, new Scope(this.#top), out);
    return out.text();
  }

  #block(nodes: readonly syntax.Node[], scope: Scope, out: Output): End {
    for (const node of nodes) {
      const end = this.#statement(node, scope, out);
      if (end !== undefined) return end;
    }
    return undefined;
  }

  #captured(nodes: readonly syntax.Node[], scope: Scope): string {
    const out = new Output();
    if (this.#block(nodes, scope, out) !== undefined) refuse("break and continue must stand in a loop");
    return out.text();
  }

  #statement(node: syntax.Node, scope: Scope, out: Output): End {
    this.#budget.step();
    this.#budget.enter();
    try {
      switch (node.type) {
        case "If": {
          const { test: condition, body, alternate } = node as syntax.If;
          return this.#block(truth(this.#value(condition, scope)) ? body : alternate, scope, out);
        }
        case "For":
          this.#loop(node as syntax.For, scope, out);
          return undefined;
        case "Set":
          this.#assign(node as syntax.SetNode, scope);
          return undefined;
        case "Macro":
          this.#macro(node as syntax.Macro, scope);
          return undefined;
        case "CallStatement":
          out.add(textOf(this.#callBlock(node as syntax.CallBlock, scope), this.#budget), this.#budget);
          return undefined;
        case "FilterStatement": {
          const { filters, body } = node as syntax.Filtering;
          out.add(
            textOf(this.#through(this.#captured(body, new Scope(scope)), filters, scope), this.#budget),
            this.#budget,
          );
          return undefined;
        }
        case "Generation": {
          const text = this.#captured((node as syntax.Block).body, new Scope(scope));
          out.add(this.#mark + text + this.#mark, this.#budget);
          return undefined;
        }
        case "With": {
          const { targets, values, body } = node as syntax.With;
          const inner = new Scope(scope);
          for (const [i, value] of values.map((one) => this.#value(one, scope)).entries()) {
            this.#bind(targets[i]!, value, inner);
          }
          return this.#block(body, inner, out);
        }
        case "Break":
          return "break";
        case "Continue":
          return "continue";
        default:
          out.add(textOf(this.#value(node, scope), this.#budget), this.#budget);
          return undefined;
      }
    } finally {
      this.#budget.leave();
    }
  }

  /** Gives a value to a name, or its items to several. */
  #bind(target: syntax.Node, value: Value, scope: Scope): void {
    if (target.type === "Identifier") {
      scope.set((target as syntax.Identifier).value, value);
      return;
    }
    if (target.type !== "TupleLiteral") refuse(`nothing can be assigned to a ${target.type}`);
    const names = (target as syntax.Literal<syntax.Node[]>).value;
    const items = itemsOf(value, this.#budget);
    if (items.length !== names.length) refuse(`${items.length} values for ${names.length} names`);
    for (const [i, name] of names.entries()) this.#bind(name, items[i], scope);
  }

  /** A text through the filters of its block. */
  #through(text: Value, filters: readonly syntax.Node[], scope: Scope): Value {
    return filters.reduce((made, one) => this.#filtered(made, one, scope), text);
  }

  #assign({ assignee, value, filters, body }: syntax.SetNode, scope: Scope): void {
    const given =
      value === null
        ? this.#through(this.#captured(body, new Scope(scope)), filters, scope)
        : this.#value(value, scope);
    if (assignee.type !== "MemberExpression") {
      this.#bind(assignee, given, scope);
      return;
    }
    const { object, property, computed } = assignee as syntax.Member;
    const space = this.#value(object, scope);
    if (!(space instanceof Namespace) || computed) refuse("only attributes of a namespace can be set");
    const { entries } = space as Namespace;
    entries.set((property as syntax.Identifier).value, given);
    this.#budget.items(entries.size / 16);
  }

  #loop(node: syntax.For, scope: Scope, out: Output): void {
    this.#turns(node, this.#value(node.iterable, scope), scope, out, 0);
  }

  /** The turns of a loop. @param depth of a recursive one: how often it has called itself */
  #turns(node: syntax.For, over: Value, scope: Scope, out: Output, depth: number): void {
    const { loopvar, condition, recursive, body, defaultBlock } = node;
    let items = itemsOf(over, this.#budget);
    if (condition !== null) {
      items = items.filter((item) => {
        const inner = new Scope(scope);
        this.#bind(loopvar, item, inner);
        return truth(this.#value(condition, inner));
      });
    }
    const again = ({ args }: Arguments): Value => {
      this.#budget.enter();
      const text = new Output();
      this.#turns(node, args[0], scope, text, depth + 1);
      this.#budget.leave();
      return text.text();
    };
    let previous: Value[] = [];
    for (const [i, item] of items.entries()) {
      this.#budget.step(HEAVY);
      const inner = new Scope(scope);
      const changed = (values: readonly Value[]) => {
        const differs =
          values.length !== previous.length ||
          values.some((value, j) => operate("!=", value, previous[j], this.#budget) === true);
        previous = [...values];
        return differs;
      };
      const about = (name: string): Value => ofLoop(name, items, i, depth, changed);
      inner.set("loop", new Attributes(about, recursive ? again : undefined));
      this.#bind(loopvar, item, inner);
      if (this.#block(body, inner, out) === "break") break;
    }
    if (items.length === 0) this.#block(defaultBlock, new Scope(scope), out);
  }

  /** A function of the text that a block makes of its arguments. */
  #function(
    name: string,
    parameters: readonly (syntax.Identifier | syntax.Keyword)[],
    body: readonly syntax.Node[],
    scope: Scope,
  ): Callable {
    const [varargs, kwargs, calls] = ["varargs", "kwargs", "caller"].map((word) => mentions(body, word));
    return new Callable(
      name,
      ({ args, named }) => {
        this.#budget.step(HEAVY);
        this.#budget.enter();
        if (args.length > parameters.length && !varargs) refuse(`${name} takes at most ${parameters.length} arguments`);
        const inner = new Scope(scope);
        const left = new Map(named);
        const caller = left.get("caller");
        left.delete("caller");
        if (caller !== undefined) inner.set("caller", caller);
        for (const [i, parameter] of parameters.entries()) {
          const keyword = parameter.type === "KeywordArgumentExpression" ? (parameter as syntax.Keyword) : undefined;
          const key = keyword?.key.value ?? (parameter as syntax.Identifier).value;
          const usual = keyword === undefined ? undefined : () => this.#value(keyword.value, inner);
          const given = i < args.length ? args[i] : left.has(key) ? left.get(key) : usual?.();
          left.delete(key);
          inner.set(key, given);
        }
        const [more] = left.keys();
        if (more !== undefined && !kwargs) refuse(`${name} has no argument ${more}`);
        if (caller !== undefined && !calls && !kwargs) refuse(`${name} does not use what is called`);
        inner.set("varargs", new Tuple(args.slice(parameters.length)));
        inner.set("kwargs", new Dict(new Map(left)));
        const text = this.#captured(body, inner);
        this.#budget.leave();
        return text;
      },
      parameters.map(
        (one) => (one.type === "Identifier" ? (one as syntax.Identifier) : (one as syntax.Keyword).key).value,
      ),
    );
  }

  #macro({ name, args, body }: syntax.Macro, scope: Scope): void {
    scope.set(name.value, this.#function(name.value, args, body, scope));
  }

  #callBlock({ call, callerArgs, body }: syntax.CallBlock, scope: Scope): Value {
    const caller = this.#function("caller", callerArgs ?? [], body, scope);
    const { args, named } = this.#arguments(call.args, scope);
    return this.#called(this.#value(call.callee, scope), { args, named: new Map([...named, ["caller", caller]]) });
  }

  #called(target: Value, given: Arguments): Value {
    this.#budget.step();
    const call = target instanceof Callable || target instanceof Attributes ? target.call : undefined;
    return call === undefined ? refuse(`${typeOf(target)} cannot be called`) : call(given);
  }

  #arguments(nodes: readonly syntax.Node[], scope: Scope): Arguments {
    const args: Value[] = [];
    const named = new Map<string, Value>();
    for (const node of nodes) {
      if (node.type === "KeywordArgumentExpression") {
        const { key, value } = node as syntax.Keyword;
        named.set(key.value, this.#value(value, scope));
      } else if (node.type === "SpreadExpression") {
        const more = itemsOf(this.#value((node as syntax.Operation).argument, scope), this.#budget);
        for (const item of more) args.push(item);
      } else if (node.type === "KeywordSpreadExpression") {
        const more = this.#value((node as syntax.Operation).argument, scope);
        if (!(more instanceof Dict)) refuse(`** needs a dictionary, got ${typeOf(more)}`);
        for (const [key, value] of (more as Dict).entries) named.set(String(key), value);
      } else args.push(this.#value(node, scope));
    }
    return { args, named };
  }

  #filtered(value: Value, node: syntax.Node, scope: Scope): Value {
    if (node.type === "Identifier") {
      return filter((node as syntax.Identifier).value, value, { args: [], named: new Map() }, this.#budget);
    }
    const { callee, args } = node as syntax.Call;
    if (node.type !== "CallExpression" || callee.type !== "Identifier") refuse("a filter needs a name");
    return filter((callee as syntax.Identifier).value, value, this.#arguments(args, scope), this.#budget);
  }

  #value(node: syntax.Node, scope: Scope): Value {
    this.#budget.step();
    this.#budget.enter();
    try {
      return this.#evaluated(node, scope);
    } finally {
      this.#budget.leave();
    }
  }

  #evaluated(node: syntax.Node, scope: Scope): Value {
    switch (node.type) {
      case "Constant":
        return (node as syntax.Literal<boolean | null>).value;
      case "Comparison":
        return this.#comparison(node as syntax.Comparison, scope);
      case "StringLiteral":
        return (node as syntax.Literal<string>).value;
      case "IntegerLiteral": {
        return (node as syntax.Literal<number | bigint>).value;
      }
      case "FloatLiteral":
        return new Float((node as syntax.Literal<number>).value);
      case "ArrayLiteral":
        return (node as syntax.Literal<syntax.Node[]>).value.map((item) => this.#value(item, scope));
      case "TupleLiteral":
        return new Tuple((node as syntax.Literal<syntax.Node[]>).value.map((item) => this.#value(item, scope)));
      case "ObjectLiteral": {
        const entries = new Map<Key, Value>();
        for (const [key, value] of (node as syntax.Literal<Map<syntax.Node, syntax.Node>>).value) {
          entries.set(keyOf(this.#value(key, scope)), this.#value(value, scope));
        }
        return new Dict(entries);
      }
      case "Identifier":
        return scope.get((node as syntax.Identifier).value);
      case "CallExpression": {
        const { callee, args } = node as syntax.Call;
        const target = this.#value(callee, scope);
        return this.#called(target, this.#arguments(args, scope));
      }
      case "MemberExpression":
        return this.#member(node as syntax.Member, scope);
      case "UnaryExpression":
        return this.#unary(node as syntax.Operation, scope);
      case "BinaryExpression":
        return this.#binary(node as syntax.Operation, scope);
      case "FilterExpression": {
        const { operand, filter: given } = node as syntax.Filtered;
        return this.#filtered(this.#value(operand, scope), given, scope);
      }
      case "TestExpression": {
        const { operand, negate, test: name, args } = node as syntax.Test;
        const value = this.#value(operand, scope);
        return test(name.value, value, this.#arguments(args, scope).args, this.#budget) !== negate;
      }
      case "Ternary": {
        const { condition, trueExpr, falseExpr } = node as syntax.Choice;
        const chosen = truth(this.#value(condition, scope)) ? trueExpr : falseExpr;
        return chosen === null ? undefined : this.#value(chosen, scope);
      }
      default:
        return refuse(`${node.type} is not supported`);
    }
  }

  #unary({ operator, argument }: syntax.Operation, scope: Scope): Value {
    const value = this.#value(argument, scope);
    if (operator.value === "not") return !truth(value);
    if (typeof value === "bigint") return operator.value === "-" ? wholeNumber(-value) : value;
    const number = numberOf(value) ?? refuse(`${operator.value} needs a number, got ${typeOf(value)}`);
    const signed = operator.value === "-" ? 0 - number : number;
    return value instanceof Float ? new Float(signed) : signed;
  }

  #comparison({ first, rest }: syntax.Comparison, scope: Scope): Value {
    let left = this.#value(first, scope);
    for (const { operator, value } of rest) {
      const right = this.#value(value, scope);
      if (!truth(operate(operator, left, right, this.#budget))) return false;
      left = right;
    }
    return true;
  }

  #binary({ operator, left, right }: syntax.Operation, scope: Scope): Value {
    const a = this.#value(left, scope);
    if (operator.value === "and") return truth(a) ? this.#value(right, scope) : a;
    if (operator.value === "or") return truth(a) ? a : this.#value(right, scope);
    return operate(operator.value, a, this.#value(right, scope), this.#budget);
  }

  #member({ object, property, computed }: syntax.Member, scope: Scope): Value {
    const of = this.#value(object, scope);
    if (computed && property.type === "SliceExpression") {
      const { start, stop, step } = property as syntax.Slice;
      return sliced(
        of,
        this.#place(start, scope),
        this.#place(stop, scope),
        this.#place(step, scope) ?? 1,
        this.#budget,
      );
    }
    if (of === undefined) {
      const name =
        object.type === "Identifier" ? JSON.stringify((object as syntax.Identifier).value) : "what it reads of";
      return refuse(`${name} is undefined`);
    }
    const key = computed ? this.#value(property, scope) : (property as syntax.Literal<string | number>).value;
    return memberOf(of, key, computed, this.#budget);
  }

  #place(node: syntax.Node | undefined, scope: Scope): number | undefined {
    const value = node === undefined ? undefined : this.#value(node, scope);
    if (value === undefined || value === null) return undefined;
    // No list is as long.
    if (typeof value === "bigint") return value > 0n ? Number.MAX_SAFE_INTEGER : Number.MIN_SAFE_INTEGER;
    return typeof value === "number" ? value : refuse("a slice needs whole numbers");
  }
}
