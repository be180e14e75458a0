"""The subject of a customer's message: text cleaning, a vectorizer, a classifier and the names of its labels."""

import json
import pickle
from pathlib import Path

from clean import clean


class Model:
    def load(self, folder: Path) -> None:
        self.vectorizer = pickle.loads((folder / "vectorizer.pkl").read_bytes())
        self.classifier = pickle.loads((folder / "classifier.pkl").read_bytes())
        self.labels = json.loads((folder / "labels.json").read_text())

    def predict(self, texts: list[str]) -> list[str]:
        matrix = self.vectorizer.transform([clean(text) for text in texts])
        return [self.labels[number] for number in self.classifier.predict(matrix)]
