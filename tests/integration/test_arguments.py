"""Command lines of tb4 and tb4-gateway: what is accepted, what is refused and how."""
import json
import os
import re
import subprocess

import pytest

from support.node import PROGRAMS
from support.outcome import node_tree, refused

COMMANDS = [
    ("volume", "create"), ("volume", "list"), ("volume", "info"), ("volume", "resize"), ("volume", "delete"),
    ("volume", "import"), ("volume", "export"), ("volume", "adopt"), ("volume", "replace"), ("volume", "retry"),
    ("volume", "scrub"), ("volume", "snapshot"),
    ("sled", "list"), ("sled", "check"), ("sled", "drain"), ("claim", "show"), ("claim", "release"), ("claim", "force"),
    ("attach",), ("detach",), ("ports",), ("status",), ("metrics",), ("check",),
]
# arguments that would be right, so that only the option under test is wrong
ARGUMENTS = {
    ("volume", "create"): ["200", "1M"], ("volume", "info"): ["200"], ("volume", "resize"): ["200", "2M"],
    ("volume", "delete"): ["200"], ("volume", "import"): ["200", "/dev/null"],
    ("volume", "export"): ["200", "/dev/null"], ("claim", "release"): ["200"], ("claim", "force"): ["200"],
    ("volume", "adopt"): ["200"], ("volume", "replace"): ["200", "0"], ("volume", "retry"): ["200", "0"], ("volume", "scrub"): ["200"],
    ("volume", "snapshot"): ["200", "before"],
    ("sled", "drain"): ["s1"], ("ports",): ["200"], ("attach",): ["200"], ("detach",): ["200"],
}
OPTIONS = {
    ("volume", "create"): ["--backend", "--disk", "--name", "--description", "--dry-run", "--key-file", "--target",
                           "--allow-single-sled", "--encrypt", "--force"],
    ("volume", "adopt"): ["--disk", "--name", "--description", "--dry-run", "--key-file", "--target", "--force"],
    ("volume", "replace"): ["--disk", "--target", "--sled", "--allow-single-sled"],
    ("volume", "retry"): ["--disk"],
    ("volume", "scrub"): ["--disk", "--rate", "--background", "--stop"],
    ("volume", "snapshot"): ["--disk"],
    ("sled", "drain"): ["--dry-run"],
    ("volume", "info"): ["--disk"],
    ("volume", "resize"): ["--disk", "--dry-run"],
    ("volume", "delete"): ["--disk", "--yes", "--dry-run", "--force"],
    ("volume", "import"): ["--disk", "--size", "--overwrite", "--dry-run", "--backend", "--encrypt", "--key-file",
                           "--allow-single-sled"],
    ("volume", "export"): ["--disk", "--force"],
    ("claim", "show"): ["--disk"],
    ("claim", "release"): ["--disk", "--dry-run"],
    ("claim", "force"): ["--disk", "--yes", "--dry-run"],
    ("attach",): ["--connections", "--device", "--disk", "--dry-run", "--keep"],
    ("detach",): ["--disk", "--dry-run", "--force"],
    ("status",): ["--watch"],
}
ALL_OPTIONS = sorted({option for options in OPTIONS.values() for option in options})
WITH_VALUE = {"--backend", "--disk", "--name", "--description", "--size", "--key-file", "--target", "--sled", "--rate",
              "--connections", "--device"}


def words(commands):
    return [pytest.param(command, id=" ".join(command)) for command in commands]


def run(*arguments, program="tb4", **options):
    """A program without the --config that Node.tb4() adds."""
    return subprocess.run([str(PROGRAMS / program), *arguments], capture_output=True, text=True, timeout=60,
                          check=False, stdin=subprocess.DEVNULL, **options)


@pytest.mark.parametrize("command", words(COMMANDS))
def test_help_of_a_command_names_its_arguments_and_options(node, command):
    for line in ([*command, "--help"], ["--help", *command], [command[0], "--help", *command[1:]]):
        result = node.tb4(*line, check=False)
        assert result.returncode == 0 and result.stderr == ""
        assert result.stdout.startswith(f"usage: tb4 {' '.join(command)}")
        shown = re.findall(r"^  (--[a-z-]+)", result.stdout, re.MULTILINE)
        assert sorted(shown) == sorted(
            OPTIONS.get(command, []) + ["--config", "--json", "--help", "--version"])


def test_help_lists_every_command_and_every_exit_status(node):
    text = node.tb4("--help")
    for command in COMMANDS:
        assert re.search(rf"^  {' '.join(command)}\b", text, re.MULTILINE), command
    for status in (0, 1, 64, 65, 66, 69, 70, 73, 74, 75, 77, 78, 90, 130):
        assert re.search(rf"\b{status} ", text), f"exit status {status} is not explained"


