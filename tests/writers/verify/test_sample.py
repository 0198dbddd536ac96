"""Level 5: rows at random, and those of long texts besides, each of these embedded alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from engine.memory.ids import IdType
from engine.ports import IdList
from tests.writers.dataset import COLLECTION, DATABASE, DONE_FIELD, DataSet, ids_of, vectors_of
from writers.verify.config import VerifyConfig
from writers.verify.verify import verify

NUMBERS = {value: number for number, value in enumerate(ids_of(range(400), IdType.INT64))}
LONG = (7, 260, 399)


class Texts:
    """A collection in which three documents of four hundred are long."""

    def marked_ids(self) -> Iterator[IdList]:
        yield list(NUMBERS)

    def states(self, ids: IdList) -> list[str]:
        return ["marked"] * len(ids)

    def texts(self, ids: IdList) -> list[str | None]:
        numbers = [NUMBERS[value] for value in ids]
        return [f"{number} " + "long " * 1000 * (number in LONG) for number in numbers]


class Server:
    """Gives each text its vector, but long ones another than the run got."""

    def __init__(self) -> None:
        self.requests: list[list[int]] = []

    def __call__(self, texts: list[str], /) -> npt.NDArray[np.float32]:
        numbers = [int(text.split()[0]) for text in texts]
        self.requests.append(numbers)
        rows = vectors_of(numbers, 16)
        rows[[number in LONG for number in numbers]] *= -1
        return rows


def test_long_texts_are_sampled_too_and_each_is_embedded_alone(data: DataSet) -> None:
    server = Server()
    config = VerifyConfig.of_collection(
        data.root / "hot", data.root / "cold", DATABASE, COLLECTION, DONE_FIELD, level=5, jobs=1, sample_rows=25
    )
    report = verify(config, documents=Texts(), embedder=server)
    assert report.findings["drifted"]["count"] == len(LONG)
    alone = [numbers[0] for numbers in server.requests if len(numbers) == 1]
    assert sum(map(len, server.requests)) == 25 + 25 // 4
    by_chance = {number for numbers in server.requests if len(numbers) > 1 for number in numbers}
    assert set(LONG) <= set(alone) | by_chance
    assert set(LONG) - by_chance
