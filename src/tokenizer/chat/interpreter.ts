// Runs a chat template: walks its tree and computes as Jinja in Python does. Every step is counted (limits.ts), and the values are
// plain data, so that a template reaches nothing but what it was given.

import { filter } from "./filters.js";
import type { Budget } from "./limits.js";
import { refuse } from "./limits.js";
import { memberOf, sliced } from "./members.js";
import { operate } from "./operators.js";
import { type End, Output, ofLoop, Scope } from "./scope.js";
import type * as syntax from "./syntax.js";
import { GENERATION, nameOf } from "./syntax.js";
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
} from "./values.js";

/** What a turn of a loop or a call costs beside its steps, in characters. */
const HEAVY = 256;

export class Interpreter {
  readonly #budget: Budget;
  readonly #top = new Scope();
  readonly #mark: string;

  /** @param mark a text that is put before and after what the assistant says; empty if nobody asks */
  constructor(budget: Budget, variables: ReadonlyMap<string, Value>, mark: string) {
    this.#budget = budget;
    this.#mark = mark;
    for (const [name, value] of variables) this.#top.set(name, value);
    this.#top.set(GENERATION, new Callable(GENERATION, ({ named }) => this.#generation(named.get("caller"))));
  }

  /** The text of a template. @throws FormatError, and OptionError where the template refuses the messages */
  run(program: syntax.Block): string {
    const out = new Output();
    this.#block(program.body, new Scope(this.#top), out);
    return out.text();
  }

  #generation(caller: Value): Value {
    const text = caller instanceof Callable ? textOf(caller.call({ args: [], named: new Map() }), this.#budget) : "";
    return this.#mark + text + this.#mark;
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
          const { filter: given, body } = node as syntax.Filtered;
          const text = this.#captured(body, new Scope(scope));
          out.add(textOf(this.#filtered(text, given, scope), this.#budget), this.#budget);
          return undefined;
        }
        case "Break":
          return "break";
        case "Continue":
          return "continue";
        case "Comment":
          return undefined;
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

  #assign({ assignee, value, body }: syntax.SetNode, scope: Scope): void {
    const given = value === null ? this.#captured(body, new Scope(scope)) : this.#value(value, scope);
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

  #loop({ loopvar, iterable, body, defaultBlock }: syntax.For, scope: Scope, out: Output): void {
    const select = iterable.type === "SelectExpression" ? (iterable as syntax.Select) : undefined;
    let items = itemsOf(this.#value(select?.lhs ?? iterable, scope), this.#budget);
    if (select !== undefined) {
      items = items.filter((item) => {
        const inner = new Scope(scope);
        this.#bind(loopvar, item, inner);
        return truth(this.#value(select.test, inner));
      });
    }
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
      inner.set("loop", new Attributes((name) => ofLoop(name, items, i, changed)));
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
    return new Callable(name, ({ args, named }) => {
      this.#budget.step(HEAVY);
      this.#budget.enter();
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
      inner.set("varargs", new Tuple(args.slice(parameters.length)));
      inner.set("kwargs", new Dict(new Map(left)));
      const text = this.#captured(body, inner);
      this.#budget.leave();
      return text;
    });
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
    return target instanceof Callable ? target.call(given) : refuse(`${typeOf(target)} cannot be called`);
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
      case "StringLiteral":
        return (node as syntax.Literal<string>).value;
      case "IntegerLiteral": {
        const { value } = node as syntax.Literal<number>;
        return Number.isSafeInteger(value) ? value + 0 : refuse("a whole number is too large");
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
        return scope.get(nameOf(node as syntax.Identifier));
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
        const { operand, negate, test: name } = node as syntax.Test;
        return test(name.value, this.#value(operand, scope), [], this.#budget) !== negate;
      }
      case "SelectExpression": {
        const { lhs, test: condition } = node as syntax.Select;
        return truth(this.#value(condition, scope)) ? this.#value(lhs, scope) : undefined;
      }
      case "Ternary": {
        const { condition, trueExpr, falseExpr } = node as syntax.Choice;
        return this.#value(truth(this.#value(condition, scope)) ? trueExpr : falseExpr, scope);
      }
      default:
        return refuse(`${node.type} is not supported`);
    }
  }

  #unary({ operator, argument }: syntax.Operation, scope: Scope): Value {
    const value = this.#value(argument, scope);
    if (operator.value === "not") return !truth(value);
    const number = numberOf(value) ?? refuse(`${operator.value} needs a number, got ${typeOf(value)}`);
    const signed = operator.value === "-" ? 0 - number : number;
    return value instanceof Float ? new Float(signed) : signed;
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
    return typeof value === "number" ? value : refuse("a slice needs whole numbers");
  }
}
