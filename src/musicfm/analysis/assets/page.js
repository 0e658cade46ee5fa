"use strict";
// The page of a song. Its data are in the elements "data", "peaks", "matrix-data" and "sound".
(() => {
  const { $, element, complain, showTip, fact, clock, takeBytes, save, showPlaying, onKeys, paint, onTheme } = shared;
  const song = JSON.parse($("data").textContent);
  const { duration, tags } = song;
  const columns = (rows, ...names) =>
    rows && Object.fromEntries(names.map((name, index) => [name, rows.map((row) => row[index])]));
  const beats = columns(song.beats, "times", "positions", "confidences");
  const [chords, sections, keys] = [song.chords, song.sections, song.keys].map((rows) =>
    columns(rows, "starts", "ends", "labels", "confidences"));

  // ---- data ----

  /** How many of rising values are no greater than a value. */
  function countUpTo(values, value) {
    let low = 0;
    let high = values.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (values[middle] <= value) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** The index of the span that holds at a time, or -1. */
  function spanAt(spans, time) {
    const index = countUpTo(spans.starts, time) - 1;
    return index >= 0 && time < spans.ends[index] ? index : -1;
  }

  // The number of each beat's bar; beats before the first downbeat are in bar 0.
  const bars = [];
  const downbeats = [];
  if (beats) {
    beats.positions.forEach((position, index) => {
      if (position === 1) downbeats.push(index);
      bars.push(downbeats.length);
    });
  }

  // ---- words ----

  const percent = (part) => `${Math.round(100 * part)} %`;
  const sure = (part) => (part == null ? "" : `${percent(part)} sure`);
  const confidence = (part, index) => part.confidences[index];
  /** What is unsure is faint, but can be read: 0.55 has a contrast of 4.5 on all backgrounds. */
  const opacity = (part) => (part == null ? 1 : 0.55 + 0.45 * Math.min(1, part / 0.8));
  const accidentals = (text) => text.replaceAll("#", "♯").replaceAll("b", "♭");
  const capital = (text) => text.charAt(0).toLocaleUpperCase() + text.slice(1);

  const QUALITIES = {
    __proto__: null,
    maj: "", min: "m", dim: "°", aug: "+", min7: "m7", maj7: "maj7", hdim7: "ø7", dim7: "°7",
    minmaj7: "m(maj7)", maj6: "6", min6: "m6", min9: "m9",
  };
  const CHORD = /^([A-G][#b]*)(?::([^/(]*))?(\(.*\))?(\/.*)?$/;
  /** A chord in Harte's notation as musicians write it, some semitones higher. */
  function chordName(label, semitones = 0) {
    const parts = CHORD.exec(label);
    if (label === "N") return "N.C.";
    if (!parts) return label === "X" ? "?" : label;
    const [, root, quality = "maj", added = "", bass = ""] = parts;
    return accidentals(transposed(root, semitones)) + (QUALITIES[quality] ?? quality) + accidentals(added + bass);
  }
  /** A key such as "Eb:minor". */
  function keyName(label) {
    const [tonic, mode] = label.split(":");
    return mode ? `${accidentals(tonic)} ${mode}` : label;
  }

  // Names are places on the line of fifths: F is -1, C 0, G 1, F# 6, Bb -2.
  const NATURALS = { C: 0, D: 2, E: 4, F: -1, G: 1, A: 3, B: 5 };
  const onFifths = (name) =>
    NATURALS[name[0]] + 7 * [...name.slice(1)].reduce((sum, sign) => sum + (sign === "#" ? 1 : -1), 0);
  const nameAt = (place) =>
    "FCGDAEB"[(((place + 1) % 7) + 7) % 7] +
    (place > 5 ? "#" : "b").repeat(Math.abs(Math.floor((place + 1) / 7)));
  /** A root some semitones higher, spelled in the key that the song's key becomes. */
  function transposed(root, semitones) {
    if (!semitones) return root;
    const fold = (place, low) => ((((place - low) % 12) + 12) % 12) + low;
    // Tonics from D flat to F sharp, or from E flat to G sharp in minor.
    const tonic = mainKey && fold(onFifths(mainKey.tonic) + 7 * semitones, mainKey.isMinor ? -3 : -5);
    const place = fold(onFifths(root) + 7 * semitones, (tonic ?? 0) - 5);
    return nameAt(place < -8 ? place + 12 : place > 12 ? place - 12 : place);
  }

  const occurrences = new Map();
  if (sections) {
    for (const label of sections.labels) occurrences.set(label, (occurrences.get(label) ?? 0) + 1);
    const counts = new Map();
    sections.names = sections.labels.map((label) => {
      const count = (counts.get(label) ?? 0) + 1;
      counts.set(label, count);
      const isOne = occurrences.get(label) === 1 || label === "silence";
      return isOne ? capital(label) : `${capital(label)} ${count}`;
    });
  }
  let mainKey = null; // of which there is most
  if (keys) {
    keys.names = keys.labels.map(keyName);
    const parts = /^([A-G][#b]*):(.*)$/.exec(keys.labels[longest(keys)] ?? "");
    if (parts) mainKey = { tonic: parts[1], isMinor: isMinor(`:${parts[2]}`) };
  }
  if (chords) chords.names = chords.labels.map((label) => chordName(label));

  // ---- colours ----

  const PALETTE = ["blue", "orange", "green", "purple", "sky", "red", "yellow"];
  const labels = [...occurrences.keys()].filter((label) => label !== "silence");
  const sectionColour = (label) =>
    `var(--${label === "silence" ? "grey" : PALETTE[labels.indexOf(label) % PALETTE.length]})`;

  const FIFTHS = { C: 0, G: 1, D: 2, A: 3, E: 4, B: 5, F: 11 };
  /** Neighbours on the circle of fifths have neighbouring hues. */
  function tonalColour(label) {
    const parts = /^([A-G])([#b]*)/.exec(label);
    if (!parts) return "var(--grey)";
    const shift = 7 * [...parts[2]].reduce((sum, sign) => sum + (sign === "#" ? 1 : -1), 0);
    const place = (((FIFTHS[parts[1]] + shift) % 12) + 12) % 12;
    return `oklch(0.68 0.14 ${(30 * place + 80) % 360})`;
  }
  function isMinor(label) {
    return /:(min|dim|hdim|aeolian|dorian|phrygian)/.test(label);
  }
  const tint = (colour) => `color-mix(in oklab, ${colour} 38%, var(--surface))`;

  // ---- what is there ----

  function longest(spans) {
    let best = 0;
    spans.labels.forEach((_, index) => {
      const length = (i) => spans.ends[i] - spans.starts[i];
      if (length(index) > length(best)) best = index;
    });
    return best;
  }
  // Beats of most bars; 0 if there is no whole bar.
  const lengths = new Map();
  for (let i = 1; i < downbeats.length; i++) {
    const length = downbeats[i] - downbeats[i - 1];
    lengths.set(length, (lengths.get(length) ?? 0) + 1);
  }
  const metre = [...lengths].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 0;
  if (song.tempo) {
    const steady = `${percent(song.steadiness)} of beats steady`;
    const changes = song.tempi.map(Math.round).join(", ");
    fact(
      "Tempo",
      `${song.tempo.toFixed(1)} bpm`,
      song.tempi.length > 1 ? `most of the time; in order: ${changes}; ${steady}` : steady,
    );
  }
  if (metre) fact("Metre", metre === 1 ? "1 beat" : `${metre} beats`, "in most bars");
  if (keys?.labels.length) {
    const main = longest(keys);
    fact("Key", keys.names[main], sure(confidence(keys, main)));
  }
  fact("Length", clock(duration), "");
  $("by").textContent = [song.artist, song.file].filter(Boolean).join(" · ");
  $("by").hidden = !$("by").textContent;
  $("trial").hidden = $("about").hidden = !song.isTrial;
  $("trial").querySelector("a").addEventListener("click", () => { $("about").open = true; });

  const missing = Object.entries({ beats, chords, sections, key: keys, tags })
    .filter(([, part]) => !part)
    .map(([name]) => name);
  const empty = [["beats", beats?.times], ["chords", chords?.labels], ["sections", sections?.labels]]
    .filter(([, found]) => found && !found.length)
    .map(([name]) => name);
  $("hint").textContent = [
    "The line under a name shows how sure the model is; what is faint is unsure.",
    missing.length ? `Not analysed: ${missing.join(", ")}.` : "",
    empty.length ? `None found: ${empty.join(", ")}.` : "",
  ].join(" ");
  $("damage").textContent = song.warnings.join(" ");
  $("damage").hidden = !song.warnings.length;
  $("provenance").textContent =
    `Analysed by the model “${song.model}”, musicfm ${song.version}. It makes mistakes: trust your ears.`;

  // ---- the player ----

  const peaks = new Float32Array(takeBytes("peaks")).map((byte) => byte / 255);
  const player = WaveSurfer.create({
    container: $("wave"),
    height: matchMedia("(max-width: 40rem)").matches ? 72 : 112,
    cursorWidth: 0,
    autoCenter: true,
    interact: false, // below: of jumps in quick succession, wavesurfer loses some
  });
  const media = player.getMediaElement();
  const scroller = player.getWrapper().parentElement; // browsers let the keyboard go there: say what it is
  Object.assign(scroller, { tabIndex: 0, role: "group", ariaLabel: "Waveform" });
  player.on("error", (error) => {
    complain(`The sound cannot be played here: ${error.message}`);
  });
  const now = () => Math.min(media.currentTime, duration);
  /** Goes to a time; never quite to the end, where playing would begin again. */
  function go(time) {
    media.currentTime = Math.min(Math.max(0, time), Math.max(0, duration - 0.01));
    place();
  }
  const toggle = () => player.playPause();

  // ---- the time axis: pixels per second, and how far it is scrolled ----

  const view = { scale: 40, left: 0, width: 1 };
  const MAX_SCALE = 400;
  const fitting = () => view.width / duration;
  const x = (time) => time * view.scale - view.left;
  const timeAt = (pixel) => (pixel + view.left) / view.scale;

  function measure() {
    view.width = Math.max(1, player.getWidth());
    view.scale = Math.max(player.options.minPxPerSec, fitting());
    view.left = player.getScroll();
  }

  /** Zooms; the time at a pixel stays there. */
  function zoom(scale, pixel = x(now())) {
    if (!(pixel >= 0 && pixel <= view.width)) pixel = view.width / 2;
    const time = timeAt(pixel);
    const wanted = Math.min(Math.max(scale, fitting()), Math.max(MAX_SCALE, fitting()));
    player.zoom(wanted > fitting() * 1.001 ? wanted : 0);
    measure();
    player.setScroll(time * view.scale - pixel);
    measure();
    draw();
  }

  // ---- lanes ----

  const lanes = [];
  const FONT = getComputedStyle(document.body).fontFamily;

  function addLane(name, height, label, draw, describe) {
    const canvas = element("canvas", { className: "lane", height });
    canvas.style.height = `${height}px`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    $("rows").insertBefore(
      element("div", { className: "row" },
        element("span", { className: "lane-name", textContent: name }), canvas),
      $("playhead"),
    );
    followPointer(canvas, describe);
    lanes.push({ canvas, draw });
  }

  function draw() {
    for (const lane of lanes) {
      const { canvas } = lane;
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      const ratio = window.devicePixelRatio || 1;
      const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (canvas.width !== wide || canvas.height !== high) Object.assign(canvas, { width: wide, height: high });
      const context = canvas.getContext("2d");
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      context.clearRect(0, 0, width, height);
      context.textBaseline = "middle";
      lane.draw(context, width, height);
    }
    const [from, to] = [timeAt(0) / duration, timeAt(view.width) / duration];
    $("view").style.left = `${100 * from}%`;
    $("view").style.width = `${100 * Math.min(1, to - from)}%`;
    $("view").hidden = to - from > 0.999;
    place();
  }

  const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600];
  function drawRuler(context, width, height) {
    const step = STEPS.find((seconds) => seconds * view.scale >= 64) ?? 3600;
    context.font = `12px ${FONT}`;
    for (let i = Math.floor(timeAt(0) / step); i * step <= Math.min(duration, timeAt(width)); i++) {
      const at = x(i * step);
      context.fillStyle = paint("var(--line)");
      context.fillRect(Math.round(at), height - 8, 1, 8);
      context.fillStyle = paint("var(--muted)");
      context.fillText(clock(i * step, step < 1 ? 1 : 0), at + 4, height / 2);
    }
  }

  function drawSpans(spans, colourOf, size) {
    return (context, width, height) => {
      context.font = `600 ${size}px ${FONT}`;
      const first = Math.max(0, countUpTo(spans.ends, timeAt(0)));
      for (let i = first; i < spans.labels.length && x(spans.starts[i]) < width; i++) {
        const [start, stop] = [x(spans.starts[i]), x(spans.ends[i])];
        const colour = colourOf(spans.labels[i]);
        const gap = stop - start > 4 ? 1 : 0;
        // Minor is lower: colour alone would not tell.
        const top = isMinor(spans.labels[i]) ? Math.round(height * 0.2) : 0;
        context.fillStyle = paint(tint(colour));
        context.fillRect(start, top, stop - start - gap, height - top);
        context.fillStyle = paint(colour);
        context.fillRect(start, top, stop - start - gap, 3);
        const [from, to] = [Math.max(start, 0), Math.min(stop, width)];
        const room = to - from - 10;
        if (room < 6) continue;
        const share = confidence(spans, i);
        context.fillStyle = paint("var(--ink)");
        if (share != null && stop - start > 24) {
          context.globalAlpha = 0.75;
          context.fillRect(start + 5, height - 5, (stop - start - 11) * share, 2);
          context.globalAlpha = 1;
        }
        // A name that is too long is written smaller; if it were too small, not at all.
        const name = spans.names[i];
        const shrunk = Math.min(1, room / context.measureText(name).width);
        if (shrunk * size < 10) continue;
        context.font = `600 ${shrunk * size}px ${FONT}`;
        context.globalAlpha = opacity(share);
        context.fillText(name, from + 6, (height + top) / 2 - 1);
        context.globalAlpha = 1;
        context.font = `600 ${size}px ${FONT}`;
      }
    };
  }

  function drawBeats(context, width, height) {
    const spacing = song.tempo ? (60 / song.tempo) * view.scale : 100;
    const first = Math.max(0, countUpTo(beats.times, timeAt(-40)) - 1);
    const perBar = metre || 4;
    // Every so many bars has its number: 1, 2, 4, 8, ...
    const every = 2 ** Math.max(0, Math.ceil(Math.log2(44 / (spacing * perBar))));
    for (let i = first; i < beats.times.length && x(beats.times[i]) < width; i++) {
      const at = x(beats.times[i]);
      const isDown = beats.positions[i] === 1;
      const isMarked = isDown && (bars[i] - 1) % every === 0;
      if (spacing < 5 && !(isDown && (spacing * perBar > 5 || isMarked))) continue;
      context.fillStyle = paint(isDown ? "var(--ink)" : "var(--muted)");
      context.fillRect(at - (isDown ? 1 : 0.5), isDown ? 0 : height * 0.55, isDown ? 2 : 1, height);
      if (isMarked) {
        context.font = `600 12px ${FONT}`;
        context.fillText(bars[i], at + 5, 9);
      } else if (spacing > 22 && beats.positions[i] > 1) {
        context.font = `11px ${FONT}`;
        context.fillText(beats.positions[i], at + 4, height - 8);
      }
    }
  }

  const spanAround = (spans) => (time) => {
    const index = spanAt(spans, time);
    if (index < 0) return "";
    const [start, end] = [clock(spans.starts[index], 1), clock(spans.ends[index], 1)];
    return [spans.names[index], `${start} to ${end}`, sure(confidence(spans, index))]
      .filter(Boolean).join(" · ");
  };
  function beatNear(time) {
    const after = countUpTo(beats.times, time);
    const nearest = [after - 1, after]
      .filter((i) => i >= 0 && i < beats.times.length)
      .sort((a, b) => Math.abs(beats.times[a] - time) - Math.abs(beats.times[b] - time))[0];
    if (nearest === undefined || Math.abs(beats.times[nearest] - time) * view.scale > 20) return "";
    const name = beats.positions[nearest] ? `Bar ${bars[nearest]}, beat ${beats.positions[nearest]}` : "Beat";
    return [name, clock(beats.times[nearest], 2), sure(confidence(beats, nearest))].filter(Boolean).join(" · ");
  }

  /** A lane is clicked to go there, dragged to scroll, and tells what is under the pointer. */
  function followPointer(canvas, describe) {
    let held = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      held = { from: event.clientX, left: player.getScroll(), moved: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (held) {
        const distance = event.clientX - held.from;
        held.moved ||= Math.abs(distance) > 4;
        if (held.moved) player.setScroll(held.left - distance);
      }
      const text = held?.moved || !describe ? "" : describe(timeAt(event.offsetX));
      showTip(text, event.clientX + 12, event.clientY - 40);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (held && !held.moved) go(timeAt(event.offsetX));
      held = null;
    });
    canvas.addEventListener("pointercancel", () => { held = null; });
    canvas.addEventListener("pointerleave", () => showTip(""));
  }

  $("rows").addEventListener("wheel", (event) => {
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const pixel = event.clientX - $("wave").getBoundingClientRect().left;
      zoom(view.scale * Math.exp(-event.deltaY / 200), pixel);
    } else if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      player.setScroll(player.getScroll() + (event.deltaX || event.deltaY));
    }
  }, { passive: false });

  $("wave").addEventListener("click", (event) =>
    go(timeAt(event.clientX - $("wave").getBoundingClientRect().left)));
  $("ruler").style.height = "24px";
  followPointer($("ruler"));
  lanes.push({ canvas: $("ruler"), draw: drawRuler });
  if (sections) {
    addLane("Sections", 38, `Sections: ${sections.names.join(", ")}`,
      drawSpans(sections, sectionColour, 14), spanAround(sections));
  }
  if (beats) {
    addLane("Bars, beats", 36, `${beats.times.length} beats in ${downbeats.length} bars`, drawBeats, beatNear);
  }
  if (chords) {
    addLane("Chords", 46, `${chords.labels.length} chords; see the chart below`,
      drawSpans(chords, tonalColour, 16), spanAround(chords));
  }
  if (keys) {
    addLane("Key", 30, `Key: ${keys.names.join(", ")}`, drawSpans(keys, tonalColour, 13), spanAround(keys));
  }

  // ---- what is at the playhead ----

  function readout(name) {
    const strong = element("strong", { textContent: "–" });
    const small = element("small");
    const box = element("div", {}, element("span", { className: "eyebrow", textContent: name }), strong, small);
    $("now").append(box);
    $("now").hidden = false;
    return (value, note) => {
      if (strong.textContent !== value) strong.textContent = value;
      if (small.textContent !== note) small.textContent = note;
    };
  }
  const shows = [];
  const nextChange = (spans, index) =>
    index + 1 < spans.labels.length ? `then ${spans.names[index + 1]}` : "";
  const showSpan = (name, spans) => {
    const show = readout(name);
    return (time) => {
      const index = spanAt(spans, time);
      const note = index < 0 ? "" : [sure(confidence(spans, index)), nextChange(spans, index)];
      show(spans.names[index] ?? "–", index < 0 ? "" : note.filter(Boolean).join(", "));
    };
  };
  if (chords) shows.push(showSpan("Chord", chords));
  if (beats) {
    const show = readout(downbeats.length ? "Bar . beat" : "Beat");
    shows.push((time) => {
      const index = countUpTo(beats.times, time + 0.001) - 1;
      const place = downbeats.length ? `${bars[index]}.${beats.positions[index]}` : String(index + 1);
      show(index < 0 ? "–" : place, index < 0 ? "" : sure(confidence(beats, index)));
    });
  }
  if (sections) shows.push(showSpan("Section", sections));
  if (keys && keys.labels.length > 1) shows.push(showSpan("Key", keys));

  function place() {
    const time = now();
    const at = x(time);
    $("playhead").style.transform = `translateX(${at}px)`;
    $("playhead").hidden = at < -1 || at > view.width + 1;
    const share = margin() + (1 - margin()) * (time / duration);
    $("across").style.top = $("down").style.left = `${100 * share}%`;
    for (const show of shows) show(time);
    $("clock").textContent = `${clock(time, 1)} / ${clock(duration)}`;
    $("position").value = time;
    const names = [sections, chords].map((spans) => spans?.names[spanAt(spans, time)]);
    $("position").setAttribute("aria-valuetext", [clock(time), ...names].filter(Boolean).join(", "));
    current("sections", sections ? spanAt(sections, time) : -1);
    current("chart", countUpTo(cellStarts, time + 0.001) - 1);
  }

  const marked = {};
  /** Marks the button of a list that is now, and scrolls the list there. */
  function current(id, index) {
    if (marked[id]?.index === index) return;
    const list = $(id);
    const button = list.querySelector(`[data-index="${index}"]`);
    marked[id]?.button?.removeAttribute("aria-current");
    marked[id] = { index, button };
    if (!button) return;
    button.setAttribute("aria-current", "true");
    const top = button.getBoundingClientRect().top - list.getBoundingClientRect().top;
    if (top < 0 || top + button.offsetHeight > list.clientHeight) {
      list.scrollTop += top - list.clientHeight / 3;
    }
  }

  // ---- sections, tags, chart ----

  /** A button that goes to a time. Clicked with a pointer, it leaves the keys to the player. */
  function jump(time, properties, ...children) {
    const button = element("button", { type: "button", ...properties }, ...children);
    button.addEventListener("click", (event) => {
      go(time);
      if (event.detail) button.blur();
    });
    return button;
  }

  if (sections?.labels.length) {
    $("sections-card").hidden = false;
    sections.labels.forEach((label, index) => {
      const [start, end] = [sections.starts[index], sections.ends[index]];
      const chip = element("span", { className: "chip" });
      const strip = element("span", { title: sections.names[index] });
      for (const part of [chip, strip]) part.style.setProperty("--of", sectionColour(label));
      strip.style.left = `${(100 * start) / duration}%`;
      strip.style.width = `${(100 * (end - start)) / duration}%`;
      $("map").append(strip);
      const button = jump(start, {}, chip,
        element("span", { className: "label" }, sections.names[index],
          element("small", { textContent: ` ${sure(confidence(sections, index))}` })),
        element("small", { textContent: `${clock(start)} – ${clock(end)}` }));
      button.dataset.index = index;
      $("sections").append(element("li", {}, button));
    });
  }

  const LIKELY = 0.5; // tags below this are folded away
  if (tags) {
    $("tags-card").hidden = false;
    const [list, more] = [$("tags"), $("more-tags")];
    const unlikely = tags.filter(([, probability]) => probability < LIKELY).length;
    more.hidden = !unlikely;
    more.querySelector("summary").textContent = `${unlikely} unlikely`;
    tags.forEach(([tag, probability]) => {
      const meter = element("span", { className: "meter" }, element("span"));
      meter.firstChild.style.setProperty("--part", probability);
      (probability < LIKELY ? more.querySelector("ol") : list).append(element("li", {},
        element("span", { textContent: tag, dir: "auto" }),
        element("span", { textContent: percent(probability) }), meter));
    });
  }

  // The chart: a cell for each bar, with its chords; or, without bars, for each chord.
  const cells = [];
  if (chords && downbeats.length) {
    let before = -1;
    beats.times.forEach((time, index) => {
      if (index === 0 || bars[index] !== bars[index - 1]) {
        cells.push({ start: time, number: bars[index], chords: [] });
      }
      // Chords change about beats, not always on them: that of a beat is what most of it has.
      const chord = spanAt(chords, (time + (beats.times[index + 1] ?? time + 0.1)) / 2);
      const cell = cells.at(-1);
      if (chord >= 0 && (chord !== before || !cell.chords.length)) {
        cell.chords.push({ chord, isNew: chord !== before });
      }
      before = chord;
    });
  } else if (chords) {
    chords.starts.forEach((start, chord) => cells.push({ start, chords: [{ chord, isNew: true }] }));
  }
  const cellStarts = cells.map((cell) => cell.start);

  if (cells.length) {
    $("chart-card").hidden = false;
    let group = null;
    let section = null;
    cells.forEach((cell, index) => {
      // Sections change about bars, not always on them: that of a bar is what its middle has.
      const end = cells[index + 1]?.start ?? cell.start;
      const here = sections ? spanAt(sections, (cell.start + end) / 2) : -1;
      if (!group || here !== section) {
        section = here;
        group = element("ol");
        const heading = element("h3", { textContent: sections?.names[here] ?? "" });
        if (here >= 0) heading.style.setProperty("--of", sectionColour(sections.labels[here]));
        $("chart").append(element("div", { className: "part" }, ...(sections ? [heading] : []), group));
      }
      const button = jump(cell.start, {},
        element("small", { textContent: cell.number ?? clock(cell.start) }),
        element("span", {}, ...cell.chords.flatMap(({ chord, isNew }) => {
          const name = element("span", { textContent: chords.names[chord], className: isNew ? "" : "held" });
          name.dataset.chord = chord;
          name.style.opacity = opacity(confidence(chords, chord));
          return [name, " "];
        })));
      button.dataset.index = index;
      group.append(element("li", {}, button));
    });
  }

  if (chords) {
    for (let semitones = -6; semitones <= 6; semitones++) {
      const sign = semitones > 0 ? "+" : semitones < 0 ? "−" : "";
      $("transpose").append(new Option(`${sign}${Math.abs(semitones)}`, semitones, semitones === 0, semitones === 0));
    }
    $("transpose").addEventListener("change", () => {
      const semitones = Number($("transpose").value);
      chords.names = chords.labels.map((label) => chordName(label, semitones));
      for (const name of $("chart").querySelectorAll("[data-chord]")) {
        name.textContent = chords.names[name.dataset.chord];
      }
      draw();
    });
    $("print").addEventListener("click", () => window.print());
  }

  for (const { name, type, text } of song.downloads) {
    $("downloads").hidden = false;
    const link = element("a", { textContent: name.slice(song.stem.length), href: "#" });
    link.addEventListener("click", (event) => {
      event.preventDefault();
      save(name, type, text);
    });
    $("downloads").append(link, " ");
  }

  // ---- self-similarity ----

  const size = song.similaritySize;
  const bytes = takeBytes("matrix-data");
  const BAND = 10; // pixels for the sections along two sides
  const margin = () => (sections ? BAND / Math.max(1, $("similarity").clientWidth) : 0);

  function drawMatrix() {
    const canvas = $("similarity");
    const ratio = window.devicePixelRatio || 1;
    const side = Math.max(1, Math.round(canvas.clientWidth * ratio));
    Object.assign(canvas, { width: side, height: side });
    const context = canvas.getContext("2d");
    const band = Math.round(margin() * side);

    // Colours go from the 5th to the 99th percentile.
    const sorted = Uint8Array.from(bytes).sort();
    const low = sorted[Math.floor(0.05 * (sorted.length - 1))];
    const high = Math.max(low + 1, sorted[Math.floor(0.99 * (sorted.length - 1))]);
    const stops = ["var(--heat-0)", "var(--heat-1)", "var(--heat-2)"].map((colour) =>
      paint(colour).match(/[\d.]+/g).map(Number));
    const picture = new ImageData(size, size);
    bytes.forEach((byte, index) => {
      const level = 2 * Math.min(1, Math.max(0, (byte - low) / (high - low)));
      const [from, to] = level < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
      for (let c = 0; c < 3; c++) {
        picture.data[4 * index + c] = from[c] + (to[c] - from[c]) * (level % 1 || (level === 2 ? 1 : 0));
      }
      picture.data[4 * index + 3] = 255;
    });
    const small = element("canvas", { width: size, height: size });
    small.getContext("2d").putImageData(picture, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(small, band, band, side - band, side - band);
    sections?.labels.forEach((label, index) => {
      const at = (time) => band + ((side - band) * time) / duration;
      const [start, end] = [at(sections.starts[index]), at(sections.ends[index])];
      context.fillStyle = paint(sectionColour(label));
      context.fillRect(start, 0, end - start - 1, band - 2);
      context.fillRect(0, start, band - 2, end - start - 1);
    });
  }

  function pairAt(event) {
    const box = $("similarity").getBoundingClientRect();
    const place = (offset) => {
      const share = (offset / box.width - margin()) / (1 - margin());
      return Math.min(0.9999, Math.max(0, share));
    };
    const [across, down] = [place(event.clientX - box.left), place(event.clientY - box.top)];
    const byte = bytes[Math.floor(down * size) * size + Math.floor(across * size)];
    return { here: across * duration, there: down * duration, similarity: (byte / 255) * 2 - 1 };
  }
  const moment = (time) => {
    const name = sections?.names[spanAt(sections, time)];
    return name ? `${clock(time)} (${name})` : clock(time);
  };
  $("similarity").addEventListener("pointermove", (event) => {
    const { here, there, similarity } = pairAt(event);
    $("pair").textContent = `${moment(here)} and ${moment(there)}: similarity ${similarity.toFixed(2)}`;
  });
  $("similarity").addEventListener("click", (event) => {
    const { here, there } = pairAt(event);
    go(here);
    $("counterpart").textContent = `Go to its counterpart, ${moment(there)}`;
    $("counterpart").hidden = false;
    $("counterpart").onclick = () => go(there);
  });

  // ---- controls ----

  $("play").addEventListener("click", toggle);
  player.on("play", () => showPlaying(true));
  player.on("pause", () => showPlaying(false));
  $("speed").addEventListener("input", () => {
    const percentage = Number($("speed").value);
    $("speed-value").textContent = `${percentage} %`;
    player.setPlaybackRate(percentage / 100, true); // true: the pitch stays
  });
  $("volume").addEventListener("input", () => player.setVolume(Number($("volume").value) / 100));

  let loop = null; // start and end of the section that is repeated
  function toggleLoop() {
    const index = sections ? spanAt(sections, now()) : -1;
    loop = loop || index < 0 ? null : [sections.starts[index], Math.min(sections.ends[index], duration)];
    $("loop").setAttribute("aria-pressed", String(loop !== null));
  }
  $("loop").hidden = !sections?.labels.length;
  $("loop").addEventListener("click", toggleLoop);

  // Clicks are scheduled a little ahead of the sound: timers come late, the audio clock does not.
  const AHEAD = 0.12;
  let clicks = null; // the audio context, once there was a click
  let nextClick = 0; // the beat that is to be scheduled next
  function toggleClick() {
    clicks ??= new AudioContext();
    const isOn = $("click").getAttribute("aria-pressed") !== "true";
    $("click").setAttribute("aria-pressed", String(isOn));
    nextClick = countUpTo(beats.times, now());
  }
  function scheduleClicks() {
    if ($("click").getAttribute("aria-pressed") !== "true" || !player.isPlaying()) return;
    const time = now();
    for (; nextClick < beats.times.length; nextClick++) {
      const wait = (beats.times[nextClick] - time) / media.playbackRate;
      if (wait > AHEAD) return;
      if (wait < 0) continue;
      const at = clicks.currentTime + wait;
      const tone = new OscillatorNode(clicks, { frequency: beats.positions[nextClick] === 1 ? 1760 : 1175 });
      const gain = new GainNode(clicks);
      gain.gain.setValueAtTime(0.5, at);
      gain.gain.exponentialRampToValueAtTime(0.001, at + 0.04);
      tone.connect(gain).connect(clicks.destination);
      tone.start(at);
      tone.stop(at + 0.05);
      document.documentElement.dataset.clicks = nextClick + 1; // that were scheduled, for tests
    }
  }
  $("click").hidden = !beats?.times.length;
  $("click").addEventListener("click", toggleClick);
  setInterval(scheduleClicks, 25);
  media.addEventListener("seeking", () => { if (beats) nextClick = countUpTo(beats.times, now() - 0.001); });

  $("position").max = duration;
  $("position").addEventListener("input", () => go(Number($("position").value)));
  $("zoom-in").addEventListener("click", () => zoom(view.scale * 1.5));
  $("zoom-out").addEventListener("click", () => zoom(view.scale / 1.5));
  $("zoom-fit").addEventListener("click", () => zoom(0));

  /** To the next of some times, or the one before. While playing, a moment is allowed to react. */
  function step(times, direction, fallback) {
    const time = now();
    if (!times?.length) return go(time + direction * fallback);
    const slack = player.isPlaying() ? 0.25 : 0.01;
    if (direction > 0) {
      const index = countUpTo(times, time + 0.01);
      return index < times.length ? go(times[index]) : undefined;
    }
    return go(times[countUpTo(times, time - slack) - 1] ?? 0);
  }
  onKeys({
    " ": toggle,
    ArrowLeft: () => step(beats?.times, -1, 1),
    ArrowRight: () => step(beats?.times, 1, 1),
    ArrowUp: () => step(sections?.starts, -1, 10),
    ArrowDown: () => step(sections?.starts, 1, 10),
    "+": () => zoom(view.scale * 1.5),
    "=": () => zoom(view.scale * 1.5),
    "-": () => zoom(view.scale / 1.5),
    "0": () => zoom(0),
    l: () => { if (sections?.labels.length) toggleLoop(); },
    c: () => { if (beats?.times.length) toggleClick(); },
  }, "select, .options input"); // sliders and lists have their own use for arrows and letters

  // ---- begin ----

  const sound = new Blob([takeBytes("sound")], { type: "audio/mpeg" });
  player.on("redraw", () => { measure(); draw(); });
  player.on("scroll", () => { measure(); draw(); });
  player.on("timeupdate", () => {
    if (loop && player.isPlaying() && now() >= loop[1] - 0.01) go(loop[0]);
    place();
  });
  new ResizeObserver(() => { drawMatrix(); draw(); }).observe($("matrix"));
  player.loadBlob(sound, [peaks], duration).then(() => {
    measure();
    onTheme(() => {
      player.setOptions({ waveColor: paint("var(--wave)"), progressColor: paint("var(--accent)") });
      drawMatrix();
      measure();
      draw();
    });
    zoom(Math.max(view.scale, 40), 0);
    document.documentElement.dataset.ready = "";
  });
})();
