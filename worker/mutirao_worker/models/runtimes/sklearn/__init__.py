"""Fitted scikit-learn estimators, and whatever has their methods."""
