"""Texts of files at random, as `engine plan` and `engine bench` take them from a collection."""

from __future__ import annotations

from collections import Counter

from commands.composition.files.inspection import look, settled_rows
from engine.config import RunConfig
from engine.ledger.quarantine import each_entry
from engine.memory.ids import IdType
from readers.batching.paths import getter
from readers.batching.screening import problem_of
from readers.batching.unicode import is_encodable
from readers.files.values import decide_id_type
from readers.mongo.estimate import QueueSize
from readers.mongo.sample import QueueSample


def sample_texts(config: RunConfig, n_texts: int) -> tuple[QueueSample, IdType]:
    """A sample of the files' rows; whether a row is embedded already is not asked, only how many are.

    Raises:
        ConfigError: no files, or files that have changed since a run read them.
        SourceError: a file cannot be read.
    """
    found, sample = look(config, n_texts)
    get = getter(config.source.text_field)
    refused: Counter[str] = Counter(unreadable=len(sample.rows) - len(sample.documents))
    texts: list[str] = []
    for document in sample.documents:
        text = get(document)
        problem = problem_of(text)
        if problem is None and not is_encodable(text):
            problem = ("invalid_unicode", "")
        if problem is None:
            texts.append(text)
        else:
            refused[problem[0]] += 1
    present = {file.number for file in found.files if file.path is not None}
    n_settled = sum(
        last - first + 1
        for number, stretches in settled_rows(config.folders.ledger).items()
        if number in present
        for first, last in stretches
    )
    n_settled += sum(1 for _ in each_entry(config.folders.quarantine))
    part = config.source.part
    left = max(0, (sample.n_rows if part is None else -(-sample.n_rows // part.count)) - n_settled)
    queue = QueueSample(
        texts=tuple(texts) if left else (),
        n_drawn=len(sample.rows) if left else 0,
        refused={reason: count for reason, count in refused.items() if count} if left else {},
        n_quarantined=0,
        size=QueueSize(left, sample.is_exact and part is None),
        n_documents=sample.n_rows,
    )
    return queue, decide_id_type(sample.documents, config.source.id_field, sample.names)
