"""skops files: scikit-learn estimators without pickle. Of types that skops does not know they hold those that the operator trusts.

Once loaded they are scikit-learn's estimators, with the same answers, pages shared by the processes of a worker, and safety across fork.
"""

from __future__ import annotations

from typing import Any

from mutirao import errors
from mutirao_worker.models.runtimes.predictor import ModelFiles
from mutirao_worker.models.runtimes.sklearn.predictor import SklearnPredictor


class SkopsPredictor(SklearnPredictor):
    """An estimator that skops saved."""

    @classmethod
    def unpickle(cls, files: ModelFiles) -> Any:
        """Return what the file holds.

        Raises:
            RepositoryError: it holds types that skops does not know, and that the operator has not named.
        """
        from skops import io  # noqa: PLC0415 - an extra

        asked = io.get_untrusted_types(data=files.raw)
        if untrusted := [each for each in asked if each not in files.trust]:
            trusted = " ".join(f"--trust {each}" for each in untrusted)
            raise errors.RepositoryError(
                f"it holds types that skops does not trust by itself: {', '.join(untrusted)}. Look at what they do; if you trust them, "
                f"repeat the command with {trusted}"
            )
        return io.loads(files.raw, trusted=asked)
