"""Results of other programs: every column in our axes and units, and broken files named in one line."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hedmlive.callbacks import NewResult, read_result
from hedmlive.callbacks.results_layout import CELL, QUATERNION, STRAIN, ranked, solutions_of
from hedmlive.streaming import Columns, SettingsError

# APS x, y, z are MIDAS's y, z, x, and hexrd's -x, y, -z.
TO_MIDAS = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
TO_HEXRD = np.diag([-1.0, 1.0, -1.0])
TRUE = Rotation.from_euler("ZXZ", [20.0, 50.0, 70.0], degrees=True).as_matrix()
PLACE = np.array([10.0, 20.0, 30.0])
TENSOR = np.array([[1.0, 0.4, 0.5], [0.4, 2.0, 0.6], [0.5, 0.6, 3.0]]) * 1e-3
CUBIC = np.array([4.0, 4.0, 4.0, 90.0, 90.0, 90.0])
HEXAGONAL = np.array([4.76, 4.76, 12.99, 90.0, 90.0, 120.0])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def row_of(new: NewResult, row: int = 0) -> dict[str, float]:
    rows = solutions_of(new)[1]
    return {name: values[row].item() for name, values in rows.items()}


def check(row: dict[str, float], *, strain: bool = True) -> None:
    """What every program's file below says of the first grain."""
    quaternion = [row[name] for name in QUATERNION]
    np.testing.assert_allclose(Rotation.from_quat(quaternion, scalar_first=True).as_matrix(), TRUE, atol=1e-6)
    np.testing.assert_allclose([row[name] for name in "xyz"], PLACE, atol=1e-3)
    if strain:
        wanted = [TENSOR[i, j] for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))]
        np.testing.assert_allclose([row[name] for name in STRAIN], wanted, atol=1e-9)


def joined(*parts: Any) -> str:
    return " ".join(f"{value:.9f}" for part in parts for value in np.ravel(part))


def grains_csv(group: int = 225) -> str:
    names = [f"O{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)]
    strain = [f"eFab{i}{j}" for i in (1, 2, 3) for j in (1, 2, 3)]
    columns = ["GrainID", *names, "X", "Y", "Z", *CELL, "DiffPos", "Confidence", *strain, "PhaseNr"]
    values = joined(TO_MIDAS @ TRUE, TO_MIDAS @ PLACE, CUBIC, 7.5, 0.75, 1e6 * (TO_MIDAS @ TENSOR @ TO_MIDAS.T), 1.0)
    cell = " ".join(map(str, CUBIC))
    return f"%NumGrains 1\n%SpaceGroup:{group}\n%Lattice Parameter: {cell}\n%{' '.join(columns)}\n17 {values}\n"


def test_midas(tmp_path: Path) -> None:
    new = read_result(write(tmp_path / "Grains.csv", grains_csv()))
    row = row_of(new)
    check(row)
    assert (row["label"], row["phase"], row["completeness"], row["midas_DiffPos"]) == (17, 1, 0.75, 7.5)
    assert (row["a"], row["gamma"], row["item"], row["rank"]) == (4.0, 90.0, 0, 1)
    assert np.isnan([row["figure_of_merit"], row["size"]]).all()
    assert (new.program, new.space_group, new.files[0].name) == ("MIDAS", 225, "Grains.csv")
    table, _ = solutions_of(new)
    assert {column.name: column.meaning for column in table.columns}["e_xx"].endswith("eFab, Fable-Beaudoin")


def test_hexrd(tmp_path: Path) -> None:
    stretch = TO_HEXRD @ TENSOR @ TO_HEXRD.T
    at = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))
    names = ["exp_map_c[0]", "exp_map_c[1]", "exp_map_c[2]", "t_vec_c[0]", "t_vec_c[1]", "t_vec_c[2]"]
    names += [f"ln(V_s)[{i},{j}]" for i, j in at] + ["inv(V_s)[0,1]*sqrt(2)"]
    values = joined(
        Rotation.from_matrix(TO_HEXRD @ TRUE).as_rotvec(), TO_HEXRD @ PLACE * 1e-3, [stretch[p] for p in at], 0.25
    )
    text = f"# grain ID completeness chi^2 {' '.join(names)}\n3 0.5 0.001 {values}\n"
    row = row_of(read_result(write(tmp_path / "grains.out", text)))
    check(row)
    assert (row["label"], row["completeness"], row["figure_of_merit"]) == (3, 0.5, 0.001)
    assert row["hexrd_inv_V_s_0_1_sqrt_2"] == 0.25
    assert np.isnan(row["a"])
    none = read_result(write(tmp_path / "none.out", text.splitlines()[0] + "\n"))
    assert len(solutions_of(none)[1]["item"]) == 0


def test_orientations_that_hexrd_accepted(tmp_path: Path) -> None:
    turned = Rotation.from_matrix(TO_HEXRD @ TRUE).as_quat(scalar_first=True)
    new = read_result(write(tmp_path / "accepted_orientations_x.dat", f"{joined(turned)}\n{joined(-turned)}\n"))
    for row in (0, 1):
        found = [row_of(new, row)[name] for name in QUATERNION]
        np.testing.assert_allclose(Rotation.from_quat(found, scalar_first=True).as_matrix(), TRUE, atol=1e-6)
    with pytest.raises(SettingsError, match="quaternion 0 has no length of 1"):
        read_result(write(tmp_path / "b.dat", "1 1 0 0\n"))


