"""A shard read by a real Flight client, pyarrow's: with the run's token, and not without."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from pyarrow import flight

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = 300_000
SECRET = bytes(range(32))
SERVER = Path(__file__).resolve().parents[2] / "build" / "kindling-rows"


def token(run: str, secret: bytes = SECRET) -> str:
    """As the README of the protocol has it (native/shards/src/flight): HMAC-SHA256 over a label and the run."""
    return hmac.new(secret, b"kindling flight 1\0" + run.encode(), hashlib.sha256).hexdigest()


def options(given: str) -> flight.FlightCallOptions:
    return flight.FlightCallOptions(timeout=60, headers=[(b"authorization", f"Bearer {given}".encode())])


@pytest.fixture(scope="module", params=["plain", "tls"])
def served(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """What `kindling-rows` says of itself while it runs."""
    env = {**os.environ, "LD_LIBRARY_PATH": f"{os.environ['LIBTORCH']}/lib"}
    command = [str(SERVER), str(ROWS), SECRET.hex(), request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        line = process.stdout.readline()
        assert line, "kindling-rows ended before it served"
        yield json.loads(line)
        process.stdin.close()
        assert process.wait(60) == 0


@pytest.fixture
def client(served: dict[str, Any]) -> Iterator[flight.FlightClient]:
    endpoint = served["endpoint"]
    certificate = endpoint.get("certificate")
    if certificate is None:
        made = flight.FlightClient(f"grpc+tcp://{endpoint['host']}:{endpoint['port']}")
    else:
        made = flight.FlightClient(
            f"grpc+tls://{endpoint['host']}:{endpoint['port']}",
            tls_root_certs=certificate.encode(),
            override_hostname="kindling",
        )
    with made:
        yield made


def ticket(served: dict[str, Any], **changes: Any) -> flight.Ticket:
    return flight.Ticket(json.dumps({**served["ticket"], **changes}))


def test_a_client_with_the_token_reads_the_rows(served: dict[str, Any], client: flight.FlightClient) -> None:
    table = client.do_get(ticket(served), options(token("rows"))).read_all()
    assert table.schema.names == ["x", "label"]
    assert table.schema.field("x").type == pa.list_(pa.field("item", pa.float32(), nullable=False), 2)
    assert table["label"].combine_chunks().flatten().to_pylist() == list(range(ROWS))
    x = table["x"].combine_chunks().flatten().to_numpy().reshape(ROWS, 2)
    assert (x[:, 0] == range(ROWS)).all()
    assert (x[:, 1] == x[:, 0] + 0.5).all()


def test_a_range_of_rows_comes_in_messages_that_count_them(served: dict[str, Any], client: flight.FlightClient) -> None:
    reader = client.do_get(ticket(served, first=1000, rows=200_000), options(token("rows")))
    row = 1000
    while True:
        try:
            chunk = reader.read_chunk()
        except StopIteration:
            break
        assert int.from_bytes(chunk.app_metadata.to_pybytes()[:8], "little") == row
        assert chunk.data["label"][0].as_py() == [row]
        row += chunk.data.num_rows
    assert row == 201_000


@pytest.mark.parametrize(
    "given", [None, "", token("other"), token("rows", bytes(32)), token("rows")[:-1], token("rows").upper() + "00"]
)
def test_a_client_without_the_token_is_refused(
    served: dict[str, Any], client: flight.FlightClient, given: str | None
) -> None:
    with pytest.raises(flight.FlightUnauthenticatedError, match="token of the run is missing or wrong"):
        client.do_get(
            ticket(served), flight.FlightCallOptions(timeout=60) if given is None else options(given)
        ).read_all()


def test_nothing_but_rows_of_the_run_is_to_be_had(served: dict[str, Any], client: flight.FlightClient) -> None:
    allowed = options(token("rows"))
    for changes in ({"key": 99}, {"partition": 1}, {"run": "other"}, {"rows": ROWS + 1}, {"more": 1}):
        with pytest.raises((pa.ArrowException, KeyError, ValueError)):
            client.do_get(ticket(served, **changes), allowed).read_all()
    with pytest.raises((pa.ArrowNotImplementedError, flight.FlightError)):
        list(client.list_flights(options=allowed))
    with pytest.raises(flight.FlightUnauthenticatedError):
        list(client.list_flights())
