"""What is written about the programs is what they do: help, manual pages, completion, README."""
import re
import subprocess
from pathlib import Path

import pytest

from support.node import PROGRAMS, ROOT, TOOLS, needs, run

MAN = ROOT / "gateway" / "man"
COMPLETION = ROOT / "gateway" / "cli" / "tb4.bash-completion"


def help_of(*words, program="tb4"):
    return run(PROGRAMS / program, *words, "--help")


def commands():
    """{"volume create": "VMID SIZE", ...} as tb4 --help lists them."""
    found = {}
    for line in help_of().splitlines():
        match = re.match(r"  ((?:volume |claim |cert |sled )?[a-z]+)((?: [\[A-Z].*?)?)  +\S", line)
        if match:
            found[match[1]] = match[2].strip()
    assert len(found) > 10
    return found


def options_of(text):
    return set(re.findall(r"^  (--[a-z-]+)", text, re.M))


def man_text(page):
    """The source of a page with the roff of dashes and fonts taken out."""
    text = (MAN / page).read_text().replace("\\-", "-")
    return re.sub(r"\\f[BIRP]", "", text)


def man_options(page):
    return set(re.findall(r"^\.BI? (--[a-z-]+)", man_text(page), re.M))


def test_manual_describes_every_command_and_no_other():
    text = man_text("tb4.1")
    section = text[text.index(".SH COMMANDS"):text.index(".SH OPTIONS")]
    described = {}
    for line in re.findall(r"^\.TP\n\.BI? (.*)$", section, re.M):
        words = line.replace('"', "").split()
        name = [word for word in words if re.fullmatch("[a-z]+", word)]
        described[" ".join(name)] = " ".join(word for word in words if word not in name)
    assert described == commands()


def test_manual_describes_every_option_and_no_other():
    offered = options_of(help_of())
    for command in commands():
        offered |= options_of(help_of(*command.split()))
    assert man_options("tb4.1") == offered
    for program in ("tb4-gateway", "tb4-exporter"):
        assert man_options(f"{program}.8") == options_of(help_of(program=program))


def test_manual_lists_the_exit_statuses_of_the_source():
    source = (ROOT / "gateway" / "reason.h").read_text()
    statuses = {int(n) for n in re.findall(r"EXIT_\w+ = (\d+)", source)}
    text = man_text("tb4.1")
    section = text[text.index(".SH EXIT STATUS"):text.index(".SH EXAMPLES")]
    assert {int(n) for n in re.findall(r"^\.B (\d+)$", section, re.M)} == statuses | {0}


def settings():
    return [line.split(" ", 3) for line in run(TOOLS / "list-settings").splitlines()]


@pytest.mark.parametrize("file, begin, end", [
    ("conf", ".SH TB4.CONF", ".SH VOLUME FILES"), ("volume", ".SH VOLUME FILES", ".SH CLAIM RECORDS")])
def test_manual_describes_every_setting_in_its_section(file, begin, end):
    text = man_text("tb4.conf.5")
    described = set()
    for part in re.split(r"^\.SS ", text[text.index(begin):text.index(end)], flags=re.M)[1:]:
        section = part.split("]")[0][1:].split()[0]
        described |= {(section, name) for name in re.findall(r"^\.TP\n\.B (\w+)$", part, re.M)}
    assert described == {(section, name) for where, section, name, _ in settings() if where == file}


def test_manual_gives_the_defaults_of_the_source():
    text = man_text("tb4.conf.5")
    for where, section, name, default in settings():
        if where == "volume" or default == "-":
            continue
        section = text[re.search(rf"^\.SS \[{section}[] ]", text, re.M).end():]
        paragraph = re.search(rf"^\.B {name}\n(.*?)(?=^\.(?!BR))", section, re.M | re.S)[1]
        assert f"Default {default}" in paragraph, (name, default)


def test_manual_describes_every_metric_and_no_other(gateway):
    printed = set(re.findall(r"^# TYPE (\S+)", gateway.node.tb4("metrics"), re.M))
    text = man_text("tb4.1")
    assert set(re.findall(r"^\.B (tb4_\w+)$", text, re.M)) == printed


