"""The Python runtime: a folder with model.py, whose class Model loads its files and predicts."""
