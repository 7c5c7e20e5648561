"""A real scan: 1440 sparse frames of a ruby, with the numbers that the definitions give on it."""

import json

import numpy as np
import pytest

from hedmlive.streaming import TABLES, Frame, Recipe, Reducer, SparseImage, digest, join

SHAPE = (3888, 3072)
DIGESTS = {
    (300, 2): "e4e0c79863a21e6a8dd3a49be451d9af4ef6c028d98f844581953bebd5ad56fb",
    (0, 1): "d2c397f704c81147419b3ec87d6ce246ed684f05db29af44d276eb8d65ee8e9f",
    (150, 3): "df02e1bce56eb017e3a0351b5af5d6d766cd1cab4fcfb2a8793250f79a7d2e58",
}


@pytest.fixture(scope="module")
def ruby(shared_data):
    folder = shared_data / "ruby_ff1"
    with np.load(folder / "ruby_ff1.npz") as file:
        arrays = dict(file)
    frames = []
    for k, (start, end) in enumerate(arrays["omega"]):
        row, col, value = (arrays[f"{k}_{name}"] for name in ("row", "col", "data"))
        image = SparseImage(shape=SHAPE, row=row, col=col, value=value)
        frames.append(Frame(frame=k, point=k, image=image, omega_start=start, omega_end=end))
    return frames, list(json.loads((folder / "expected.json").read_text()).values())


@pytest.mark.parametrize(("case", "threshold", "min_pixels"), [(0, 300, 2), (1, 0, 1), (2, 150, 3)])
def test_the_numbers_are_those_expected(ruby, case, threshold, min_pixels):
    frames, expected = ruby
    reducer = Reducer(Recipe(threshold=threshold, min_pixels=min_pixels))
    batches = [*(reducer.push(frame) for frame in frames), reducer.flush()]
    tables = join(batches)
    peaks, links, tracks = tables["peaks"], tables["links"], tables["tracks"]
    got = {
        "n_peaks": len(peaks["frame"]),
        "n_links": len(links["axis"]),
        "n_tracks": len(tracks["track"]),
        "n_pixels": len(tables["pixels"]["row"]),
        "sum_intensity": peaks["sum_intensity"].sum(),
        "shared": links["n_shared_pixels"].sum(),
        "mean_row": peaks["row"].mean(),
        "mean_col": peaks["col"].mean(),
        "longest_track": tracks["n_peaks"].max(),
        "brightest_track": tracks["sum_intensity"].max(),
        "busiest_frame": np.bincount(peaks["frame"]).max(),
    }
    assert {name: got[name] for name in expected[case]} == pytest.approx(expected[case], rel=1e-12)
    assert sum(tracks["n_peaks"]) == len(tables["members"]["peak"]) == got["n_peaks"]
    # These stay the same for ever: a faster kernel, another numpy or another machine must not change a bit.
    assert digest(TABLES, lambda name: [b[name] for b in batches if name in b]) == DIGESTS[threshold, min_pixels]
