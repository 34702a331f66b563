// WGSL that several kernels share. Operations that must be exact (rounding to narrow floats, quotients that decide a
// quantization code, angles) use integers, because WGSL guarantees neither correct rounding nor the order of operations.

/** Conversions between f32 and the bits of f16 and bf16, exact in both directions. */
export const FLOATS = `
fn from_f16(h: u32) -> f32 {
  let sign = (h & 0x8000u) << 16u;
  let size = h & 0x7fffu;
  if (size < 0x400u) { return bitcast<f32>(sign | bitcast<u32>(f32(size) * 5.9604644775390625e-8)); }
  if (size >= 0x7c00u) { return bitcast<f32>(sign | 0x7f800000u | ((size & 0x3ffu) << 13u)); }
  return bitcast<f32>(sign | ((size << 13u) + 0x38000000u));
}
fn to_bf16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x40u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
fn to_f16(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  let sign = (bits >> 16u) & 0x8000u;
  let size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) { return sign | 0x7e00u; }
  if (size >= 0x47800000u) { return sign | 0x7c00u; }
  if (size < 0x33000000u) { return sign; }
  if (size < 0x38800000u) {
    // Below the smallest normal f16: the mantissa in units of 2^-24, rounded half to even.
    let mantissa = (size & 0x7fffffu) | 0x800000u;
    let shift = 126u - (size >> 23u);
    let down = mantissa >> shift;
    let rest = mantissa & ((1u << shift) - 1u);
    let half = 1u << (shift - 1u);
    return sign | (down + select(0u, 1u, rest > half || (rest == half && (down & 1u) == 1u)));
  }
  return sign | ((size - 0x38000000u + 0xfffu + ((size >> 13u) & 1u)) >> 13u);
}`;

/**
 * `size_of(x)`: |x| as an integer, in the same order with NaN highest; ENDLESS is infinity. WGSL implementations may assume that
 * floats are neither NaN nor infinite, which they cannot of integers.
 */
export const SIZE_OF = `
const ENDLESS = 0x7f800000u;
fn size_of(x: f32) -> u32 { return bitcast<u32>(x) & 0x7fffffffu; }`;

/** a / b for finite b > 0, correctly rounded (subnormal results flush to zero). */
export const EXACT_DIVIDE = `
fn exact_divide(a: f32, b: f32) -> f32 {
  let abits = bitcast<u32>(a);
  let bbits = bitcast<u32>(b);
  if ((abits & 0x7f800000u) == 0u || (bbits & 0x7f800000u) == 0u) { return a / b; }
  let ma = (abits & 0x7fffffu) | 0x800000u;
  let mb = (bbits & 0x7fffffu) | 0x800000u;
  var exponent = i32((abits >> 23u) & 0xffu) - i32((bbits >> 23u) & 0xffu) + 127;
  var rest = ma;
  if (ma < mb) { rest = ma << 1u; exponent -= 1; }
  var quotient = 1u;
  rest -= mb;
  for (var i = 0u; i < 23u; i++) {
    rest <<= 1u;
    quotient <<= 1u;
    if (rest >= mb) { rest -= mb; quotient |= 1u; }
  }
  rest <<= 1u;
  if (rest > mb || (rest == mb && (quotient & 1u) == 1u)) { quotient += 1u; }
  if (quotient == 0x1000000u) { quotient = 0x800000u; exponent += 1; }
  let sign = abits & 0x80000000u;
  if (exponent >= 255) { return bitcast<f32>(sign | P_INFINITY); }
  if (exponent <= 0) { return bitcast<f32>(sign); }
  return bitcast<f32>(sign | (u32(exponent) << 23u) | (quotient & 0x7fffffu));
}`.replace("P_INFINITY", "0x7f800000u");

/** The high word of a 32 x 32 bit product. */
export const MULHI = `
fn mulhi(a: u32, b: u32) -> u32 {
  let al = a & 0xffffu;
  let ah = a >> 16u;
  let bl = b & 0xffffu;
  let bh = b >> 16u;
  let low = al * bl;
  let m1 = ah * bl + (low >> 16u);
  let m2 = al * bh + (m1 & 0xffffu);
  return ah * bh + (m1 >> 16u) + (m2 >> 16u);
}`;

