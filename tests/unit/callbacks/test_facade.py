"""The folder's facade offers what it lists, sorted, and nothing by accident."""

import hedmlive.callbacks as facade


def test_every_listed_name_is_there() -> None:
    assert len(set(facade.__all__)) == len(facade.__all__)
    assert all(getattr(facade, name) is not None for name in facade.__all__)
    public = {name for name, value in vars(facade).items() if not name.startswith("_") and hasattr(value, "__doc__")}
    modules = {name for name in public if type(getattr(facade, name)).__name__ == "module"}
    assert public - modules == set(facade.__all__)
