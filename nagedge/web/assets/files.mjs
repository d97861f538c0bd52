/** The files that lie beside the page, packed as text (base64 of gzip) in scripts, which load from disk as well. */

/** @param {string} name @returns {Promise<Uint8Array>} */
export async function readPacked(name) {
  const packed = /** @type {any} */ (globalThis).nagedgeFiles?.[name];
  if (packed === undefined) {
    const script = name.startsWith("runtime") ? "runtime.js" : "model.js";
    throw new Error(`${script} is missing or damaged: copy the whole folder of this page again`);
  }
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}
