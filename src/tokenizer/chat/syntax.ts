// The syntax tree of a template. Not here: how it is read (lexer.ts, parser.ts), what the nodes do (interpreter.ts).

/** A node; each has the fields that its type says. */
export interface Node {
  readonly type: string;
}
export interface Block extends Node {
  readonly body: readonly Node[];
}
export interface Literal<T> extends Node {
  readonly value: T;
}
export type Identifier = Literal<string>;
export interface Keyword extends Node {
  readonly key: Identifier;
  readonly value: Node;
}
export interface Call extends Node {
  readonly callee: Node;
  readonly args: readonly Node[];
}
export interface If extends Block {
  readonly test: Node;
  readonly alternate: readonly Node[];
}
export interface For extends Block {
  readonly loopvar: Node;
  readonly iterable: Node;
  readonly condition: Node | null;
  readonly recursive: boolean;
  readonly defaultBlock: readonly Node[];
}
export interface SetNode extends Block {
  readonly assignee: Node;
  /** null: the body's text, through the filters. */
  readonly value: Node | null;
  readonly filters: readonly Node[];
}
export interface With extends Block {
  readonly targets: readonly Node[];
  readonly values: readonly Node[];
}
/** A block whose text goes through filters. */
export interface Filtering extends Block {
  readonly filters: readonly Node[];
}
export interface Macro extends Block {
  readonly name: Identifier;
  readonly args: readonly (Identifier | Keyword)[];
}
export interface CallBlock extends Block {
  readonly call: Call;
  readonly callerArgs: readonly (Identifier | Keyword)[] | null;
}
export interface Filtered extends Node {
  readonly operand: Node;
  readonly filter: Node;
}
export interface Operation extends Node {
  readonly operator: { readonly value: string };
  readonly left: Node;
  readonly right: Node;
  readonly argument: Node;
}
export interface Member extends Node {
  readonly object: Node;
  readonly property: Node;
  readonly computed: boolean;
}
export interface Slice extends Node {
  readonly start: Node | undefined;
  readonly stop: Node | undefined;
  readonly step: Node | undefined;
}
export interface Test extends Node {
  readonly operand: Node;
  readonly negate: boolean;
  readonly test: Identifier;
  readonly args: readonly Node[];
}
/** Several comparisons in a row, which hold if each does. */
export interface Comparison extends Node {
  readonly first: Node;
  readonly rest: readonly { readonly operator: string; readonly value: Node }[];
}
export interface Choice extends Node {
  readonly condition: Node;
  readonly trueExpr: Node;
  readonly falseExpr: Node | null;
}
