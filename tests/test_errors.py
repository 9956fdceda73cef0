import pytest

from threestudio_asd.errors import (
    AlreadyRegisteredError,
    ConfigKeyError,
    NotRegisteredError,
    UserError,
)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (ConfigKeyError, TypeError),
        (NotRegisteredError, KeyError),
        (AlreadyRegisteredError, ValueError),
    ],
)
def test_user_errors_are_threestudios_exceptions_with_a_plain_message(error, builtin):
    raised = error("cause; fix")
    assert isinstance(raised, UserError)
    assert isinstance(raised, builtin)
    assert str(raised) == "cause; fix"
