/**
 * The page: what its buttons do, and what its address says.
 * @module
 */

import * as api from "./api.js";
import { chooseExample, chooseFile, chooseNothing, read, titleOf } from "./beginnings.js";
import * as hands from "./hands.js";
import * as link from "./link.js";
import { choose, continueHere, generate, remove } from "./making.js";
import { SHORTEST } from "./roll.js";
import * as settings from "./settings.js";
import { copyLink, download } from "./sharing.js";
import { by, complain, player, roll, seek, showTable, state, stop } from "./stage.js";

function listen() {
  by("form").noValidate = true; // we say ourselves what is wrong, also where it is folded away
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => chooseExample(button.dataset.example, titleOf(button.dataset.example)));
  }
  by("nothing").addEventListener("click", chooseNothing);
  by("seed").addEventListener("change", (event) => {
    chooseFile(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  });
  by("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (state.making) return stop();
    const how = settings.read();
    if (!how) return;
    if (state.seed.kind === "own" && !state.seed.notes.length) return complain("Play something first: there is no beginning yet.");
    generate(state.seed, how, { aloud: true });
  });
  by("continue").addEventListener("click", continueHere);
  by("play").addEventListener("click", () => (player.playing ? player.pause() : player.play()));
  by("to-start").addEventListener("click", () => seek(0));
  by("zoom-in").addEventListener("click", () => roll.zoom(1 / 1.5));
  by("zoom-out").addEventListener("click", () => roll.zoom(1.5));
  by("volume").addEventListener("input", (event) => player.setVolume(Number(event.target.value) / 100));
  by("table").addEventListener("toggle", () => by("table").open && showTable());
  by("takes").addEventListener("wanted", (event) => wanted(event.detail));
  hands.listen();
  listenToOverview();
  listenToDrops();
}

/** @param {{what: "choose"|"link"|"settings"|"remove"|"file", take: import("./takes.js").Take, format?: string}} wish of a take's card */
function wanted({ what, take, format }) {
  complain();
  if (what === "choose") choose(take);
  else if (what === "settings") settings.fill(take.settings);
  else if (what === "remove") remove(take);
  else if (what === "link") copyLink(take);
  else download(take, format);
}

function listenToOverview() {
  const overview = by("overview");
  const point = (event) => seek((event.offsetX / overview.clientWidth) * Math.max(player.music.length, SHORTEST));
  overview.addEventListener("pointerdown", (event) => {
    overview.setPointerCapture(event.pointerId);
    point(event);
  });
  overview.addEventListener("pointermove", (event) => overview.hasPointerCapture(event.pointerId) && point(event));
  overview.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
    if (event.key in steps) seek(player.position + steps[event.key]);
    else if (event.key === "Home") seek(0);
    else if (event.key === "End") seek(player.music.length);
    else if (event.key === " ") by("play").click();
    else return;
    event.preventDefault();
  });
}

/** The whole page takes files. */
function listenToDrops() {
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

/** Do what the page's address says; true where it said something. */
async function follow() {
  let told;
  try {
    told = await link.read(location.href);
  } catch {
    await chooseExample("nocturne", titleOf("nocturne"));
    complain("The link is damaged: the beginning in it cannot be read.");
    return true;
  }
  if (!told) return false;
  settings.fill(told.settings);
  if (told.kind === "file") {
    chooseNothing();
    complain(`This link's take began with ${told.name}, which is too long for a link. Choose that file, and press Generate.`);
    return true;
  }
  if (told.kind === "nothing") chooseNothing();
  else if (told.kind === "midi" && !(await read(told.bytes, { kind: "midi", name: "beginning.mid", title: told.name }, "file"))) return true;
  else if (told.kind === "example" && !(await chooseExample(told.name, titleOf(told.name)))) return true;
  const how = settings.read();
  if (!how || how.random_seed === null) return true;
  await generate(state.seed, how, { aloud: false });
  const { take } = state;
  if (take && told.model && take.model && take.model !== told.model) {
    complain(`The link's take was made by ${told.model}, and this server plays ${take.model}: it may differ.`);
  }
  return true;
}

async function start() {
  settings.connect();
  if (matchMedia("(max-width: 60rem)").matches) by("more").open = false;
  listen();
  player.prepare().catch(() => {}); // it is tried again, and the error told, when something is to sound
  const named = api.model().then(
    (name) => (by("model").textContent = `the model ${name}`),
    (error) => error,
  );
  if (!(await follow())) await chooseExample("nocturne", titleOf("nocturne"));
  const error = await named;
  if (error instanceof Error && by("message").hidden) complain(error.message); // after what choosing has cleared
}

start();
