/**
 * Turns a take into a file to download, or into a link that generates it again. Does not know how takes are shown.
 * @module
 */

import * as api from "./api.js";
import * as link from "./link.js";
import { create } from "./takes.js";
import { byId, reportError, showError, showStatus, state } from "./view.js";

/** @typedef {import("./takes.js").Take} Take */

/** @param {Take} take @param {string} format */
export async function download(take, format) {
  showStatus(`Take ${take.number} is being made as ${format} …`);
  try {
    const { blob, name, model } = await api.file(take.seed.bytes, { ...take.settings, notes: noteCount(take) }, format);
    const href = URL.createObjectURL(blob);
    create("a", { href, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
    showStatus(`Take ${take.number}: ${name}.`);
    if (model && take.model && model !== take.model) {
      showError(`${name} was made by ${model}, and what you heard by ${take.model}: it may differ.`);
    }
  } catch (error) {
    reportError(error);
  }
}

/**
 * How many notes to request for the same take: one that ended by itself ends there again.
 * @param {Take} take @returns {number|null}
 */
function noteCount({ settings }) {
  return settings.notes === null ? null : Math.max(1, settings.notes);
}

/** @param {Take} take */
export async function copyLink(take) {
  const { url, complete } = await link.write(take.seed, { ...take.settings, notes: noteCount(take) }, take.model);
  const missing = complete ? "" : ` The beginning is too long for a link: send ${take.seed.name} along.`;
  try {
    await navigator.clipboard.writeText(url);
    showStatus(`The link to take ${take.number} is copied.${missing}`);
  } catch {
    const field = create("input", { className: "link", value: url, readOnly: true }); // without HTTPS there is no clipboard
    field.setAttribute("aria-label", `Link to take ${take.number}`);
    byId("status").replaceChildren("Copy this link: ", field, missing);
    field.select();
  }
}

/** Put the take's link into the address bar. @param {Take} take */
export async function updateAddress(take) {
  const { url } = await link.write(take.seed, { ...take.settings, notes: noteCount(take) }, take.model);
  if (state.take === take) history.replaceState(null, "", url);
}
