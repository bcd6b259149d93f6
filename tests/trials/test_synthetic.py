import hashlib

import numpy as np
import pytest

from trials import synthetic

PIXELS = "f6380ced5855ab5680e01ab23107cccda148c00666c82193314868e94493ac36"
"""SHA-256 of the test split's images and labels. Where it changes, FINGERPRINT must."""


@pytest.fixture(scope="module")
def test_split() -> tuple[np.ndarray, np.ndarray]:
    return synthetic.draw("test")


def test_version_1_draws_these_pixels(test_split: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = test_split
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert (synthetic.FINGERPRINT, digest) == ("drawn-v1", PIXELS)


def test_classes_are_equally_frequent(test_split: tuple[np.ndarray, np.ndarray]) -> None:
    assert np.bincount(test_split[1]).tolist() == [200] * len(synthetic.CLASSES)


def test_images_are_what_the_constants_say(test_split: tuple[np.ndarray, np.ndarray]) -> None:
    pixels = test_split[0] / 255
    assert pixels.shape == (2000, 32, 32, 3)
    assert pixels.mean((0, 1, 2)) == pytest.approx(synthetic.MEAN, abs=0.01)
    assert pixels.std((0, 1, 2)) == pytest.approx(synthetic.STD, abs=0.01)


def test_a_figure_is_in_every_image() -> None:
    labels = np.arange(1000) % len(synthetic.CLASSES)
    covered = synthetic.figures(np.random.RandomState(0), labels).mean((1, 2))
    assert covered.min() > 0.01
    assert covered.max() < 0.7
