"""The file that hedmlive adds to a profile: live reduction, and its warnings in the runs."""

from functools import partial

from hedmlive.callbacks import hedm_live_init
from hedmlive.devices import LiveWarnings, warnings_wrapper
from hedmlive.devices import ff_scan as ff_scan  # for the prompt
from hedmlive.devices import nf_scan as nf_scan

hedm_live = hedm_live_init(
    RE,  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
    {
        "roles": {
            "omega": "rotation",
            "omega_step": "rotation_step",
            "L1": "translation_L1",
            "energy": "energy",
        },
        "omega_marks": "start",
        "detectors": [{"name": "detector", "image": "detector_image"}],
        "recipe": {"background": "dark", "threshold": 30, "min_pixels": 3, "max_distance": 2.0},
        "archive": {"folder": "archives"},
    },
)

live_warnings = LiveWarnings()
if hedm_live is not None:
    hedm_live.on_warning(live_warnings.put)
RE.preprocessors.append(partial(warnings_wrapper, warnings=live_warnings))  # noqa: F821 # pyright: ignore[reportUndefinedVariable]
