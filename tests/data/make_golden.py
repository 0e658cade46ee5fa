"""Made golden.npz: ``python tests/data/make_golden.py FOLDER``.

The folder's ``tiny_golden.npz`` holds numbers produced by the code of MusicFM's authors from the
weights and waveforms of ``tests/recipe.py``, its ``tiny_checkpoint.pt`` their mel filters. This is
what of them the tests need.
"""

import sys
from pathlib import Path

import numpy as np
import torch

MEL_STEP, LOGIT_STEP, SAMPLE_STEP = 8, 5, 97
BLOCK = 9_600
FILTERS = "model.preprocessor_melspec_2048.mel_stft.mel_scale.fb"


def main(folder: Path) -> None:
    """Writes golden.npz beside this script."""
    full = np.load(folder / "tiny_golden.npz")
    checkpoint = torch.load(folder / "tiny_checkpoint.pt", weights_only=True)["state_dict"]
    kept = {"mel_filters": checkpoint[FILTERS].numpy()}
    for name in full.files:
        array = full[name]
        if name.endswith("mel_db"):
            array = array[:, :, ::MEL_STEP]
        elif name.endswith("logits"):
            array = array[:, ::LOGIT_STEP]
        elif name == "masked_waveform":
            array = array[:, ::SAMPLE_STEP]
        elif name == "noise":  # of the hidden blocks alone
            batch, blocks = full["span_mask"].shape
            array = array.reshape(batch, blocks, BLOCK)[full["span_mask"]]
        elif name.endswith("waveform"):  # in the recipe
            continue
        kept[name] = array
    np.savez_compressed(Path(__file__).with_name("golden.npz"), **kept)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
