// Models are called like functions, as in Python and in transformers.js: `model(inputs)` is `model.forward(inputs)`.

import { Callable } from "../core/callable.js";

export abstract class Called extends (Callable as new () => object) {
  /** Records a pass of the model: see its class. */
  abstract forward(...given: never[]): object;

  /** What a call does. */
  protected _call(...given: never[]): object {
    return this.forward(...given);
  }
}
