// The names of all opcodes of pickles, for messages: most of them are refused.

export const OPCODES: ReadonlyMap<number, string> = new Map([
  ...named("( MARK . STOP 0 POP 1 POP_MARK 2 DUP F FLOAT I INT J BININT K BININT1 L LONG M BININT2 N NONE P PERSID"),
  ...named("Q BINPERSID R REDUCE S STRING T BINSTRING U SHORT_BINSTRING V UNICODE X BINUNICODE a APPEND b BUILD"),
  ...named("c GLOBAL d DICT } EMPTY_DICT e APPENDS g GET h BINGET i INST j LONG_BINGET l LIST ] EMPTY_LIST o OBJ"),
  ...named("p PUT q BINPUT r LONG_BINPUT s SETITEM t TUPLE ) EMPTY_TUPLE u SETITEMS G BINFLOAT B BINBYTES"),
  ...named("C SHORT_BINBYTES"),
  ..."PROTO NEWOBJ EXT1 EXT2 EXT4 TUPLE1 TUPLE2 TUPLE3 NEWTRUE NEWFALSE LONG1 LONG4 SHORT_BINUNICODE BINUNICODE8 BINBYTES8 EMPTY_SET ADDITEMS FROZENSET NEWOBJ_EX STACK_GLOBAL MEMOIZE FRAME BYTEARRAY8 NEXT_BUFFER READONLY_BUFFER"
    .split(" ")
    .map((name, i): [number, string] => [0x80 + i, name]),
]);

function named(text: string): [number, string][] {
  const words = text.split(" ");
  return Array.from({ length: words.length / 2 }, (_, i) => [words[2 * i]!.charCodeAt(0), words[2 * i + 1]!]);
}
