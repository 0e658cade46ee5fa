"use strict";
/* The map of a library: tracks as points, drawn by regl-scatterplot; the rest is here. */
(() => {
  const { $, element, complain, showTip, fact, clock, takeBytes, save, showPlaying, onKeys, paint, onTheme } = shared;
  const library = JSON.parse($("data").textContent);
  const places = new Float32Array(takeBytes("places").buffer); // x and y of each track, -1 to 1
  const neighbours = new Uint32Array(takeBytes("neighbours").buffer);
  const count = library.titles.length;
  const numNear = count ? neighbours.length / count : 0;
  const LISTED = 100; // tracks of a selection that are shown

  // ---- tracks ----

  const artistOf = (track) => library.artistNames[library.artists[track]];
  const albumOf = (track) => library.albumNames[library.albums[track]];
  const nameOf = (track) => [artistOf(track), library.titles[track]].filter(Boolean).join(" – ");
  const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
  let searched = null; // one text for each track, made when it is first needed

  function found(query) {
    searched ??= library.titles.map((title, track) =>
      plain([title, artistOf(track), albumOf(track), fileOf(track)].join("\n")));
    const words = plain(query).split(/\s+/).filter(Boolean);
    const tracks = [];
    for (let track = 0; track < count; track += 1) {
      if (words.every((word) => searched[track].includes(word))) tracks.push(track);
    }
    return tracks;
  }

  function fileOf(track) {
    try {
      return decodeURIComponent(library.files[track]);
    } catch {
      return library.files[track];
    }
  }

  // ---- colours ----

  const RAMP = ["#4575b4", "#7fb6d6", "#d9cc6a", "#f08c52", "#d73027"];
  const BASE = ["blue", "orange", "green", "purple", "sky", "red", "yellow"];
  const STEPS = 32;

  function hex(colour) {
    const parts = paint(colour).match(/[\d.]+/g).slice(0, 3);
    return `#${parts.map((part) => Math.round(part).toString(16).padStart(2, "0")).join("")}`;
  }

  function ramp(colours) {
    const known = colours.map((colour) => paint(colour).match(/[\d.]+/g).map(Number));
    return Array.from({ length: STEPS }, (_, step) => {
      const at = (step / (STEPS - 1)) * (known.length - 1);
      const low = Math.min(Math.floor(at), known.length - 2);
      const mixed = [0, 1, 2].map((i) =>
        Math.round(known[low][i] + (at - low) * (known[low + 1][i] - known[low][i])));
      return `#${mixed.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
    });
  }

  function wheel(number, total, isLight) {
    const hue = (360 * number) / total;
    return hex(`hsl(${hue} 65% ${isLight ? 62 : 45}%)`);
  }

  /* Classes of tracks: the number of each track's class, 0 for none, and their names and colours. */
  function byName(indices, names, what) {
    const sizes = new Map();
    for (const index of indices) if (names[index]) sizes.set(index, (sizes.get(index) ?? 0) + 1);
    const order = [...sizes.keys()].sort((a, b) => sizes.get(b) - sizes.get(a) || a - b);
    const colours = order.map((_, rank) => order.length <= BASE.length
      ? hex(`var(--${BASE[rank]})`) : wheel(rank * 5, 24, rank % 24 >= 12));
    const rank = new Map(order.map((index, position) => [index, position + 1]));
    return {
      classes: indices.map((index) => rank.get(index) ?? 0),
      names: [`no ${what}`, ...order.map((index) => names[index])],
      colours: [hex("var(--grey)"), ...colours],
    };
  }

  function byKey() {
    // Around the circle of fifths; major keys are lighter than their relative minor keys.
    const classes = library.keys.map((key) => key + 1);
    const colours = library.keyNames.map((name, key) =>
      wheel(library.fifths[key], 12, name.endsWith("major")));
    return { classes, names: ["no key", ...library.keyNames], colours: [hex("var(--grey)"), ...colours] };
  }

  function byValue(values, low, high, colours, label) {
    const unit = (value) => Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
    return {
      classes: values.map((value) => value === null ? 0 : 1 + Math.round(unit(value) * (STEPS - 1))),
      colours: [hex("var(--grey)"), ...ramp(colours)],
      ends: [label(low), label(high)],
    };
  }

  function byTempo() {
    const known = library.tempi.filter((tempo) => tempo !== null).sort((a, b) => a - b);
    const at = (part) => known[Math.floor(part * (known.length - 1))] ?? 120;
    return byValue(library.tempi, at(0.02), at(0.98), RAMP, (bpm) => `${Math.round(bpm)} bpm`);
  }

  function byTag() {
    const tag = Number($("tag").value);
    const values = library.tags.map((tags) => tags.find(([name]) => name === tag)?.[1] ?? 0);
    return byValue(values, 0, 100, ["var(--line)", "var(--orange)", "var(--red)"], (part) => `${part} %`);
  }

  const MODES = {
    cluster: ["Cluster", () => byName(library.clusters, library.clusterNames, "cluster"), library.clusterNames.length > 1],
    album: ["Album", () => byName(library.albums, library.albumNames, "album"), library.albumNames.some(Boolean)],
    artist: ["Artist", () => byName(library.artists, library.artistNames, "artist"), library.artistNames.some(Boolean)],
    tempo: ["Tempo", byTempo, library.tempi.some((tempo) => tempo !== null)],
    key: ["Key", byKey, library.keyNames.length > 0],
    tag: ["Tag", byTag, library.tagNames.length > 0],
  };

  // ---- the plot ----

  const canvas = $("plot");
  let plot = null;
  let current = null;
  let chosen = [];
  const x = Array.from({ length: count }, (_, track) => places[2 * track]);
  const y = Array.from({ length: count }, (_, track) => places[2 * track + 1]);

  function begin() {
    if (!document.createElement("canvas").getContext("webgl")) {
      complain("This browser does not draw with WebGL, so there is no map; search and lists work.");
      return;
    }
    plot = reglScatterplot.createScatterplot({
      canvas,
      colorBy: "valueA",
      aspectRatio: Math.min(1.5, Math.max(1, canvas.clientWidth / canvas.clientHeight)),
      deselectOnDblClick: false,
      deselectOnEscape: false,
      opacity: count > 5000 ? 0.75 : 0.9,
      pointOutlineWidth: 2,
      pointSize: Math.min(12, Math.max(3, 240 / Math.sqrt(count))),
      pointSizeSelected: 3,
      lassoMinDist: 3,
      spatialIndexUseWorker: false,
    });
    plot.subscribe("pointOver", showName);
    plot.subscribe("pointOut", () => showTip(""));
    plot.subscribe("view", () => showTip(""));
    plot.subscribe("select", ({ points }) => {
      if (points.length === 1 && !isLasso) go(points[0]);
      else choose([...points], "chosen");
    });
    plot.subscribe("lassoEnd", () => setLasso(false));
  }

  let classes = null;
  let drawing = Promise.resolve();

  function draw() {
    classes = MODES[$("colour").value][1]();
    $("tag-label").hidden = $("colour").value !== "tag";
    showLegend();
    if (plot === null) return;
    plot.set({
      backgroundColor: hex("var(--surface)"),
      lassoColor: hex("var(--playhead)"),
      pointColor: classes.colours,
      pointColorActive: hex("var(--playhead)"),
      pointColorHover: hex("var(--ink)"),
    });
    drawing = drawing.then(() => plot.draw(
      { x, y, z: classes.classes },
      { zDataType: "categorical", preventFilterReset: true, spatialIndex: plot.get("spatialIndex") },
    )).then(mark).then(() => {
      if (!("ready" in document.documentElement.dataset)) showAll(false);
      document.documentElement.dataset.ready = "";
    });
  }

  /* Shows what is chosen, the current track and lines to those that sound most alike. */
  function mark() {
    if (plot === null) return;
    const marked = chosen.length ? chosen : current === null ? [] : [current];
    plot.select(marked, { preventEvent: true });
    if (!marked.length) plot.deselect({ preventEvent: true });
    if (current === null) {
      plot.clearAnnotations();
      return;
    }
    plot.drawAnnotations(near(current).map((other) => ({
      vertices: [[x[current], y[current]], [x[other], y[other]]],
      lineColor: hex("var(--playhead)"),
      lineWidth: 1.5,
    })));
  }

  const near = (track) => [...neighbours.subarray(track * numNear, (track + 1) * numNear)];

  function showName(track) {
    const [left, top] = plot.getScreenPosition(track);
    const box = canvas.getBoundingClientRect();
    showTip(nameOf(track), box.left + left + 12, box.top + top + 12);
  }

  function showLegend() {
    const legend = $("legend");
    legend.replaceChildren();
    if (classes.ends) {
      const scale = element("span", { className: "scale" });
      scale.style.setProperty("--of", `linear-gradient(to right, ${classes.colours.slice(1).join(", ")})`);
      legend.append(element("span", { className: "ends", textContent: classes.ends.join(" to ") }), scale);
      return;
    }
    const shown = $("colour").value === "key" ? classes.names.length : 13;
    const isThere = new Set(classes.classes);
    classes.names.forEach((name, number) => {
      if (number >= shown || !isThere.has(number)) return;
      const dot = element("i");
      dot.style.setProperty("--of", classes.colours[number]);
      const button = element("button", { type: "button", title: `Choose: ${name}` }, dot,
        element("span", { textContent: name }));
      button.addEventListener("click", () => {
        const tracks = [];
        classes.classes.forEach((other, track) => { if (other === number) tracks.push(track); });
        choose(tracks, "chosen");
      });
      legend.append(button);
    });
    const left = classes.names.length - shown;
    if (left > 0) legend.append(element("span", { className: "ends", textContent: `and ${left} more` }));
  }

  // ---- a track ----

  function song(track) {
    const by = [artistOf(track), albumOf(track)].filter(Boolean).join(", ");
    const button = element("button", { type: "button", dir: "auto" }, library.titles[track]);
    if (by) button.append(element("small", { textContent: by }));
    button.addEventListener("click", () => go(track, true));
    return element("li", {}, button);
  }

  function go(track, isShown = false) {
    current = track;
    $("track-title").textContent = library.titles[track];
    $("track-by").textContent = [artistOf(track), albumOf(track)].filter(Boolean).join(", ");
    const tempo = library.tempi[track];
    const key = library.keys[track];
    const tags = library.tags[track].filter(([, part]) => part >= 50).map(([tag]) => library.tagNames[tag]);
    $("track-facts").textContent = [
      clock(library.durations[track]),
      tempo === null ? "" : `${tempo} bpm`,
      key < 0 ? "" : library.keyNames[key],
      ...tags,
    ].filter(Boolean).join(" · ");
    $("track-file").textContent = fileOf(track);
    $("near-title").hidden = !numNear;
    $("near").replaceChildren(...near(track).map(song));
    $("play").disabled = false;
    if (player.paused) ready(track);
    mark();
    if (isShown && plot !== null && !isInView(track)) {
      plot.zoomToPoints([track, ...near(track)], { padding: 0.3, transition: true });
    }
  }

  function isInView(track) {
    const [left, top] = plot.getScreenPosition(track);
    return left > 0 && top > 0 && left < canvas.clientWidth && top < canvas.clientHeight;
  }

  /* The nearest track on a side of the current one. */
  function step(dx, dy) {
    if (current === null) {
      if (count) go(0, true);
      return;
    }
    let best = null;
    let least = Infinity;
    for (let track = 0; track < count; track += 1) {
      const along = (x[track] - x[current]) * dx + (y[track] - y[current]) * dy;
      const across = Math.abs((x[track] - x[current]) * dy) + Math.abs((y[track] - y[current]) * dx);
      if (along > 0 && across <= along && along + across < least) [best, least] = [track, along + across];
    }
    if (best !== null) go(best, true);
  }

  // ---- several tracks ----

  function choose(tracks, what) {
    chosen = tracks;
    $("chosen").hidden = !tracks.length && what === "chosen";
    $("chosen-title").textContent = tracks.length === 1 ? `1 track ${what}` : `${tracks.length} tracks ${what}`;
    $("save").hidden = !tracks.length;
    $("list").replaceChildren(...tracks.slice(0, LISTED).map(song));
    $("more").textContent = tracks.length > LISTED ? `and ${tracks.length - LISTED} more` : "";
    mark();
  }

  function clear() {
    $("search").value = "";
    current = null;
    $("track-title").textContent = "No track chosen";
    $("track-by").textContent = "Click a point, or search.";
    for (const id of ["track-facts", "track-file"]) $(id).textContent = "";
    $("near").replaceChildren();
    $("near-title").hidden = true;
    choose([], "chosen");
  }

  /* Where a file is on this machine; its address if the page did not come from a disk. */
  function pathOf(track) {
    const url = new URL(library.files[track], document.baseURI);
    if (url.protocol !== "file:") return url.href;
    try {
      return decodeURIComponent(url.pathname).replace(/^\/([A-Za-z]:\/)/, "$1");
    } catch {
      return url.href;
    }
  }

  function playlist(tracks) {
    const lines = tracks.flatMap((track) => [
      `#EXTINF:${Math.round(library.durations[track])},${nameOf(track)}`,
      pathOf(track),
    ]);
    return ["#EXTM3U", ...lines, ""].join("\n");
  }

  $("save").addEventListener("click", () =>
    save(`${library.title}.m3u8`, "audio/x-mpegurl", playlist(chosen)));
  $("clear").addEventListener("click", clear);

  let isLasso = false;

  function setLasso(isOn) {
    if (plot === null) return;
    isLasso = isOn;
    $("lasso").setAttribute("aria-pressed", String(isOn));
    canvas.classList.toggle("lasso", isOn);
    plot.set({ mouseMode: isOn ? "lasso" : "panZoom" });
  }
  $("lasso").addEventListener("click", () => setLasso(!isLasso));

  let waiting = 0;
  function search() {
    clearTimeout(waiting);
    const query = $("search").value.trim();
    choose(query ? found(query) : [], query ? "found" : "chosen");
  }
  $("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 150);
  });
  $("search").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    search();
    if (chosen.length && plot !== null) plot.zoomToPoints(chosen, { padding: 0.3, transition: true });
    if (chosen.length) go(chosen[0]);
  });

  // ---- playing ----

  const player = new Audio();
  player.preload = "none";
  let loaded = null;

  function ready(track) {
    loaded = track;
    $("playing").textContent = nameOf(track);
    $("position").value = 0;
    $("position").disabled = false;
    $("position").max = library.durations[track];
    showTime();
  }

  function play() {
    if (current === null && loaded === null) return;
    if (!player.paused && (current === null || current === loaded)) {
      player.pause();
      return;
    }
    if (current !== null && current !== loaded) ready(current);
    const address = new URL(library.files[loaded], document.baseURI).href;
    if (player.src !== address) player.src = address;
    complain("");
    player.play().catch((error) => {
      if (error.name === "AbortError") return; // another track was asked for
      complain(`“${library.titles[loaded]}” cannot be played: ${fileOf(loaded)} is not there, or this browser does not know its format.`);
    });
  }

  function showTime() {
    const length = library.durations[loaded];
    $("clock").textContent = `${clock($("position").value)} / ${clock(length)}`;
    $("position").setAttribute("aria-valuetext", $("clock").textContent);
  }

  for (const event of ["play", "pause", "ended"]) {
    player.addEventListener(event, () => showPlaying(!player.paused));
  }
  player.addEventListener("timeupdate", () => {
    $("position").value = player.currentTime;
    showTime();
  });
  $("position").addEventListener("input", () => {
    player.currentTime = Number($("position").value);
    showTime();
  });
  $("play").addEventListener("click", play);

  // ---- touch: a finger moves the map or draws a lasso, two zoom, as a mouse does ----

  const TAP_PIXELS = 8;
  const fingers = new Map();
  let spread = 0;
  let isTap = false;
  let start = null;
  let done = Promise.resolve();
  const nextFrame = () => new Promise((resolve) => requestAnimationFrame(resolve));

  function later(act) {
    done = done.then(act);
  }

  function asMouse(type, event) {
    const target = type === "mousedown" || type === "click" ? canvas : document;
    const { clientX, clientY } = event;
    target.dispatchEvent(new MouseEvent(type, { bubbles: true, cancelable: true, view: window, clientX, clientY, button: 0, buttons: 1 }));
  }

  function distance() {
    const [one, other] = [...fingers.values()];
    return Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse") return;
    fingers.set(event.pointerId, event);
    canvas.setPointerCapture(event.pointerId);
    if (fingers.size === 1) {
      start = event;
      isTap = true;
      /* The plot must see where the finger is before it is down, or it drags the map there. */
      const { clientX, clientY } = event;
      later(() => canvas.dispatchEvent(new MouseEvent("mouseenter", { clientX, clientY })));
      later(() => asMouse("mousemove", event));
      later(nextFrame);
      later(nextFrame);
      later(() => asMouse("mousedown", event));
    } else if (fingers.size === 2) {
      later(() => asMouse("mouseup", event));
      spread = distance();
      start = null;
      isTap = false;
    }
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    fingers.set(event.pointerId, event);
    if (fingers.size === 1) {
      if (start && Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > TAP_PIXELS) isTap = false;
      later(() => asMouse("mousemove", event));
    } else if (fingers.size === 2 && distance()) {
      zoom(spread / distance());
      spread = distance();
    }
  });
  for (const type of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(type, (event) => {
      if (!fingers.delete(event.pointerId) || fingers.size) return;
      if (start) later(() => asMouse("mouseup", event));
      if (isTap) later(() => asMouse("click", event));
      start = null;
    });
  }
  // What browsers make of touches on their own would come twice.
  for (const type of ["touchstart", "touchend"]) {
    canvas.addEventListener(type, (event) => event.preventDefault(), { passive: false });
  }

  // ---- view, keys ----

  function zoom(factor, transition = false) {
    if (plot === null) return;
    plot.zoomToLocation(plot.get("cameraTarget"), plot.get("cameraDistance") * factor, { transition });
  }
  $("zoom-in").addEventListener("click", () => zoom(0.6, true));
  $("zoom-out").addEventListener("click", () => zoom(1 / 0.6, true));
  /* All tracks: the map is as high as the canvas, and may be wider. */
  function showAll(transition) {
    const { clientWidth, clientHeight } = canvas;
    const distance = Math.max(1, (plot.get("aspectRatio") * clientHeight) / clientWidth);
    plot.zoomToLocation([0, 0], distance, { transition });
  }
  $("zoom-fit").addEventListener("click", () => { if (plot !== null) showAll(true); });

  onKeys({
    ArrowLeft: () => step(-1, 0),
    ArrowRight: () => step(1, 0),
    ArrowUp: () => step(0, 1),
    ArrowDown: () => step(0, -1),
    " ": play,
    "/": () => $("search").focus(),
    "+": () => zoom(0.6, true),
    "=": () => zoom(0.6, true),
    "-": () => zoom(1 / 0.6, true),
    "0": () => { if (plot !== null) showAll(true); },
    l: () => setLasso(!isLasso),
    Escape: clear,
  }, "select, input");

  // ---- begin ----

  for (const [name, [label, , isThere]] of Object.entries(MODES)) {
    if (isThere) $("colour").append(element("option", { value: name, textContent: label }));
  }
  library.tagNames.forEach((name, tag) => {
    $("tag").append(element("option", { value: tag, textContent: name }));
  });
  $("colour").addEventListener("change", draw);
  $("tag").addEventListener("change", draw);
  const hours = library.durations.reduce((sum, seconds) => sum + seconds, 0) / 3600;
  fact("Tracks", count.toLocaleString("en"));
  fact("Length", `${hours.toFixed(1)} h`);
  $("provenance").textContent = `Made by musicfm ${library.version} with the model ${library.model}. Tracks that sound alike to it are near each other; directions and large distances mean nothing.`;
  begin();
  onTheme(draw);
  if (plot === null) document.documentElement.dataset.ready = "";
})();
