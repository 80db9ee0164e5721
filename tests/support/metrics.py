"""The text format of Prometheus, read strictly, and the families that tb4 prints."""
import math
import re

FAMILIES = {
    "tb4_up": "gauge", "tb4_gateways": "gauge", "tb4_uptime_seconds": "gauge", "tb4_memory_in_use_bytes": "gauge",
    "tb4_requests_total": "counter", "tb4_request_bytes_total": "counter", "tb4_request_errors_total": "counter",
    "tb4_request_seconds": "histogram", "tb4_requests_in_flight": "gauge", "tb4_connections": "gauge",
    "tb4_volume_size_bytes": "gauge", "tb4_volume_state": "gauge", "tb4_limited_total": "counter",
    "tb4_flush_failed": "gauge", "tb4_copies": "gauge",
    "tb4_volume_paused": "gauge", "tb4_record_wait_seconds": "gauge", "tb4_slot_state": "gauge", "tb4_slot_in_sync": "gauge",
    "tb4_slot_behind_seconds": "gauge", "tb4_slot_repaired_extents": "gauge", "tb4_slot_extents_to_repair": "gauge",
    "tb4_slot_damaged_blocks_total": "counter", "tb4_slot_healed_blocks_total": "counter",
    "tb4_unhealed_blocks_total": "counter", "tb4_scrub_running": "gauge", "tb4_scrub_done_blocks": "gauge",
    "tb4_scrub_all_blocks": "gauge", "tb4_scrub_passes_total": "counter", "tb4_scrub_differing_blocks_total": "counter",
}

LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")


def parse_metrics(text):
    """The text format of Prometheus, strictly: {(name, labels): value}, {family: type}."""
    assert text.endswith("\n") and "\r" not in text
    samples, types, helps, seen, current = {}, {}, set(), set(), None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name, help_text = line[7:].split(" ", 1)
            assert name not in helps and help_text and help_text.strip() == help_text
            helps.add(name)
            current = name
            assert name not in seen, f"{name} is in two places"
            seen.add(name)
            continue
        if line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == current and name not in types and kind in ("counter", "gauge", "histogram")
            types[name] = kind
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name, labels, value = match.groups()
        family = name
        if types.get(current) == "histogram":
            family = re.sub(r"_(bucket|sum|count)$", "", name)
        assert family == current and current in types, line
        key = (name, tuple(sorted(re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\\n]|\\["\\n])*)"', labels or ""))))
        assert key not in samples, f"twice: {line}"
        samples[key] = float(value)
        assert not math.isnan(samples[key])
        if types[current] == "counter":
            assert name.endswith("_total") and samples[key] >= 0
    assert helps == set(types)
    return samples, types


def value(samples, name, **labels):
    return samples[(name, tuple(sorted({"vmid": "200", "volume": "vm-200-disk-0", **labels}.items())))]