/** Activation codes as in ops/activation.ts. erf and erfc after Moshier's Cephes (ndtrf.c). */
export const ACTIVATIONS = `
fn tanh_of(x: f32) -> f32 {
  let a = abs(x);
  if (a < 0.625) {
    let z = x * x;
    return ((((-5.70498872745e-3 * z + 2.06390887954e-2) * z - 5.37397155531e-2) * z + 1.33314422036e-1) * z - 3.33332819422e-1) * z * x + x;
  }
  if (a > 9.5) { return sign(x); }
  return sign(x) * (1.0 - 2.0 / (exp(2.0 * a) + 1.0));
}
fn erfc_above_one(a: f32) -> f32 {
  let q = 1.0 / a;
  let y = q * q;
  var p: f32;
  if (a < 2.0) {
    p = (((((((2.326819970068386e-2 * y - 1.387039388740657e-1) * y + 3.687424674597105e-1) * y - 5.824733027278666e-1) * y + 6.210004621745983e-1) * y - 4.944515323274145e-1) * y + 3.404879937665872e-1) * y - 2.741127028184656e-1) * y + 5.638259427386472e-1;
  } else {
    p = ((((((-1.047766399936249e+1 * y + 1.297719955372516e+1) * y - 7.495518717768503e+0) * y + 2.921019019210786e+0) * y - 1.015265279202700e+0) * y + 4.218463358204948e-1) * y - 2.820767439740514e-1) * y + 5.641895067754075e-1;
  }
  return exp(-a * a) * q * p;
}
fn normal_of(x: f32) -> f32 {
  let s = x * 0.70710678118654752;
  let a = abs(s);
  if (a < 1.0) {
    let z = s * s;
    let e = s * ((((((7.853861353153693e-5 * z - 8.010193625184903e-4) * z + 5.188327685732524e-3) * z - 2.685381193529856e-2) * z + 1.128358514861418e-1) * z - 3.761262582423300e-1) * z + 1.128379165726710e0);
    return 0.5 * (1.0 + e);
  }
  if (a > 9.0) { return select(0.0, 1.0, x > 0.0); }
  let tail = 0.5 * erfc_above_one(a);
  return select(tail, 1.0 - tail, x > 0.0);
}
fn sigmoid_of(x: f32) -> f32 {
  if (x >= 0.0) { return 1.0 / (1.0 + exp(-x)); }
  let e = exp(max(x, -87.0));
  return e / (1.0 + e);
}
fn activate(act: i32, x: f32) -> f32 {
  if ((bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u) { return x; } // NaN, which comparisons may lose
  switch (act) {
    case 1: { return max(x, 0.0); }
    case 2: { return x * normal_of(x); }
    case 3: { return 0.5 * x * (1.0 + tanh_of(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
    case 4: { return x * sigmoid_of(x); }
    case 5: { return x * sigmoid_of(1.702 * x); }
    case 6: { return tanh_of(x); }
    case 7: { return sigmoid_of(x); }
    default: { return x; }
  }
}`;

/** `slope(act, x)`: the derivative of `activate`. Needs ACTIVATIONS. */
export const SLOPES = `
fn slope(act: i32, x: f32) -> f32 {
  switch (act) {
    case 1: { return select(0.0, 1.0, x > 0.0); }
    case 2: { return normal_of(x) + x * 0.3989422804014327 * exp(-0.5 * x * x); }
    case 3: {
      let u = 1.5957691216057308 * x * (1.0 + 0.044715 * x * x);
      return sigmoid_of(u) + x * sigmoid_of(u) * sigmoid_of(-u) * 1.5957691216057308 * (1.0 + 0.134145 * x * x);
    }
    case 4: { return sigmoid_of(x) * (1.0 + x * sigmoid_of(-x)); }
    case 5: { return sigmoid_of(1.702 * x) * (1.0 + 1.702 * x * sigmoid_of(-1.702 * x)); }
    case 6: { return 4.0 * sigmoid_of(2.0 * x) * sigmoid_of(-2.0 * x); }
    case 7: { return sigmoid_of(x) * sigmoid_of(-x); }
    default: { return 1.0; }
  }
}`;

/** `name(v, lid)`: folds one value per invocation over the workgroup; every invocation gets the result. */
export function fold(name: string, type: string, workgroup: number, combine: (a: string, b: string) => string): string {
  return `
var<workgroup> ${name}_cells: array<${type}, ${workgroup}>;
fn ${name}(value: ${type}, lid: u32) -> ${type} {
  ${name}_cells[lid] = value;
  workgroupBarrier();
  for (var step = ${workgroup / 2}u; step > 0u; step >>= 1u) {
    if (lid < step) { ${name}_cells[lid] = ${combine(`${name}_cells[lid]`, `${name}_cells[lid + step]`)}; }
    workgroupBarrier();
  }
  let result = ${name}_cells[0];
  workgroupBarrier();
  return result;
}`;
}

export const LOWEST = "-3.4028234663852886e38";

/** WGSL literal of an f32. */
export function literal(x: number): string {
  const text = Math.fround(x).toString();
  return /[.e]/.test(text) ? `${text}f` : `${text}.0f`;
}

/** 0 to n - 1, for unrolled text. */
export function range(n: number): number[] {
  return Array.from({ length: n }, (_, i) => i);
}

/**
 * Sums variables over the workgroup; afterwards `cells[i * workgroup]` holds the sum of variable i. This takes two barriers
 * with subgroups, and otherwise one per halving.
 */
export function totals(variables: readonly string[], workgroup: number, subgroups: boolean): string {
  if (subgroups) {
    return [
      ...variables.map((name, i) => `let total${i} = subgroupAdd(${name});`),
      `if (lane == 0u) { ${variables.map((_, i) => `cells[${i * workgroup}u + sg] = total${i};`).join(" ")} }`,
      "workgroupBarrier();",
      `if (lid < ${variables.length}u) {`,
      `  for (var s = 1u; s < sgs; s++) { cells[lid * ${workgroup}u] += cells[lid * ${workgroup}u + s]; }`,
      "}",
      "workgroupBarrier();",
    ].join("\n  ");
  }
  return [
    ...variables.map((name, i) => `cells[${i * workgroup}u + lid] = ${name};`),
    "workgroupBarrier();",
    `for (var far = ${workgroup / 2}u; far > 0u; far >>= 1u) {`,
    "if (lid < far) {",
    ...variables.map((_, i) => `cells[${i * workgroup}u + lid] += cells[${i * workgroup}u + lid + far];`),
    "}",
    "workgroupBarrier();",
    "}",
  ].join("\n  ");
}
