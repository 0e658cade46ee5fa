"use strict";
// Songs are sent one after the other. Each becomes a job of the server, whose id is kept in the
// page's address (#id,id), so that a reload, or a link, comes back to it while the server keeps it.
// XMLHttpRequest sends, because fetch does not tell how far an upload is.

const { $, element, clock } = shared;
const drop = $("drop");
const maxBytes = Number(drop.dataset.maxBytes);
const busySeconds = 5;
const attempts = 120;
const pollSeconds = 0.5;
const waiting = [];
const songs = [];
let atWork = false;

function say(text) {
  $("news").textContent = text;
}

/** A row of the list, and what is known of its song. */
function addSong(name, file) {
  const row = $("song").content.firstElementChild.cloneNode(true);
  const part = (selector) => row.querySelector(selector);
  const song = { name, file, row, request: null, isOver: false, id: null, url: null };
  part(".cancel").addEventListener("click", () => cancel(song));
  part(".open").addEventListener("click", () => open(song));
  rename(song, name);
  $("songs").append(row);
  $("songs-card").hidden = false;
  songs.push(song);
  return song;
}

function rename(song, name) {
  song.name = name;
  const part = (selector) => song.row.querySelector(selector);
  part(".song-name").textContent = name;
  part("progress").setAttribute("aria-label", `Progress of ${name}`);
  part(".cancel").setAttribute("aria-label", `Cancel ${name}`);
  part(".open").setAttribute("aria-label", `Open the page of ${name}`);
}

/** Notes in the page's address which jobs it shows. */
function remember() {
  const ids = songs.map((song) => song.id).filter(Boolean);
  history.replaceState(history.state, "", `#${ids.join(",")}`);
}

/** Shows where a song is; done is between 0 and 1, or null where that is not known. */
function show(song, text, done) {
  song.row.querySelector(".song-state").textContent = text;
  const bar = song.row.querySelector("progress");
  if (done === null) bar.removeAttribute("value");
  else bar.value = done;
}

function end(song, text) {
  song.isOver = true;
  song.request = null;
  song.row.querySelector(".song-state").textContent = text;
  song.row.querySelector("progress").hidden = true;
  song.row.querySelector(".cancel").hidden = true;
}

function fail(song, reason) {
  song.row.classList.add("failed");
  end(song, reason);
  say(`${song.name}: ${reason}`);
}

function cancel(song) {
  const request = song.request;
  const place = waiting.indexOf(song);
  if (place >= 0) waiting.splice(place, 1);
  end(song, "Cancelled.");
  if (request) request.abort();
  if (song.id) fetch(`/v1/jobs/${song.id}`, { method: "DELETE" });
  song.id = null;
  remember();
  say(`${song.name} is cancelled.`);
  $("file").focus();
}

function finish(song) {
  for (const link of song.row.querySelectorAll("[data-format]")) {
    link.href = `/v1/jobs/${song.id}/${link.dataset.format}`;
    link.download = "";
  }
  end(song, "Done.");
  song.row.querySelector(".song-files").hidden = false;
  song.row.querySelector(".open").hidden = false;
  say(`${song.name} is done.`);
  const isAgain = history.state && history.state.viewer === song.id;
  const isLast = song.file && $("viewer").hidden && !waiting.length;
  if (isAgain || isLast) open(song, isAgain);
}