def test_imaged11(tmp_path: Path) -> None:
    ubi = 4.0 * (TO_MIDAS @ TRUE).T
    lines = "\n".join(joined(row) for row in ubi)
    text = f"#translation: {joined(TO_MIDAS @ PLACE)}\n#name 0:x.flt\n#npks 33\n#UBI:\n{lines}\n\n#UBI:\n{lines}\n"
    new = read_result(write(tmp_path / "a.map", text))
    check(row_of(new), strain=False)
    first, second = row_of(new), row_of(new, 1)
    np.testing.assert_allclose([first[name] for name in CELL], CUBIC, atol=1e-6)
    assert (first["imaged11_npks"], second["imaged11_npks"]) == (33, -1)
    assert np.isnan([second["x"], second["completeness"], first["e_xx"]]).all()
    assert len(solutions_of(read_result(write(tmp_path / "a.ubi", f"{lines}\n\n{lines}\n")))[1]["item"]) == 2
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["grains/10/ubi"], file["grains/2/ubi"], file["grains/2/npks"] = 2 * ubi, ubi, 5
        file["grains/2/translation"] = TO_MIDAS @ PLACE
    new = read_result(tmp_path / "a.h5")
    check(row_of(new), strain=False)
    assert (row_of(new, 1)["a"], row_of(new)["imaged11_npks"]) == (pytest.approx(8.0), 5)


@pytest.mark.parametrize("cell", [CUBIC, HEXAGONAL], ids=["cubic", "hexagonal"])
def test_the_near_field_of_midas(tmp_path: Path, cell: np.ndarray) -> None:
    # Its x is along a*, 30 degrees from a towards b in a hexagonal crystal.
    turn = Rotation.from_euler("z", -30.0 if cell is HEXAGONAL else 0.0, degrees=True).as_matrix()
    angles = Rotation.from_matrix(TO_MIDAS @ TRUE @ turn.T).as_euler("ZXZ")
    names = "OrientationRowNr OrientationID RunTime X Y TriEdgeSize UpDown Eul1 Eul2 Eul3 Confidence PhaseNr"
    text = f"%TriEdgeSize 5\n%NumPhases 1\n%GlobalPosition 0\n%{names}\n"
    text += f"1 2 3 {joined((TO_MIDAS @ PLACE)[:2])} 5.0 1 {joined(angles)} 0.6 1\n"
    path = write(tmp_path / "a.mic", text)
    with pytest.raises(SettingsError, match="give --cell"):
        read_result(path)
    row = row_of(read_result(path, cell))
    found = [row[name] for name in QUATERNION]
    np.testing.assert_allclose(Rotation.from_quat(found, scalar_first=True).as_matrix(), TRUE, atol=1e-6)
    assert (row["x"], row["z"], row["size"], row["completeness"], row["phase"]) == (10.0, 30.0, 5.0, 0.6, 1)
    assert np.isnan(row["y"])  # the height of a layer is not in the file


