"""Fit a vectorizer and a classifier on a few messages, and save them beside model.py: the files that a notebook leaves behind."""

import json
import pickle
from pathlib import Path

from clean import clean
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

MESSAGES = {
    "delivery": [
        "Where is my parcel? It was to arrive on Monday.",
        "The package was left at the wrong door",
        "My order has not been delivered yet",
        "When will the courier come?",
        "The tracking says delivered, but nothing arrived",
        "Please send the parcel to my new street",
        "The delivery is three days late",
        "Can I change the day of delivery?",
    ],
    "invoice": [
        "I was charged twice for the same order",
        "Please send me the invoice for March",
        "The amount on the bill is wrong",
        "How can I pay by bank transfer?",
        "My card was declined, but the money is gone",
        "I need a receipt with our tax number",
        "When will I get the refund to my account?",
        "The discount is missing on the invoice",
    ],
    "account": [
        "I cannot log in, my password does not work",
        "How do I change my email?",
        "Please delete my profile and all my data",
        "The link to reset the password has expired",
        "I did not get the code to log in",
        "My user name is spelled wrong",
        "Somebody else uses my login",
        "How do I turn off the newsletter in my profile?",
    ],
}

folder = Path(__file__).parent
labels = list(MESSAGES)
texts = [clean(text) for of_label in MESSAGES.values() for text in of_label]
numbers = [labels.index(label) for label, of_label in MESSAGES.items() for _ in of_label]
vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
classifier = LogisticRegression(C=10).fit(vectorizer.fit_transform(texts), numbers)
(folder / "vectorizer.pkl").write_bytes(pickle.dumps(vectorizer))
(folder / "classifier.pkl").write_bytes(pickle.dumps(classifier))
(folder / "labels.json").write_text(json.dumps(labels))
