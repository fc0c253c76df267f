"""Per-example gradients of the whole U-Net against a one-example-at-a-time loop, block type by block type."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Draws, Objective, draw
from secure_fed_diffusion.diffusion.patches import model_shape
from secure_fed_diffusion.diffusion.settings import (
    DOWN_BLOCKS,
    RGB_DOWN_BLOCKS,
    RGB_UP_BLOCKS,
    TIME_EMBEDDINGS,
    UP_BLOCKS,
    WIDE_BLOCKS,
    ModelSettings,
)
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.training import exactness, per_example
from secure_fed_diffusion.training.exactness import is_position_independent
from secure_fed_diffusion.training.per_example import (
    Records,
    micro_batches,
    per_example_gradients,
)

K = 2
DIFFUSION = DiffusionSettings(noise_multiplicity=K, timesteps=50)

CASES = {
    **{f"{down}+{up}": {"down": down, "up": up} for down, up in zip(DOWN_BLOCKS, UP_BLOCKS, strict=True)},
    **{
        f"{down}+{up}": {"down": down, "up": up, "colours": 3}
        for down, up in zip(RGB_DOWN_BLOCKS, RGB_UP_BLOCKS, strict=True)
    },
    **{f"time embedding {name}": {"time_embedding": name} for name in TIME_EMBEDDINGS},
    "no middle block": {"middle_block": False},
    "two layers a block": {"layers_per_block": 2},
    "patches of two": {"patch": 2},
}


def build(case: dict[str, object], dtype: torch.dtype) -> tuple[nn.Module, Objective, Records]:
    case = dict(case)
    colours = int(case.pop("colours", 1))
    down, up = case.pop("down", None), case.pop("up", None)
    channels = (32, 32) if down in WIDE_BLOCKS else (8, 16)
    if down:
        case |= {"down_blocks": (down, down), "up_blocks": (up, up)}
    settings = ModelSettings(channels=channels, norm_groups=4, attention_head_dim=4, **case)
    image = (colours, 8, 8)
    model = build_unet(settings, image_shape=image, n_classes=3, n_timesteps=50, seed=1)
    shape = model_shape(image, settings.patch)
    generator = torch.Generator().manual_seed(2)
    n = 3
    draws = draw(DIFFUSION, shape, keys=[(record,) for record in range(n)])
    images = torch.randn((n, *shape), generator=generator)
    records = Records(
        images.to(dtype), torch.tensor([0, 2, 1]), Draws(draws.timesteps, draws.noise.to(dtype))
    )
    model = model.double() if dtype is torch.float64 else model
    return model.eval(), Objective(DIFFUSION), records


def joined(chunk: Mapping[str, Tensor]) -> Tensor:
    """Copy a micro-batch into rows (n, d)."""
    return torch.cat([g.flatten(1) for g in chunk.values()], dim=1)


def by_loop(model: nn.Module, objective: Objective, records: Records) -> list[dict[str, Tensor]]:
    """Differentiate each record's loss by itself, each of its K draws by an own forward pass."""
    rows = []
    for i in range(len(records)):
        model.zero_grad()
        losses = [
            objective.losses(
                model,
                records.images[i : i + 1],
                records.labels[i : i + 1],
                records.draws.timesteps[i, k : k + 1],
                records.draws.noise[i, k : k + 1],
            ).sum()
            for k in range(records.draws.timesteps.shape[1])
        ]
        (sum(losses) / len(losses)).backward()
        rows.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    return rows


@pytest.mark.parametrize(("dtype", "tolerance", "floor"), [("float64", 1e-10, 1e-6), ("float32", 1e-4, 1e-3)])
@pytest.mark.parametrize("name", CASES)
def test_every_parameter_agrees_with_a_loop_over_the_records(
    name: str, dtype: str, tolerance: float, floor: float
) -> None:
    model, objective, records = build(CASES[name], getattr(torch, dtype))
    together = per_example_gradients(model, objective, records)
    for i, alone in enumerate(by_loop(model, objective, records)):
        whole = torch.cat([g.flatten() for g in alone.values()]).norm()
        assert whole > 0
        assert set(alone) == set(together)
        for parameter, expected in alone.items():
            scale = max(float(expected.norm()), floor * float(whole))
            assert float((together[parameter][i] - expected).norm()) <= tolerance * scale, parameter


