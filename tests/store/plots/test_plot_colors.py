"""Colours that meet in a plot are told apart by colour-blind people."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from tokentape.store.plots import axes as house

# Machado, Oliveira and Fernandes (2009): what protans, deutans and tritans see, of linear RGB.
SEEN = {
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritan": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}
TO_XYZ = [[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]]


def lab(color: str, seen: list[list[float]]) -> np.ndarray:
    """Return what is seen of a colour, in CIELAB."""
    srgb = np.array(to_rgb(color))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(TO_XYZ) @ np.clip(np.array(seen) @ linear, 0, 1)
    x, y, z = np.cbrt(np.maximum(xyz / np.array(TO_XYZ).sum(axis=1), 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", SEEN)
@pytest.mark.parametrize(
    "together",
    [
        (house.SKY, house.VERMILION),
        (house.BLUE, house.SKY),
        (house.BLUE, house.ORANGE),
        house.LINES[:4],
    ],
)
def test_colours_that_meet_in_a_plot_differ_for_colour_blind_people(
    deficiency: str, together: tuple[str, ...]
) -> None:
    seen = [lab(each, SEEN[deficiency]) for each in together]
    distances = [
        float(np.linalg.norm(one - other)) for one in seen for other in seen if one is not other
    ]

    assert min(distances) > 15
