from __future__ import annotations

import math
from pathlib import Path

import pytest

from secure_fed_diffusion import config
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.grid import NEARLY_NO_NOISE, Grid, chosen, read_grid
from secure_fed_diffusion.sweep.table import rows_of
from tests.federation.small import CONFIG

FOUR = """
base = "base.toml"
[axes]
mode = ["none", "central", "distributed"]
epsilon = [1.0, 8.0, inf]
seed = [0, 1]
"""


def write(folder: Path, text: str) -> Path:
    (folder / "base.toml").write_text(CONFIG, encoding="utf-8")
    (folder / "grid.toml").write_text(text, encoding="utf-8")
    return folder / "grid.toml"


def test_a_grid_is_the_product_of_its_axes_and_none_has_one_cell_a_seed(tmp_path: Path) -> None:
    cells = read_grid(write(tmp_path, FOUR)).cells()
    assert len(cells) == 2 * (1 + 3 + 3)
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.axes["epsilon"] for cell in cells if cell.axes["mode"] == "none"} == {math.inf}


def test_every_axis_reaches_the_settings_of_its_cell(tmp_path: Path) -> None:
    text = FOUR + "clients = [6, 8]\n'warmup.draws' = [0, 2]\n[settings]\nevaluation.samples = 90\n"
    places = find_places(write(tmp_path, text), tmp_path / "out", full=False)
    for place in places:
        axes, settings = place.cell.axes, place.settings
        assert settings.privacy.mode == axes["mode"]
        assert settings.federation.clients == axes["clients"]
        assert settings.warmup.draws == axes["warmup.draws"]
        assert settings.run.seed == settings.data.seed == axes["seed"]
        assert settings.evaluation.samples == 90
        if axes["mode"] != "none":
            asked = axes["epsilon"]
            assert settings.privacy.epsilon == (NEARLY_NO_NOISE if math.isinf(asked) else asked)
    assert len(places) == 14 * 4


def test_a_value_may_bring_other_settings_with_it(tmp_path: Path) -> None:
    text = 'base = "base.toml"\n[axes]\nseed = [0]\n[[axes.clients]]\nvalue = 6\n'
    text += "[[axes.clients]]\nvalue = 9\nfederation.clients_per_round = 9\nsecagg.threshold = 7\n"
    small, large = find_places(write(tmp_path, text), tmp_path / "out", full=False)
    assert (small.settings.federation.clients_per_round, small.settings.secagg.threshold) == (5, 4)
    assert (large.settings.federation.clients_per_round, large.settings.secagg.threshold) == (9, 7)
    assert large.cell.axes == {"seed": 0, "clients": 9}


def test_a_variant_is_a_name_for_what_stands_beside_it(tmp_path: Path) -> None:
    text = 'base = "base.toml"\n[axes]\nseed = [0]\n[[axes.variant]]\nvalue = "as it is"\n'
    text += '[[axes.variant]]\nvalue = "ε-prediction"\ndiffusion.prediction = "epsilon"\nsampler.steps = 7\n'
    plain, other = find_places(write(tmp_path, text), tmp_path / "out", full=False)
    assert (other.settings.diffusion.prediction, other.settings.sampler.steps) == ("epsilon", 7)
    seeds = ["run.seed=0", "data.seed=0", "run.workers=1"]
    assert plain.settings == config.load(tmp_path / "base.toml", seeds)
    assert rows_of([plain, other], {})[1]["variant"] == "ε-prediction"
    assert other.cell.name.isascii()
    wrong = write(tmp_path, text.replace("sampler.steps", "sampler.no_such_key"))
    with pytest.raises(ConfigError, match="no_such_key"):
        find_places(wrong, tmp_path / "out", full=False)


