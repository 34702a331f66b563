// A learned query that gathers the states of an image to one vector (SigLIP's head; "MAP", Zhai et al. 2022).

import { scope, type Tensor } from "../core/tensor.js";
import { Linear, Module, Parameter } from "../nn/module.js";
import { LayerNorm } from "../nn/norm.js";
import type { Act } from "../ops/activation.js";
import { attention } from "../ops/attention.js";
import { contiguous } from "../ops/copy.js";
import { linear } from "../ops/linear.js";
import { VisionMLP } from "./_vit.js";

/** What it is made of. */
interface Gathered {
  readonly hidden_size: number;
  readonly intermediate_size: number;
  readonly num_attention_heads: number;
  readonly hidden_act: Act;
  readonly layer_norm_eps: number;
}

/** torch's MultiheadAttention, whose three projections of the input are one matrix. */
class GatheringAttention extends Module {
  in_proj_weight: Parameter;
  in_proj_bias: Parameter;
  out_proj: Linear;
  readonly heads: number;

  constructor(width: number, heads: number) {
    super();
    this.in_proj_weight = new Parameter(3 * width, width);
    this.in_proj_bias = new Parameter(3 * width);
    this.out_proj = new Linear(width, width, { bias: true });
    this.heads = heads;
  }

  /** What `query` [1,1,C] finds in x[B,N,C]: [B,1,C]. */
  forward(query: Tensor, x: Tensor): Tensor {
    return scope(() => {
      const [batch = 0, steps = 0, width = 0] = x.shape;
      const size = width / this.heads;
      const project = (of: Tensor, part: number): Tensor => {
        const bias = contiguous(this.in_proj_bias.value.narrow(0, part * width, width), "f32");
        return linear(of, this.in_proj_weight.value.narrow(0, part * width, width), { bias });
      };
      const q = project(contiguous(query, "f32"), 0).view(1, 1, this.heads, size);
      const each = contiguous(q.expand(batch, 1, this.heads, size));
      const heads = (part: number): Tensor => project(x, part).view(batch, steps, this.heads, size).permute(0, 2, 1, 3); // [B,H,N,D]
      const y = attention(each, heads(1), heads(2), { scale: size ** -0.5, causal: false });
      return this.out_proj.forward(y.view(batch, 1, width));
    });
  }
}

/** One vector for an image. */
export class GatheringHead extends Module {
  probe: Parameter;
  attention: GatheringAttention;
  layernorm: LayerNorm;
  mlp: VisionMLP;

  constructor(c: Gathered) {
    super();
    this.probe = new Parameter(1, 1, c.hidden_size);
    this.attention = new GatheringAttention(c.hidden_size, c.num_attention_heads);
    this.layernorm = new LayerNorm(c.hidden_size, c.layer_norm_eps);
    this.mlp = new VisionMLP(c.hidden_size, c.intermediate_size, c.hidden_act);
  }

  forward(x: Tensor): Tensor {
    return scope(() => {
      const found = this.attention.forward(this.probe.value, x);
      return this.mlp.forward(this.layernorm.forward(found), found).view(x.shape[0]!, -1);
    });
  }
}
