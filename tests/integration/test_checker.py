"""The history checker finds servers that are wrong: backends that lie, and mutants of our own server.

A checker that finds nothing proves nothing. Each wrong server here has to be found; the right one, under
the same load, has to pass.
"""
import json
import re
import subprocess

import pytest

from support.node import BUILD, ROOT, TOOLS

SEED = "20261121"


def history(gateway, *options, rules=None, faults=None, operations=40000):
    """Runs the checker; with `rules`, the lies begin when its region has been zeroed."""
    command = [TOOLS / "nbd-history", "--seed", SEED, "--operations", operations, "--wait", *options,
               gateway.socket, "vm-200-disk-0"]
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    if rules:
        faults.write_text(rules)
    output, errors = process.communicate("go\n", timeout=100)
    return process.returncode, output, errors


@pytest.fixture
def faulty(make_node, memory_dir, tmp_path):
    """Starts a gateway whose backend obeys a file of rules."""
    def start(**env):
        node = make_node(data_dir=memory_dir)
        node.create(200, "64M")
        return node.start(200, program=TOOLS / "faulty-gateway",
                          env={"TB4_FAULTS": str(tmp_path / "faults"), "TB4_SEED": SEED, **env})
    return start


LIES = ["write drop 300", "write early 1 20", "write shift 300", "write torn 200", "write repeat 1 30",
        "write corrupt 300", "zero drop 10", "read stale 300", "read misplace 300", "read zero 300",
        "read corrupt 300"]


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_backend_is_found(faulty, tmp_path, lie):
    code, output, errors = history(faulty(), rules=lie, faults=tmp_path / "faults")
    assert code == 1, (output, errors)
    assert "VIOLATION" in errors


DELAYS = "write delay 0 8\nread late 0 4\nzero delay 0 8\nflush delay 0 8\n"


@pytest.mark.parametrize("options", [[], ["--cut", "300"], ["--no-block-size"],
                                     ["--no-block-size", "--cut", "300"]])
def test_the_right_server_passes_with_slow_requests(faulty, tmp_path, options):
    gateway = faulty(TB4_BLOCK_MIN="4096" if "--no-block-size" in options else "512")
    code, output, errors = history(gateway, *options, rules=DELAYS, faults=tmp_path / "faults",
                                   operations=8000)
    assert code == 0, (output, errors)
    assert " 0 violations" in output