def test_keep_cuts_the_product_and_full_does_not(tmp_path: Path) -> None:
    text = (
        'keep = [{ mode = ["central"], seed = [1] }, { mode = ["none"], epsilon = [1.0], seed = [0] }]\n'
        + FOUR
    )
    grid = read_grid(write(tmp_path, text))
    kept = [(cell.axes["mode"], cell.axes["epsilon"], cell.axes["seed"]) for cell in grid.cells()]
    assert sorted(kept) == [
        ("central", 1.0, 1),
        ("central", 8.0, 1),
        ("central", math.inf, 1),
        ("none", math.inf, 0),  # keep asks mode none for no epsilon
    ]
    assert len(grid.cells(full=True)) == 14


def test_a_part_of_a_grid_is_named_by_its_axes_and_parts_make_the_whole(tmp_path: Path) -> None:
    cells = read_grid(write(tmp_path, FOUR)).cells()
    assert chosen(cells, ()) == cells
    first, second = chosen(cells, ["seed=0"]), chosen(cells, ["seed=1"])
    assert {cell.axes["seed"] for cell in first} == {0}
    assert sorted(cell.name for cell in first + second) == sorted(cell.name for cell in cells)
    assert chosen(cells, ["seed=0", "seed=1"]) == cells
    (one,) = chosen(cells, ["mode=central", "epsilon=8", "seed=1"])
    assert one.axes == {"mode": "central", "epsilon": 8.0, "seed": 1}


@pytest.mark.parametrize(
    ("only", "words"),
    [
        (["sead=0"], "axis=value of mode, epsilon, seed, got 'sead=0'"),
        (["seed"], "seed= one of 0, 1, got ''"),
        (["seed=2"], "seed= one of 0, 1, got '2'"),
        (["mode=none", "epsilon=8"], "no cell is left"),
    ],
)
def test_a_part_that_is_not_there_is_refused(only: list[str], words: str, tmp_path: Path) -> None:
    cells = read_grid(write(tmp_path, FOUR)).cells()
    with pytest.raises(ConfigError, match=words) as caught:
        chosen(cells, only)
    assert caught.value.key == "--only"


def test_overrides_are_set_in_every_cell_and_an_axis_wins_over_them(tmp_path: Path) -> None:
    overrides = ("sampler.steps=7", "run.seed=5")
    places = find_places(write(tmp_path, FOUR), tmp_path / "out", overrides, full=False)
    assert {place.settings.sampler.steps for place in places} == {7}
    assert {place.settings.run.seed for place in places} == {0, 1}


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("base = 'base.toml'\n[axes]\n", "axes", "at least one axis"),
        ("base = 'base.toml'\n[axes]\nmoode = [1]\n", "axes.moode", "mode, epsilon"),
        ("base = 'base.toml'\n[axes]\nmode = []\n", "axes.mode", "at least one value"),
        ("base = 'base.toml'\n[axes]\nepsilon = [0.0]\n", "axes.epsilon", "> 0"),
        (
            "base = 'base.toml'\n[axes]\nclients = [{ secagg = { threshold = 3 } }]\n",
            "axes.clients",
            "`value`",
        ),
        ("base = 'base.toml'\n[axes]\nclients = [[1]]\n", "axes.clients", "a number, a word"),
        ("base = 'base.toml'\nkeep = [{ seed = [7] }]\n[axes]\nseed = [0]\n", "keep.seed", "got 7"),
        ("base = 'base.toml'\naxis = 1\n", "axis", "did you mean axes"),
    ],
)
def test_a_wrong_grid_is_refused_by_its_key(tmp_path: Path, text: str, key: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read_grid(write(tmp_path, text))
    assert caught.value.key == key


def test_a_wrong_setting_is_refused_by_its_key_and_names_the_cell(tmp_path: Path) -> None:
    grid = write(tmp_path, FOUR + '"warmup.drawz" = [1]\n')
    with pytest.raises(ConfigError, match=r"did you mean warmup\.draws.*in the cell mode-none") as caught:
        find_places(grid, tmp_path / "out", full=False)
    assert caught.value.key == "warmup.drawz"


def test_two_cells_never_share_a_folder() -> None:
    grid = Grid(base=Path("a"), axes={"mode": ("none",), "data.directory": ("a b", "a-b")})
    with pytest.raises(ConfigError, match="share the folder"):
        grid.cells()
