"""Fields keep their state over steps and checkpoints, and serve the guidance that names them."""

import io

import pytest
import torch

from threestudio_asd.distill import FSD, FSD_2D, METHODS, SDS, FieldNoise, Method, Views
from threestudio_asd.distill.noising import NOISINGS, NoisyBatch, register_noising
from threestudio_asd.errors import NotRegisteredError, UserError
from threestudio_asd.fields import FIELDS, NoiseField, NoiseFields, register_field
from threestudio_asd.studio.systems.seeding import seed_step

SHAPE = (4, 16, 16)


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    for registry in (FIELDS, METHODS, NOISINGS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def on(name):
    """SDS with the noise of a field."""
    return Method(f"on {name}", "guided", "noise", None, paper="none", noising=name)


def steps(fields, method, views, batches, gamma=0.3):
    """The noise of each batch of a training."""
    found = []
    for batch in batches:
        seed_step(0, batch)
        fields.refresh(method, {"noise_refresh": gamma})
        found.append(fields.of(method)(torch.zeros(len(views), *SHAPE), views).noise)
    return found


@pytest.mark.parametrize("name", ["fixed-noise", "world-map", "surface-noise"])
def test_a_resumed_run_goes_on_with_the_same_noise(views, name):
    """Killed after batch 3; the new process makes another field, and loads the checkpoint."""
    method, view = on(name), views(0.0, 70.0)
    whole = NoiseFields([method], SHAPE, "cpu")
    expected = steps(whole, method, view, range(3))
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    expected += steps(whole, method, view, range(3, 6))
    file.seek(0)
    torch.manual_seed(99)
    resumed = NoiseFields([method], SHAPE, "cpu")
    assert not torch.equal(steps(resumed, method, view, [3])[0], expected[3])
    resumed.load_state_dict(torch.load(file, weights_only=True))
    found = steps(resumed, method, view, range(3, 6))
    assert all(a.equal(b) for a, b in zip(found, expected[3:], strict=True))
    assert not expected[3].equal(expected[4])


@pytest.mark.parametrize("name", ["fixed-noise", "world-map", "surface-noise"])
def test_all_of_a_field_is_renewed_by_its_share(name):
    method = on(name)
    fields = NoiseFields([method], SHAPE, "cpu")
    before = {key: value.clone() for key, value in fields.state_dict().items()}
    fields.refresh(method, {"noise_refresh": 0.36})
    for key, value in fields.state_dict().items():
        assert (value * before[key]).mean().item() == pytest.approx(0.8, abs=0.1)
        assert value.var().item() == pytest.approx(1.0, abs=0.15)
    assert len(before) == (1 if name == "fixed-noise" else 2)
    kept = {key: value.clone() for key, value in fields.state_dict().items()}
    torch.manual_seed(3)
    fields.refresh(method, {"noise_refresh": 0.0})
    assert all(value.equal(kept[key]) for key, value in fields.state_dict().items())
    after = torch.rand(1)
    torch.manual_seed(3)
    assert after.equal(torch.rand(1))  # nothing was drawn


def test_a_view_changes_nothing(views):
    fields = NoiseFields([on("surface-noise")], SHAPE, "cpu")
    field, view = fields.of(on("surface-noise")), views(0.0)
    before = {key: value.clone() for key, value in fields.state_dict().items()}
    torch.manual_seed(3)
    field(torch.zeros(1, *SHAPE), view)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert after.equal(torch.rand(1))
    assert all(value.equal(before[key]) for key, value in fields.state_dict().items())


def test_methods_without_a_field_have_none():
    fields = NoiseFields([SDS], SHAPE, "cpu")
    assert fields.of(SDS) is None and not fields.state_dict() and not [*fields.parameters()]
    fields.refresh(SDS, {})
    with pytest.raises(UserError, match=r"noise_field has 'theta', .*there are none"):
        NoiseFields([SDS], SHAPE, "cpu", {"theta": 90})


def test_options_reach_the_fields_that_have_them():
    fields = NoiseFields([FSD, FSD_2D], SHAPE, "cpu", {"theta": 90, "fix_background": False})
    assert fields.of(FSD).world.shape == (4, 32, 64)
    assert not fields.of(FSD).fix_background and not fields.of(FSD_2D).fix_background
    surface = NoiseFields([on("surface-noise")], SHAPE, "cpu", {"log2_texels": 5, "side": 2})
    assert surface.of(on("surface-noise")).texels.shape == (32, 4)
    default = NoiseFields([on("surface-noise")], SHAPE, "cpu").of(on("surface-noise"))
    assert default.texels.shape == (256 * 16 * 16, 4) and default.texel_size == 1 / 32
    # The same draws in whatever order the stages come.
    made = []
    for methods in ([FSD, FSD_2D], [FSD_2D, FSD]):
        torch.manual_seed(7)
        made.append(NoiseFields(methods, SHAPE, "cpu").state_dict())
    assert all(made[0][key].equal(made[1][key]) for key in made[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("world-map", {"theta": 0}, "theta.* is 0; choose more"),
        ("world-map", {"theta": 181.0}, "theta.* is 181"),
        ("world-map", {"teta": 90}, "'teta'.*did you mean theta"),
        ("surface-noise", {"texel_size": -1.0}, "must be positive; got -1"),
        ("surface-noise", {"side": 0}, "must be positive; got .* 0"),
        ("surface-noise", {"log2_texels": 40}, "is 40; choose 1 to 28"),
        ("fixed-noise", {"particles": 0}, "particles is 0; give at least 1"),
    ],
)
def test_bad_options_are_told(name, options, message):
    with pytest.raises(UserError, match=message):
        NoiseFields([on(name)], SHAPE, "cpu", options)


@pytest.mark.parametrize("name", ["fixed-noise", "world-map", "surface-noise"])
def test_a_field_keeps_its_size(views, name):
    field, view = NoiseFields([on(name)], SHAPE, "cpu").of(on(name)), views(0.0)
    assert field(torch.zeros(1, *SHAPE, dtype=torch.float64), view).noise.dtype == torch.float64
    with pytest.raises(UserError, match=r"\(4, 16, 16\), and these have \(4, 8, 8\)"):
        field(torch.zeros(1, 4, 8, 8), view)
    with pytest.raises(UserError, match="2 latents of 1 views"):
        field(torch.zeros(2, *SHAPE), view)


def test_each_particle_keeps_its_own_noise_in_whatever_order_they_come():
    method = on("fixed-noise")
    field = NoiseFields([method], SHAPE, "cpu", {"particles": 3}).of(method)
    angles = torch.rand(3, 3)

    def noise(*which):
        views = Views(*angles[:, : len(which)], particles=torch.tensor(which))
        return field(torch.zeros(len(which), *SHAPE), views).noise

    one = noise(0, 1, 2)
    assert noise(2, 0).equal(one[[2, 0]]) and noise(1).equal(one[[1]])
    assert one.flatten(1).corrcoef().sub(torch.eye(3)).abs().max() < 0.15  # of 1024 numbers each
    field.refresh(0.36)
    kept = (noise(0, 1, 2) * one).flatten(1).mean(1)
    torch.testing.assert_close(kept, torch.full((3,), 0.8), atol=0.1, rtol=0)
    with pytest.raises(UserError, match=r"for each of 3 particles.* shows number 3"):
        noise(3)
    with pytest.raises(UserError, match="does not say which it shows; use asd-2d-system"):
        field(torch.zeros(2, *SHAPE), Views(*angles[:, :2]))


def test_a_field_of_a_users_own():
    @register_field("checkered")
    class Checkered(NoiseField):
        def __init__(self, latent_shape, device, sign=1.0):
            super().__init__(latent_shape, device)
            self.sign = sign

        def seen(self, views):
            noise = (self.sign * self.background).expand(len(views), -1, -1, -1)
            held = (torch.arange(16)[:, None] + torch.arange(16)) % 2 == 0
            return FieldNoise(noise, held.expand(len(views), 1, 16, 16))

    @register_noising("checkered", field="checkered", settings={"noise_refresh": 0.5})
    def checkered(x0, t, views, predict):
        return NoisyBatch.of(predict.schedule, x0, t, predict.field(x0, views).noise)

    fields = NoiseFields([on("checkered")], SHAPE, "cpu", {"sign": -1.0})
    field, view = fields.of(on("checkered")), Views(*torch.rand(3, 2))
    found = field(torch.zeros(2, *SHAPE), view).noise[0]
    assert found[:, ::2, ::2].equal(-field.background[0, :, ::2, ::2])
    assert found[:, ::2, 1::2].equal(field.background[0, :, ::2, 1::2])


def test_a_noising_names_a_field_there_is_and_says_how_it_is_renewed():
    register_noising("lost", field="nowhere", settings={"noise_refresh": 0.0})(lambda *_: None)
    with pytest.raises(NotRegisteredError, match="Unknown noise field 'nowhere'; choose one of"):
        NoiseFields([on("lost")], SHAPE, "cpu")
    register_noising("stale", field="fixed-noise")(lambda *_: None)
    with pytest.raises(UserError, match=r"'fixed-noise' declares no noise_refresh.*0\.0"):
        NoiseFields([on("stale")], SHAPE, "cpu")
