/**
 * Turns a take into a link and back. Settings and random seed are in the query. Music is in the fragment, which browsers
 * do not send, so no server logs it. Does not know how a take is generated.
 * @module
 */

/** @typedef {import("./api.js").Settings} Settings */

const MAX_FRAGMENT = 6000; // characters: some programs that pass links on cut longer ones
const NUMBERS = ["notes", "temperature", "top_p", "min_p", "random_seed", "density", "loudness", "seconds"];

/**
 * @typedef {object} LinkedTake  what a link says of a take
 * @property {Partial<Settings>} settings
 * @property {"example"|"midi"|"nothing"|"file"} kind  file: the seed was too long for a link
 * @property {string} name  of the example, or of the file
 * @property {Uint8Array|null} bytes  a MIDI file
 * @property {string} model  that generated the take, "" where the link does not say
 */

/**
 * @param {{kind: string, name: string, bytes: Uint8Array|null}} seed
 * @param {Settings} settings
 * @param {string} model
 * @returns {Promise<{url: string, complete: boolean}>} complete: false where the seed is too long to be in it
 */
export async function write(seed, settings, model) {
  const query = new URLSearchParams();
  for (const name of [...NUMBERS, "style"]) if (settings[name] !== null) query.set(name, String(settings[name]));
  if (model) query.set("model", model);
  let fragment = "";
  let complete = true;
  if (seed.kind === "example") {
    query.set("seed", seed.name);
  } else if (seed.bytes) {
    fragment = await compress(seed.bytes);
    complete = fragment.length <= MAX_FRAGMENT;
    if (!complete) {
      fragment = "";
      query.set("file", seed.name);
    }
  }
  const url = new URL(`/?${query}`, location.href);
  url.hash = fragment && `midi=${fragment}`;
  return { url: url.href, complete };
}

/** @param {string} href @returns {Promise<LinkedTake|null>} null where it says nothing of a take */
export async function read(href) {
  const url = new URL(href);
  const query = url.searchParams;
  const settings = {};
  for (const name of NUMBERS) {
    const value = query.get(name);
    if (value !== null && value !== "" && Number.isFinite(Number(value))) settings[name] = Number(value);
  }
  if (query.get("style")) settings.style = query.get("style");
  const linked = { settings, kind: "nothing", name: "", bytes: null, model: query.get("model") ?? "" };
  const midi = new URLSearchParams(url.hash.slice(1)).get("midi");
  if (midi) return { ...linked, kind: "midi", name: "the link's beginning", bytes: await decompress(midi) };
  if (query.has("seed")) return { ...linked, kind: "example", name: query.get("seed") };
  if (query.has("file")) return { ...linked, kind: "file", name: query.get("file") };
  return Object.keys(settings).length ? linked : null;
}

async function compress(bytes) {
  const compressed = await pipeThrough(bytes, new CompressionStream("deflate-raw"));
  let text = "";
  for (const byte of compressed) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Undo `compress`. Throw for a damaged text, and for a longer one than `write` writes: it could become very large. */
async function decompress(text) {
  if (text.length > MAX_FRAGMENT) throw new RangeError(`expected at most ${MAX_FRAGMENT} characters, got ${text.length}`);
  const compressed = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return pipeThrough(
    Uint8Array.from(compressed, (letter) => letter.charCodeAt(0)),
    new DecompressionStream("deflate-raw"),
  );
}

async function pipeThrough(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}
