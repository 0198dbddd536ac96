"""The start-up doctor: looks at every server before a run, refuses a fleet that cannot work, warns of one that limps.

    fleet = examine(ClientSettings(urls=(...)))
    fleet.fingerprint, fleet.dim, fleet.warnings
    fleet.client_settings(settings, index)     # what client number `index` is started with

All servers are examined at the same time over one poller; against quick servers that takes a few milliseconds.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field

from engine.errors import ConfigError, ServersUnavailable, SeveralBackends
from engine.records import Fingerprint
from gpu_clients.errors import FailureKind
from gpu_clients.http.address import Address
from gpu_clients.http.client import HttpClient
from gpu_clients.http.polling import Poller
from gpu_clients.server_facts import ServerFacts, version_numbers
from gpu_clients.servers.probe import Examination, LongTexts, ServerProbe, examine_server
from gpu_clients.servers.probe_request import ProbeFailed
from gpu_clients.settings import ClientSettings
from gpu_clients.vectors.soundness import MIN_COSINE

REQUEST_TIMEOUT_S = 20.0
_ADDRESSES_OF_LOCALHOST = ("127.0.0.1", "::1")
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_FLASH_MODEL_WORDS = ("bert", "bge", "e5", "gte", "nomic", "jina", "qwen", "mistral", "minilm")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """What the doctor found out about one server.

    Attributes:
        url: As given.
        reachable: Whether it answered as an embedding server.
        examination: What it is and gives, or None.
        trouble: Why it did not answer, or None.
        warnings: Sentences for the user.
    """

    url: str
    reachable: bool
    examination: Examination | None = None
    trouble: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def facts(self) -> ServerFacts | None:
        """What the server says of itself."""
        return self.examination.facts if self.examination else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet that may be used.

    Attributes:
        servers: A report each, in the order of the URLs; some may be down.
        fingerprint: What makes the vectors comparable (G9).
        dim: Numbers in a vector.
        batch_size: Texts of a request that every server admits.
        max_concurrency: Requests of that size in flight that every server admits.
        canary: Reference vectors as text.
        canary_brief: A part of them, for footers (`Canary.brief`).
        pads: Whether the servers pad their GPU batches; None when not measured, or not clear.
        neighbours_from: Tokens from which on a text's vector hangs on its neighbours; None when none was seen to.
        warnings: Sentences for the user, of the fleet and of its servers.
    """

    servers: tuple[ServerReport, ...]
    fingerprint: Fingerprint
    dim: int
    batch_size: int
    max_concurrency: int
    canary: str = field(repr=False)
    canary_brief: str = field(default="", repr=False)
    pads: bool | None = None
    neighbours_from: int | None = None
    warnings: tuple[str, ...] = ()

    def client_settings(self, settings: ClientSettings, index: int) -> ClientSettings:
        """The settings of client number `index`."""
        return dataclasses.replace(
            settings,
            index=index,
            batch_size=self.batch_size,
            dim=self.dim,
            canary=self.canary,
            facts=tuple(server.facts for server in self.servers),
        )