@pytest.mark.parametrize("command", words(COMMANDS))
def test_version_is_shown_wherever_it_stands(command):
    for line in (["--version", *command], [*command, "--version"]):
        result = run(*line)
        assert (result.returncode, result.stderr) == (0, "")
        assert re.fullmatch(r"tb4 \d+\.\d+\.\d+\n", result.stdout)


def test_gateway_shows_help_and_version():
    text = run("--help", program="tb4-gateway")
    assert text.returncode == 0 and text.stderr == "" and text.stdout.startswith("usage: tb4-gateway")
    version = run("200", "--version", program="tb4-gateway")
    assert version.returncode == 0
    assert re.fullmatch(r"tb4-gateway \d+\.\d+\.\d+\n", version.stdout)


@pytest.mark.parametrize("arguments, pattern", [
    (["--nonsense", "200"], "--nonsense: unknown option"),
    (["200", "--nonsense"], "--nonsense: unknown option"),
    (["-xy", "200"], "-xy: unknown option"),
    (["200", "--config"], "--config: .*needs a value"),
    ([], "needs the number of one VM"),
    (["200", "201"], "needs the number of one VM"),
    (["99"], "99: not the number of a VM"),
    (["0200"], "0200: not the number of a VM"),
    (["1000000000"], "1000000000: not the number of a VM"),
    (["vm-200"], "vm-200: not the number of a VM"),
    ([""], "not the number of a VM"),
    (["--", "-200"], "-200: not the number of a VM"),
])
def test_gateway_refuses_wrong_arguments_in_one_line(arguments, pattern):
    refused(run(*arguments, program="tb4-gateway"), 64, pattern, program="tb4-gateway")


def test_gateway_without_its_configuration_file_says_which(tmp_path):
    result = run("--config", str(tmp_path / "none.conf"), "200", program="tb4-gateway")
    refused(result, 78, "none.conf: No such file", program="tb4-gateway[200]")


@pytest.mark.parametrize("arguments, pattern", [
    ([], "needs a command"),
    (["bogus"], "bogus: unknown command"),
    ([""], ": unknown command"),
    (["volume"], "volume needs one of: create, adopt, list, .*export$"), (["claim"], "claim needs one of: show, "),
    (["volume", "bogus"], "volume bogus: unknown command: one of create, "),
    (["claim", "create"], "claim create: unknown command"),
    (["create", "200", "1M"], "create: unknown command"),
    (["status", "--nonsense"], "--nonsense: unknown option"),
    (["--nonsense=1", "status"], "--nonsense=1: unknown option"),
    (["status", "-j"], "-j: unknown option"),
    (["status", "--js"], "--js: unknown option"),
    (["status", "--json=yes"], "--json takes no value"),
    (["volume", "info", "200", "--disk"], "--disk needs a value"),
    (["status", "--config"], "--config needs a value"),
    (["--", "--version"], "--version: unknown command"),
])
def test_wrong_command_lines_are_refused_in_one_line(arguments, pattern):
    refused(run(*arguments), 64, pattern)


@pytest.mark.parametrize("command", words(COMMANDS))
def test_too_few_and_too_many_arguments_are_refused(node, command):
    right = ARGUMENTS.get(command, [])
    refused(node.tb4(*command, *right, "1", "2", check=False), 64, f"{' '.join(command)} takes: ")
    if right:
        refused(node.tb4(*command, *right[:-1], check=False), 64, f"{' '.join(command)} takes: ")


@pytest.mark.parametrize("command", words(COMMANDS))
def test_options_of_other_commands_are_refused(node, command):
    for option in ALL_OPTIONS:
        if option in OPTIONS.get(command, []):
            continue
        value = ["1"] if option in WITH_VALUE else []
        result = node.tb4(*command, *ARGUMENTS.get(command, []), option, *value, check=False)
        refused(result, 64, f"{' '.join(command)} does not take {option}")


def test_options_may_stand_anywhere_and_have_their_value_behind_an_equals_sign(node):
    for i, line in enumerate([
            ["--disk", "1", "volume", "create", "200", "1M"],
            ["volume", "--disk=2", "create", "200", "1M"],
            ["volume", "create", "--disk=3", "--", "200", "1M"],
            ["volume", "create", "200", "--description=a=b", "1M", "--disk", "4"],
    ], 1):
        assert f"vm-200-disk-{i}" in node.tb4(*line)
    assert node.tb4_json("volume", "info", "200", "--disk=4")["description"] == "a=b"