/** Shows how far a job is. */
function update(song, { stage, seconds, duration, error }) {
  const part = duration ? Math.min(1, seconds / duration) : null;
  if (stage === "done") finish(song);
  else if (stage === "failed") fail(song, error);
  else if (stage === "waiting") show(song, "Waiting for its turn…", null);
  else if (stage === "finishing") show(song, "Making the page…", part);
  else show(song, `Analysing: ${clock(seconds)}${duration ? ` of ${clock(duration)}` : ""}`, part);
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Sends a song; resolves to the seconds after which to try again, or to 0. */
function send(song) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ name: song.name });
    request.upload.addEventListener("progress", (event) =>
      show(song, "Sending…", event.lengthComputable ? event.loaded / event.total : null));
    request.addEventListener("loadend", () => {
      song.request = null;
      if (song.isOver) return resolve(0);
      if (request.status === 503) return resolve(Number(request.getResponseHeader("Retry-After")) || busySeconds);
      if (request.status === 201) {
        song.id = JSON.parse(request.responseText).id;
        remember();
        return resolve(0);
      }
      let reason = "The connection was lost; is the server still running?";
      if (request.status >= 400) reason = JSON.parse(request.responseText).error;
      fail(song, reason);
      resolve(0);
    });
    request.open("POST", `/v1/jobs?${query}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    song.request = request;
    request.send(song.file);
  });
}

/** Looks at a job until it is over. */
async function follow(song) {
  for (let lost = 0; !song.isOver;) {
    let answer = null;
    try {
      answer = await fetch(`/v1/jobs/${song.id}`);
    } catch {
      lost += 1;
      if (lost > 20) return fail(song, "The server does not answer; is it still running?");
    }
    if (song.isOver) return;
    if (answer) {
      lost = 0;
      const said = await answer.json();
      if (said.name) rename(song, said.name);
      if (answer.status === 404) {
        fail(song, "The server no longer has it; drop the song again.");
        song.id = null;
        remember();
      } else if (answer.ok && !song.isOver) update(song, said);
    }
    if (!song.isOver) await pause(pollSeconds);
  }
}

async function work() {
  if (atWork) return;
  atWork = true;
  for (let song; (song = waiting.shift());) {
    for (let attempt = 0; attempt < attempts && !song.isOver; attempt += 1) {
      show(song, "Sending…", null);
      const again = await send(song);
      if (!again) break;
      show(song, "The server is busy; trying again soon…", null);
      await pause(again);
    }
    if (song.id) await follow(song);
    if (!song.isOver) fail(song, "The server stays busy; try again later.");
  }
  atWork = false;
}

function take(list) {
  for (const file of list) {
    const song = addSong(file.name, file);
    if (file.size > maxBytes) fail(song, `The file is larger than ${maxBytes / 1e6} MB.`);
    else {
      show(song, "Waiting…", null);
      waiting.push(song);
    }
  }
  work();
}

/** Shows a song's page over everything; again, where a reload comes back to it. */
async function open(song, again = false) {
  if (!song.url) {
    const answer = await fetch(`/v1/jobs/${song.id}/html`).catch(() => null);
    if (!answer || !answer.ok) return fail(song, "The server no longer has it; drop the song again.");
    song.url = URL.createObjectURL(new Blob([await answer.text()], { type: "text/html" }));
  }
  const frame = element("iframe", { title: `Analysis of ${song.name}`, src: song.url });
  frame.setAttribute("sandbox", "allow-scripts allow-downloads");
  $("frame").replaceChildren(frame);
  $("viewer-name").textContent = song.name;
  $("viewer-save").href = `/v1/jobs/${song.id}/html`;
  $("viewer-save").download = "";
  for (const part of document.querySelectorAll("header, main")) part.inert = true;
  $("viewer").hidden = false;
  if (!again) history.pushState({ viewer: song.id }, "");
  frame.focus();
}

function close() {
  $("viewer").hidden = true;
  $("frame").replaceChildren();
  for (const part of document.querySelectorAll("header, main")) part.inert = false;
  $("file").focus();
}

$("back").addEventListener("click", () => history.back());
window.addEventListener("popstate", close);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("viewer").hidden) history.back();
});
$("file").addEventListener("change", (event) => {
  take([...event.target.files]);
  event.target.value = "";
});
if (!drop.hidden) {
  for (const kind of ["dragover", "dragleave", "drop"])
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take([...event.dataTransfer.files]);
    });
}
window.addEventListener("beforeunload", (event) => {
  if (songs.some((song) => !song.isOver && !song.id)) event.preventDefault();
});
for (const id of location.hash.slice(1).split(",").filter((part) => /^[\w-]+$/.test(part))) {
  const song = addSong("…", null);
  song.id = id;
  show(song, "Asking the server…", null);
  follow(song);
}
