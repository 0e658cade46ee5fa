"""What public projects do with the authors' repository, in short, over recordings."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import recipe
from documentation import ROOT
from musicfm.audio.reading import load
from musicfm.model.musicfm import MusicFM
from musicfm.model.musicfm_25hz import MusicFM25Hz
from musicfm.modules.features import MelSTFT

# As deep as the published model, and thinner.
SMALL = recipe.TINY.replace(encoder=recipe.TINY.encoder.replace(dim=32, depth=12, ffn_dim=64))
SHARED = ROOT.parent / "shared" / "audio"
MELSPEC = "melspec_2048"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Heads and adapters are drawn."""
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The statistics and the checkpoint, as paths."""
    path = recipe.write_published(tmp_path_factory.mktemp("data") / "pretrained_msd.pt", SMALL)
    return str(path.with_name("msd_stats.json")), str(path)


Build = Callable[[], Any]


@pytest.fixture
def build(weights: tuple[str, str]) -> Build:
    """The pretrained model."""
    return lambda: MusicFM25Hz(is_flash=False, stat_path=weights[0], model_path=weights[1])


@pytest.fixture(scope="module", params=["demo_song", "hungarian_dance", "vibe_ace"])
def song(request: pytest.FixtureRequest) -> Tensor:
    """Nine seconds of a recording, (1, samples) at 24 kHz."""
    folder = ROOT / "examples" if request.param == "demo_song" else SHARED
    if not folder.is_dir():
        pytest.skip("no other recordings here")
    samples = load(folder / f"{request.param}.ogg", 24_000, duration_seconds=9.0)
    return torch.from_numpy(samples)[None]


# ------------------------------------------------------ extraction of features, by a song


def long_and_short(model: MusicFM25Hz, wav: Tensor, long: int, short: int, layer: int) -> Any:
    """Features of whole windows, and of pieces of them that are joined, for each window."""
    device = next(model.parameters()).device
    for start in range(0, wav.shape[-1], long):
        window = wav[:, start : start + long].to(device)
        if window.shape[-1] <= 1_024:
            continue
        with torch.no_grad():
            _, hidden_states = model.get_predictions(window)
            pieces = []
            for begin in range(0, window.shape[-1], short):
                piece = window[:, begin : begin + short]
                if piece.shape[-1] <= 1_024:
                    break
                pieces.append(model.get_predictions(piece)[1][layer])
        whole = hidden_states[layer].float().cpu().numpy()
        yield whole[0], torch.cat(pieces, dim=1).float().cpu().numpy()[0]


def test_features_of_long_windows_and_of_pieces(
    build: Build, weights: tuple[str, str], song: Tensor, tmp_path: Path
) -> None:
    model = build().to("cpu").eval()
    ours = MusicFM.from_pretrained(weights[1])
    seconds = 24_000
    for i, (whole, pieces) in enumerate(long_and_short(model, song, 4 * seconds, seconds, 10)):
        np.save(tmp_path / f"{i}.npy", np.concatenate([whole, pieces], axis=-1))
        window = song[:, 4 * i * seconds : 4 * (i + 1) * seconds]
        with torch.no_grad():
            expected = ours(window, layers=[10]).hidden_states[0][0]
            piece = ours(window[:, :seconds], layers=[10]).hidden_states[0][0]
        np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-4)
        np.testing.assert_allclose(pieces[:25], piece, rtol=0, atol=1e-4)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    assert np.load(tmp_path / "2.npy").shape == (25, 64)


def test_seven_minutes_at_once(build: Build) -> None:
    model = build().eval()
    model.conformer.layers = model.conformer.layers[:1]  # the rest is more of the same
    wav = torch.rand(1, 420 * 24_000) - 0.5
    with torch.no_grad():
        logits, hidden_states = model.get_predictions(wav)
        start = model.get_latent(wav[:, : 35 * 24_000], layer_ix=0)
    assert logits[MELSPEC].shape == (1, 10_500, 256)
    assert [state.shape for state in hidden_states] == 2 * [(1, 10_500, 32)]
    torch.testing.assert_close(start[:, :-3], hidden_states[0][:, :872], rtol=0, atol=1e-5)


# ----------------------------------------------------------------------------- fine-tuning


class LoRA(nn.Module):
    """A Linear or a convolution that stays, and a product of two thin matrices beside it."""

    def __init__(self, base: Any, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        if isinstance(base, nn.Linear):
            self.down: Any = nn.Linear(base.in_features, rank, bias=False)
            self.up: Any = nn.Linear(rank, base.out_features, bias=False)
        else:
            convolution = type(base)
            self.down = convolution(
                base.in_channels, rank, base.kernel_size, base.stride, base.padding, bias=False
            )
            kernel = (1,) * len(base.kernel_size)
            self.up = convolution(rank, base.out_channels, kernel, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


def add_lora(model: nn.Module, targets: tuple[str, ...]) -> int:
    """Replaces modules whose names end in one of ``targets``; returns how many."""
    names = [name for name, _ in model.named_modules() if name.split(".")[-1] in targets]
    for name in names:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LoRA(model.get_submodule(name)))
    return len(names)


def learn(step: Callable[[], Tensor], parameters: Any, steps: int = 4) -> list[float]:
    """The losses of some steps."""
    optimizer = torch.optim.Adam(parameters, lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = step()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_lora_on_named_modules_is_trained(build: Build, song: Tensor) -> None:
    model = build().eval()
    wav = song[:, : 2 * 24_000].unflatten(1, (2, -1))[0]
    model.requires_grad_(False)
    with torch.no_grad():
        before = model.get_latent(wav, 12)
    targets = ("linear_q", "linear_v", "intermediate_dense", "pointwise_conv1", "conv2")
    assert add_lora(model, targets) == 12 * 5 + 2
    with torch.no_grad():
        torch.testing.assert_close(model.get_latent(wav, 12), before, rtol=0, atol=1e-5)
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(learnt) == 2 * (12 * 5 + 2)
    head = nn.Linear(32, 1)

    def step() -> Tensor:
        return (head(model.get_latent(wav, 12).mean(dim=1)) - 1.0).square().mean()

    losses = learn(step, [*learnt, *head.parameters()])
    assert losses[-1] < losses[0]
    assert all(weight.grad is not None for weight in learnt)
    with torch.no_grad():
        after = model.get_latent(wav, 12)
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, model.get_latent(wav, 12), rtol=0, atol=1e-5)


class Tagger(nn.Module):
    """A head over the mean of a layer; the first parts of the model stay as they are."""

    def __init__(self, backbone: Any, layer: int, num_trained: int) -> None:
        super().__init__()
        self.backbone, self.layer = backbone, layer
        del self.backbone.linear, self.backbone.quantizer_melspec_2048_0
        del self.backbone.conformer.pos_conv_embed
        backbone.conformer.layers = backbone.conformer.layers[:layer]
        for weight in backbone.parameters():
            weight.requires_grad = False
        for block in backbone.conformer.layers[-num_trained:]:
            for weight in block.parameters():
                weight.requires_grad = True
        self.head = nn.Linear(backbone.cls_token.shape[0], 3)

    def forward(self, wav: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone.preprocessing(wav, features=[MELSPEC])
            x = self.backbone.normalize(x)
            x = self.backbone.conv(x[MELSPEC])
        token = self.backbone.cls_token.expand(len(x), 1, -1)
        x = self.backbone.conformer(torch.cat([token, x], dim=1)).last_hidden_state
        return self.head(x[:, 0])


def test_a_tagger_with_the_last_layers_trained(build: Build) -> None:
    tagger = Tagger(build(), layer=4, num_trained=2)
    wav = torch.from_numpy(recipe.waveform(2, 3, 24_000))
    targets = torch.eye(3)
    frozen = tagger.backbone.conformer.layers[1].ffn1.intermediate_dense.weight.clone()
    losses = learn(
        lambda: F.binary_cross_entropy_with_logits(tagger(wav), targets),
        [weight for weight in tagger.parameters() if weight.requires_grad],
    )
    assert losses[-1] < losses[0]
    layers = tagger.backbone.conformer.layers
    assert torch.equal(layers[1].ffn1.intermediate_dense.weight, frozen)
    assert layers[2].ffn1.intermediate_dense.weight.grad is not None
    file = {name: tensor.clone() for name, tensor in tagger.state_dict().items()}
    again = Tagger(build(), layer=4, num_trained=2)
    again.load_state_dict(file, strict=True)
    assert torch.equal(again.eval()(wav), tagger.eval()(wav))


# ----------------------------------------------------------------------------- distillation


def test_a_student_at_twice_the_rate_learns_from_the_teacher(
    build: Build, weights: tuple[str, str], song: Tensor
) -> None:
    teacher = build().eval()
    student: Any = MusicFM25Hz(
        stat_path=weights[0], model_path=None, conv_dim=8, encoder_dim=32, encoder_depth=2
    )
    second = student.conv.conv[1]
    second.conv1.stride = second.conv3.stride = (2, 1)
    projection = nn.Linear(32, 32)
    wav = song[:, : 4 * 24_000].unflatten(1, (2, -1))[0]
    with torch.no_grad():
        wanted = teacher.get_latent(wav, layer_ix=6)
    wanted = F.interpolate(wanted.mT, scale_factor=2).mT

    def step() -> Tensor:
        return F.mse_loss(projection(student.get_latent(wav, layer_ix=2)), wanted)

    assert student.get_latent(wav, layer_ix=2).shape == (2, 100, 32)
    losses = learn(step, [*student.parameters(), *projection.parameters()])
    assert losses[-1] < losses[0]


def test_a_student_that_begins_as_the_teachers_first_layers(build: Build) -> None:
    teacher = build().eval()
    student = copy.deepcopy(teacher)
    student.conformer.layers = nn.ModuleList(
        [copy.deepcopy(teacher.conformer.layers[i]) for i in (0, 5, 11)]
    )
    wav = torch.from_numpy(recipe.waveform(5, 1, 24_000))
    assert len(student.get_predictions(wav)[1]) == 4
    assert torch.equal(student.get_latent(wav, 1), teacher.get_latent(wav, 1))


def test_a_student_of_half_the_mel_learns_the_teachers_tokens(
    build: Build, song: Tensor, tmp_path: Path
) -> None:
    """50 mel frames a second and strides of 1 and 2: as many tokens as the teacher's."""
    student = build()
    student.requires_grad_(False)
    for block, stride in zip(student.conv.conv, (1, 2), strict=True):
        block.conv1.stride = block.conv3.stride = (2, stride)
    student.conv.requires_grad_(True)
    for layer in student.conformer.layers[-2:]:
        layer.requires_grad_(True)
    mel_50 = MelSTFT(sample_rate=24_000, n_fft=2_048, hop_length=480, n_mels=128, is_db=True).eval()
    wav = song[:, : 4 * 24_000].unflatten(1, (2, -1))[0]

    def step() -> Tensor:
        student.train()
        student.conformer.eval()
        with torch.no_grad():
            clean = student.normalize(student.preprocessing(wav, features=[MELSPEC]))
            clean = student.rearrange(clean)
            targets = {MELSPEC: student.quantizer_melspec_2048_0(clean[MELSPEC])}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                masked, indices = student.masking(wav)
            mel = mel_50(masked)[..., :-1]
            mel = (mel - student.stat[f"{MELSPEC}_mean"]) / student.stat[f"{MELSPEC}_std"]
        logits, _ = student.encoder(mel)
        assert logits[MELSPEC].shape[:2] == targets[MELSPEC].shape
        losses, accuracies = student.get_loss(logits, targets, indices)
        assert 0 <= accuracies[MELSPEC] <= 1
        return losses[MELSPEC]

    losses = learn(step, [weight for weight in student.parameters() if weight.requires_grad])
    assert losses[-1] < losses[0]
    layers = [layer.state_dict() for layer in student.conformer.layers[-2:]]
    torch.save({"frontend": student.conv.state_dict(), "layers": layers}, tmp_path / "s.pt")
    saved, again = torch.load(tmp_path / "s.pt"), build().eval()
    for block, stride in zip(again.conv.conv, (1, 2), strict=True):
        block.conv1.stride = block.conv3.stride = (2, stride)
    again.conv.load_state_dict(saved["frontend"])
    for layer, state in zip(again.conformer.layers[-2:], saved["layers"], strict=True):
        layer.load_state_dict(state)
    with torch.no_grad():
        expected = student.eval().encoder(mel_50(wav)[..., :-1])[1][12]
        found = again.encoder(mel_50(wav)[..., :-1])[1][12]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