def test_global_options_work_before_and_behind_the_command(node):
    config = str(node.config)
    for line in (["--config", config, "--json", "volume", "list"], ["volume", "list", "--json", "--config", config],
                 ["volume", f"--config={config}", "list", "--json"]):
        result = run(*line)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == {"volumes": []}


def test_the_last_of_two_equal_options_counts(node):
    result = run("--config", "/nonexistent", "volume", "list", "--json", "--config", str(node.config))
    assert (result.returncode, result.stderr) == (0, "")


def test_what_follows_two_dashes_is_no_option(node):
    refused(node.tb4("volume", "info", "--", "--disk", check=False), 64, "--disk: neither the name of a volume")


def test_missing_configuration_file_is_named(tmp_path):
    for command in COMMANDS:
        result = run("--config", str(tmp_path / "none.conf"), *command, *ARGUMENTS.get(command, []))
        assert result.returncode == 78, (command, result)
        assert "none.conf: No such file" in result.stdout + result.stderr


def test_configuration_faults_are_named_with_file_and_line(node):
    node.write_config("[nbd]\nmemory = lots\nbogus = 1\n")
    line = node.config.read_text().splitlines().index("memory = lots") + 1
    refused(node.tb4("volume", "list", check=False), 78,
            rf"{re.escape(str(node.config))}:{line}: memory = lots: not a size.* \(and 1 more: see tb4 check\)")


@pytest.mark.parametrize("command", words(
    [("volume", "info"), ("volume", "resize"), ("volume", "delete"), ("volume", "export"), ("claim", "show"),
     ("claim", "release"), ("claim", "force")]))
def test_unknown_volume_is_no_input_and_says_where_to_look(node, command):
    arguments = ARGUMENTS.get(command, ["200"])
    result = node.tb4(*command, *arguments, check=False)
    refused(result, 66, "vm-200-disk-0: no such volume in .*: see tb4 volume list")
    assert not [path for path in node_tree(node) if "vm-200" in path]


@pytest.mark.parametrize("name", ["vm-200", "vm-200-disk-", "vm-200-disk-00", "../etc/passwd", "vm-99-disk-0",
                                  "base-200-cloudinit", "vm-200-disk-0.conf", "VM-200-disk-0", "", "a" * 300,
                                  "vm-200-disk-10000", "vm-200-state-1x", "\x1b[31m"])
def test_what_is_no_volume_name_is_refused(node, name):
    result = node.tb4("volume", "info", name, check=False)
    line = refused(result, 64, "neither the name of a volume, such as vm-200-disk-0, nor a VMID")
    assert "\x1b" not in line


@pytest.mark.parametrize("disk", ["", "x", "-1", "+1", "0x1", "10000", "1.5", "99999999999999999999", " 1"])
def test_what_is_no_disk_number_is_refused(node, disk):
    refused(node.tb4("volume", "info", "200", "--disk", disk, check=False), 64, "not a number from 0 to 9999")


def test_disk_together_with_a_name_is_refused(node):
    refused(node.tb4("volume", "info", "vm-200-disk-0", "--disk", "0", check=False), 64,
            "--disk goes with a VMID, not with a name")


@pytest.mark.parametrize("command", words([("volume", "list"), ("status",), ("metrics",), ("ports",)]))
@pytest.mark.parametrize("vmid", ["99", "abc", "1e3", "-0", "vm-200-disk-0"])
def test_what_is_no_vmid_is_refused(node, command, vmid):
    refused(node.tb4(*command, "--", vmid, check=False), 64, f"{vmid}: not the number of a VM")


@pytest.mark.parametrize("command", words([("volume", "list"), ("status",), ("metrics",), ("claim", "show"),
                                           ("check",)]))
def test_output_that_cannot_be_written_is_an_io_error(node, command):
    node.create(200, "1M")
    with open("/dev/full", "w", encoding="ascii") as full:
        result = subprocess.run([PROGRAMS / "tb4", "--config", node.config, *command], stdout=full,
                                stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert result.returncode == 74
    assert re.fullmatch(r"tb4: cannot write to standard output: No space left on device\n", result.stderr)


def test_output_with_a_closed_descriptor_does_not_write_into_a_volume(node):
    """File descriptor 1 closed at the start must not become somebody's file."""
    node.create(200, "1M")
    before = node.image().read_bytes()
    command = f"exec {PROGRAMS}/tb4 --config {node.config} volume resize 200 1M >&-"
    result = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, timeout=60, check=False)
    assert result.returncode == 74
    assert node.image().read_bytes() == before