# name: (file, what stands there once, what the mutant has there, options of the checker)
MUTANTS = {
    "lost-writes-are-not-awaited": (
        "nbd/export.c", "export->state != EXPORT_STARTING && export->awaited == 0",
        "export->state != EXPORT_STARTING", ["--cut", "100"]),
    "a-new-session-awaits-nothing-and-hang-ups-are-ignored": (
        "nbd/connection.c", "if (!connection->has_out && has_hung_up)", "if (status < 0)", ["--cut", "60"]),
    "read-modify-write-is-not-exclusive": (
        "nbd/export.c", "if (request->is_write && can_collide && is_in_the_way(export, request)) {",
        "if (false && can_collide && is_in_the_way(export, request)) {", ["--no-block-size"]),
    "a-plain-write-does-not-wait-for-a-modified-block": (
        "nbd/export.c", "(other->modifies || request->modifies) && overlap(other, request)",
        "(other->modifies && request->modifies) && overlap(other, request)", ["--no-block-size"]),
    "the-tail-of-an-unaligned-write-is-lost": (
        "nbd/alignment.c", "} else if (piece <= PIECE_TAIL && end_of(request) < request->end &&",
        "} else if (false && end_of(request) < request->end &&", ["--no-block-size"]),
    "an-unaligned-read-begins-at-its-block": (
        "nbd/alignment.c", "request->bounce + (request->io.offset - request->first),",
        "request->bounce,", ["--no-block-size"]),
    "a-write-is-answered-before-it-is-done": (
        "nbd/transmission.c",
        "	list_append(&connection->requests, &request->link);\n	export_submit(connection->export, work);",
        "	list_append(&connection->requests, &request->link);\n"
        "	if (operation == BACKEND_WRITE && request->length > 16384) {\n"
        "		struct export_request *copy = malloc(sizeof *copy);\n"
        "		*copy = *work;\n		copy->finished = forget;\n		on_finished(work, 0);\n"
        "		export_submit(connection->export, copy);\n		return;\n	}\n"
        "	export_submit(connection->export, work);", []),
    "a-buffer-is-given-back-too-early": (
        "nbd/connection.c", "	list_append(&connection->replies, &request->link);\n	if (!connection->in_turn)",
        "	if (request->buffer && request->type == NBD_CMD_READ) {\n"
        "		buffer_give(&connection->server->pool, request->buffer, request->buffer_size);\n"
        "		request->buffer = NULL;\n	}\n"
        "	list_append(&connection->replies, &request->link);\n	if (!connection->in_turn)", []),
    "the-end-of-what-was-received-with-the-header-is-lost": (
        "nbd/transmission.c", "	memcpy(request->buffer, payload, n);",
        "	memcpy(request->buffer, payload, n > 512 ? n - 512 : n);", ["--max", "256K"]),
    "holes-hide-data": (
        "backend/file-requests.c", "		: align_down((uint64_t)data, file->base.geometry.block_min);",
        "		: align_up((uint64_t)data, 65536);", ["--max", "512K"]),
    "zeroes-end-a-block-early": (
        "nbd/transmission.c", "	submit(request, BACKEND_ZERO, NULL);",
        "	request->length -= request->length > 512 ? 512 : 0;\n	submit(request, BACKEND_ZERO, NULL);", []),
}
HELPERS = {
    "a-write-is-answered-before-it-is-done":
        "#include <stdlib.h>\nstatic void forget(struct export_request *work, int error)\n"
        "{\n	(void)error;\n	free(work);\n}\n",
}


def build_mutant(name, directory):
    """Compiles one changed file and links it before the library: a gateway with the faulty backend."""
    file, old, new, _ = MUTANTS[name]
    text = (ROOT / "gateway" / file).read_text()
    assert text.count(old) == 1, f"{name}: {file} has changed, so must the mutant"
    text = text.replace(old, new)
    if name in HELPERS:
        at = text.index("static void submit(struct request")
        text = text[:at] + HELPERS[name] + text[at:]
    source = directory / "mutant.c"
    source.write_text(text)
    commands = json.loads((BUILD / "compile_commands.json").read_text())
    command = next(entry["command"] for entry in commands if entry["file"].endswith("gateway/" + file)
                   and "libgateway.a.p" in entry["output"])
    command = re.sub(r" -o \S+ ", f" -o {directory}/mutant.o ", command)
    command = re.sub(r" -M\w+ \S+| -MD| -c \S+$", "", command.replace(" -MD", ""))
    subprocess.run(command.replace("-Werror", "-w") + f" -c {source}", shell=True, cwd=BUILD, check=True)
    libraries = re.search(r"^build gateway/tb4-gateway:.*\n LINK_ARGS = (.*)", (BUILD / "build.ninja").read_text(), re.M)[1]
    objects = " ".join(map(str, (BUILD / "tests" / "tools" / "faulty-gateway.p").glob("*.o")))
    flags = "-fsanitize=address,undefined" if "sanitize=address" in command else ""
    program = directory / "mutant"
    subprocess.run(f"cc {flags} -o {program} {directory}/mutant.o {objects} {libraries}", shell=True, cwd=BUILD, check=True)
    return program


@pytest.mark.plain
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_server_is_found(make_node, memory_dir, tmp_path, name):
    options = MUTANTS[name][3]
    node = make_node(data_dir=memory_dir)
    node.create(200, "64M")
    block_min = "4096" if "--no-block-size" in options else "512"
    gateway = node.start(200, program=build_mutant(name, tmp_path),
                         env={"TB4_FAULTS": str(tmp_path / "faults"), "TB4_SEED": SEED,
                              "TB4_BLOCK_MIN": block_min})
    code, output, errors = history(gateway, *options, rules=DELAYS, faults=tmp_path / "faults",
                                   operations=60000)
    assert code == 1, (output, errors)
