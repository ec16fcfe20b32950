"""The API as the official client sees it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from serving import Served, byte_model, serving


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve") / "base"
    byte_model(folder)
    with serving([str(folder)]) as made:
        yield made


ASKED = [{"role": "user", "content": "hello"}]


def test_chat(served: Served) -> None:
    answer = served.client().chat.completions.create(model="base", messages=ASKED, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content
    print(answer)
