"""The same run in every form in which documents may come gives the digest of the reducer alone."""

import random
from pathlib import Path
from typing import Any

import hostile
import pytest
from event_model import pack_event_page
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedmlive.callbacks import FrameAssembler, Problems, load_settings, process


def digests(docs: hostile.Documents, folder: Path, **changes: Any) -> tuple[dict[int, str], tuple[str, ...]]:
    result = process(docs, load_settings(hostile.settings(folder, **changes)))
    return dict(result.digests), result.problems


def as_page(docs: hostile.Documents, size: int) -> hostile.Documents:
    """The events of the primary stream in pages, at the place of the last of each."""
    made: hostile.Documents = []
    events: list[Any] = []
    for name, doc in docs:
        if name == "event" and doc["descriptor"].endswith("primary"):
            events.append(doc)
            if len(events) == size:
                made.append(("event_page", dict(pack_event_page(*events))))
                events = []
            continue
        if name == "stop" and events:
            made.append(("event_page", dict(pack_event_page(*events))))
        made.append((name, doc))
    return made


def shuffled(docs: hostile.Documents, seed: int) -> hostile.Documents:
    """Everything behind the descriptors in another order, but for the stop."""
    first = 1 + max(at for at, (name, _) in enumerate(docs) if name == "descriptor")
    middle = docs[first:-1]
    random.Random(seed).shuffle(middle)
    return [*docs[:first], *middle, docs[-1]]


@pytest.mark.parametrize("way", hostile.WAYS)
def test_as_it_comes(way: str, tmp_path: Path) -> None:
    assert digests(hostile.run(way, tmp_path), tmp_path) == ({0: hostile.expected_digest()}, ())


@pytest.mark.parametrize("way", hostile.WAYS)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_pages(way: str, size: int, tmp_path: Path) -> None:
    docs = as_page(hostile.run(way, tmp_path), size)
    assert digests(docs, tmp_path) == ({0: hostile.expected_digest()}, ())


@pytest.mark.parametrize("way", hostile.WAYS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0, 1, 3]))
def test_any_order(way: str, seed: int, size: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("order")
    docs = hostile.run(way, folder)
    docs = shuffled(as_page(docs, size) if size else docs, seed)
    assert digests(docs, folder) == ({0: hostile.expected_digest()}, ())


@pytest.mark.parametrize("n", [8, 600])
@pytest.mark.parametrize("where", ["first", "last"])
def test_one_stream_datum_for_all(n: int, where: str, tmp_path: Path) -> None:
    docs = hostile.run("stream", tmp_path, n_frames=n)
    rest = [(name, doc) for name, doc in docs if name != "stream_datum"]
    datum = ("stream_datum", hostile.stream_datum(hostile.UID, "det0_image", 0, n))
    at = 5 if where == "first" else -1
    docs = [*rest[:at], datum, *rest[at:]]
    assert [name for name, _ in docs].index("stream_datum") in (5, len(docs) - 2)
    assert digests(docs, tmp_path) == ({0: hostile.expected_digest(n_frames=n)}, ())


@pytest.mark.parametrize("way", hostile.WAYS)
def test_several_detectors(way: str, tmp_path: Path) -> None:
    docs = shuffled(hostile.run(way, tmp_path, n_detectors=3), 3)
    wanted = {d: hostile.expected_digest(detector=d) for d in range(3)}
    assert digests(docs, tmp_path, n_detectors=3) == (wanted, ())


def test_frames_beyond_the_bound_are_given_up_and_the_rest_goes_on(tmp_path: Path) -> None:
    docs = hostile.run("array", n_frames=30)
    at = next(at for at, (name, doc) in enumerate(docs) if name == "event" and doc["seq_num"] == 3 and at > 3)
    late = docs.pop(at)
    docs.insert(-1, late)
    found, problems = digests(docs, tmp_path, worker={"reorder_points": 4})
    assert found == {0: hostile.expected_digest([2], n_frames=30)}
    assert len(problems) == 1
    assert "frame 2: frame of 'det0_image' is missing" in problems[0]


def test_a_late_baseline_is_waited_for(tmp_path: Path) -> None:
    docs = hostile.run("array", n_frames=30)
    baseline = docs.pop(2)
    docs.insert(12, baseline)
    assert digests(docs, tmp_path) == ({0: hostile.expected_digest(n_frames=30)}, ())


def test_lists_of_integers_are_the_described_type(tmp_path: Path) -> None:
    docs = hostile.run("array")
    docs = [
        (name, {**doc, "data": {**doc["data"], "det0_image": doc["data"]["det0_image"].tolist()}})
        if name == "event" and "det0_image" in doc["data"]
        else (name, doc)
        for name, doc in docs
    ]
    assert digests(docs, tmp_path) == ({0: hostile.expected_digest()}, ())


def test_a_stream_of_images_alone_needs_no_event(tmp_path: Path) -> None:
    docs = hostile.run("stream", tmp_path)
    without: hostile.Documents = []
    for name, doc in docs:
        if name == "descriptor" and doc["name"] == "primary":
            without.append((name, {**doc, "data_keys": {"det0_image": doc["data_keys"]["det0_image"]}}))
        elif name != "event" or str(doc["descriptor"]).endswith("baseline"):
            without.append((name, doc))
    found, problems = digests(without, tmp_path)
    assert found == {0: hostile.expected_digest(without_omega=range(hostile.N_FRAMES))}
    assert ["omega" in problem for problem in problems] == [True]


def test_an_event_may_hold_several_images(tmp_path: Path) -> None:
    """Four events of two images each: frames 0 to 7 at points 0 to 3."""
    docs = hostile.run("array", n_frames=4)
    made: hostile.Documents = []
    for name, doc in docs:
        if name == "descriptor" and doc["name"] == "primary":
            key = {**doc["data_keys"]["det0_image"], "shape": [2, *hostile.SHAPE]}
            doc = {**doc, "data_keys": {**doc["data_keys"], "det0_image": key}}
        elif name == "event" and "det0_image" in doc["data"]:
            i = 2 * (doc["seq_num"] - 1)
            doc = {**doc, "data": {**doc["data"], "det0_image": [hostile.image(i), hostile.image(i + 1)]}}
        made.append((name, doc))
    assembler = FrameAssembler(load_settings(hostile.settings(tmp_path)), made[0][1], Problems())
    pending = [frame for name, doc in made for frame in assembler.push(name, doc)] + assembler.flush()
    assert [(frame.frame, frame.point, frame.omega) for frame in pending] == [
        (frame, frame // 2, (0.5 * (frame // 2), 0.5 * (frame // 2) + 0.5)) for frame in range(8)
    ]
    result = process(made, load_settings(hostile.settings(tmp_path)), write_raw=True)
    assert (result.progress.n_frames, result.problems) == (8, ())
