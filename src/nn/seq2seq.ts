// Encoder-decoders of text, or of sound to text: the decoder's cross-attention reads the encoder's hidden states.

import { scope, type Tensor } from "../core/tensor.js";
import { type CrossCache, type LayerShape, layerShapes } from "./cache.js";
import { type Decoder, type DecoderGeometry, type LogitsOptions, logits } from "./decoder.js";
import type { FeatureInput } from "./features.js";
import { Model } from "./model.js";
import { type Linear, type Module, within } from "./module.js";
import { HERE, Pass, type PassInput, type PassOptions } from "./pass.js";

interface Seq2SeqInput {
  /** i32[B,S]: the encoder's input. */
  readonly ids: Tensor;
  /** u8[B,S]: 0 hides a position of the encoder. */
  readonly mask?: Tensor;
  /** i32[B,S] */
  readonly positions: Tensor;
  /** i32[B,T]: the decoder's input. */
  readonly decoder_ids: Tensor;
  /** i32[B,T] */
  readonly decoder_positions: Tensor;
}

/** A layer's attention to an encoder's output. */
export interface CrossAttention {
  /** Records keys and values [B,S,G,D] of the encoder's output [B,S,hidden]. */
  keysAndValues(encoded: Tensor): readonly [k: Tensor, v: Tensor];
  /** The linears of keys and values: only the encoder's output meets them. */
  readonly projections: readonly Linear[];
}

/** An encoder's or a decoder's layers, with what comes before and after them. */
export interface Stack<L extends Module = Module> extends Module {
  readonly layers: readonly L[];
  /** Records hidden states [B,T,hidden], after the last norm, of ids i32[B,T] or features. */
  forward(pass: Pass, input: Tensor): Tensor;
}

/** An encoder-decoder with a language-model head. */
export abstract class Seq2SeqLM extends Model implements Decoder {
  abstract readonly stacks: {
    readonly encoder: Stack;
    readonly decoder: Stack<Module & { readonly cross_attention: CrossAttention }>;
  };

  abstract override output_embeddings(): Linear;

  /** Of the decoder. */
  abstract readonly geometry: DecoderGeometry;

  /** What the encoder reads if it is not token ids. */
  readonly features: FeatureInput | undefined;

  /** Positions of the encoder's output for such an input; of texts the most that it reads, undefined if there is no limit. */
  readonly encoder_positions: number | undefined;

  /** Tokens that the encoder knows, where they are not the decoder's; undefined where they are. */
  readonly encoder_vocab: number | undefined;

  /** The id of padding, where the encoder's positions count the other tokens; undefined where they count columns. */
  readonly padding_idx: number | undefined;

  /** Records the encoder for `input`, i32[B,S] or its features: hidden states after its last norm, [B,S,hidden]. */
  encode(pass: Pass, input: Tensor): Tensor {
    return this.stacks.encoder.forward(pass, input);
  }

  hidden(pass: Pass, ids: Tensor): Tensor {
    return this.stacks.decoder.forward(pass, ids);
  }

  head(hidden: Tensor): Tensor {
    return this.output_embeddings().forward(hidden);
  }

  get blocks(): readonly (readonly Module[])[] {
    return [this.stacks.encoder.layers, this.stacks.decoder.layers];
  }

  /** What each decoder layer caches of an encoder token. */
  get cross_layers(): readonly LayerShape[] {
    return layerShapes(this.geometry);
  }

  /** Records keys and values of all layers for the texts that `cross` has begun (`CrossCache.begin`). */
  writeCross(encoded: Tensor, cross: CrossCache): void {
    const { layers } = this.stacks.decoder;
    const place = this.placement ?? HERE;
    for (const [layer, block] of layers.entries()) {
      scope(() => {
        const x = place.enter(layers, layer, encoded);
        return within(x.device, block.path, () => {
          const [k, v] = block.cross_attention.keysAndValues(x);
          cross.write(layer, k, v);
          return undefined;
        });
      });
      place.leave(layers, layer);
    }
  }

  /** A pass of this model. The caller disposes it. */
  pass(input: PassInput, options: PassOptions = {}): Pass {
    return new Pass(input, { attention: this.attention, place: this.placement, ...options });
  }

  /** Logits of the decoder, [B,T,vocab], for one pass of encoder and decoder without a cache. */
  forward(input: Seq2SeqInput, options: LogitsOptions = {}): Tensor {
    const { ids, mask, positions, decoder_ids, decoder_positions } = input;
    return scope(() => {
      using encoding = this.pass({ positions, mask });
      const encoded = { hidden: this.encode(encoding, ids), mask };
      using decoding = this.pass({ positions: decoder_positions, encoded });
      return logits(this, decoding, decoder_ids, options);
    });
  }
}
