"""Far-field results as a source of lattice, group and orientations: every program's own axes, and broken files."""

from pathlib import Path

import hostile
import naive_orientations as naive
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hedmlive.callbacks import HedmLive
from hedmlive.callbacks.seeds import cell_of, find_seeds, read_far_field, read_far_fields
from hedmlive.callbacks.settings import HedmSettings
from hedmlive.streaming import SettingsError

HEXAGONAL = (4.76, 4.76, 12.99, 90.0, 90.0, 120.0)
HEADER = "%GrainID\t" + "\t".join(f"O{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)) + "\tX\tY\tZ"
# One orientation in the axes of APS, x along a and z along c*.
TRUE = Rotation.from_euler("ZXZ", [20.0, 50.0, 70.0], degrees=True).as_matrix()
# APS x, y, z are MIDAS y, z, x.
TO_MIDAS = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
VECTORS = np.array([[4.76, 0.0, 0.0], [-2.38, 4.76 * np.sqrt(0.75), 0.0], [0.0, 0.0, 12.99]])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def grains_csv(matrix: np.ndarray, cell: str = "4.76 4.76 12.99 90 90 120", group: int = 167) -> str:
    row = "\t".join(f"{value:.9f}" for value in matrix.reshape(-1))
    head = f"%NumGrains 1\n%\tSpaceGroup:{group}\n%\tLattice Parameter: {cell}\n{HEADER}\n"
    return f"{head}7\t{row}\t1.0\t2.0\t3.0\n"


def grains_out(matrix: np.ndarray) -> str:
    exp_map = Rotation.from_matrix(matrix).as_rotvec()
    names = "# grain ID completeness chi^2 exp_map_c[0] exp_map_c[1] exp_map_c[2] t_vec_c[0] t_vec_c[1] t_vec_c[2]"
    return f"{names}\n0 0.9 1e-4 {exp_map[0]:.9e} {exp_map[1]:.9e} {exp_map[2]:.9e} 0 0 0\n"


def ubi_map(vectors: np.ndarray) -> str:
    return "#translation: 0 0 0\n#UBI:\n" + "\n".join(" ".join(f"{v:.9f}" for v in row) for row in vectors) + "\n"


def only(path: Path) -> np.ndarray:
    found = read_far_field(path).orientations
    assert found is not None
    assert found.shape == (1, 4)
    return naive.matrix(found[0])


def test_midas(tmp_path: Path) -> None:
    # In MIDAS's crystal x is along a*, which is 30 degrees from a towards b.
    matrix = TO_MIDAS @ TRUE @ naive.turn((0, 0, 1), 30.0)
    path = write(tmp_path / "Grains.csv", grains_csv(matrix))
    np.testing.assert_allclose(only(path), TRUE, atol=1e-6)
    found = read_far_field(path)
    assert found.space_group == 167
    assert found.lattice_parameters is not None
    assert found.lattice_parameters.tolist() == list(HEXAGONAL)


def test_hexrd(tmp_path: Path) -> None:
    path = write(tmp_path / "grains.out", grains_out(np.diag([-1.0, 1.0, -1.0]) @ TRUE))
    np.testing.assert_allclose(only(path), TRUE, atol=1e-6)
    found = read_far_field(path)
    assert (found.space_group, found.lattice_parameters) == (None, None)


def test_imaged11(tmp_path: Path) -> None:
    path = write(tmp_path / "grains.map", ubi_map(VECTORS @ (TO_MIDAS @ TRUE).T))
    np.testing.assert_allclose(only(path), TRUE, atol=1e-6)
    np.testing.assert_allclose(read_far_field(path).lattice_parameters, HEXAGONAL, atol=1e-5)  # type: ignore[arg-type]
    names = ("cell__a", "cell__b", "cell__c", "cell_alpha", "cell_beta", "cell_gamma")
    lines = "\n".join(f"{name} {value}" for name, value in zip(names, HEXAGONAL, strict=True))
    par = write(tmp_path / "a.par", f"{lines}\ncell_lattice_[P,A,B,C,I,F,R] 167\n")
    found = read_far_field(par)
    assert (found.space_group, found.orientations) == (167, None)
    together = read_far_fields(HedmSettings(far_field_result=(par, path)))
    assert together is not None
    assert together.space_group == 167
    assert together.orientations is not None


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("g.txt", "", "wanted Grains.csv"),
        ("g.csv", "a,b\n1,2\n", "no line %GrainID"),
        ("g.csv", HEADER + "\n1 2 3\n", "no line `Lattice Parameter:`"),
        ("g.csv", grains_csv(np.eye(3), cell="0 0 0 0 0 0"), "make a cell"),
        ("g.csv", grains_csv(np.eye(3), cell="4 4 4 90 90"), "line 3: holds '4 4 4 90 90'; wanted 6 numbers"),
        ("g.csv", grains_csv(np.eye(3), group=999), "space group 999"),
        ("g.csv", grains_csv(2 * np.eye(3)), "grain 1 of the list: O11 to O33 are no rotation"),
        ("g.csv", grains_csv(np.diag([1.0, 1.0, -1.0])), "no rotation"),
        ("g.csv", grains_csv(np.eye(3)).replace("\t3.0", ""), "line 5: holds"),
        ("g.out", "# nothing\n1 2 3\n", "no header with exp_map_c"),
        ("g.out", grains_out(np.eye(3)).replace("1e-4", "__import__('os')"), "line 2: holds"),
        ("g.map", "#npks 3\n", "no line #UBI"),
        ("g.map", "#UBI:\n1 0 0\n0 1 0\n", "line 4: holds ''; wanted 3 numbers"),
        ("g.map", ubi_map(np.zeros((3, 3))), "determinant"),
        ("g.par", "cell__a 4\n", "no cell__b"),
    ],
)
def test_broken_files_are_named_in_one_line(name: str, text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        read_far_field(write(tmp_path / name, text))
    assert says in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_far_field(tmp_path / "Grains.csv")
    (tmp_path / "Grains.csv").write_bytes(b"\x89HDF\xff\xfe")
    with pytest.raises(SettingsError, match="no text file"):
        read_far_field(tmp_path / "Grains.csv")


@pytest.mark.parametrize(
    "values",
    [None, "abc", [1, 2], [0] * 6, [4, 4, 4, 90, 90, float("nan")], [4, 4, 4, 90, 90, 200], [4, 4, 4, 20, 30, 80]],
)
def test_what_is_no_cell(values: object) -> None:
    assert cell_of(values) is None


def test_where_seeds_come_from(tmp_path: Path) -> None:
    path = write(tmp_path / "grains.out", grains_out(TRUE))
    settings = HedmSettings(far_field_result=(path,), seed_resolution=30.0)
    found = find_seeds(settings, read_far_fields(settings), 225)
    assert found is not None
    assert "far-field result: hexrd" in found.origin
    alone = HedmSettings(seed_resolution=30.0)
    generated = find_seeds(alone, None, 225)
    assert generated is not None
    assert (generated.resolution, len(generated.orientations) > 10) == (30.0, True)
    assert find_seeds(alone, None, None) is None
    assert find_seeds(HedmSettings(), None, 225) is None


def test_a_live_session_says_before_the_scan_that_it_cannot_be_read(tmp_path: Path) -> None:
    said = hostile.settings(tmp_path, hedm={"far_field_result": str(tmp_path / "Grains.csv")})
    with pytest.raises(SettingsError, match=r"Grains\.csv: cannot be read"):
        HedmLive(said)