@pytest.mark.parametrize("label_dropout", [0.0, 0.5])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("prediction", ["epsilon", "v", "edm"])
def test_every_objective_agrees_with_a_loop_over_the_records(
    prediction: str, k: int, label_dropout: float
) -> None:
    diffusion = DiffusionSettings(
        prediction=prediction,
        timesteps=50,
        noise_multiplicity=k,
        stratified=k > 1,
        label_dropout=label_dropout,
    )
    settings = ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4)
    rows = diffusion.class_rows(3)
    model = build_unet(settings, image_shape=(1, 8, 8), n_classes=rows, n_timesteps=50, seed=1)
    model = model.double().eval()
    n = 6
    draws = draw(diffusion, (1, 8, 8), keys=[("objective", record) for record in range(n)])
    assert bool((draws.timesteps >= 50).any()) == (label_dropout > 0)
    images = torch.rand((n, 1, 8, 8), generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 2 - 1
    records = Records(images, torch.arange(n) % 3, Draws(draws.timesteps, draws.noise.double()))
    objective = Objective(diffusion, n_classes=3)
    answers = {
        "in use": per_example_gradients(model, objective, records),
        "vmap": per_example.by_vmap(model, objective, records),
    }
    for i, alone in enumerate(by_loop(model, objective, records)):
        whole = torch.cat([g.flatten() for g in alone.values()]).norm()
        for together in answers.values():
            assert set(alone) == set(together)
            for parameter, expected in alone.items():
                scale = max(float(expected.norm()), 1e-6 * float(whole))
                assert float((together[parameter][i] - expected).norm()) <= 1e-10 * scale, parameter
        if label_dropout:
            touched = alone["class_embedding.weight"].flatten(1).any(1)
            assert bool(touched[3]) == bool((draws.timesteps[i] >= 50).any())


def test_the_losses_of_one_record_are_averaged_before_anything_else() -> None:
    model, objective, records = build({}, torch.float64)
    both = per_example_gradients(model, objective, records)
    halves = []
    for k in range(K):
        draws = Draws(records.draws.timesteps[:, k : k + 1], records.draws.noise[:, k : k + 1])
        halves.append(per_example_gradients(model, objective, Records(records.images, records.labels, draws)))
    for name, gradient in both.items():
        torch.testing.assert_close(gradient, (halves[0][name] + halves[1][name]) / 2, rtol=1e-8, atol=1e-12)


def test_an_empty_batch_gives_rows_of_no_length() -> None:
    model, objective, records = build({}, torch.float32)
    none = torch.arange(0)
    empty = Records(
        records.images[none],
        records.labels[none],
        Draws(records.draws.timesteps[none], records.draws.noise[none]),
    )
    gradients = per_example_gradients(model, objective, empty)
    assert {g.shape[0] for g in gradients.values()} == {0}
    assert list(micro_batches(model, objective, empty, 4)) == []


@pytest.mark.parametrize("gone", [0, 7, 19])
def test_taking_a_record_away_changes_no_other_record_s_gradient_by_a_bit(gone: int) -> None:
    model, objective, _ = build({}, torch.float32)
    generator = torch.Generator().manual_seed(3)
    n = 20  # more than one micro-batch, the last one padded
    draws = draw(DIFFUSION, (1, 8, 8), keys=[(record,) for record in range(n)])
    images, labels = torch.randn((n, 1, 8, 8), generator=generator), torch.arange(n) % 3

    def rows(kept: list[int]) -> Tensor:
        index = torch.tensor(kept)
        records = Records(images[index], labels[index], Draws(draws.timesteps[index], draws.noise[index]))
        whole = torch.cat([joined(chunk) for chunk in micro_batches(model, objective, records, 16)])
        assert len(whole) == 32
        assert not whole[len(kept) :].any()  # the padding adds nothing
        return whole[: len(kept)]

    rest = [i for i in range(n) if i != gone]
    assert torch.equal(rows(list(range(n)))[rest], rows(rest))


def test_the_check_of_a_micro_batch_sees_a_model_whose_rows_depend_on_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, objective, _ = build({}, torch.float32)
    facts = {"image_shape": (1, 8, 8), "n_classes": 3, "size": 16}
    assert is_position_independent(model, objective, **facts)
    honest = per_example.micro_batches

    def with_an_edge(*arguments: object) -> Iterator[Mapping[str, Tensor]]:
        for gradients in honest(*arguments):
            for gradient in gradients.values():
                gradient[-1] *= 1 + 2**-22  # one unit in the last places, in the last row alone
            yield gradients

    monkeypatch.setattr(exactness, "micro_batches", with_an_edge)
    assert not is_position_independent(model, objective, **facts)