def test_catalog_explains_every_event_of_the_journal():
    header, catalog = (ROOT / "gateway" / "log-events.h").read_text(), (ROOT / "units" / "tb4.catalog").read_text()
    numbers = re.findall(r'#define EVENT_\w+ "(.*)"', header)
    assert len(numbers) > 10 and len(set(numbers)) == len(numbers)
    assert all(re.fullmatch("[0-9a-f]{32}", number) for number in numbers)
    assert re.findall(r"^-- (.*)$", catalog, re.M) == numbers
    sources = "".join(path.read_text() for path in (ROOT / "gateway").rglob("*.c"))
    for name in re.findall(r"#define (EVENT_\w+)", header):
        assert re.search(rf"\b{name}\b", sources), name
    assert not re.search(r"@\w+@", catalog)
    commands_named = set(re.findall(r"^    tb4 ((?:volume |claim |sled )?[a-z]+)", catalog, re.M))
    assert commands_named <= set(commands())


@needs("mandoc")
@pytest.mark.parametrize("page", ["tb4.1", "tb4-exporter.8", "tb4-gateway.8", "tb4.conf.5"])
def test_manual_page_is_well_formed(page):
    result = run("mandoc", "-T", "lint", "-W", "warning", MAN / page, check=False)
    assert result.stdout == ""


def complete(line):
    """What bash offers behind this command line."""
    script = f"""
        source /usr/share/bash-completion/bash_completion
        source {COMPLETION}
        PATH={PROGRAMS}:$PATH
        COMP_LINE={line!r}; COMP_POINT=${{#COMP_LINE}}
        read -ra COMP_WORDS <<<"$COMP_LINE"
        [[ $COMP_LINE != *" " ]] || COMP_WORDS+=("")
        COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        _{line.split()[0].replace('-', '_')}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return set(subprocess.run(["bash", "-c", script], capture_output=True, text=True,
                              check=True).stdout.split())


needs_completion = pytest.mark.skipif(not Path("/usr/share/bash-completion/bash_completion").exists(),
                                      reason="not installed: bash-completion")


@needs_completion
def test_completion_offers_every_command():
    offered = {word for word in complete("tb4 ") if not word.startswith("-")}
    groups = {command.split()[0] for command in commands()}
    assert offered == groups
    for group in ("volume", "claim", "cert", "sled"):
        assert complete(f"tb4 {group} ") == {
            command.split()[1] for command in commands() if command.startswith(group + " ")}


@needs_completion
def test_completion_offers_the_options_of_each_command():
    for command in commands():
        assert complete(f"tb4 {command} --") == options_of(help_of(*command.split())), command
    for program in ("tb4-gateway", "tb4-exporter"):
        assert complete(f"{program} --") == options_of(help_of(program=program))


@needs_completion
def test_completion_offers_the_volumes_there_are(node):
    node.create(200)
    node.create(201)
    offered = complete(f"tb4 --config {node.config} volume info vm-2")
    assert offered == {"vm-200-disk-0", "vm-201-disk-0"}


@needs("shellcheck")
def test_shell_scripts_are_clean():
    scripts = [ROOT / ".ci" / "run", *sorted(ROOT.glob("tests/**/*.sh")), *sorted(ROOT.glob("gateway/**/*.sh")),
               *sorted(ROOT.glob("debian/*.p*"))]
    run("shellcheck", *scripts)
    run("shellcheck", "-s", "bash", COMPLETION)


def test_readme_names_the_two_commands_and_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    assert "sh tests/demo.sh" in text and "sh tests/check.sh" in text
    for path in re.findall(r"`((?:gateway|tests|upstairs-client|hooks|units)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_readme_tour_runs_as_typed(node, tmp_path):
    """The commands of the tour, with this test's directories in place of the system's."""
    text = (ROOT / "README.md").read_text()
    tour = re.search(r"## A tour.*?```sh\n(.*?)```", text, re.S)[1]
    script = tour.replace("/run/tb4", str(node.run_dir)).replace("sudo ", "")
    prelude = f"""
        set -e
        export PATH={PROGRAMS}:$PATH
        tb4() {{ command tb4 --config {node.config} "$@"; }}
        tb4-gateway() {{ exec {PROGRAMS}/tb4-gateway --config {node.config} "$@"; }}
    """
    result = subprocess.run(["bash", "-c", prelude + script], capture_output=True, text=True,
                            cwd=tmp_path, timeout=60, check=False)
    assert result.returncode == 0, (result.stdout, result.stderr)
    assert "serving" in result.stdout
