"""Files as the source of a run: what lies there, what the ledger knows of it, and what the reader is told."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from commands.composition.cold import keep_secrets
from engine.config import RunConfig, SourceConfig
from engine.errors import ConfigError, SinkError
from engine.ledger import durable
from engine.ledger.log import Ledger, Record, RunState, each_record
from engine.ledger.runfolder import RunFolders
from engine.memory.ids import IdType
from engine.objects.url import ColdUrl, SourceUrl, StoreUrl
from readers.batching.columns import infer_columns
from readers.batching.paths import getter
from readers.files.catalogue import Catalogue, SourceFile, catalogue, write_plan
from readers.files.documents import Fields
from readers.files.ids import RowNaming, row_of
from readers.files.place import Place
from readers.files.sample import FileSample, require_documents, sample_files
from readers.files.values import FILE_TYPES, decide_id_type
from writers.cold.settings import READ_BUDGET_S
from writers.shards.positions import Union

if TYPE_CHECKING:
    from readers.files.objects import SourceStore

_log = logging.getLogger("engine.source")

SAMPLE_ROWS = 1000
START_BUDGET_S = 10.0
"""How long a start waits for a store that does not answer, at most."""
PLAN = "source-files"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What a run has to know of its files before it starts.

    Attributes:
        catalogue: The files, those of earlier runs included.
        id_type: Type of the id column.
        columns: Carried columns with their types.
        n_rows: Rows of all files that are there, or of the share of them that is read, about.
        text_field, id_field: As configured.
        store: Where the files lie when they are objects.
    """

    catalogue: Catalogue
    id_type: IdType
    columns: tuple[tuple[str, str], ...]
    n_rows: int
    text_field: str
    id_field: str | None
    store: SourceUrl | None = None
    naming: RowNaming = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "naming", RowNaming(self.catalogue.names))

    def record(self, ledger: Ledger[RunState]) -> None:
        """Make the new files known to the ledger: their numbers are for good before anything of them is read.

        Raises:
            SinkError: the record is not durable.
        """
        durable.point("files.before")
        for record in self.catalogue.new_records():
            ledger.append(record)
        durable.point("files.after")

    def with_settled(self, settled: dict[int, list[tuple[int, int]]]) -> list[SourceFile]:
        """All files with what is settled of each (`settled_rows`)."""
        return [dataclasses.replace(file, settled=tuple(settled.get(file.number, ()))) for file in self.catalogue.files]

    def plan(self, folders: RunFolders) -> dict[str, Any]:
        """Write what the next generation's reader and writer read; `ReaderSettings.files`.

        Raises:
            ProtocolError: a row is in two committed shards (G2).
            SinkError: the file cannot be written.
        """
        path = folders.hot / PLAN
        files = self.with_settled(settled_rows(folders.ledger))
        try:
            write_plan(path, files)
        except OSError as error:
            raise SinkError(f"cannot write {path} ({error.strerror}): free space on --hot-dir") from error
        n_settled = sum(last - first + 1 for file in files if file.path is not None for first, last in file.settled)
        return {
            "plan": str(path),
            "id_field": self.id_field,
            "id_type": self.id_type.value,
            "estimate": max(0, self.n_rows - n_settled),
            "store": None if self.store is None else self.store.as_dict(),
        }


def place_of(config: SourceConfig) -> Place:
    """The place that `--source` names."""
    assert config.files is not None  # files are the source
    return Place.of(config.files, config.store)


def opened_store(place: Place, budget_s: float) -> SourceStore | None:
    """The store that the files of a place lie on, None when they lie here; imports the library.

    Raises:
        ConfigError: the library is missing, or does not take the options.
    """
    if not isinstance(place.root, SourceUrl):
        return None
    from readers.files.objects import SourceStore  # noqa: PLC0415 - only a URL pays for it

    keep_secrets()
    return SourceStore(place.root, budget_s, partial(_log.warning, "source_asked_again where=%s reason=%r"))