# ------------------------------------------------------------------------------ early exit


class EarlyExit(nn.Module):
    """The layers up to one, by hand; for exporters, from the mel on."""

    def __init__(self, musicfm: Any, layer: int) -> None:
        super().__init__()
        self.conv, self.conformer, self.layer = musicfm.conv, musicfm.conformer, layer

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conformer.dropout(self.conv(mel))
        positions = self.conformer.embed_positions(x)
        for layer in self.conformer.layers[: self.layer]:
            x = layer(x, attention_mask=None, relative_position_embeddings=positions)[0]
        return x


def test_an_early_exit_is_the_hidden_state(build: Build) -> None:
    model = build().eval()
    wav = torch.from_numpy(recipe.waveform(6, 2, 24_000 * 6))
    mel = model.preprocessor_melspec_2048(wav)[..., :-1]
    mel = (mel - model.stat[f"{MELSPEC}_mean"]) / model.stat[f"{MELSPEC}_std"]
    with torch.no_grad():
        found = EarlyExit(model, 7)(mel)
        assert torch.equal(found, model.get_predictions(wav)[1][7])
        assert torch.equal(found, model.get_latent(wav, layer_ix=7))


def test_hooks_collect_the_means_of_all_layers(build: Build) -> None:
    model = build().eval()
    means: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        means.append(hidden.detach().mean(dim=1))

    handles = [model.conv.register_forward_hook(hook)]
    handles += [layer.register_forward_hook(hook) for layer in model.conformer.layers]
    wav = torch.from_numpy(recipe.waveform(8, 1, 24_000 * 2))
    with torch.no_grad():
        model.get_latent(wav, layer_ix=7)
        assert len(means) == 13
        for handle in handles:
            handle.remove()
        states = model.get_predictions(wav)[1]
    for mean, state in zip(means[:-1], states[:-1], strict=True):
        torch.testing.assert_close(mean, state.mean(dim=1), rtol=0, atol=1e-5)


