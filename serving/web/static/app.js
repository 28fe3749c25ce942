/**
 * Connects the page's buttons with what they do, and follows the link in its address.
 * @module
 */

import * as api from "./api.js";
import { bringToAnEnd, choose, continueHere, generate, remove } from "./generating.js";
import * as link from "./link.js";
import * as recording from "./recording.js";
import { MIN_OVERVIEW } from "./roll.js";
import { chooseExample, chooseFile, chooseNothing, exampleTitle, readSeed } from "./seeds.js";
import * as settings from "./settings.js";
import { copyLink, download } from "./sharing.js";
import { byId, player, roll, seek, showError, showTable, state, stop } from "./view.js";

function addListeners() {
  byId("form").noValidate = true; // settings.read reports errors, also those in a closed <details>
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => chooseExample(button.dataset.example, exampleTitle(button.dataset.example)));
  }
  byId("nothing").addEventListener("click", chooseNothing);
  byId("seed").addEventListener("change", (event) => {
    chooseFile(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  byId("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (state.generation) return stop();
    const values = settings.read();
    if (!values) return;
    if (state.seed.kind === "own" && !state.seed.notes.length) return showError("Play something first: there is no beginning yet.");
    generate(state.seed, values, { aloud: true });
  });
  byId("continue").addEventListener("click", continueHere);
  byId("end").addEventListener("click", bringToAnEnd);
  byId("play").addEventListener("click", () => (player.playing ? player.pause() : player.play()));
  byId("to-start").addEventListener("click", () => seek(0));
  byId("zoom-in").addEventListener("click", () => roll.zoom(1 / 1.5));
  byId("zoom-out").addEventListener("click", () => roll.zoom(1.5));
  byId("volume").addEventListener("input", (event) => player.setVolume(Number(event.target.value) / 100));
  byId("table").addEventListener("toggle", () => byId("table").open && showTable());
  byId("takes").addEventListener("takeaction", (event) => runTakeAction(event.detail));
  recording.addListeners();
  addOverviewListeners();
  addDropListeners();
}

/** @param {{action: "choose"|"link"|"settings"|"remove"|"file", take: import("./takes.js").Take, format?: string}} detail */
function runTakeAction({ action, take, format }) {
  showError();
  if (action === "choose") choose(take);
  else if (action === "settings") settings.fill(take.settings);
  else if (action === "remove") remove(take);
  else if (action === "link") copyLink(take);
  else download(take, format);
}

function addOverviewListeners() {
  const overview = byId("overview");
  const seekTo = (event) => seek((event.offsetX / overview.clientWidth) * Math.max(player.music.length, MIN_OVERVIEW));
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    seekTo(event);
  });
  overview.addEventListener("pointermove", (event) => overview.hasPointerCapture(event.pointerId) && seekTo(event));
  overview.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    if (event.key in steps) seek(player.position + steps[event.key]);
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(player.music.length);
    else if (event.key === " ") byId("play").click();
    else return;
    event.preventDefault();
  });
}

/** Let a file be dropped anywhere on the page. */
function addDropListeners() {
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      if (!isFile(event)) return;
      event.preventDefault();
      document.body.classList.add("dropping");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!isFile(event)) return;
    event.preventDefault();
    chooseFile(event.dataTransfer.files[0]);
  });
}

/**
 * Show the take that the page's address describes.
 * @param {Promise<unknown>} modelShown settled when the page knows what can be asked of the model
 * @returns {Promise<boolean>} false: the address describes none
 */
async function openLink(modelShown) {
  let linked;
  try {
    linked = await link.read(location.href);
  } catch {
    await chooseExample("nocturne", exampleTitle("nocturne"));
    showError("The link is damaged: the beginning in it cannot be read.");
    return true;
  }
  if (!linked) return false;
  settings.fill(linked.settings);
  if (linked.kind === "file") {
    chooseNothing();
    showError(`This link's take began with ${linked.name}, which is too long for a link. Choose that file, and press Generate.`);
    return true;
  }
  if (linked.kind === "nothing") chooseNothing();
  else if (linked.kind === "midi" && !(await readSeed(linked.bytes, { kind: "midi", name: "beginning.mid", title: linked.name }, "file"))) return true;
  else if (linked.kind === "example" && !(await chooseExample(linked.name, exampleTitle(linked.name)))) return true;
  await modelShown;
  const values = settings.read();
  if (!values || values.random_seed === null) return true;
  if (linked.settings.notes) values.notes = linked.settings.notes; // of a take that was stopped, whatever its `seconds`
  await generate(state.seed, values, { aloud: false });
  const { take } = state;
  if (take && linked.model && take.model && take.model !== linked.model) {
    showError(`The link's take was made by ${linked.model}, and this server plays ${take.model}: it may differ.`);
  }
  return true;
}

async function start() {
  settings.connectSliders();
  if (matchMedia("(max-width: 60rem)").matches) byId("more").open = false;
  addListeners();
  player.prepare().catch(() => {}); // Player.play tries again and reports the error
  const modelShown = api.model().then(
    ({ name, controls }) => {
      byId("model").textContent = `the model ${name}`;
      if (controls) settings.showControls(controls);
      else settings.clearControls();
    },
    (error) => error,
  );
  if (!(await openLink(modelShown))) await chooseExample("nocturne", exampleTitle("nocturne"));
  const error = await modelShown;
  if (error instanceof Error && byId("message").hidden) showError(error.message); // last: choosing a seed clears the message
}

start();
