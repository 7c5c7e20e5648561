"""The hostile corpus through the reduction alone and through the live callback."""

from pathlib import Path

import hostile
import pytest

from hedmlive.callbacks import HedmLive, RunResult, load_settings, open_source, process


def named(problems: tuple[str, ...] | list[str], case: hostile.Case) -> None:
    """Exactly one problem, naming the run and the frame."""
    assert len(problems) == 1 or problems[1:] == [f"and {len(case.absent) - 1} more"], problems
    frame = "" if case.frame is None else f", frame {case.frame}"
    assert case.says in problems[0]
    assert "\n" not in problems[0]
    if case.name != "unknown descriptor":  # whose run nobody can know
        assert problems[0].startswith(f"run {hostile.UID[:8]}{frame}: ")


def reduced(result: RunResult, case: hostile.Case) -> None:
    wanted = hostile.expected_digest(case.absent, without_omega=case.without_omega, roles=case.roles)
    assert result.digests == {0: wanted}
    assert result.progress.n_frames == hostile.N_FRAMES - len(case.absent)
    if "event missing" not in case.name:
        assert result.progress.n_rejected == len(case.absent)


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_reduction(case: hostile.Case, tmp_path: Path) -> None:
    docs = case.change(hostile.run(case.way, tmp_path), tmp_path)
    result = process(docs, load_settings(hostile.settings(tmp_path)), write_raw=True)
    named(list(result.problems), case)
    reduced(result, case)


@pytest.mark.parametrize("case", hostile.CASES, ids=lambda case: case.name)
def test_live_and_replay(case: hostile.Case, tmp_path: Path) -> None:
    docs = case.change(hostile.run(case.way, tmp_path), tmp_path)
    live = HedmLive(hostile.settings(tmp_path))
    try:
        for name, doc in docs:
            live(name, doc)
        if case.stops:
            live.wait(120)
    finally:
        live.close()
    [result] = live.results.values()
    named([*live.problems.lines(), *result.problems], case)
    reduced(result, case)
    assert result.raw is not None
    source = open_source(str(result.raw))
    again = process(source.documents, load_settings(hostile.settings(tmp_path / "again")), stem="again")
    assert again.digests == result.digests
