"""Random crop of which a sample without a box is replaced.

Source: VFNet-X's recipe (released code). The crop itself is Detectron2's `RandomCrop` of type "relative_range".
"""

__all__ = ["ReplaceEmpty"]


class ReplaceEmpty:
    """A loader's `composition`: takes another image of the data set, drawn uniformly, while a sample has no box.

    Args:
        max_draws: after this many the sample is taken as it is.
    """

    def __init__(self, max_draws=20):
        self.max_draws = max_draws

    def __call__(self, sample, draw, **phase):
        for _ in range(self.max_draws):
            if len(sample["instances"]):
                break
            sample = draw()
        return sample
