"""What a registration searches and what it takes for a success."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RegistrationSettings:
    """Search and gate. "Working px" are those of the shrunken images that are compared.

    The numbers of the gate were chosen on development data and then left alone: simulated pairs of seeds
    0 to 19, DeepLIIF's Lung1, and every other image of MoNuSeg and DSB 2018 with light drawn from its
    instances. There pairs that were found had a rival of at most 0.64 (one of 35 above 0.60) and unrelated
    ones of at least 0.65.
    `python -m benchmarks.registration` measures the gate on other seeds.
    """

    # Search.
    scale: float = 1.0  # fixed px per moving px, where it is known: um per px of the moving over the fixed
    scale_share: float = 0.17  # how far from `scale` is searched: nominal pixel sizes are off by less
    scale_steps: int = 3  # on either side; a step of 5 % moves a corner by half a nucleus at coarse_px
    rotation_deg: float = 180.0  # searched to either side
    rotation_step_deg: float = 3.0  # as scale_steps
    flips: tuple[bool, ...] = (False,)  # (False, True) where a slide may lie upside down
    coarse_px: int = 160  # working px of the longer side in the grid: nuclei of a 512 px patch are 4 px there
    fine_px: int = 640  # working px of the longer side at the end
    candidates: int = 10  # of the grid that climb
    distinct_share: float = 0.03  # of the longer side: nearer transforms are the same one
    # A pure shift instead of the affine, where the affine rather follows a distortion than a tilt. Chosen on
    # Lung1, whose affine would tilt by 0.4 degrees, and simulated pairs that are tilted by up to 1 degree:
    shift_tolerance: float = 0.02  # the affine's linear part differs from 1 by less in each place ...
    shift_gain: float = 0.05  # ... its correlation is better by less than this share ...
    shift_residual: float = 0.67  # ... and it leaves more than this share of the shift's residual
    # Gate.
    min_quality: float = 0.12  # correlation; unrelated images reach 0.33 on small fields, hence the rest
    max_rival: float = 0.60  # score of the next best transform over the best one's
    min_agreement: float = 0.65  # share of the structure that stays in place; few windows may agree by chance
    in_place_px: float = 3.0  # working px that a window may differ: a quarter of a nucleus at 0.5 um per px
    min_windows: int = 4  # fewer say nothing
    min_overlap: float = 0.25  # of the smaller image
    max_stretch: float = 1.10  # longer over shorter axis of a circle after the affine; sections shrink less

    def rotations_deg(self) -> np.ndarray:
        """Rotations of the grid; -180 and 180 are one."""
        steps = int(np.ceil(self.rotation_deg / self.rotation_step_deg))
        every = np.arange(-steps, steps + 1) * self.rotation_step_deg
        return every[1:] if self.rotation_deg >= 180 else every

    def scales(self) -> np.ndarray:
        """Scales of the grid relative to `scale`, in equal ratios."""
        return np.exp(np.linspace(-1, 1, 2 * self.scale_steps + 1) * np.log1p(self.scale_share))
