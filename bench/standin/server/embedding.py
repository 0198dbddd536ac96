"""One embedding request on its way: check, permits, compute, answer."""

from __future__ import annotations

from bench.standin.api import messages
from bench.standin.api.messages import ApiError
from bench.standin.backends.base import Job
from bench.standin.config import Dialect
from bench.standin.faults import damage, misbehaviour
from bench.standin.faults.script import Fault
from bench.standin.http.connection import Connection, Request
from bench.standin.server.answers import Answer
from bench.standin.server.purposes import Purpose
from bench.standin.server.server import Server

PANIC = 134
"""Exit status of a process that aborts."""
DOWN_AFTER_PANIC_S = 5.0
"""Where other servers live in the process, the port refuses for so long instead: nobody else has sent that input."""


class Exchange:
    """Carries one request to a route that embeds through the server."""

    __slots__ = ("_connection", "_held", "_job", "_openai", "_purpose", "_request", "_server", "_wanted", "fired")

    def __init__(self, server: Server, connection: Connection, request: Request, purpose: Purpose) -> None:
        self._server = server
        self._connection = connection
        self._request = request
        self._purpose = purpose
        self._openai = purpose.openai
        self._held = 0
        self._job: Job | None = None
        self.fired: list[Fault] = []

    def begin(self) -> None:
        """Check the request and admit it.

        Raises:
            Refused: the HTTP layer or the schema says no.
        """
        server = self._server
        counters = server.counters
        counters.embed_requests += 1
        self._wanted = wanted = self._parsed()
        inputs = wanted.inputs
        n_inputs = len(inputs)
        counters.inputs += n_inputs
        counters.batch_size_max = max(counters.batch_size_max, n_inputs)
        if server.config.count_texts:
            counters.texts.update(hash(one) for one in inputs if type(one) is str)
        server.metrics.count('te_request_count{method="%s"}' % ("single" if wanted.single else "batch"))
        if n_inputs > server.max_client_batch_size:
            too_big = messages.batch_too_big(n_inputs, server.max_client_batch_size, server.config.dialect)
            self._refuse(too_big, "batch_size")
            return
        if server.permits.take(n_inputs):
            self._held = n_inputs
            self._admitted()
        elif server.config.dialect is Dialect.V1_8 and not wanted.single:
            # lists waited for their permits before 1.9
            self._connection.on_gone = self._gone_while_waiting
            server.permits.wait(n_inputs, self._granted)
        else:
            counters.answered_429 += 1
            self._refuse(messages.OVERLOADED, "overloaded")

    def _parsed(self) -> messages.EmbedRequest:
        return self._purpose.read(messages.fields_of(self._request, self._purpose.schema))

    # -- permits ---------------------------------------------------------------------------------------

    def _granted(self) -> None:
        self._held = min(len(self._wanted.inputs), self._server.permits.total)
        self._admitted()

    def _gone_while_waiting(self) -> None:
        self._server.permits.forget(self._granted)

    def release(self) -> None:
        """Give the permits back."""
        held, self._held = self._held, 0
        if held:
            self._server.permits.give_back(held)

    # -- compute ---------------------------------------------------------------------------------------

    def _admitted(self) -> None:
        server = self._server
        self._connection.on_gone = self._gone
        if server.faults:
            path = self._request.path.partition("?")[0]
            self.fired = server.faults.due_for_request(
                path, embedding=True, texts=self._wanted.inputs, now_s=server.loop.now()
            )
        if self.fired:
            misbehaviour.act(
                server,
                self._connection,
                self.fired,
                openai=self._openai,
                proceed=self._compute,
                taken=self._taken,
            )
        else:
            self._compute()

    def _taken(self) -> None:
        """A fault has the request: an answered one frees its permits, a hanging one holds them until it is gone."""
        if self._connection.active is not self._request:
            self.release()

    def _compute(self) -> None:
        """Hand the request to the backend."""
        server = self._server
        wanted = self._wanted
        dialect = server.config.dialect
        problem = self._problem()
        if problem is not None:
            self.release()
            self._refuse(problem, "tokenization")
            return
        truncate = wanted.truncate
        job = Job(
            inputs=wanted.inputs,
            truncate=self._truncates_by_default if truncate is None else truncate,
            left=wanted.left,
            prompt=server.default_prompt if wanted.prompt_name is None else server.prompts[wanted.prompt_name],
            dimensions=wanted.dimensions,
            normalize=wanted.normalize,
            arrived_s=server.loop.now(),
            too_long_status=messages.validation_status(dialect),
            on_done=self._computed,
            poison=self._poison() if self.fired else frozenset(),
        )
        self._job = job
        server.metrics.count("te_embed_count", len(wanted.inputs))
        server.backend.submit(job)

    @property
    def _truncates_by_default(self) -> bool:
        return self._server.config.truncates_by_default

    def _problem(self) -> ApiError | None:
        server, wanted = self._server, self._wanted
        if wanted.dimensions is not None and not 1 <= wanted.dimensions <= server.backend.dim:
            return messages.bad_dimensions(wanted.dimensions, server.config.dialect)
        if wanted.prompt_name is not None and wanted.prompt_name not in server.prompts:
            return messages.unknown_prompt(wanted.prompt_name, sorted(server.prompts), server.config.dialect)
        return None

    def _poison(self) -> frozenset[int]:
        """Return the inputs whose whole GPU batch shall fail."""
        words = [fault.select["contains"] for fault in self.fired if fault.kind == "poison"]
        return frozenset(
            index
            for index, text in enumerate(self._wanted.inputs)
            if type(text) is str and any(word in text for word in words)
        )

    def _computed(self, job: Job) -> None:
        self.release()
        server = self._server
        if job.panics:
            server.exit_process(PANIC, DOWN_AFTER_PANIC_S)  # whoever asked for it, and whether he still waits
            return
        if self._connection.closed:
            return
        if job.backend_failed:
            server.healthy = False
            self._refuse(messages.BACKEND_FAILED, "inference")
            return
        server.healthy = True
        if job.error is not None:
            self._refuse(job.error, "tokenization")
            return
        total_s = server.loop.now() - self._request.received_s
        server.metrics.succeeded(
            single=self._wanted.single,
            n_inputs=len(job.inputs),
            total_s=total_s,
            tokenization_s=job.tokenization_s,
            queue_s=job.queue_s,
            inference_s=job.inference_s,
        )
        server.metrics.observe_lengths(job.n_tokens)
        has_account = server.config.dialect is not Dialect.VLLM
        answer = Answer(job, self._wanted, server.model_json, total_s, has_account=has_account)
        if self._purpose.answer is not None:
            server.answer(self._connection, self._purpose.answer(answer, server.backend), self.fired)
            return
        if not server.faults:
            server.answer(self._connection, answer.response(server.backend))
            return
        assert job.rows is not None
        damaging = [fault for fault in self.fired if fault.kind in damage.KINDS]
        if damaging and self._wanted.raw is not None:
            response = answer.of_raw(damage.damaged_raw(job.rows, damaging, server.previous_rows))
        elif damaging:
            wire = damage.damaged_rows(
                job.rows,
                damaging,
                server.previous_rows,
                base64=self._wanted.base64,
                openai=self._openai,
            )
            response = answer.of_rows(wire)
        else:
            response = answer.response(server.backend)
        server.previous_rows = job.rows
        server.answer(self._connection, response, self.fired)

    def _gone(self) -> None:
        """The client went away: its permits are free at once, and what no batch has taken is skipped."""
        self._server.metrics.failed("dropped")
        if self._job is not None:
            self._job.abandon()
        self.release()

    def _refuse(self, error: ApiError, err: str) -> None:
        self._server.refuse(self._connection, error, openai=self._openai, err=err)
