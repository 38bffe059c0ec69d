"""When a node's status goes up, and what of it."""

from pathlib import Path

from edgeappliance.edged.facts import Limits, Pressure, conditions, read_machine, read_pressure
from edgeappliance.edged.status import FULL_REPORT, NodeStatus


def measured(status: NodeStatus, *, time: str = "T0", disk: bool = False) -> None:
    status.set_fixed({"capacity": {"cpu": "2"}})
    status.set_conditions(conditions(Pressure(disk=disk)), time=time)


def test_first_report_is_everything() -> None:
    status = NodeStatus()
    measured(status)
    assert status.due(0.0)
    patch = status.patch()["status"]
    assert patch["capacity"] == {"cpu": "2"}
    assert [c["type"] for c in patch["conditions"]] == ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]


def test_nothing_goes_up_while_nothing_changes_until_five_minutes_are_over() -> None:
    status = NodeStatus()
    measured(status)
    status.acknowledged(status.version, 100.0)
    measured(status, time="T1")
    assert not status.due(100.0 + FULL_REPORT - 1)
    assert status.due(100.0 + FULL_REPORT)
    patch = status.patch()["status"]
    assert set(patch) == {"conditions"}
    assert {c["lastHeartbeatTime"] for c in patch["conditions"]} == {"T1"}
    assert {c["lastTransitionTime"] for c in patch["conditions"]} == {"T0"}


def test_a_condition_that_turns_goes_up_at_once_with_its_time() -> None:
    status = NodeStatus()
    measured(status)
    status.acknowledged(status.version, 0.0)
    measured(status, time="T1", disk=True)
    assert status.due(1.0)
    disk = next(c for c in status.patch()["status"]["conditions"] if c["type"] == "DiskPressure")
    assert (disk["status"], disk["lastTransitionTime"], disk["reason"]) == ("True", "T1", "KubeletHasDiskPressure")


def test_a_change_while_a_report_is_under_way_stays_dirty() -> None:
    status = NodeStatus()
    measured(status)
    under_way = status.version
    measured(status, disk=True)
    status.acknowledged(under_way, 0.0)
    assert status.due(0.0)
    assert set(status.patch()["status"]) == {"conditions"}
    status.set_fixed({"capacity": {"cpu": "4"}})
    assert "capacity" in status.patch()["status"]


def test_a_new_link_gets_everything_again() -> None:
    status = NodeStatus()
    measured(status)
    status.acknowledged(status.version, 0.0)
    status.forget_acknowledged()
    assert status.due(0.0)
    assert "capacity" in status.patch()["status"]


def test_this_machine_can_be_read(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert machine.cpus >= 1
    assert machine.memory_kib > 1000
    assert machine.disk_kib > 1000
    assert machine.capacity(pods=0)["pods"] == "0"
    assert machine.node_info("0.1.0")["operatingSystem"] == "linux"
    assert isinstance(read_pressure(tmp_path, limits=Limits()), Pressure)


def test_facts_of_a_strange_board_are_empty_not_errors(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:  1024000 kB\nMemAvailable: 50000 kB\nrubbish\nHuge: x\n")
    (tmp_path / "proc/device-tree").mkdir()
    (tmp_path / "proc/device-tree/serial-number").write_bytes(b"100000003d1d1c36\x00")
    machine = read_machine(tmp_path, root=tmp_path)
    assert machine.memory_kib == 1024000
    assert machine.system_uuid == "100000003d1d1c36"
    assert (machine.machine_id, machine.os_image) == ("", "Linux")
    assert read_pressure(tmp_path, limits=Limits(), root=tmp_path).memory


def test_pids_run_out(tmp_path: Path) -> None:
    (tmp_path / "proc/sys/kernel").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/pid_max").write_text("4194304\n")
    (tmp_path / "proc/sys/kernel/threads-max").write_text("1000\n")
    for tasks, low in (("2/899", False), ("2/901", True), ("rubbish", False)):
        (tmp_path / "proc/loadavg").write_text(f"0.00 0.01 0.05 {tasks} 12345\n")
        assert read_pressure(tmp_path, limits=Limits(), root=tmp_path).pids is low