def inspect_files(config: RunConfig) -> Files:
    """Look at the files; refuse what cannot be read, or is not what it was.

    Raises:
        ConfigError: no files, files that have changed, no text in the text field, an id field of several types, or a
            data set that was begun with another source.
        SourceError: a file cannot be read.
    """
    source = config.source
    found, sample = look(config)
    documents = sample.documents
    get_text = getter(source.text_field)
    if documents and not any(isinstance(get_text(document), str) for document in documents):
        raise ConfigError(
            f"none of {len(documents)} documents of a sample has a text in --text-field {source.text_field}; there is "
            f"{', '.join(sample.names)}"
        )
    inferred = infer_columns(documents, source.columns, FILE_TYPES)
    for name in inferred.absent:
        _log.warning("column_absent name=%s: no document of a sample has it; it is written as strings", name)
    known = RunState.of(config.folders.ledger) if config.folders.ledger.exists() else RunState()
    id_type = decide_id_type(documents, source.id_field, sample.names)
    columns = inferred.columns
    if known.run is not None:  # a data set that is there decides for itself
        id_type = IdType(known.run["schema"]["id_type"])
        columns = tuple((name, kind) for name, kind in known.run["schema"]["columns"])
    if found.n_gone:
        _log.info("source_files_gone n=%d: their rows stay", found.n_gone)
    return Files(
        catalogue=found,
        id_type=id_type,
        columns=columns,
        n_rows=sample.n_rows if source.part is None else -(-sample.n_rows // source.part.count),
        text_field=source.text_field,
        id_field=source.id_field,
        store=root if isinstance(root := place_of(source).root, SourceUrl) else None,
    )


def look(config: RunConfig, n_rows: int = SAMPLE_ROWS) -> tuple[Catalogue, FileSample]:
    """The files of a run and a sample of them.

    Raises:
        ConfigError: no files, or files that have changed.
        SourceError: a file cannot be read.
    """
    source = config.source
    folders, cold = config.folders, config.sink.cold_dir
    own: Path | StoreUrl = folders.cold
    if isinstance(cold, ColdUrl):
        own = dataclasses.replace(cold, url=f"{cold}/{folders.namespace}")
    found = catalogue_of(
        source,
        folders.ledger,
        without=(config.sink.hot_dir, cold, folders.hot, own),
        budget_s=min(START_BUDGET_S, config.limits.max_outage_s),
    )
    needed = Fields.of(source.text_field, source.columns, source.id_field, IdType.STRING).needed
    sample = sample_files(found.files, needed, n_rows)
    require_documents(sample, source.files or "")
    return found, sample


def catalogue_of(
    source: SourceConfig, ledger: Path, *, without: tuple[Path | StoreUrl, ...], budget_s: float = READ_BUDGET_S
) -> Catalogue:
    """The files of a data set, compared with what its ledger knows.

    Args:
        without: Folders and prefixes that are not looked into: those that runs write.
        budget_s: Seconds that a store which does not answer is waited for.

    Raises:
        ConfigError: no files, or files that have changed.
        SourceError: a file cannot be read.
    """
    place = place_of(source)
    known = RunState.of(ledger) if ledger.exists() else RunState()
    require_same_source(known.run, source, ledger.parent)
    store = opened_store(place, budget_s)
    return catalogue(known.files, place.files(without=without, store=store), place)


def require_same_source(record: Record | None, source: SourceConfig, folder: Path) -> None:
    """Refuse to go on with a data set that another kind of source, or another id field, began.

    Raises:
        ConfigError: it was begun so.
    """
    if record is None:
        return
    known = record.get("source")
    if (known is None) != (source.files is None):
        began = "a collection of MongoDB" if known is None else "files (--source)"
        raise ConfigError(
            f"the data set of {folder} was begun with {began}: continue it so, or begin another one with another "
            "--name or --done-field"
        )
    if known is not None and known["id_field"] != source.id_field:
        raise ConfigError(
            f"--id-field is {source.id_field or 'empty'}, but the data set in {folder} was begun with "
            f"{known['id_field'] or 'none'}: use the same, or begin another data set with another --name"
        )


def settled_rows(ledger: Path) -> dict[int, list[tuple[int, int]]]:
    """Stretches of rows in committed shards, by the file's number.

    Raises:
        DamageError: the positions of a shard cannot be read.
        ProtocolError: a row is in two committed shards (G2).
    """
    union = Union()
    for record in each_record(ledger) if ledger.exists() else ():
        if record.get("type") == "COMMIT" and record.get("positions") is not None:
            union.add(record["positions"])
    found: dict[int, list[tuple[int, int]]] = {}
    for first, last in zip(*(ends.tolist() for ends in union.stretches()), strict=True):
        (number, row), (last_number, last_row) = row_of(first), row_of(last)
        assert number == last_number  # no file has 2^40 rows, so no stretch goes from one into the next
        found.setdefault(number, []).append((row, last_row))
    return found
