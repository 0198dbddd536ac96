"""The reader's settings: what is refused, and the way through JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pymongo.collection import Collection

from engine.errors import ConfigError
from readers.settings import ReaderSettings
from tests.readers.harness import settings_for

Documents = Collection[dict[str, Any]]


def test_settings_survive_the_way_through_json_and_hide_the_uri(documents: Documents) -> None:
    settings = settings_for(
        documents, "mongodb://user:hush@localhost", langs=("en", "es"), columns=(("a.b", "json"),), limit=5
    )
    assert ReaderSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected 1 to 65535"),
        ({"scan": "table"}, "scan is 'table'"),
        ({"id_type": "uuid"}, "id_type is 'uuid'"),
        ({"columns": (("a", "blob"),)}, "column 'a' has the type 'blob'"),
        ({"text_field": "a..b"}, "text_field is 'a..b'"),
        ({"limit": 0}, "limit is 0"),
        ({"prompt": "p" * 3000}, "the prompt has 3000 characters"),
        ({"max_outage_s": -1.0}, "max_outage_s is -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(documents: Documents, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings_for(documents, "mongodb://localhost", **change)
