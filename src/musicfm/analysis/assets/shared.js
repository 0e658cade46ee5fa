"use strict";
// What the pages of a song, of a library and of the server share.
const shared = (() => {
  const $ = (id) => document.getElementById(id);

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  const trouble = element("p", { id: "trouble", className: "note", role: "alert", hidden: true });
  const tip = element("div", { id: "tip", className: "tip", ariaHidden: "true", hidden: true });
  const probe = element("span", { hidden: true });
  const theme = element("button", { id: "theme", type: "button", className: "quiet", title: "Switch between a light and a dark look" });
  theme.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 3a9 9 0 1 0 0 18V3Z"/><circle cx="12" cy="12" r="9" fill="none" stroke="currentColor" stroke-width="2"/></svg><span>Dark</span>`;
  document.querySelector(".head").append(theme);
  document.querySelector(".head").after(trouble);
  document.body.append(tip, probe);

  /** Shows what went wrong, or with an empty text that nothing is. */
  function complain(text) {
    trouble.textContent = text;
    trouble.hidden = !text;
  }

  /** Shows a text beside a place of the window, or with an empty text nothing. */
  function showTip(text, left, top) {
    tip.textContent = text;
    tip.hidden = !text;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(left, room))}px`;
    tip.style.top = `${top}px`;
  }

  /** A number under a term, at the top of the page. */
  function fact(term, value, note = "") {
    $("facts").append(
      element("div", {}, element("dt", { textContent: term }),
        element("dd", { textContent: value }, element("small", { textContent: note }))),
    );
  }

  /** 75 seconds are 1:15. */
  function clock(seconds, digits = 0) {
    const unit = 10 ** digits;
    const total = Math.floor(Math.max(0, seconds) * unit + 1e-6) / unit;
    const hours = Math.floor(total / 3600);
    const minutes = Math.floor(total / 60) % 60;
    const rest = (total % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
    return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
  }

  /** Takes the bytes out of an element with base64; in parts, since an hour of sound is long. */
  function takeBytes(id) {
    const text = $(id).textContent;
    $(id).remove();
    const padding = text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0;
    const bytes = new Uint8Array((text.length / 4) * 3 - padding);
    const step = 1 << 20;
    for (let from = 0, at = 0; from < text.length; from += step) {
      const part = atob(text.slice(from, from + step));
      for (let i = 0; i < part.length; i++) bytes[at++] = part.charCodeAt(i);
    }
    return bytes;
  }

  /** Saves a text as a file. */
  function save(name, type, text) {
    const address = URL.createObjectURL(new Blob([text], { type }));
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  }

  /** Shows on the button of the player whether it plays. */
  function showPlaying(isPlaying) {
    $("play").classList.toggle("playing", isPlaying);
    $("play").setAttribute("aria-label", isPlaying ? "Pause" : "Play");
  }

  /**
   * Calls the function of a key that is pressed. Space presses a button that has the focus, and the
   * elements of a selector have their own use for all keys but Escape.
   */
  function onKeys(keys, others) {
    document.addEventListener("keydown", (event) => {
      const action = keys[event.key] ?? keys[event.key.toLowerCase()];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === " " && event.target.closest("button, summary, a")) return;
      if (event.key !== "Escape" && event.target.closest(others)) return;
      event.preventDefault();
      action();
    });
  }

  // ---- light and dark ----

  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const resolved = new Map();
  let redraw = () => {};

  /** A colour of the style sheet as a canvas understands it. */
  function paint(colour) {
    if (!resolved.has(colour)) {
      probe.style.color = colour;
      resolved.set(colour, getComputedStyle(probe).color);
    }
    return resolved.get(colour);
  }

  function stored() {
    try {
      return localStorage.getItem("musicfm-theme");
    } catch {
      return null; // a page from disk, or in a frame, may have no storage
    }
  }

  function setTheme(name) {
    if (name) document.documentElement.dataset.theme = name;
    theme.setAttribute("aria-pressed", String(name ? name === "dark" : prefersDark.matches));
    resolved.clear();
    redraw();
  }

  theme.addEventListener("click", () => {
    const name = theme.getAttribute("aria-pressed") === "true" ? "light" : "dark";
    try {
      localStorage.setItem("musicfm-theme", name);
    } catch {
      // Then it holds until the page is closed.
    }
    setTheme(name);
  });
  prefersDark.addEventListener("change", () => setTheme(stored()));
  setTheme(stored());

  /** Draws what has colours of its own, now and whenever the look changes. */
  function onTheme(draw) {
    redraw = draw;
    draw();
  }

  return { $, element, complain, showTip, fact, clock, takeBytes, save, showPlaying, onKeys, paint, onTheme };
})();
