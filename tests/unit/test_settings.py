"""Settings from the environment: each is converted and checked when it is read."""

import pytest

from mutirao import settings
from mutirao.errors import SettingsError


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("LEASE_S", "-1", "is '-1.0': it must be more than 0"),
        ("LEASE_S", "nan", "is 'nan': it must be more than 0"),
        ("MAX_DELIVERIES", "0", "is '0': it must be more than 0"),
        ("GRACE_S", "-4", "is '-4.0': it must be 0 or more"),
        ("GRACE_S", "nan", "is 'nan': it must be 0 or more"),
        ("TIMEOUT_S", "inf", "is 'inf': it must be less than 1e+09 seconds"),
        ("EXPIRES_S", "1e12", "it must be less than 1e+09 seconds"),
        ("QUEUE_LIMIT", "1.5", "is '1.5': it must be a whole number"),
        ("LEASE_S", "abc", "is 'abc': it must be a number"),
    ],
)
def test_a_value_with_which_nothing_would_work_is_refused(name, value, rule):
    """The variable is named, with its value and the rule, before anything starts: a worker with a lease of -1 s keeps no request."""
    with pytest.raises(SettingsError) as caught:
        settings.load({"MUTIRAO_" + name: value})
    assert str(caught.value).startswith(f"MUTIRAO_{name} is ")
    assert rule in str(caught.value)


def test_a_grace_of_nothing_is_possible():
    """0 s of grace is a way to end at once."""
    assert settings.load({"MUTIRAO_GRACE_S": "0"}).grace_s == 0
