/**
 * A take ⇄ a link. Settings and random seed stand in the query; music stands in the fragment, which browsers keep to
 * themselves: no server's log sees it. Knows nothing of how a take is made.
 * @module
 */

/** @typedef {import("./api.js").Settings} Settings */

const LONGEST = 6000; // characters of a fragment; some programs that pass links on cut longer ones
const NUMBERS = ["notes", "temperature", "top_p", "min_p", "random_seed"];

/**
 * @typedef {object} Told  what a link says
 * @property {Partial<Settings>} settings
 * @property {"example"|"midi"|"nothing"|"file"} kind  file: music that was too long for a link
 * @property {string} name  of the example, or of the file
 * @property {Uint8Array|null} bytes  a MIDI file
 * @property {string} model  that made the take, "" where the link does not say
 */

/**
 * @param {{kind: string, name: string, bytes: Uint8Array|null}} seed
 * @param {Settings} settings
 * @param {string} model
 * @returns {Promise<{url: string, whole: boolean}>} whole: false where the beginning is too long to be in it
 */
export async function write(seed, settings, model) {
  const query = new URLSearchParams();
  for (const name of NUMBERS) if (settings[name] !== null) query.set(name, String(settings[name]));
  if (model) query.set("model", model);
  let fragment = "";
  let whole = true;
  if (seed.kind === "example") {
    query.set("seed", seed.name);
  } else if (seed.bytes) {
    fragment = await packed(seed.bytes);
    whole = fragment.length <= LONGEST;
    if (!whole) {
      fragment = "";
      query.set("file", seed.name);
    }
  }
  const url = new URL(`/?${query}`, location.href);
  url.hash = fragment && `midi=${fragment}`;
  return { url: url.href, whole };
}

/** @param {string} href @returns {Promise<Told|null>} null where it says nothing of a take */
export async function read(href) {
  const url = new URL(href);
  const query = url.searchParams;
  const settings = {};
  for (const name of NUMBERS) {
    const value = query.get(name);
    if (value !== null && value !== "" && Number.isFinite(Number(value))) settings[name] = Number(value);
  }
  const told = { settings, kind: "nothing", name: "", bytes: null, model: query.get("model") ?? "" };
  const midi = new URLSearchParams(url.hash.slice(1)).get("midi");
  if (midi) return { ...told, kind: "midi", name: "the link's beginning", bytes: await unpacked(midi) };
  if (query.has("seed")) return { ...told, kind: "example", name: query.get("seed") };
  if (query.has("file")) return { ...told, kind: "file", name: query.get("file") };
  return Object.keys(settings).length ? told : null;
}

async function packed(bytes) {
  const small = await through(bytes, new CompressionStream("deflate-raw"));
  let text = "";
  for (const byte of small) text += String.fromCharCode(byte);
  return btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/** Throws where the text has been damaged, or is longer than any that we write: a short one can unfold to little. */
async function unpacked(text) {
  if (text.length > LONGEST) throw new RangeError(`expected at most ${LONGEST} characters, got ${text.length}`);
  const small = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return through(
    Uint8Array.from(small, (letter) => letter.charCodeAt(0)),
    new DecompressionStream("deflate-raw"),
  );
}

async function through(bytes, stream) {
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(stream)).arrayBuffer());
}
