/**
 * Tensors as plain objects, and the names that numpy, safetensors and ONNX Runtime have for their types.
 *
 * @typedef {Float32Array|Float64Array|Int32Array|BigInt64Array|Uint8Array} Data
 * @typedef {{dtype: string, shape: number[], data: Data}} Tensor  dtype is a numpy name; data is in row-major order
 */

/** @type {Record<string, {array: any, safetensors: string}>} */
export const DTYPES = {
  float32: { array: Float32Array, safetensors: "F32" },
  float64: { array: Float64Array, safetensors: "F64" },
  int32: { array: Int32Array, safetensors: "I32" },
  int64: { array: BigInt64Array, safetensors: "I64" },
  uint8: { array: Uint8Array, safetensors: "U8" },
  bool: { array: Uint8Array, safetensors: "BOOL" },
};

/** @param {number[]} shape @returns {number} */
export const sizeOf = (shape) => shape.reduce((product, size) => product * size, 1);

/**
 * @param {string} dtype @param {number[]} shape
 * @param {Data|number[]} [data] zeros when it is not given
 * @returns {Tensor}
 */
export function tensor(dtype, shape, data) {
  const known = DTYPES[dtype];
  if (known === undefined) throw new Error(`no browser type for dtype ${dtype}`);
  const size = sizeOf(shape);
  const values = data === undefined ? new known.array(size) : convert(known.array, data);
  if (values.length !== size) throw new Error(`${values.length} values for shape [${shape}]`);
  return { dtype, shape: [...shape], data: values };
}

/** @param {any} type @param {Data|number[]} data */
function convert(type, data) {
  if (data instanceof type) return data;
  return type === BigInt64Array ? type.from(Array.from(/** @type {any} */ (data), BigInt)) : type.from(data, Number);
}

/**
 * Join tensors without a batch axis to one `[n, ...]`.
 * @param {Tensor[]} rows of one dtype and shape, at least one
 * @returns {Tensor}
 */
export function stack(rows) {
  const [{ dtype, shape }] = rows;
  const joined = tensor(dtype, [rows.length, ...shape]);
  rows.forEach((row, index) => joined.data.set(/** @type {any} */ (row.data), index * sizeOf(shape)));
  return joined;
}

/** Row `index` of a tensor `[n, ...]`, as numbers. @param {Tensor} batch @param {number} index @returns {number[]} */
export function row(batch, index) {
  const size = sizeOf(batch.shape.slice(1));
  return Array.from(batch.data.subarray(index * size, (index + 1) * size), Number);
}