def test_hexomap(tmp_path: Path) -> None:
    angles = Rotation.from_matrix(TO_MIDAS @ TRUE).as_euler("ZXZ")
    # Side 0.08 mm, generation 3: an edge of 10 um; the corner is left of the centre, and below it if it points up.
    x, y, z = TO_MIDAS @ PLACE * 1e-3 - (0.005, 0.005 / np.sqrt(3), 0)
    text = f"0.08\n{joined([x, y, z])} 1 3 1 {joined(np.degrees(angles))} 0.9\n"
    row = row_of(read_result(write(tmp_path / "a.mic", text)))
    check(row, strain=False)
    assert (row["size"], row["completeness"], row["phase"]) == (pytest.approx(10.0), 0.9, 1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        layer = file.create_group("slices/z4")
        layer["x"], layer["y"] = np.full((2, 3), 30.0), np.full((2, 3), 10.0)
        layer["EulerAngles"] = np.tile(angles, (2, 3, 1))
        layer["Confidence"], layer["phase"] = np.full((2, 3), 0.5), np.ones((2, 3), "u2")
    new = read_result(tmp_path / "a.h5")
    row = row_of(new, 5)
    assert (row["item"], row["x"], row["z"], row["completeness"]) == (5, 10.0, 30.0, 0.5)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.copy("slices/z4", "slices/z5")
    with pytest.raises(SettingsError, match="wanted one, for their heights are not said"):
        read_result(tmp_path / "a.h5")


def test_several_files_are_ranks(tmp_path: Path) -> None:
    def table(name: str, share: float) -> NewResult:
        text = f"q_w,q_x,q_y,q_z,completeness,mine\n1,0,0,0,{share},5\n0,1,0,0,{share},6\n"
        return read_result(write(tmp_path / name, text))

    new = ranked([table("best.csv", 0.9), table("next.csv", 0.4)])
    rows = solutions_of(new)[1]
    assert rows["item"].tolist() == [0, 0, 1, 1]
    assert rows["rank"].tolist() == [1, 2, 1, 2]
    assert rows["completeness"].tolist() == [0.9, 0.4, 0.9, 0.4]
    assert rows["mine"].tolist() == [5, 5, 6, 6]
    assert [file.name for file in new.files] == ["best.csv", "next.csv"]
    short = read_result(write(tmp_path / "short.csv", "q_w,q_x,q_y,q_z\n1,0,0,0\n"))
    with pytest.raises(SettingsError, match="file 2: holds 1 solutions; wanted one for each of the 2 items"):
        ranked([table("best.csv", 0.9), short])


MIC = "%OrientationRowNr X Y TriEdgeSize Eul1 Eul2 Eul3 Confidence\n"


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "", "wanted Grains.csv or .mic of MIDAS"),
        ("a.csv", "", "columns [] came"),
        ("a.csv", "one,two\n1,2\n", "columns ['one', 'two'] came"),
        ("a.csv", "q_w,x\n1\n", "line 2: holds '1'; wanted 2 numbers"),
        ("a.csv", "q_w,x\n1,os.system\n", "line 2: holds '1 os.system'"),
        ("a.csv", grains_csv(0), "space group 0"),
        ("a.csv", grains_csv().replace("17 ", "17.5 "), "is not whole"),
        ("a.map", "#npks many\n#UBI:\n1 0 0\n0 1 0\n0 0 1\n", "holds 'many'"),
        ("a.map", "#translation: 1\n#UBI:\n1 0 0\n0 1 0\n0 0 1\n", "holds '1'; wanted 3 numbers"),
        ("a.ubi", "1 0 0\n0 1 0\n", "2 rows of numbers came; wanted three for each grain"),
        ("a.ubi", "1 0 0\n0 1 0\n0 0 -1\n", "line 1: UBI of determinant 0 or less"),
        ("a.mic", "%nothing\n", "no line %OrientationRowNr"),
        ("a.mic", "", "wanted 1 numbers"),
        ("a.mic", "1.0\n0 0 0 1 2\n", "line 2: holds '0 0 0 1 2'; wanted 10 numbers"),
        ("a.mic", MIC + "1 2\n", "line 2: holds '1 2'; wanted 8 numbers"),
        ("a.h5", "no HDF5", "cannot be read"),
    ],
)
def test_broken_files_are_named_in_one_line(name: str, text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as error:
        read_result(write(tmp_path / name, text), CUBIC)
    assert says in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "values", "says"),
    [
        ("other", np.eye(3), "neither `grains` of ImageD11 nor `slices` of HEXOMAP"),
        ("grains/0/ubi", -np.eye(3), "is no cell"),
        ("grains/0/ubi", np.eye(2), "is no cell"),
        ("grains/name", 1.0, "holds no grain"),
        ("grains/0/npks", 1.0, "cannot be read"),
        ("slices/z0/x", np.zeros(2), "cannot be read"),
    ],
)
def test_broken_hdf5_is_named_in_one_line(path: str, values: Any, says: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[path] = values
    with pytest.raises(SettingsError) as error:
        read_result(tmp_path / "a.h5")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


GOOD: Columns = {"q_w": np.ones(2), "q_x": np.zeros(2), "q_y": np.zeros(2), "q_z": np.zeros(2)}


@pytest.mark.parametrize(
    ("solutions", "says"),
    [
        ({}, "no column came"),
        ({"x": [1.0], "y": [1.0, 2.0]}, "differ in length"),
        ({"x": [[1.0]]}, "are no lists"),
        ({"x": ["a"]}, "wanted numbers"),
        ({"label": [1.5]}, "wanted whole numbers"),
        ({"item": [0, 0], "x": [0.0, 1.0]}, "item 0 has rank 1; wanted"),
        ({"item": [0, 0], "rank": [1, 3]}, "item 0 has rank 3"),
        ({"item": [-1], "rank": [1]}, "wanted items from 0 on"),
        ({"completeness": [1.5]}, "item 0 has completeness 1.5"),
        ({"completeness": [np.inf]}, "completeness inf"),
        (GOOD | {"q_w": np.array([1.0, 2.0])}, "item 1 has quaternion"),
        (GOOD | {"q_w": np.array([1.0, np.nan])}, "item 1 has quaternion"),
        ({"orientation": np.ones((2, 3))}, "shape (2, 3) came"),
        ({"orientation": np.ones((1, 3, 3))}, "matrix 0 is no rotation"),
        ({"x": [1.0], "no good": [1.0]}, "column 'no good' came"),
        ({"x": [1.0], "X": [1.0]}, "column 'X' came"),
        ({"x": [1.0], "batch": [1.0]}, "column 'batch' came"),
    ],
)
def test_solutions_that_are_none_are_refused(solutions: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError) as error:
        solutions_of(NewResult(program="x", solutions=solutions))
    assert says in str(error.value)
    assert "\n" not in str(error.value)
