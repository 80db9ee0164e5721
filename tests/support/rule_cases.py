"""When each alert of units/monitoring/tb4.rules.yml must come, and when not: series as promtool takes them, "VALUExCOUNT" and
"FROM+STEPxCOUNT", one value a minute."""

NODE = 'job="tb4",instance="node1:9199"'
VM = f'{NODE},vmid="200"'
VOLUME = f'{VM},volume="vm-200-disk-0"'
SLOT = f'{VOLUME},slot="1"'
BUCKETS = ("0.01", "0.1", "0.5", "1", "+Inf")


def states(name, labels, **values):
    return {f'{name}{{{labels},state="{state}"}}': series for state, series in values.items()}


def latencies(*rises):
    """Counts of reads up to each limit, which rise so many a minute."""
    return {f'tb4_request_seconds_bucket{{{VOLUME},command="read",le="{limit}"}}': f"0+{rise}x60"
            for limit, rise in zip(BUCKETS, rises)}


def slot_state(state, count=60):
    return {f'tb4_slot_state{{{SLOT},state="{state}"}}': f"1x{count}"}


# (alert, minutes, series, the value of the alert as its summary prints it); the first series is the one that alarms
COMES = [
    ("Tb4ExporterDown", 5, {f"up{{{NODE}}}": "1 0x10"}, None),
    ("Tb4GatewayDown", 5, {f"tb4_up{{{VM}}}": "1 0x10", 'tb4_up{job="tb4",instance="node2:9199",vmid="200"}': "0x10"}, None),
    ("Tb4GatewayRestarts", 12, {f"tb4_uptime_seconds{{{VM}}}": "600 3 40 5 70 2 60+60x10"}, "3"),
    ("Tb4Fenced", 3, states("tb4_volume_state", VOLUME, fenced="0 1x10", serving="1 0x10"), None),
    ("Tb4VolumeNotServed", 5, states("tb4_volume_state", VOLUME, failed="0 1x10", serving="1 0x10"), None),
    ("Tb4VolumePaused", 3, {f"tb4_volume_paused{{{VOLUME}}}": "0 1x10"}, None),
    ("Tb4VolumePaused", 3, {f"tb4_record_wait_seconds{{{VOLUME}}}": "0 20 80 140 200"}, None),
    ("Tb4TooFewCopies", 5, {f"tb4_copies{{{VOLUME}}}": "3 2 1x10"}, "1"),
    ("Tb4CopyNotInSync", 8, {f"tb4_slot_in_sync{{{SLOT}}}": "1 0x20", **slot_state("absent")}, None),
    ("Tb4CopyNotInSyncForLong", 800, {f"tb4_slot_in_sync{{{SLOT}}}": "1 0x900", **slot_state("repair", 900)}, None),
    ("Tb4RepairStandsStill", 25, {f"tb4_slot_repaired_extents{{{SLOT}}}": "3 7x60", **slot_state("repair")}, None),
    ("Tb4CopySlow", 4, {f"tb4_slot_behind_seconds{{{SLOT}}}": "0 2.5x10"}, "2.5"),
    ("Tb4CopiesDiffer", 5, {f"tb4_scrub_differing_blocks_total{{{VOLUME}}}": "0 0 4x10"}, None),
    ("Tb4CopiesDiffer", 5, {f"tb4_slot_damaged_blocks_total{{{SLOT}}}": "0 0 1x10"}, None),
    ("Tb4BlocksNotHealed", 3, {f"tb4_unhealed_blocks_total{{{VOLUME}}}": "0 2x10"}, "2"),
    ("Tb4RequestErrors", 4, {f'tb4_request_errors_total{{{VOLUME},command="write"}}': "0 0 1x10"}, None),
    ("Tb4RequestErrors", 4, {f"tb4_flush_failed{{{VOLUME}}}": "0 1x10"}, None),
    ("Tb4LatencyHigh", 30, latencies(0, 90, 90, 100, 100), "950ms"),
]

