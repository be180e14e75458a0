"""Digits in images: the bytes of PNG files in, the names of the digits and how sure the classifier is out."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image, UnidentifiedImageError

from mutirao import InvalidInput

LABELS = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])
PIXELS_MAX = 4_000_000


class Model:
    def load(self, folder: Path) -> None:
        self.session = onnxruntime.InferenceSession(folder / "digits.onnx", providers=["CPUExecutionProvider"])

    def predict(self, images: list[bytes]) -> dict[str, Any]:
        numbers, probabilities = self.session.run(None, {"X": np.stack([pixels(image) for image in images])})
        return {"digit": LABELS[numbers], "probability": probabilities.max(axis=1)}


def pixels(content: bytes) -> npt.NDArray[np.float32]:
    """Return an image as the classifier learned them: 8 x 8 pixels, paper 0 and ink 1, whichever of both is the darker one."""
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        if image.width * image.height > PIXELS_MAX:
            text = f"the image has {image.width} x {image.height} pixels, the limit is {PIXELS_MAX:,}: make it smaller"
            raise InvalidInput(text)
        grey = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX), dtype=np.float32) / np.float32(255)
    except UnidentifiedImageError:
        raise InvalidInput("the image is no PNG: convert it") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise InvalidInput(f"the image is a damaged PNG: {exc}") from exc
    return np.ravel(1 - grey if np.median(grey) > 0.5 else grey)
