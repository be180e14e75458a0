"""The heavy half: what a predicting process needs."""
