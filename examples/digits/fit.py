"""Fit a classifier on 1,500 of scikit-learn's digits, save it as ONNX beside model.py, and one of the other 297 as three.png."""

from pathlib import Path

import numpy as np
from PIL import Image
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

digits = load_digits()
inputs = (digits.data[:1_500] / 16).astype(np.float32)
classifier = LogisticRegression(C=10, max_iter=200).fit(inputs, digits.target[:1_500])
model = to_onnx(classifier, inputs[:1], options={"zipmap": False})
(Path(__file__).parent / "digits.onnx").write_bytes(model.SerializeToString())

three = digits.images[1_500:][digits.target[1_500:] == 3][0]
paper = (255 - three * (255 / 16)).astype(np.uint8)
Image.fromarray(paper).resize((80, 80)).save("three.png")
