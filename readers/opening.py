"""What a reader's process opens by its settings: the source, and the ids that it skips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.memory.ids import IdType
from engine.part import Part
from engine.supervision.worker import StageContext
from readers.batching.ports import DocumentSource
from readers.settings import ReaderSettings

if TYPE_CHECKING:
    from readers.batching.done_ids import DoneIds


def open_source(context: StageContext, settings: ReaderSettings) -> DocumentSource:
    """The source that the settings name; each imports what it needs, and no other pays for that."""
    part = None if settings.part is None else Part.parse(settings.part)
    if settings.files is not None:
        from readers.files.source import FilesSource, SourceOutage  # noqa: PLC0415

        outage = SourceOutage(settings.max_outage_s, context.log)
        return FilesSource(
            settings.files, text_field=settings.text_field, columns=settings.columns, part=part, outage=outage
        )
    from readers.mongo.source import MongoSource  # noqa: PLC0415
    from readers.mongo.work_queue import WorkQuery  # noqa: PLC0415
    from readers.preflight.without_text import LeavingOut  # noqa: PLC0415
    from readers.ranges.id_range import RangesInTurn  # noqa: PLC0415

    return MongoSource(
        settings.uri,
        settings.database,
        settings.collection,
        WorkQuery.of(settings.done_field, settings.langs, settings.filter, settings.scan, settings.retweeted, part),
        text_field=settings.text_field,
        columns=settings.columns,
        id_type=IdType(settings.id_type),
        max_outage_s=settings.max_outage_s,
        leaving_out=RangesInTurn() if settings.by_ranges else LeavingOut(),
        log=context.log,
    )


def open_done_ids(settings: ReaderSettings) -> DoneIds | None:
    """The ids that a run without marks skips, or None for a source that does not offer them again."""
    if settings.mark or settings.files is not None:  # files offer nothing that the ledger has
        return None
    from readers.batching.done_ids import DoneIds  # noqa: PLC0415 - only this mode pays for importing numpy

    return DoneIds(None if settings.done_ids_file is None else Path(settings.done_ids_file), IdType(settings.id_type))
