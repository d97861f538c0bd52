/**
 * safetensors: eight bytes of little-endian header length, a JSON header, then the raw little-endian numbers.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 */

import { DTYPES, sizeOf } from "./tensors.mjs";

const LARGEST_HEADER = 100 * 2 ** 20;
const METADATA = "__metadata__";

/**
 * @param {Uint8Array} bytes
 * @returns {{tensors: Map<string, Tensor>, metadata: Record<string, string>}} tensors of types that a browser lacks are
 *   left out
 * @throws {Error} when it is no such file, or is damaged
 */
export function readSafetensors(bytes) {
  const header = headerOf(bytes);
  const tensors = new Map();
  for (const [name, entry] of Object.entries(header.entries)) {
    const [dtype, type] = Object.entries(DTYPES).find(([, known]) => known.safetensors === entry.dtype) ?? [];
    if (dtype === undefined || type === undefined) continue;
    const [begin, end] = entry.data_offsets.map((/** @type {number} */ offset) => header.size + offset);
    if (!(begin >= header.size && begin <= end && end <= bytes.length)) {
      throw new Error(`tensor ${name} lies outside of the file: it is truncated or damaged`);
    }
    if (end - begin !== sizeOf(entry.shape) * type.array.BYTES_PER_ELEMENT) {
      throw new Error(`tensor ${name} has ${end - begin} bytes, which does not fit its shape [${entry.shape}]`);
    }
    const data = new type.array(bytes.slice(begin, end).buffer); // a copy: offsets need not be aligned
    tensors.set(name, { dtype, shape: entry.shape, data });
  }
  return { tensors, metadata: header.metadata };
}

/** @param {Uint8Array} bytes */
function headerOf(bytes) {
  const length = bytes.length < 8 ? -1 : Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  if (length < 2 || length > LARGEST_HEADER || 8 + length > bytes.length) {
    throw new Error("this is no safetensors file, or it is truncated");
  }
  let document;
  try {
    document = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(8, 8 + length)));
  } catch {
    throw new Error("this is no safetensors file: its header is not JSON");
  }
  const { [METADATA]: metadata = {}, ...entries } = Object(document);
  for (const [name, entry] of Object.entries(entries)) {
    const { dtype, shape, data_offsets: offsets } = Object(entry);
    const whole = (/** @type {unknown} */ value) => Number.isSafeInteger(value) && Number(value) >= 0;
    const fits = typeof dtype === "string" && Array.isArray(shape) && shape.every(whole);
    if (!fits || !Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(whole)) {
      throw new Error(`this is no safetensors file: its entry ${name} is malformed`);
    }
  }
  return { entries, metadata, size: 8 + length };
}

/**
 * @param {Map<string, Tensor>} tensors @param {Record<string, string>} [metadata]
 * @returns {Uint8Array}
 */
export function writeSafetensors(tensors, metadata = {}) {
  /** @type {Record<string, any>} */
  const header = { [METADATA]: metadata };
  let offset = 0;
  for (const [name, { dtype, shape, data }] of tensors) {
    header[name] = { dtype: DTYPES[dtype].safetensors, shape, data_offsets: [offset, (offset += data.byteLength)] };
  }
  let text = JSON.stringify(header);
  let encoded = new TextEncoder().encode(text);
  encoded = new TextEncoder().encode((text += " ".repeat(-encoded.length & 7))); // the numbers start at a multiple of 8
  const bytes = new Uint8Array(8 + encoded.length + offset);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(encoded.length), true);
  bytes.set(encoded, 8);
  let at = 8 + encoded.length;
  for (const { data } of tensors.values()) {
    bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), at);
    at += data.byteLength;
  }
  return bytes;
}
