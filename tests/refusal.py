"""How a reader refuses a file: one line that names the file and nothing of the patient."""

import pytest
from jaxtyping import TypeCheckError

from jxreg.errors import InputError


def refused(read, path, *words, **options):
    """Checks that `read(path, **options)` is refused, with these words in the message."""
    with pytest.raises(InputError) as caught:
        read(path, **options)
    assert not isinstance(caught.value.__cause__, TypeCheckError)
    message = str(caught.value)
    assert "\n" not in message
    assert "Canary" not in message
    for word in (str(path), *words):
        assert word in message, message
