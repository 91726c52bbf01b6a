"""Encoder, projection and decoder: beside counted windows and formulas written out in NumPy."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from envs.interfaces import PixelObservations
from sac.actor import make_actor
from sac.encoder import Decoder, Encoder, EncoderConfig, Projection, delta_orthogonal, to_tensors
from sac.frame_replay import FrameReplay
from sac.replay_buffer import Pixels
from tests.sac.pixel_play import GAMMA, Play

GEOMETRIES = {  # side, kernels, strides
    "ours": (48, (3, 3, 3), (2, 2, 2)),
    "SAC+AE": (84, (3, 3, 3, 3), (2, 1, 1, 1)),
    "DQN": (84, (8, 4, 3), (4, 2, 1)),
    "gaps at the edge": (31, (5, 2), (4, 3)),
    "strides beyond kernels": (29, (2, 1), (3, 4)),
    "even": (20, (4, 2), (1, 2)),
    "down to one": (9, (3, 4), (2, 1)),
}


def make_encoder(side: int, kernels, strides, colours: int = 3, **others) -> tuple[Encoder, EncoderConfig]:
    filters = tuple(range(4, 4 + len(kernels)))
    config = EncoderConfig(filters=filters, kernels=kernels, strides=strides, features=7, **others)
    return Encoder((side, side, colours), config), config


def random_pixels(rows: int, side: int, colours: int, numbers: int = 0) -> Pixels:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (rows, side, side, colours), np.uint8)
    seen = to_tensors(PixelObservations(pictures, rng.normal(size=(rows, numbers)).astype(np.float32)), "cpu")
    assert isinstance(seen, Pixels)
    return seen


@pytest.mark.parametrize(("side", "kernels", "strides"), GEOMETRIES.values(), ids=GEOMETRIES)
def test_layers_have_a_place_per_window_and_the_decoder_leads_back(side, kernels, strides):
    encoder, config = make_encoder(side, kernels, strides)
    sides = [side]
    for kernel, stride in zip(kernels, strides, strict=True):
        sides.append(len(range(0, sides[-1] - kernel + 1, stride)))
    assert encoder.sides == [(side, side) for side in sides]
    assert encoder.num_features == config.filters[-1] * sides[-1] ** 2
    seen = random_pixels(2, side, 3, numbers=2)
    features = encoder(seen)
    assert features.shape == (2, encoder.num_features + 2)

    decoder = Decoder(encoder, config)
    projected = Projection(encoder.num_features, config.features)(features)
    assert decoder(projected).shape == seen.pixels.shape
    layers = [layer for layer in decoder.network if isinstance(layer, nn.ConvTranspose2d)]
    mirrored = [
        (layer.out_channels, layer.in_channels, layer.kernel_size, layer.stride) for layer in layers[::-1]
    ]
    assert mirrored == [
        (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
        for layer in encoder.network
        if isinstance(layer, nn.Conv2d)
    ]


def test_features_are_windows_times_weights():
    """Two layers as sums over windows, each followed by a ReLU, of pictures around 0."""
    encoder, config = make_encoder(11, (4, 2), (2, 3))
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.normal_()
    seen = random_pixels(2, 11, 3, numbers=2)
    image = seen.pixels.double().numpy() - 0.5  # (B, C, H, W)
    layers = [layer for layer in encoder.network if isinstance(layer, nn.Conv2d)]
    for layer, kernel, stride in zip(layers, config.kernels, config.strides, strict=True):
        weight, bias = (part.detach().double().numpy() for part in (layer.weight, layer.bias))
        corners = range(0, image.shape[-1] - kernel + 1, stride)
        out = np.empty((len(image), len(weight), len(corners), len(corners)))
        for i, y in enumerate(corners):
            for j, x in enumerate(corners):
                window = image[:, None, :, y : y + kernel, x : x + kernel]
                out[:, :, i, j] = (window * weight).sum(axis=(2, 3, 4)) + bias
        image = np.maximum(out, 0)
    expected = np.concatenate([image.reshape(2, -1), seen.numbers], axis=1)
    np.testing.assert_allclose(encoder(seen).detach().numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [4, 6])
def test_a_picture_that_is_too_small(side):
    with pytest.raises(UserError, match=f"2 layers leave nothing of pictures of {side} x {side} pixels"):
        make_encoder(side, (3, 3), (2, 2))


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
@pytest.mark.parametrize(("inputs", "outputs"), [(3, 8), (8, 3), (5, 5)])
def test_convolutions_begin_as_orthogonal_maps_of_the_middle_pixel(kernel, inputs, outputs):
    layer = nn.Conv2d(inputs, outputs, kernel)
    delta_orthogonal(layer)
    weight, middle = layer.weight.detach(), kernel // 2
    sizes = torch.linalg.svdvals(weight[:, :, middle, middle])
    torch.testing.assert_close(sizes, torch.full_like(sizes, math.sqrt(2)))  # the gain of a ReLU
    weight[:, :, middle, middle] = 0
    assert not weight.any() and not layer.bias.any()


def test_encoder_and_projection_begin_that_way():
    encoder, config = make_encoder(20, (3, 3), (2, 2))
    projection = Projection(encoder.num_features, config.features)
    for layer in encoder.network:
        if isinstance(layer, nn.Conv2d):
            assert torch.count_nonzero(layer.weight) <= layer.in_channels * layer.out_channels
    product = projection.linear.weight @ projection.linear.weight.T
    torch.testing.assert_close(product, torch.eye(config.features))
    assert not projection.linear.bias.any()


def test_a_projection_is_normalised_and_squashed_and_keeps_the_numbers():
    projection = Projection(30, 7)
    with torch.no_grad():
        for weight in projection.parameters():
            weight.normal_()
    features = torch.randn(5, 32)
    encoded = features[:, :30].numpy() @ projection.linear.weight.detach().numpy().T
    encoded += projection.linear.bias.detach().numpy()
    centred = encoded - encoded.mean(axis=1, keepdims=True)
    normalised = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    weight, bias = (part.detach().numpy() for part in (projection.norm.weight, projection.norm.bias))
    projected = projection(features).detach()
    np.testing.assert_allclose(projected[:, :7], np.tanh(normalised * weight + bias), rtol=1e-4, atol=1e-5)
    assert torch.equal(projected[:, 7:], features[:, 30:])


def test_actor_and_critics_see_the_numbers_behind_the_features():
    """What is in the numbers changes the actions, and the pictures do."""
    actor = make_actor(2, 1, (8,), (12, 12, 3), EncoderConfig((4,), (3,), (2,), features=7))
    seen = random_pixels(3, 12, 3, numbers=2)
    with torch.no_grad():
        for weight in actor.parameters():
            weight.normal_(std=0.3)
        before = actor.mode(seen)
        others = Pixels(seen.pixels, seen.numbers + 1), Pixels(1 - seen.pixels, seen.numbers)
        assert all((actor.mode(other) != before).all() for other in others)


class Given(Decoder):
    """Decodes what it is told."""

    def __init__(self, encoder: Encoder, config: EncoderConfig, decoded: torch.Tensor) -> None:
        super().__init__(encoder, config)
        self.decoded = decoded

    def forward(self, projected: torch.Tensor) -> torch.Tensor:
        return self.decoded


@pytest.mark.parametrize("scale", [lambda x: x / np.float32(255), lambda x: x * np.float32(1 / 255)])
def test_the_target_has_5_bits_and_noise(scale):
    """Of all 256 brightnesses, divided as a CPU and as a GPU does: the loss is 0 for what uint8 gives."""
    encoder, config = make_encoder(16, (3,), (2,), 1, latent_penalty=0.0, decoder_weight_decay=0.0)
    pictures = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    seen = Pixels(torch.from_numpy(scale(pictures.astype(np.float32))), torch.zeros(1, 0))
    noise = torch.rand(1, 1, 16, 16)
    target = ((pictures >> 3) + noise.numpy()) / 32 - 0.5
    decoder = Given(encoder, config, torch.from_numpy(target.astype(np.float32)))
    with torch.no_grad():
        assert decoder.loss(torch.randn(1, 7), seen, noise) < 1e-12
        decoder.decoded += 0.1
        assert float(decoder.loss(torch.randn(1, 7), seen, noise)) == pytest.approx(0.01)


def test_the_loss_has_both_penalties():
    encoder, config = make_encoder(10, (3,), (2,), latent_penalty=0.3, decoder_weight_decay=0.2)
    decoder, projected = Decoder(encoder, config), torch.randn(4, 9)  # 2 numbers beside 7 features
    seen = random_pixels(4, 10, 3)
    noise = torch.rand_like(seen.pixels)
    bare = Decoder(encoder, replace(config, latent_penalty=0.0, decoder_weight_decay=0.0))
    bare.load_state_dict(decoder.state_dict())
    weights = sum((weight.detach().numpy() ** 2).sum() for weight in decoder.parameters())
    latents = (projected[:, :7].numpy() ** 2).sum() / 4
    with torch.no_grad():
        expected = float(bare.loss(projected, seen, noise)) + 0.3 * latents / 2 + 0.2 * weights / 2
        assert float(decoder.loss(projected, seen, noise)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("colours", [1, 3])
def test_what_acts_sees_what_the_replay_shows(colours):
    """Bit for bit, and in the same layout: a convolution's rounding may depend on it."""
    play = Play(2, (9, 9, colours), stack=3)
    replay = FrameReplay(200, 2, (9, 9, colours), 3, 3, 2, n_step=1, gamma=GAMMA)
    play(60, replay)
    batch, known = replay.sample(50, torch.Generator()), play.transitions(100, n_step=1)
    assert isinstance(batch.observations, Pixels) and isinstance(batch.next_observations, Pixels)
    rows = [known[int(numbers[0])] for numbers in batch.observations.numbers]
    expected = [
        PixelObservations(np.stack([row.observation for row in rows]), np.stack([r.numbers for r in rows])),
        PixelObservations(
            np.stack([row.next_observation for row in rows]), np.stack([row.next_numbers for row in rows])
        ),
    ]
    for ours, raw in zip((batch.observations, batch.next_observations), expected, strict=True):
        seen = to_tensors(raw, "cpu")
        assert isinstance(seen, Pixels)
        assert torch.equal(ours.pixels, seen.pixels) and torch.equal(ours.numbers, seen.numbers)
        assert ours.pixels.stride() == seen.pixels.stride()
