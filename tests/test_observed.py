"""Data sets of really incomplete images: their masks, the law of fresh ones, what is described."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from paperlib import incomplete_source, paths, seeds
from paperlib.clouds import clear_sky, fractal_noise, write_cloudy_scenes
from paperlib.config import ConfigurationError, RunConfig
from paperlib.corruption import ObservedMasks, next_other
from paperlib.data import Observations, law_of, load_prepared, prepare
from paperlib.describe import describe
from paperlib.evaluation import EvaluationProtocol
from paperlib.sources import DataError, open_source
from paperlib.training import train

SIZE = 16


def scene(rng: np.random.Generator, shape=(32, 48), bands=3) -> tuple[np.ndarray, np.ndarray]:
    """Random values (H, W, C) uint8 and what is observed of them (H, W), in blocks."""
    values = rng.integers(0, 256, (*shape, bands), dtype=np.uint8)
    blocks = rng.random((shape[0] // 4, shape[1] // 4)) < 0.7
    return values, blocks.repeat(4, 0).repeat(4, 1)


@pytest.fixture
def folder(tmp_path):
    """Eight RGBA files; the colours under the holes are garbage."""
    rng = np.random.default_rng(0)
    place = tmp_path / "mine"
    place.mkdir()
    for i in range(8):
        values, observed = scene(rng)
        Image.fromarray(np.dstack([values, observed * np.uint8(255)])).save(place / f"s {i}é.png")
    return place


def config(folder, **changes) -> RunConfig:
    return RunConfig(
        **{"dataset": "incomplete", "source": str(folder), "corruption": "observed", "size": SIZE}
        | {"attention": 0, "g_channels": [8, 8], "d_channels": [8, 8], "e_channels": [8, 8]}
        | {"steps": 2, "batch_size": 4, "threads": 1, "test": 0.0}
        | changes
    )


# The law of observed masks


def distinct_masks(n=6) -> torch.Tensor:
    """(n, 1, 8, 8) bool; mask i shows its first i + 1 rows."""
    return torch.stack([(torch.arange(8) <= i)[:, None].expand(8, 8) for i in range(n)])[:, None]


def test_a_fresh_mask_is_an_observed_one_and_never_the_image_s_own():
    masks = distinct_masks()
    law, generator = ObservedMasks(masks), seeds.generator("masks")
    for own in masks.float():
        fresh = law.sample(200, 8, generator, own.expand(200, 1, 8, 8))
        known = (fresh[:, None] == masks[None].float()).flatten(2).all(2)  # (200, n)
        assert known.any(1).all()
        assert not (fresh == own).flatten(1).all(1).any()
        assert (known.sum(0) > 0).sum() == len(masks) - 1  # each of the others is drawn


@pytest.mark.parametrize("at_once", [1, 3, 4096])
def test_in_place_of_its_own_mask_an_image_gets_that_of_the_next_that_differs(at_once):
    a, b, c = distinct_masks(3)
    masks = torch.stack([a, a, b, c, c, c, a])
    assert next_other(masks, at_once).tolist() == [2, 2, 3, 6, 6, 6, 2]


def test_flips_and_shifts_keep_the_share_that_is_observed():
    masks = distinct_masks(2)
    flipped = ObservedMasks(masks, flips=True).sample(100, 8, seeds.generator("f"))
    assert {round(float(m.sum())) for m in flipped} == {8, 16}
    assert any(m[0, -1].all() for m in flipped) and any(m[0, 0].all() for m in flipped)
    moved = ObservedMasks(masks, shift=2).sample(200, 8, seeds.generator("s"))
    assert {round(float(m.sum())) for m in moved} == {8, 16}
    first_rows = {int(m[0].any(1).float().argmax()) for m in moved if m.sum() == 8}
    assert first_rows == {0, 1, 2, 6, 7}


def test_masks_are_a_function_of_the_generator():
    law = ObservedMasks(distinct_masks(), flips=True, shift=3)
    a, b = (law.sample(20, 8, seeds.generator("x")) for _ in range(2))
    assert torch.equal(a, b)


def test_equal_masks_cannot_be_drawn_from():
    with pytest.raises(ValueError, match="equal"):
        ObservedMasks(torch.ones(3, 1, 8, 8, dtype=bool))


# Preparing


def test_tiles_hold_what_was_observed_and_nothing_else(empty_workspace, folder):
    prepared = prepare(config(folder).data)
    assert prepared.manifest["count"] == 8 * 2 * 3
    for levels, seen, name in zip(
        prepared.images(), prepared.masks(), prepared.manifest["ids"], strict=True
    ):
        file, _, place = name.rpartition("#")
        top, left = map(int, place.split(","))
        whole = np.asarray(Image.open(folder / file))[top : top + SIZE, left : left + SIZE]
        assert (seen == (whole[..., 3] > 0)).all()
        assert (levels[seen] == whole[seen][:, :3]).all()
        assert not levels[~seen].any()


@pytest.mark.parametrize("method", ["both", "mask_aware"])
def test_garbage_under_the_holes_leaves_training_bit_identical(empty_workspace, folder, method):
    train_at = {}
    for name in ("a", "b"):
        run = config(folder, method=method)
        prepare(run.data)
        train(run, empty_workspace / name)
        train_at[name] = (empty_workspace / name / "generator.safetensors").read_bytes()
        rng = np.random.default_rng(9)
        for path in folder.glob("*.png"):
            picture = np.array(Image.open(path))
            hidden = picture[..., 3] == 0
            picture[hidden, :3] = rng.integers(0, 256, (hidden.sum(), 3))
            Image.fromarray(picture).save(path)
    assert train_at["a"] == train_at["b"]


def test_shrinking_averages_what_was_observed(empty_workspace, tmp_path):
    place = tmp_path / "one"
    place.mkdir()
    for i in range(20):
        values = np.full((32, 32, 3), 100, np.uint8)
        values[:, :16] = 200
        observed = np.ones((32, 32), bool)
        observed[::2, 1::2] = False  # a quarter of each 2 x 2
        observed[8 + i % 4 : 16, :8] = False
        values[~observed] = 7
        Image.fromarray(np.dstack([values, observed * np.uint8(255)])).save(place / f"{i:02d}.png")
    prepared = prepare(config(place, fit="resize").data)
    levels, seen = prepared.images(), prepared.masks()
    assert levels.shape == (20, 16, 16, 3)
    assert set(np.unique(levels[seen])) == {100, 200}
    assert not seen[:, 6, :4].any() and seen[:, :, 8:].all()


def test_tiles_of_which_nothing_is_seen_are_left_out_and_are_no_failures(empty_workspace, folder):
    dark = np.zeros((16, 32, 4), np.uint8)
    dark[:, 16:, 3] = 255
    Image.fromarray(dark).save(folder / "half.png")
    prepared = prepare(config(folder).data)
    assert prepared.manifest["count"] == 8 * 6 + 1
    assert prepared.manifest["left_out"] == 1 and not prepared.manifest["failed"]


@pytest.mark.parametrize("bands", [1, 5])
def test_bands_are_scaled_by_limits_that_the_manifest_keeps(empty_workspace, tmp_path, bands):
    rng = np.random.default_rng(1)
    place = tmp_path / "bands"
    place.mkdir()
    for i in range(6):
        values = rng.uniform(-3, 9, (SIZE, SIZE, bands)).astype(np.float32)
        values[0, i], values[1, 0], values[2, 0] = np.nan, -3, 9
        np.save(place / f"{i}.npy", values)
    run = config(place, bands=bands)
    prepared = prepare(run.data)
    assert prepared.manifest["limits"] == [[-3.0, 9.0]] * bands
    rows = prepared.indices("training")
    observed = Observations(prepared, "training", law_of(run), 0, "cpu")
    y, m = observed.batch(np.arange(len(rows)))
    assert y.shape[1] == bands
    file = prepared.manifest["ids"][rows[0]].rpartition("#")[0]
    expected = (np.load(place / file) + 3) / 6 - 1
    error = np.nan_to_num(expected) - y[0].permute(1, 2, 0).numpy()
    assert np.abs(error[m[0, 0].numpy() > 0]).max() <= 1 / 255
    record = train(run, empty_workspace / "run")
    assert record["limits"] == [[-3.0, 9.0]] * bands


def test_images_of_other_band_counts_are_named(empty_workspace, folder):
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folder / "grey.png")
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(folder / "grey.mask.png")
    with pytest.raises(DataError, match=r"grey\.png: 1 bands, not 3"):
        prepare(config(folder).data)


@pytest.fixture
def decoded_files(monkeypatch) -> list[str]:
    """The names of the files that are decoded, as often as they are."""
    names, decode = [], incomplete_source.read_incomplete
    monkeypatch.setattr(
        incomplete_source,
        "read_incomplete",
        lambda path, *options: names.append(path.name) or decode(path, *options),
    )
    return names


def write_npy(folder, *dtypes) -> None:
    """Two bands a file, values 1 to 200; the first pixel is missing."""
    rng = np.random.default_rng(3)
    folder.mkdir()
    for i, dtype in enumerate(dtypes):
        values = rng.integers(1, 200, (SIZE, SIZE, 2)).astype(dtype)
        values[0, 0] = 0
        np.save(folder / f"{i}.npy", values)


def test_limits_of_8_bits_are_known_from_one_file(empty_workspace, tmp_path, decoded_files):
    write_npy(tmp_path / "bands", *[np.uint8] * 5, np.uint16)
    data = config(tmp_path / "bands", bands=2, missing_value=0.0).data
    assert open_source(data).limits == [[0.0, 255.0]] * 2
    assert decoded_files == ["0.npy", "5.npy"]


def test_limits_are_found_once_whatever_the_threads(empty_workspace, tmp_path, decoded_files):
    write_npy(tmp_path / "bands", *[np.float32] * 20)
    source = open_source(config(tmp_path / "bands", bands=2, missing_value=0.0).data)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: source.limits, range(8)))
    assert found == found[:1] * 8 and len(decoded_files) == 20


def test_a_band_of_one_value_is_an_error_that_names_the_folder(empty_workspace, tmp_path):
    (tmp_path / "flat").mkdir()
    values = np.ones((SIZE, SIZE), np.float32)
    values[0, 0] = np.nan
    np.save(tmp_path / "flat" / "a.npy", values)
    with pytest.raises(
        DataError, match="a.npy#0,0: .*flat: no image can be read, or a band has one value"
    ):
        prepare(config(tmp_path / "flat", bands=1, validation=0.0).data)


def test_a_huge_file_is_one_failure_not_one_for_each_of_its_tiles(empty_workspace, folder):
    Image.fromarray(np.zeros((64, 64, 4), np.uint8)).save(folder / "z.png")
    data = config(folder, max_pixels=32 * 48).data
    names = open_source(data).ids
    assert len(names) == 8 * 6 + 1 and names[-1] == "z.png#0,0"
    with pytest.raises(DataError, match=r"1 of 49 .*z\.png: 64 x 64 px, more than max_pixels"):
        prepare(data)


def test_turned_photographs_are_cut_into_tiles_upright(empty_workspace, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    (tmp_path / "turned").mkdir()
    path = tmp_path / "turned" / "a.png"
    values, observed = scene(np.random.default_rng(4), (SIZE, 3 * SIZE))
    Image.fromarray(np.dstack([values, observed * np.uint8(255)])).save(path, exif=turned)
    prepared = prepare(config(path.parent, validation=0.0).data)
    assert list(prepared.manifest["ids"]) == [f"a.png#{SIZE * k},0" for k in range(3)]
    upright = np.rot90(np.where(observed[..., None], values, 0), -1)
    assert np.array_equal(np.concatenate(prepared.images()), upright)
    assert np.array_equal(np.concatenate(prepared.masks()), np.rot90(observed, -1))


def bad_files(folder) -> dict[str, str]:
    """Writes what cannot be used into ``folder``; name to what is said of it."""

    def write(name, values, observed=None):
        alpha = [] if observed is None else [observed * np.uint8(255)]
        Image.fromarray(np.dstack([values, *alpha])).save(folder / name)

    values, observed = scene(np.random.default_rng(5))
    write("a mask of another size.png", values)
    Image.fromarray(observed.T).save(folder / "a mask of another size.mask.png")
    write("nothing observed.png", values, np.zeros_like(observed))
    write("without a mask é.png", values)
    np.save(folder / "two.npy", np.where(observed[..., None], values[..., :2], np.nan))
    (folder / "truncated.png").write_bytes(next(folder.glob("*0é.png")).read_bytes()[:300])
    return {
        "a mask of another size.mask.png": "a mask of 32 x 48 px for an image of 48 x 32",
        "nothing observed.png": "nothing at all is observed",
        "without a mask é.png": "nothing says what is missing",
        "two.npy": "2 bands, not 3",
        "truncated.png": "cannot be decoded",
    }


def test_every_bad_file_is_named_with_what_is_wrong(empty_workspace, folder, monkeypatch):
    expected = bad_files(folder)
    with pytest.raises(DataError) as error:
        prepare(config(folder).data)
    assert len(str(error.value).splitlines()) == 1
    monkeypatch.setattr("paperlib.data.TOLERATED_FAILURES", 0.9)
    prepared = prepare(config(folder).data)
    assert prepared.manifest["count"] == 8 * 6
    said = set(prepared.manifest["failed"].values())
    assert len(said) == len(expected)
    for name, reason in expected.items():
        assert any(f"{folder / name}: " in line and reason in line for line in said), name


def test_a_complete_image_among_incomplete_ones_is_an_observation(empty_workspace, folder):
    values, observed = scene(np.random.default_rng(5))
    clear = np.dstack([values, np.full_like(values[..., 0], 255)])
    Image.fromarray(clear).save(folder / "clear sky.png")
    prepared = prepare(config(folder).data)
    ids = (prepared.folder / "ids.txt").read_text().splitlines()
    mine = [i for i, name in enumerate(ids) if name.startswith("clear sky")]
    assert mine and prepared.masks()[mine].all() and not prepared.manifest["failed"]


def test_no_pixel_missing_anywhere(empty_workspace, folder):
    for path in folder.glob("*.png"):
        image = Image.open(path)
        image.putalpha(255)
        image.save(path)
    with pytest.raises(DataError, match="no pixel is missing in any of"):
        prepare(config(folder).data)
    assert not list(paths.DATA.glob("incomplete-*"))  # nothing half-written is left


def test_an_error_names_several_files_not_several_tiles_of_one(empty_workspace, folder):
    for path in folder.glob("*.png"):
        Image.open(path).convert("RGB").save(path)
    with pytest.raises(DataError) as error:
        prepare(config(folder).data)
    assert all(f"s {k}é.png#0,0: " in str(error.value) for k in range(3))


# What cannot be


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"corruption": "small_patch"}, "go together"),
        ({"dataset": "bluemarble"}, "go together"),
        ({"method": "paired"}, "learns from complete images"),
        ({"missing": "mask", "missing_value": 0}, "missing: mask and missing_value contradict"),
    ],
)
def test_what_does_not_fit_incomplete_images_is_refused(changes, words):
    values = {"dataset": "incomplete", "corruption": "observed"}
    with pytest.raises(ConfigurationError, match=words):
        RunConfig.parse(values | changes)


def test_there_is_nothing_complete_to_measure_against(empty_workspace, folder):
    run = config(folder)
    prepare(run.data)
    with pytest.raises(DataError, match="no complete images"):
        EvaluationProtocol(run.evaluation, "cpu")


# Describing


def write_blocks(place, brightness_by_cover: bool) -> None:
    """60 images of one tile; in the dependent ones more is missing where it is brighter."""
    place.mkdir()
    rng = np.random.default_rng(2)
    for i in range(60):
        hidden = 1 + i % (SIZE - 4)
        level = 60 + 10 * hidden if brightness_by_cover else rng.integers(60, 190)
        values = np.full((SIZE, SIZE, 3), level, np.uint8)
        observed = np.ones((SIZE, SIZE), bool)
        observed[:hidden] = False
        observed[:, 0] = False  # a dead column
        Image.fromarray(np.dstack([values, observed * np.uint8(255)])).save(place / f"{i}.png")


@pytest.mark.parametrize("dependent", [False, True])
def test_a_description_counts_and_tests(empty_workspace, tmp_path, dependent):
    write_blocks(tmp_path / "blocks", dependent)
    run = config(tmp_path / "blocks", validation=0.0)
    found = describe(prepare(run.data))
    assert found.images == 60 and found.distinct == SIZE - 4
    assert found.never_observed == 2 * SIZE - 1  # the dead column, and the first row
    assert (found.observed_by[:, 0] == 0).all()
    shares = [(SIZE + (SIZE - 1) * (1 + i % (SIZE - 4))) / SIZE**2 for i in range(60)]
    assert found.missing == pytest.approx(np.mean(shares))
    assert found.spread == pytest.approx(np.std(shares))
    assert found.looks_dependent == dependent
    text = str(found)
    assert "no method can learn" in text
    assert ("look dependent" in text) == dependent


# Clouds


def test_fractal_noise_is_smooth_and_of_unit_variance():
    field = fractal_noise(64, np.random.default_rng(0))
    assert field.std() == pytest.approx(1) and abs(field.mean()) < 1e-9
    assert np.square(np.diff(field, axis=0)).mean() < 0.5  # 2 where pixels are independent


def test_clouds_cover_what_they_are_told():
    for cover in (0.2, 0.7):
        seen = clear_sky(64, cover, np.random.default_rng(1))
        assert seen.mean() == pytest.approx(1 - cover, abs=0.01)


def test_cloudy_scenes_hold_nothing_under_the_clouds(tmp_path):
    training, held_out = write_cloudy_scenes(tmp_path / "clouds", most=2)
    files = sorted(training.glob("*.png")) + sorted(held_out.glob("*.png"))
    assert len(files) == 4 and len({f.name for f in files}) == 4
    for path in files:
        picture = np.asarray(Image.open(path))
        assert not picture[picture[..., 3] == 0].any()
        assert 0.15 < (picture[..., 3] == 0).mean() < 0.75
    before = files[0].stat().st_mtime_ns
    write_cloudy_scenes(tmp_path / "clouds", most=2)
    assert files[0].stat().st_mtime_ns == before


def test_the_profile_of_the_repository_is_one_of_incomplete_images():
    from paperlib.config import load_profile

    (run,) = load_profile("clouds")
    assert (run.dataset, run.corruption) == ("incomplete", "observed")
    assert paths.config("clouds").is_file()


def test_a_prepared_set_of_complete_images_has_no_masks(workspace, tiny_config):
    prepared = load_prepared(tiny_config.data)
    assert prepared.masks() is None
    with pytest.raises(DataError, match="nothing to describe"):
        describe(prepared)
