"""Test the route table that the simulator shares with a server: every operation is bound, and the room depends on neither."""

import subprocess
import sys

from threadledger.adapters.simulator.handlers import HANDLERS
from threadledger.adapters.wire.routes import ROUTES


def test_every_operation_has_a_name_of_its_own_and_a_handler():
    operations = [route.operation for route in ROUTES]
    assert sorted(operations) == sorted(set(operations))
    of_the_server = {route.operation for route in ROUTES if "vector_store" in route.template}
    assert set(HANDLERS) == set(operations) - of_the_server


def test_a_route_that_reads_a_body_lists_its_fields():
    without_fields = {"cancel_run", "cancel_response", "cancel_file_batch"}
    reading = {route.operation for route in ROUTES if route.method == "POST"} - without_fields
    assert {route.operation for route in ROUTES if route.fields} == reading


def test_the_protocol_can_be_loaded_without_the_simulator():
    program = (
        "import sys, pkgutil, importlib; import threadledger.adapters.wire as room\n"
        "for found in pkgutil.iter_modules(room.__path__): importlib.import_module(f'{room.__name__}.{found.name}')\n"
        "print([n for n in sys.modules if n.startswith(('threadledger.adapters.simulator', 'starlette', 'uvicorn'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