# (alert, minutes, series)
STAYS_AWAY = [
    ("Tb4ExporterDown", 5, {f"up{{{NODE}}}": "1x10", 'up{job="node",instance="node1:9100"}': "0x10"}),
    # it runs on another node; and one that was stopped
    ("Tb4GatewayDown", 5, {f"tb4_up{{{VM}}}": "1 0x10", 'tb4_up{job="tb4",instance="node2:9199",vmid="200"}': "0 1x10"}),
    ("Tb4GatewayDown", 20, {f"tb4_up{{{VM}}}": "1 1 stale"}),
    ("Tb4GatewayRestarts", 12, {f"tb4_uptime_seconds{{{VM}}}": "600 3 63 5 65+60x20"}),
    ("Tb4Fenced", 3, states("tb4_volume_state", VOLUME, serving="1x10", fenced="0x10")),
    ("Tb4VolumeNotServed", 5, states("tb4_volume_state", VOLUME, serving="0 1x10", starting="1 0x10", failed="0x10")),
    ("Tb4VolumePaused", 3, {f"tb4_volume_paused{{{VOLUME}}}": "0x10", f"tb4_record_wait_seconds{{{VOLUME}}}": "2x10"}),
    ("Tb4TooFewCopies", 5, {f"tb4_copies{{{VOLUME}}}": "2x10"}),
    ("Tb4CopyNotInSync", 30, {f"tb4_slot_in_sync{{{SLOT}}}": "0x60", **slot_state("repair")}),
    ("Tb4CopyNotInSync", 30, {f"tb4_slot_in_sync{{{SLOT}}}": "1x60", **slot_state("absent")}),
    ("Tb4CopyNotInSyncForLong", 800, {f"tb4_slot_in_sync{{{SLOT}}}": "0 1x900"}),
    ("Tb4RepairStandsStill", 25, {f"tb4_slot_repaired_extents{{{SLOT}}}": "0+1x60", **slot_state("repair")}),
    ("Tb4RepairStandsStill", 25, {f"tb4_slot_repaired_extents{{{SLOT}}}": "0x60", **slot_state("active")}),
    ("Tb4CopySlow", 4, {f"tb4_slot_behind_seconds{{{SLOT}}}": "0.9x10"}),
    ("Tb4CopiesDiffer", 5, {f"tb4_scrub_differing_blocks_total{{{VOLUME}}}": "4x10",
                            f"tb4_slot_damaged_blocks_total{{{SLOT}}}": "1x10"}),
    ("Tb4BlocksNotHealed", 3, {f"tb4_unhealed_blocks_total{{{VOLUME}}}": "0x10"}),
    ("Tb4RequestErrors", 4, {f'tb4_request_errors_total{{{VOLUME},command="write_zeroes"}}': "0+5x10",
                             f'tb4_request_errors_total{{{VOLUME},command="write"}}': "3x10",
                             f"tb4_flush_failed{{{VOLUME}}}": "0x10"}),
    ("Tb4LatencyHigh", 30, latencies(0, 995, 1000, 1000, 1000)),
    ("Tb4LatencyHigh", 30, {f'tb4_request_seconds_bucket{{{VOLUME},command="trim",le="{limit}"}}': f"0+{rise}x60"
                            for limit, rise in zip(BUCKETS, (0, 0, 0, 0, 100))}),
    # not yet: it may pass
    ("Tb4ExporterDown", 2, {f"up{{{NODE}}}": "1 0x10"}),
    ("Tb4GatewayDown", 1, {f"tb4_up{{{VM}}}": "1 0x10"}),
    ("Tb4VolumeNotServed", 1, states("tb4_volume_state", VOLUME, failed="0 1x10")),
    ("Tb4VolumePaused", 1, {f"tb4_volume_paused{{{VOLUME}}}": "0 1x10"}),
    ("Tb4TooFewCopies", 1, {f"tb4_copies{{{VOLUME}}}": "3 1x10"}),
    ("Tb4CopyNotInSync", 5, {f"tb4_slot_in_sync{{{SLOT}}}": "1 0x20", **slot_state("absent")}),
    ("Tb4CopyNotInSyncForLong", 700, {f"tb4_slot_in_sync{{{SLOT}}}": "1 0x900"}),
    ("Tb4RepairStandsStill", 15, {f"tb4_slot_repaired_extents{{{SLOT}}}": "3 7x60", **slot_state("repair")}),
    ("Tb4CopySlow", 2, {f"tb4_slot_behind_seconds{{{SLOT}}}": "0 2.5x10"}),
    ("Tb4LatencyHigh", 8, latencies(0, 90, 90, 100, 100)),
]
