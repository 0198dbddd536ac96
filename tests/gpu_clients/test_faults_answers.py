"""Servers that lie: damaged JSON, wrong counts and dimensions, numbers that are none, vectors of another model.

No such vector ever reaches the writer; the texts are embedded elsewhere, or the server is taken out.
"""

from __future__ import annotations

import pytest

from tests.gpu_clients.test_faults_transport import run_with_fault

# rows 50, 51, 53: detected in the answer itself

DAMAGED = [
    "value:value=nan",
    "value:value=inf",
    "value:value=-inf",
    "dim:to=767",
    "dim:to=769",
    "dim:to=0",
    "count:delta=-1",
    "count:delta=1",
    "index:how=duplicate",
    "index:how=missing",
    "index:how=gap",
    "truncated_json",
    "html200",
    "content_type:value=text/plain",
    "content_type:value=application/json;charset%3Dutf-16",
    "redirect:location=http%3A//127.0.0.1%3A1/elsewhere",
    "zero",
]


@pytest.mark.seconds
@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_answer_now_and_then_is_asked_for_again(fault: str) -> None:
    separator = "," if ":" in fault else ":"
    outcome = run_with_fault(f"{fault}{separator}every=7", n=2000, ports=2)

    assert sum(outcome.figures("client-0")["errors"].values()) > 0


@pytest.mark.seconds
@pytest.mark.parametrize("fault", [fault for fault in DAMAGED if not fault.startswith("value")])
def test_a_server_that_always_damages_its_answers_is_taken_out(fault: str) -> None:
    outcome = run_with_fault(fault, n=2000, ports=2)

    assert outcome.told("server_out", "client-0")
    assert outcome.figures("client-0")["rows"] == 0


@pytest.mark.seconds
@pytest.mark.parametrize("value", ["nan", "inf", "1e400", "null", "string"])
def test_a_number_that_is_none_in_json_floats_is_refused_too(value: str) -> None:
    # vectors that are not normalised make the client take /embed, which answers in JSON numbers
    outcome = run_with_fault(f"value:value={value},every=5", n=1000, ports=2, truncate=False)

    assert sum(outcome.figures("client-0")["errors"].values()) > 0


@pytest.mark.seconds
@pytest.mark.parametrize("row", [0, 31])
def test_a_text_whose_vector_is_unsound_once_is_asked_for_alone_and_kept(
    row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gpu_clients.diagnosis.canary_schedule.FIRST_S", 600.0
    )  # the one bad vector is a document's, not the canary's
    outcome = run_with_fault(f"value:value=nan,row={row},first=1", n=640, ports=2)

    figures = outcome.figures("client-0")
    assert figures["errors"] == {"unsound": 1}
    assert not outcome.told("server_out")


@pytest.mark.seconds
def test_vectors_in_another_order_are_placed_by_their_index() -> None:
    outcome = run_with_fault("index:how=reorder", n=2000, ports=2)

    assert not outcome.told("server_out")
    assert outcome.figures("client-0")["rows"] > 0


@pytest.mark.seconds
def test_a_redirect_is_not_followed() -> None:
    outcome = run_with_fault("redirect:location=http%3A//127.0.0.1%3A1/elsewhere", n=600, ports=2)

    assert set(outcome.figures("client-0")["errors"]) == {"wrong_service"}