@pytest.mark.parametrize("command, fields", [
    (("volume", "list"), {"volumes"}),
    (("volume", "info", "200"), {"name", "vmid", "size", "backend", "host", "read_only", "claim", "file", "image",
                                 "allocated", "nbd_port", "device"}),
    (("claim", "show"), {"claims"}),
    (("ports", "200"), {"vmid", "volumes"}),
    (("status",), {"version", "node", "degraded", "gateways"}),
    (("metrics",), {"version", "gateways"}),
    (("check",), {"volumes", "faults"}),
    (("volume", "create", "201", "1M"), {"name", "size", "backend", "image", "dry_run"}),
    (("volume", "resize", "200", "2M"), {"name", "size", "dry_run"}),
    (("volume", "delete", "200", "--yes"), {"name", "dry_run"}),
    (("volume", "import", "200", os.path.abspath(__file__)), {"name", "size", "dry_run"}),
    (("volume", "export", "200", "/dev/null"), {"name", "size", "file"}),
    (("claim", "release", "200"), {"name", "dry_run"}),
    (("claim", "force", "200", "--yes"), {"name", "dry_run"}),
], ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "")
def test_json_output_is_one_object_with_its_fields(node, command, fields):
    node.create(200, "1M")
    result = node.tb4(*command, "--json", check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert set(json.loads(result.stdout)) == fields


@pytest.mark.parametrize("description", ["\N{SNOWMAN} \"quoted\" back\\slash", "tab\there", "a # b", "a;b", "x" * 100])
def test_any_text_in_a_volume_file_is_valid_json(node, description):
    node.tb4("volume", "create", "200", "1M", "--description", description)
    assert node.tb4_json("volume", "info", "200")["description"] == description


def test_text_that_is_no_utf8_is_refused_or_shown_as_valid_json(node):
    command = [str(PROGRAMS / "tb4"), "--config", str(node.config), "volume", "create", "201", "1M",
               "--description", b"bad \xff\xfe"]
    created = subprocess.run(command, capture_output=True, timeout=60, check=False)
    if created.returncode == 0:
        shown = node.tb4("volume", "info", "201", "--json", text=False)
        json.loads(shown.decode("utf-8"))
    else:
        refused(created, 64, "UTF-8")


DRY_RUNS = [
    ("volume", "create", "201", "1M"), ("volume", "resize", "200", "2M"), ("volume", "delete", "200", "--yes"),
    ("volume", "import", "200", os.path.abspath(__file__)), ("volume", "import", "201", os.path.abspath(__file__)),
    ("claim", "release", "200"), ("claim", "force", "200", "--yes"),
]


@pytest.mark.parametrize("command", DRY_RUNS, ids=lambda command: " ".join(command[:3]))
def test_dry_run_changes_nothing(node, command):
    node.create(200, "1M")
    node.start().kill()  # an unreleased claim and a role file
    if command[0] == "volume":
        node.tb4("claim", "release", "200")
    before = node_tree(node)
    text = node.tb4(*command, "--dry-run")
    assert text.startswith("would ")
    assert node.tb4_json(*command, "--dry-run")["dry_run"] is True
    after = node_tree(node)
    for found in (before, after):  # a lock file lies there only while somebody has it, or after kill -9
        found.pop(f"{node.run_dir}/200/lock", None)
    assert after == before


REFUSED = {  # by a running gateway, by another host: exit status, or None if it is done all the same
    ("volume", "delete", "200", "--yes"): (75, 77), ("volume", "import", "200", os.path.abspath(__file__)): (75, 77),
    ("volume", "resize", "200", "2M"): (None, 77), ("claim", "release", "200"): (75, None),
    ("claim", "force", "200", "--yes"): (None, None),
}


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: " ".join(command[:3]))
def test_dry_run_is_refused_like_the_command_itself(make_node, command):
    node = make_node("node-a")
    other = make_node("node-b", share_with=node)
    node.create(200, "1M")
    gateway = node.start()
    for place, status in zip((node, other), REFUSED[command]):
        dry = place.tb4(*command, "--dry-run", check=False)
        if status is None:
            assert dry.returncode == 0 and dry.stdout.startswith("would "), dry
        else:
            refused(dry, status, "in use by its gateway, pid" if place is node else "belongs to host node-a")
            refused(place.tb4(*command, check=False), status, "in use by" if place is node else "belongs to host")
        if place is node:
            assert gateway.stop() == 0


@pytest.mark.parametrize("command", DRY_RUNS, ids=lambda command: " ".join(command[:3]))
def test_dry_run_does_not_even_make_run_dir(node, command):
    node.create(200, "1M")
    os.rmdir(node.run_dir)
    before = node_tree(node)
    node.tb4(*command, "--dry-run")
    assert node_tree(node) == before
