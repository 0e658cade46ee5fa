"use strict";
// Songs are sent one after the other. The answer to an upload is lines of JSON: how far it is, and
// at last the page. XMLHttpRequest, because fetch does not tell how far an upload is.

const find = (id) => document.getElementById(id);
const drop = find("drop");
const maxBytes = Number(drop.dataset.maxBytes);
const busySeconds = 5;
const attempts = 120;
const waiting = [];
let atWork = false;

const clock = (seconds) =>
  `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

function say(text) {
  find("news").textContent = text;
}

/** A row of the list, and what is known of its song. */
function addSong(file) {
  const row = find("song").content.firstElementChild.cloneNode(true);
  const part = (name) => row.querySelector(name);
  const song = { file, row, request: null, isOver: false, url: null };
  part(".song-name").textContent = file.name;
  part("progress").setAttribute("aria-label", `Progress of ${file.name}`);
  part(".cancel").setAttribute("aria-label", `Cancel ${file.name}`);
  part(".cancel").addEventListener("click", () => cancel(song));
  part(".open").setAttribute("aria-label", `Open the page of ${file.name}`);
  part(".open").addEventListener("click", () => open(song));
  find("songs").append(row);
  find("songs-card").hidden = false;
  return song;
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
  say(`${song.file.name}: ${reason}`);
}

function cancel(song) {
  const request = song.request;
  const place = waiting.indexOf(song);
  if (place >= 0) waiting.splice(place, 1);
  end(song, "Cancelled.");
  if (request) request.abort();
  say(`${song.file.name} is cancelled.`);
  find("file").focus();
}

function finish(song, page) {
  song.url = URL.createObjectURL(new Blob([page], { type: "text/html" }));
  const save = song.row.querySelector(".save");
  save.href = song.url;
  save.download = song.file.name.replace(/\.[^.]*$/, "") + ".html";
  save.setAttribute("aria-label", `Save the page of ${song.file.name}`);
  end(song, "Done.");
  save.hidden = false;
  song.row.querySelector(".open").hidden = false;
  say(`${song.file.name} is done.`);
  if (find("viewer").hidden && !waiting.length) open(song);
}

/** A line of the answer. */
function hear(song, line) {
  if (line.stage === "waiting") show(song, "Waiting for its turn…", null);
  else if (line.stage === "listening") {
    const part = line.duration ? Math.min(1, line.seconds / line.duration) : null;
    const whole = line.duration ? ` of ${clock(line.duration)}` : "";
    show(song, `Listening: ${clock(line.seconds)}${whole}`, part);
  } else if (line.stage === "finishing") show(song, "Making the page…", null);
  else if (line.stage === "failed") fail(song, line.error);
  else finish(song, line.result);
}

const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

/** Sends a song; resolves to the seconds after which to try again, or to 0. */
function send(song) {
  return new Promise((resolve) => {
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ name: song.file.name, format: "html", progress: "true" });
    let heard = 0;
    const read = () => {
      if (request.status !== 200) return;
      for (let stop; (stop = request.responseText.indexOf("\n", heard)) >= 0; heard = stop + 1)
        hear(song, JSON.parse(request.responseText.slice(heard, stop)));
    };
    request.upload.addEventListener("progress", (event) =>
      show(song, "Sending…", event.lengthComputable ? event.loaded / event.total : null));
    request.addEventListener("progress", read);
    request.addEventListener("loadend", () => {
      song.request = null;
      read();
      if (song.isOver) return resolve(0);
      if (request.status === 503) return resolve(Number(request.getResponseHeader("Retry-After")) || busySeconds);
      let reason = "The server broke off; is it still running?";
      if (request.status >= 400) reason = JSON.parse(request.responseText).error;
      fail(song, reason);
      resolve(0);
    });
    request.open("POST", `/v1/analyze?${query}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    song.request = request;
    request.send(song.file);
  });
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
    if (!song.isOver) fail(song, "The server stays busy; try again later.");
  }
  atWork = false;
}

function take(list) {
  for (const file of list) {
    const song = addSong(file);
    if (file.size > maxBytes) fail(song, `The file is larger than ${maxBytes / 1e6} MB.`);
    else {
      show(song, "Waiting…", null);
      waiting.push(song);
    }
  }
  work();
}

/** Shows a song's page over everything. */
function open(song) {
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts allow-downloads");
  frame.title = `Analysis of ${song.file.name}`;
  frame.src = song.url;
  find("frame").replaceChildren(frame);
  find("viewer-name").textContent = song.file.name;
  const save = song.row.querySelector(".save");
  find("viewer-save").href = save.href;
  find("viewer-save").download = save.download;
  for (const part of document.querySelectorAll("header, main")) part.inert = true;
  find("viewer").hidden = false;
  history.pushState("viewer", "");
  frame.focus();
}

function close() {
  find("viewer").hidden = true;
  find("frame").replaceChildren();
  for (const part of document.querySelectorAll("header, main")) part.inert = false;
  find("file").focus();
}

find("back").addEventListener("click", () => history.back());
window.addEventListener("popstate", close);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !find("viewer").hidden) history.back();
});
find("file").addEventListener("change", (event) => {
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
  if (atWork) event.preventDefault();
});
