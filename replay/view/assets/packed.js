// Decoding of the page's document: base64, gzip, and columns of numbers.

/** Return the bytes of a base64 text. */
function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

/** Return the document that a page carries: base64 of gzip of JSON. */
export async function unpackDocument(text) {
  const gzip = new Blob([bytesOfBase64(text.trim())]);
  const stream = gzip.stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const COLUMN_TYPES = { i4: Int32Array, f4: Float32Array, f8: Float64Array, u1: Uint8Array };

/** Return the typed arrays of `tokens` of a document, by column name. Their numbers are little-endian. */
export function columnsOf(tokens) {
  const columns = {};
  for (const [name, column] of Object.entries(tokens.columns)) {
    const bytes = bytesOfBase64(column.data);
    columns[name] = new COLUMN_TYPES[column.dtype](bytes.buffer, bytes.byteOffset);
  }
  return columns;
}

/** Return `first` followed by `second`: two typed arrays of one type. */
export function joinedColumn(first, second) {
  const joined = new second.constructor(first.length + second.length);
  joined.set(first);
  joined.set(second, first.length);
  return joined;
}
