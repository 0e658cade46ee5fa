"""Whether a page's sound is heard at its time, in Chromium, after jumping to any place in it.

    python benchmarks/page_sound.py [--chromium PATH]

A minute of noise, which is different everywhere, is played from several places; what is heard is
found in the source. A line says how far it is from where the player says that it is; the first,
played from the beginning without a jump, is how late Web Audio pool over samples.
"""

import argparse
import base64
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from playwright.sync_api import sync_playwright
from scipy.signal import correlate

from musicfm.analysis.sound import SAMPLE_RATE, Sound

SECONDS = 60.37
PLACES = (0.0, 0.0, 1.0, 12.345, 30.0, 47.77, 56.0)
WINDOW = 4_096

PLAY = """async ([mp3, place, rate]) => {
  const bytes = Uint8Array.from(atob(mp3), (character) => character.charCodeAt(0));
  const audio = new Audio(URL.createObjectURL(new Blob([bytes], { type: "audio/mpeg" })));
  await new Promise((resolve) => { audio.oncanplaythrough = resolve; });
  if (place) {
    audio.currentTime = place;
    await new Promise((resolve) => { audio.onseeked = resolve; });
  }
  const context = new AudioContext({ sampleRate: rate });
  await context.resume();
  const listener = context.createScriptProcessor(1024, 1, 1);
  const heard = [], marks = [];
  listener.onaudioprocess = (event) => {
    marks.push([heard.length, audio.currentTime]);
    heard.push(...event.inputBuffer.getChannelData(0));
  };
  context.createMediaElementSource(audio).connect(listener).connect(context.destination);
  await audio.play();
  await new Promise((resolve) => setTimeout(resolve, 2500));
  audio.pause();
  await context.close();
  return [heard, marks];
}"""


def noise() -> npt.NDArray[np.float32]:
    """Noise without the highest frequencies, which MP3 leaves out."""
    white = np.random.default_rng(0).standard_normal(round(SECONDS * SAMPLE_RATE))
    kernel = np.hanning(9)
    soft = np.convolve(white, kernel, "same")
    return (0.2 * soft / soft.std()).clip(-1.0, 1.0).astype(np.float32)


def offsets(
    source: npt.NDArray[np.float32], heard: npt.NDArray[np.float32], marks: list[Any], place: float
) -> list[float]:
    """Seconds from where the player says that it is to what is heard."""
    found = []
    for first, time in marks:
        if time < place + 0.6 or first + WINDOW > len(heard):
            continue
        begin = max(0, round((time - 0.4) * SAMPLE_RATE))
        around = source[begin : round((time + 0.5) * SAMPLE_RATE)]
        fit = correlate(around, heard[first : first + WINDOW], "valid", method="fft")
        found.append((begin + int(fit.argmax())) / SAMPLE_RATE - time)
    return found


def main() -> None:
    """Prints a line for each place."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    source = noise()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.wav"
        soundfile.write(path, source, SAMPLE_RATE, subtype="FLOAT")
        mp3 = base64.b64encode(Sound.of(path).mp3).decode()
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=options.chromium, args=arguments)
        page = browser.new_page()
        late = None
        for place in PLACES:
            heard, marks = page.evaluate(PLAY, [mp3, place, SAMPLE_RATE])
            offset = 1e3 * float(np.median(offsets(source, np.array(heard), marks, place)))
            late = offset if late is None else late
            print(f"from {place:6.3f} s: {offset:+6.1f} ms, {offset - late:+5.1f} ms of the first")
        browser.close()


if __name__ == "__main__":
    main()