def examine(
    settings: ClientSettings,
    *,
    timeout_s: float = REQUEST_TIMEOUT_S,
    with_padding: bool = False,
    long_texts: LongTexts = LongTexts.NOT,
) -> Fleet:
    """Examine every server.

    Args:
        timeout_s: Time for each answer.
        with_padding: Whether to measure if the servers pad, too.
        long_texts: How closely to look at long texts among equals.

    Raises:
        ConfigError: something else stands behind a URL, servers differ in what decides their vectors, or the limits
            can never be kept.
        ServersUnavailable: no server answers.
        SeveralBackends: unlike backends answer behind one URL.
    """
    reports = _interview(settings, timeout_s, with_padding=with_padding, long_texts=long_texts)
    alive = [(report, report.examination) for report in reports if report.examination is not None]
    if not alive:
        troubles = "; ".join(f"{report.url}: {report.trouble}" for report in reports)
        raise ServersUnavailable(f"no embedding server answers ({troubles}): start them, or correct --tei-urls")
    _refuse_differences(alive)
    first = alive[0][1]
    _refuse_double_prompt(settings, alive)
    batch_size, warnings = _admitted_batch_size(settings, [examination.facts for _, examination in alive])
    permits = [e.facts.max_concurrent_requests for _, e in alive if e.facts.max_concurrent_requests is not None]
    ceiling = min([max(1, count // batch_size) for count in permits], default=settings.max_concurrency)
    if settings.concurrency is not None and settings.concurrency > ceiling:
        raise ConfigError(
            f"--concurrency {settings.concurrency} with --batch-size {batch_size} asks for "
            f"{settings.concurrency * batch_size} texts in flight, a server admits {min(permits)} "
            f"(--max-concurrent-requests counts texts): use at most {ceiling}"
        )
    warnings += [
        f"{report.url} does not answer ({report.trouble}); the run starts without it"
        for report in reports
        if not report.reachable
    ]
    warnings += _tokenizer_warnings(reports)
    warnings += _server_by_server(reports)
    facts = first.facts
    return Fleet(
        servers=tuple(reports),
        fingerprint=Fingerprint(
            model_id=facts.model_id,
            model_sha=facts.model_sha,
            dtype=facts.dtype,
            pooling=facts.pooling,
            prompt=settings.prompt,
            dim=first.dim,
            normalize=settings.normalize,
            server_version=facts.version,
            server_prompt=facts.default_prompt,
        ),
        dim=first.dim,
        batch_size=batch_size,
        max_concurrency=ceiling,
        canary=first.canary.encode(),
        canary_brief=first.canary.brief(facts.canary_limit),
        pads=_pads([examination for _, examination in alive]),
        neighbours_from=min(
            (e.neighbours.matter_from for _, e in alive if e.neighbours and e.neighbours.matter_from), default=None
        ),
        warnings=tuple(warnings),
    )


def _pads(examinations: list[Examination]) -> bool | None:
    """One answer for the fleet: sorting is only left off when no server is known to gain from it."""
    answers = {examination.pads for examination in examinations}
    return True if True in answers else False if answers == {False} else None


def _interview(
    settings: ClientSettings, timeout_s: float, *, with_padding: bool, long_texts: LongTexts
) -> list[ServerReport]:
    """Drive the examination of every server, all at once."""
    addresses = [Address.parse(url) for url in settings.urls]
    places = [place for address in addresses for place in _places(address)]
    if len(set(places)) != len(places):
        raise ConfigError(f"--tei-urls names one server twice: {', '.join(settings.urls)}")
    poller = Poller()
    probes = [
        ServerProbe(
            HttpClient(address, poller, settings.access(index)),
            examine_server(settings.server_kind, settings.options, with_padding=with_padding, long_texts=long_texts),
            timeout_s=timeout_s,
        )
        for index, address in enumerate(addresses)
    ]
    try:
        while sum(probe.advance() for probe in probes) < len(probes):  # each one gets its turn
            poller.run(0.02)
    finally:
        for probe in probes:
            probe.close()
        poller.close()
    return [_report(url, probe.outcome, settings) for url, probe in zip(settings.urls, probes, strict=True)]


def _places(address: Address) -> list[tuple[str, int, str]]:
    """Where a server is; `localhost` is at each of two addresses, of which either may stand in another URL.

    Other names are not looked up: those of several servers may lead to one proxy, which tells them apart by the name.
    """
    host = address.host.lower().rstrip(".").strip("[]")
    hosts = _ADDRESSES_OF_LOCALHOST if host == "localhost" else (host,)
    return [("127.0.0.1" if host == "0.0.0.0" else host, address.port, address.base) for host in hosts]


def _report(url: str, outcome: Examination | ProbeFailed | None, settings: ClientSettings) -> ServerReport:
    assert outcome is not None  # every probe has come to its end
    if isinstance(outcome, Examination):
        warnings = (*outcome.warnings, *_server_warnings(outcome.facts, settings))
        return ServerReport(url=url, reachable=True, examination=outcome, warnings=warnings)
    if outcome.several:
        raise SeveralBackends(f"{url} cannot be used: {outcome.failure.detail}") from outcome
    if outcome.misconfigured:
        raise ConfigError(f"{url} cannot be used: {outcome.failure.detail}") from outcome
    detail = outcome.failure.detail
    if outcome.failure.kind is FailureKind.TIMEOUT:
        detail = f"it takes connections and does not answer: it hangs, or is still loading its model ({detail})"
    return ServerReport(url=url, reachable=False, trouble=detail)


def _refuse_differences(alive: list[tuple[ServerReport, Examination]]) -> None:
    (first_report, first), others = alive[0], alive[1:]
    for report, examination in others:
        phrases = first.facts.differences(examination.facts)
        if examination.dim != first.dim:
            phrases.append(f"dimension {examination.dim} is not {first.dim}")
        else:
            cosine = first.canary.agrees_with(examination.canary)
            if not cosine >= MIN_COSINE:
                phrases.append(f"its vectors of the canary texts are others (cosine {cosine:.4f})")
        if phrases:
            raise ConfigError(
                f"the servers do not serve one vector space: {report.url} differs from {first_report.url} in "
                f"{', '.join(phrases)}; start all servers with one version, model and dtype"
            )


def _refuse_double_prompt(settings: ClientSettings, alive: list[tuple[ServerReport, Examination]]) -> None:
    for report, examination in alive:
        if settings.prompt and examination.facts.default_prompt:
            raise ConfigError(
                f"{report.url} puts a prompt of its own ({examination.facts.default_prompt!r}) before every text, and "
                "--prompt would put a second one: "
                "start the server without --default-prompt, or leave --prompt out"
            )


def _admitted_batch_size(settings: ClientSettings, facts: list[ServerFacts]) -> tuple[int, list[str]]:
    """The batch size that every server admits, and what there is to say about it."""
    batch_size = settings.batch_size
    warnings = []
    limits = [
        ("--max-client-batch-size", [item.max_client_batch_size for item in facts]),
        ("--max-concurrent-requests", [item.max_concurrent_requests for item in facts]),
    ]
    for flag, values in limits:
        admitted = min((value for value in values if value is not None), default=batch_size)
        if admitted < 1:
            raise ConfigError(f"a server says {flag} {admitted}: it can take no text at all")
        if admitted < batch_size:
            warnings.append(f"batch size lowered from {batch_size} to {admitted}, the servers' {flag}")
            batch_size = admitted
    for item in facts:
        if (item.max_client_batch_size or 0) > (item.max_concurrent_requests or 1 << 60):
            warnings.append(
                f"a server's --max-client-batch-size {item.max_client_batch_size} exceeds its "
                f"--max-concurrent-requests {item.max_concurrent_requests}: larger requests get HTTP 429 for ever"
            )
            break
    return batch_size, warnings


def _server_warnings(facts: ServerFacts, settings: ClientSettings) -> list[str]:
    warnings = []
    if facts.kind == "tei":
        numbers = version_numbers(facts.version)
        if numbers and numbers < (1, 9):
            warnings.append(f"TEI {facts.version} can abort under load and can hang on over-long texts (fixed in 1.9)")
        name = facts.model_id.lower()
        on_gpu = facts.max_batch_requests is None  # on a CPU a GPU batch has 4 or 8 texts
        if on_gpu and facts.dtype == "float32" and any(word in name for word in _FLASH_MODEL_WORDS):
            warnings.append("dtype float32 turns flash attention off on a GPU: float16 is much faster for this model")
    if facts.auto_truncate is None and facts.kind == "openai" and settings.truncate:
        warnings.append(
            "an OpenAI-compatible server decides itself about long texts: those that it refuses as too long are cut by "
            "the client, others it may cut without saying so"
        )
    return warnings


def _server_by_server(reports: list[ServerReport]) -> list[str]:
    """Every server's warnings, one sentence for all servers that share it."""
    owners: dict[str, list[str]] = {}
    for report in reports:
        for warning in report.warnings:
            owners.setdefault(warning, []).append(report.url)
    return [f"{', '.join(urls)}: {warning}" for warning, urls in owners.items()]


def _tokenizer_warnings(reports: list[ServerReport]) -> list[str]:
    """Servers on this machine share its cores; how many cores another one has, nobody says."""
    cores = os.cpu_count() or 1
    here = [r.facts for r in reports if r.facts is not None and Address.parse(r.url).host in _THIS_MACHINE]
    threads = sum(facts.tokenization_workers or 0 for facts in here)
    if threads > max(cores, len(here)):
        return [
            f"the {len(here)} servers on this machine run {threads} tokenizer threads on {cores} cores: divide the "
            "cores among them with --tokenization-workers"
        ]
    return []