def test_layers_and_the_norm_are_taken_away_for_a_while(build: Build) -> None:
    model = build().eval()
    layers, norm = model.conformer.layers, model.conformer.layer_norm
    wav = torch.from_numpy(recipe.waveform(9, 1, 24_000 * 2))
    with torch.no_grad():
        x = model.normalize(model.preprocessing(wav, features=[MELSPEC]))
        x = model.conv(x[MELSPEC])
        model.conformer.layers, model.conformer.layer_norm = layers[:10], nn.Identity()
        found = model.conformer(x, output_hidden_states=False).last_hidden_state
        model.conformer.layers, model.conformer.layer_norm = layers, norm
        assert torch.equal(found, model.get_predictions(wav)[1][10])


class Adapted(nn.Module):
    """A layer whose parts are called one by one, with something that is learnt between them."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.adapter = nn.Linear(layer.ffn1.output_dense.out_features, 32)
        nn.init.zeros_(self.adapter.weight)
        nn.init.zeros_(self.adapter.bias)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        relative_position_embeddings: Tensor | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        x, layer = hidden_states, self.layer
        x = layer.ffn1(layer.ffn1_layer_norm(x)) * 0.5 + x
        x = x + self.adapter(x)
        attended, weights = layer.self_attn(
            hidden_states=layer.self_attn_layer_norm(x),
            attention_mask=attention_mask,
            relative_position_embeddings=relative_position_embeddings,
            output_attentions=output_attentions,
        )
        x = x + layer.self_attn_dropout(attended)
        x = x + layer.conv_module(x)
        x = layer.ffn2(layer.ffn2_layer_norm(x)) * 0.5 + x
        return layer.final_layer_norm(x), weights


def test_adapters_in_all_layers_are_trained(build: Build) -> None:
    model = build().eval()
    wav = torch.from_numpy(recipe.waveform(10, 2, 24_000))
    with torch.no_grad():
        before = model.get_latent(wav, 12)
    model.requires_grad_(False)
    for i in range(len(model.conformer.layers)):
        model.conformer.layers[i] = Adapted(model.conformer.layers[i])
    model.linear = nn.Identity()
    del model.cls_token
    with torch.no_grad():
        torch.testing.assert_close(model.get_latent(wav, 12), before, rtol=0, atol=1e-5)
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    assert len(learnt) == 24
    head = nn.Linear(32, 1)

    def step() -> Tensor:
        return (head(model.get_latent(wav, 12).mean(dim=1)) - 1.0).square().mean()

    losses = learn(step, [*learnt, *head.parameters()])
    assert losses[-1] < losses[0]
    assert all(weight.grad is not None for weight in learnt)


class FromTheMel(nn.Module):
    """A layer, by the name that ``transformers`` gives all of them."""

    def __init__(self, musicfm: Any, layer: int) -> None:
        super().__init__()
        self.conv, self.conformer, self.layer = musicfm.conv, musicfm.conformer, layer

    def forward(self, mel: Tensor) -> Tensor:
        output = self.conformer(self.conv(mel), output_hidden_states=True)
        return output["hidden_states"][self.layer]


class Embedding(nn.Module):
    """From the waveform to a mean of unit length."""

    def __init__(self, musicfm: Any, layer: int) -> None:
        super().__init__()
        self.musicfm, self.layer = musicfm.requires_grad_(False), layer

    def forward(self, audio: Tensor) -> Tensor:
        latent = self.musicfm.get_latent(audio, layer_ix=self.layer)
        return F.normalize(latent.sum(dim=1) / latent.shape[1], dim=-1)


@pytest.mark.compiles
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")
@pytest.mark.parametrize("wrapper", [EarlyExit, FromTheMel, Embedding])
def test_layers_are_exported_as_onnx(wrapper: Any, build: Build, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    musicfm = build()
    musicfm.conformer.layers = musicfm.conformer.layers[:2]
    model = wrapper(musicfm, 1).eval()
    shapes: list[tuple[int, ...]] = [(1, 128, 120), (1, 128, 803)]
    options: dict[str, Any] = {"dynamic_shapes": {"mel": {2: torch.export.Dim("time", min=8)}}}
    if wrapper is Embedding:
        shapes, options = [(1, 24_000)], {}
    torch.onnx.export(
        model, (torch.randn(shapes[0]),), tmp_path / "m.onnx", dynamo=True, verbose=False,
        input_names=["x"], **options,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    for shape in shapes:
        x = torch.randn(shape)
        with torch.no_grad():
            expected = model(x)
        (found,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
