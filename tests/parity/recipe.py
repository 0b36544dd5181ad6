"""Synthetic weights, images and boxes for checking a network against its authors' implementation.

Nothing here is learned: every array comes from NumPy's frozen `RandomState` seeded by a name, so anyone can
rebuild the inputs of a reference file and only the outputs have to be stored.

A reference `<name>.npz` holds, for one model as its authors published it:
    keys, shapes            the names and shapes of the authors' state_dict
    stats/<name>            running_mean and running_var, measured on the first image batch so that
                            activations keep unit scale through the network
    scale/<name>            a factor on `fill(name, shape)`, where a prediction layer was made milder
                            (every other entry of the state_dict is `fill` as it is)
    everything else         what the authors' code computed; `<name>.md` beside it says what each array is
"""

import zlib

import numpy as np

__all__ = ["fill", "state_dict", "image", "boxes"]


def _rng(name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)


def fill(name: str, shape) -> np.ndarray:
    """One float32 entry of a state_dict (int64 zero for `num_batches_tracked`), from its name and shape alone."""
    shape, rng = tuple(int(s) for s in shape), _rng(name)
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name.endswith("running_var"):
        return np.asarray(0.5 + rng.rand(*shape), np.float32)
    if name.endswith(("running_mean", "bias")):
        return np.asarray(0.1 * rng.randn(*shape), np.float32)
    if len(shape) <= 1:  # scales: of a norm layer, or of a level
        return np.asarray(1.0 + 0.1 * rng.randn(*shape), np.float32)
    fan_in = int(np.prod(shape[1:]))
    return np.asarray(rng.randn(*shape) * np.sqrt(2.0 / fan_in), np.float32)


def state_dict(reference) -> dict:
    """name -> np.ndarray in the authors' naming, from an open reference file (`np.load(...)`)."""
    entries = {}
    for name, shape in zip(reference["keys"], reference["shapes"]):
        name = str(name)
        shape = [int(s) for s in str(shape).split("x")] if str(shape) else []
        if f"stats/{name}" in reference:
            entries[name] = reference[f"stats/{name}"]
        else:
            entries[name] = fill(name, shape)
            if f"scale/{name}" in reference:
                entries[name] = entries[name] * np.float32(reference[f"scale/{name}"])
    return entries


def image(height: int, width: int, seed: int) -> np.ndarray:
    """(height, width, 3) uint8, BGR: colour blocks of 8 pixels with noise; both sides multiples of 8."""
    rng = np.random.RandomState(seed)
    coarse = rng.randint(0, 256, (height // 8, width // 8, 3))
    noise = rng.randint(-20, 21, (height, width, 3))
    return np.clip(np.kron(coarse, np.ones((8, 8, 1), int)) + noise, 0, 255).astype(np.uint8)


def boxes(count: int, height: int, width: int, num_classes: int, seed: int):
    """(count, 4) float32 XYXY boxes inside the image, sides log-uniform from 12 pixels to 0.8 of it; (count,) int64 classes."""
    rng = np.random.RandomState(seed)
    side = lambda limit: np.exp(rng.uniform(np.log(12), np.log(0.8 * limit), count))  # noqa: E731
    w, h = side(width), side(height)
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    xyxy = np.stack([x, y, x + w, y + h], 1).astype(np.float32)
    return xyxy, rng.randint(0, num_classes, count).astype(np.int64)
