/**
 * New values for the initializers of an ONNX model, written over the old ones: same name, type and size.
 *
 * A model is a protocol buffer (onnx.proto): ModelProto.graph is field 7, GraphProto.initializer field 5, and of a
 * TensorProto the data_type is field 2, the name field 8 and the numbers field 9 (raw_data) or 4 (float_data, packed),
 * both little-endian. Because no length changes, nothing else in the file has to.
 *
 * @typedef {import("./tensors.mjs").Tensor} Tensor
 */

const GRAPH = 7;
const INITIALIZER = 5;
const NAME = 8;
const FLOAT_DATA = 4;
const RAW_DATA = 9;

/**
 * @param {Uint8Array} model an .onnx file
 * @param {Map<string, Tensor>} parameters by name; names that the model does not have are ignored
 * @returns {Uint8Array} a copy of the model with these values
 * @throws {Error} when a tensor has another size in the model, or keeps its numbers elsewhere
 */
export function withParameters(model, parameters) {
  const copy = model.slice();
  for (const graph of fields(copy, GRAPH)) {
    for (const initializer of fields(graph, INITIALIZER)) {
      const [encoded] = fields(initializer, NAME);
      const name = encoded === undefined ? "" : new TextDecoder().decode(encoded);
      const parameter = parameters.get(name);
      if (parameter === undefined) continue;
      const { buffer, byteOffset, byteLength } = parameter.data;
      const packed = parameter.dtype === "float32" ? [...fields(initializer, FLOAT_DATA)] : [];
      const places = [...fields(initializer, RAW_DATA), ...packed];
      if (places.length !== 1 || places[0].length !== byteLength) {
        const found = places.map((place) => place.length).join(" + ") || "no";
        throw new Error(`the model holds ${found} bytes for ${name}, its new values have ${byteLength}`);
      }
      places[0].set(new Uint8Array(buffer, byteOffset, byteLength));
    }
  }
  return copy;
}

/**
 * The content of every length-delimited field of that number in a message, as views of its bytes.
 * @param {Uint8Array} message @param {number} number @returns {Generator<Uint8Array>}
 */
function* fields(message, number) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; at < message.length; factor *= 128) {
      const byte = message[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
    throw new Error("the model is no ONNX file, or it is truncated");
  };
  while (at < message.length) {
    const key = varint();
    const wire = key % 8;
    if (wire === 0) varint();
    else if (wire === 1) at += 8;
    else if (wire === 5) at += 4;
    else if (wire === 2) {
      const length = varint();
      if (at + length > message.length) throw new Error("the model is no ONNX file, or it is truncated");
      if (Math.floor(key / 8) === number) yield message.subarray(at, at + length);
      at += length;
    } else throw new Error("the model is no ONNX file");
  }
}
