"""Wrappers: where standardisation, precision, layout and compilation belong."""

import pytest
import torch
from monai.networks.nets import ResNet
from rtda.pipeline.attacks import PGD
from rtda.pipeline.balls import L2
from rtda.pipeline.laws import check_view
from rtda.pipeline.networks import AsCalled, Standardized, has_bfloat16, with_norm
from torch import nn


def network(channels=1):
    layers = [nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize("spatial", [(5, 4), (3, 5, 4)])
@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.25), ([0.1, 0.7], [0.2, 0.5]), ([0.4], [0.3])])
def test_standardized_is_x_minus_mean_over_std_by_channel(spatial, mean, std):
    x = torch.rand(3, 2, *spatial)
    shape = (1, -1, *[1] * len(spatial))
    expected = (x - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
    torch.testing.assert_close(Standardized(nn.Identity(), mean, std)(x), expected)


def test_standardized_saves_its_statistics_and_trains_none_of_them():
    made = Standardized(nn.Linear(2, 2), 0.5, 0.25)
    assert made.state_dict().keys() == {"mean", "std", "network.weight", "network.bias"}
    assert {name for name, _ in made.named_parameters()} == {"network.weight", "network.bias"}


@pytest.mark.parametrize("std", [0.0, -1.0, [0.2, 0.0], float("nan")])
def test_a_deviation_that_is_not_positive_is_refused(std):
    with pytest.raises(ValueError, match=r"std: .* must be > 0"):
        Standardized(nn.Identity(), 0.5, std)


def test_a_radius_keeps_its_meaning_under_standardisation():
    """The ball lies on the image, not on the standardised image, whatever the statistics are."""
    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    check_view(PGD(L2(0.3)), Standardized(network(), 0.5, 0.01), x, y, ball=L2(0.3))


def resnet(spatial_dims):
    return ResNet("basic", [1, 1, 1, 1], [8, 8, 16, 16], spatial_dims, n_input_channels=1, num_classes=2)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_with_group_norm_no_batch_norm_is_left_and_an_example_does_not_depend_on_its_batch(spatial_dims):
    made = with_norm(resnet(spatial_dims), ["group", {"num_groups": 4}]).train()
    norms = [module for module in made.modules() if "Norm" in type(module).__name__]
    assert {type(module) for module in norms} == {nn.GroupNorm}
    batch_norms = [m for m in resnet(spatial_dims).modules() if isinstance(m, (nn.BatchNorm2d, nn.BatchNorm3d))]
    assert [module.num_channels for module in norms] == [module.num_features for module in batch_norms]
    x = torch.rand(3, 1, *[32] * spatial_dims)
    torch.testing.assert_close(made(x)[:1], made(x[:1]), rtol=1e-4, atol=1e-5)
    before = resnet(spatial_dims).train()
    assert not torch.allclose(before(x)[:1], before(torch.cat([x[:1], 1 - x]))[:1], rtol=1e-2)


def test_a_network_without_batch_norm_is_refused():
    with pytest.raises(ValueError, match="network: has no BatchNorm to replace"):
        with_norm(nn.Linear(2, 2), "instance")


@pytest.mark.parametrize("precision", ["auto", "bfloat16", "float32"])
def test_logits_are_float32_in_every_precision(precision):
    made = AsCalled(network(), precision)(torch.rand(2, 1, 8, 8))
    assert made.dtype == torch.float32


def test_bfloat16_is_that_of_autocast_and_float32_is_the_network_itself():
    inner, x = network().eval(), torch.rand(4, 1, 8, 8)
    exact = inner(x)
    assert torch.equal(AsCalled(inner, "float32")(x), exact)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = inner(x)
    assert reduced.dtype == torch.bfloat16
    made = AsCalled(inner, "bfloat16")(x)
    assert torch.equal(made, reduced.float())
    assert 0 < (made - exact).abs().max() < 0.05


def test_precision_reaches_the_attack_while_the_images_stay_float32():
    seen = []

    class Spy(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    called = AsCalled(nn.Sequential(nn.Flatten(), Spy(64, 2)), "bfloat16")
    check_view(PGD(L2(0.3), steps=2), called, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), ball=L2(0.3))
    assert set(seen) == {torch.bfloat16}


def test_auto_is_bfloat16_only_where_the_processor_has_it(monkeypatch):
    x = torch.rand(2, 1, 8, 8)
    inner = network().eval()
    for native, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr("rtda.pipeline.networks.has_bfloat16", lambda device, native=native: native)
        assert torch.equal(AsCalled(inner, "auto")(x), AsCalled(inner, precision)(x))


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"bf16": True}, True), ({"avx512_f": True}, False)],
)
def test_native_bfloat16_is_read_from_the_processor(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert has_bfloat16(torch.device("cpu")) is expected


def test_channels_last_changes_the_layout_and_not_the_logits():
    inner, x, layouts = network(2).eval(), torch.rand(4, 2, 8, 8), []
    exact = inner(x)
    inner[0].register_forward_pre_hook(lambda module, inputs: layouts.append(inputs[0].stride(1)))
    made = AsCalled(inner, "float32", layout="channels_last")(x)
    torch.testing.assert_close(made, exact, atol=1e-5, rtol=1e-5)
    assert layouts == [1]
    assert inner[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_keeps_the_laws_of_an_attack():
    called = AsCalled(network(2), "bfloat16", layout="channels_last")
    check_view(PGD(L2(0.3)), called, torch.rand(2, 2, 8, 8), torch.tensor([0, 1]), ball=L2(0.3))


def test_the_wrapped_network_keeps_its_names_and_shares_its_weights():
    inner = network()
    names = list(inner.state_dict())
    called = AsCalled(inner, "float32", layout="channels_last")
    assert list(inner.state_dict()) == names
    assert called.network is inner
    assert {id(p) for p in called.parameters()} == {id(p) for p in inner.parameters()}


def test_compiling_is_asked_of_the_network_itself_so_that_its_names_stay(monkeypatch):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *args, **kwargs: asked.append(self))
    inner = network()
    names = list(inner.state_dict())
    AsCalled(inner, "float32", compile=True)
    assert asked == [inner]
    assert list(inner.state_dict()) == names


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_logits_to_step_and_attack():
    inner, x = network().eval(), torch.rand(4, 1, 8, 8)
    exact = inner(x)
    called = AsCalled(inner, "float32", compile=True)
    torch.testing.assert_close(called(x), exact, atol=1e-5, rtol=1e-5)
    check_view(PGD(L2(0.3), steps=2), called, x, torch.tensor([0, 1, 2, 0]), ball=L2(0.3))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_mode_changes_are_held_away_from_an_exported_program(mode):
    """An exported program raises on ``.eval()``; wrapped, it can be attacked and evaluated like a network."""
    inner, x = network().eval(), torch.rand(4, 1, 8, 8)
    exported = torch.export.export(inner, (x,)).module()
    called = AsCalled(exported, "float32")
    getattr(called, mode)()
    assert called.training is (mode == "train")
    torch.testing.assert_close(called(x), inner(x))
    y = torch.tensor([0, 1, 2, 0])
    attack = PGD(L2(0.3), start="none")
    check_view(attack, called, x, y, ball=L2(0.3))
    torch.testing.assert_close(attack(called, x, y), attack(inner, x, y), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "float16"}, "precision: 'float16' is unknown; choose auto, bfloat16 or float32"),
        ({"layout": "nhwc"}, "layout: 'nhwc' is unknown; choose contiguous or channels_last"),
    ],
)
def test_an_unknown_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AsCalled(nn.Identity(), **settings)
