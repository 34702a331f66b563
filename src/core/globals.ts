// What the declarations of the package name and a project may not know: with it they compile in projects with the DOM's
// types, with Node's, or with neither. Both entries export it, as types alone.

/// <reference lib="esnext.disposable" preserve="true" />

declare global {
  // Empty: they merge with the project's own, wherever those come from.
  interface AbortSignal {}
  interface URL {}
}

export {};
