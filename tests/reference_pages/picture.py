"""The README's picture in the dark: the same drawing as in the light, in other colours."""

import re

DARK = {
    "panel": "#151b23",
    "ink": "#f0f6fc",
    "soft": "#9198a1",
    "line": "#3d444d",
    "flow": "#9198a1",
    "accent": "#4493f8",
    "accent-panel": "#121d2f",
}


def dark(drawing: str) -> str:
    """``drawing`` with the dark value of each colour that its style sheet names. Raises KeyError where one has none."""
    return re.sub(r"--([a-z-]+): #[0-9a-f]{6};", lambda colour: f"--{colour[1]}: {DARK[colour[1]]};", drawing)
