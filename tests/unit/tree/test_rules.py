"""What no linter checks: peers written from the specification, no addresses, no paths of a machine."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PEERS = sorted((ROOT / "tests" / "support").glob("kubeedge_*.py"))


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize("peer", PEERS, ids=lambda path: path.stem)
def test_scripted_peers_do_not_know_our_wire(peer: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(peer.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module)
    ours = {name for name in imported if name.split(".")[0] in ("edgeappliance", "cloudgateway")}
    assert not ours, f"{peer.name} imports {ours}"


def test_there_are_peers_of_both_kinds() -> None:
    assert {"kubeedge_cloud", "kubeedge_edge"} <= {path.stem for path in PEERS}


def test_pins_name_no_index_and_carry_hashes() -> None:
    for lock in sorted((ROOT / "build" / "requirements").glob("*.txt")):
        text = lock.read_text("utf-8")
        assert not re.search(r"(?m)^\s*--(index-url|extra-index-url|find-links|trusted-host)", text), lock
        pins = re.findall(r"(?m)^[A-Za-z0-9_.-]+==\S+", text)
        assert len(pins) > 5
        assert text.count("--hash=sha256:") >= len(pins)


def test_no_source_file_is_past_reading() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in tracked()
        if path.suffix == ".py" and (count := len(path.read_text("utf-8").splitlines())) > 800
    }
    assert not long
