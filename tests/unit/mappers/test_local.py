"""Local device files: objects like the API's, or every problem with file and field."""

from pathlib import Path

from edgeappliance.devicemodel import Catalogue
from edgeappliance.mappers.binding import Protocols
from edgeappliance.mappers.local import LocalFolder, load_directory

GOOD = """
[[model]]
name = "meter"
[[model.properties]]
name = "voltage"
type = "FLOAT"
accessMode = "ReadOnly"
unit = "V"
visitors.configData = { register = "InputRegister", offset = 0, limit = 2 }

[[device]]
name = "meter-1"
deviceModelRef.name = "meter"
protocol.protocolName = "modbus"
protocol.configData = { serialPort = "/dev/ttyUSB0", slaveID = 1 }
properties = [{ name = "voltage", collectCycle = 250 }]
"""


def test_a_file_gives_a_device_that_binds(tmp_path: Path) -> None:
    (tmp_path / "meter.toml").write_text(GOOD)
    local = load_directory(tmp_path)
    assert local.problems == ()
    catalogue = Catalogue()
    for _, model in local.models:
        catalogue.upsert_model(model, local=True)
    (change,) = catalogue.upsert_device(local.devices[0][1], local=True)
    assert change.spec is not None
    assert change.spec.local
    assert change.spec.id == "default/meter-1"
    binding = Protocols.built_in().of(change.spec).bind(change.spec)
    assert binding.unit == 1
    assert binding.points[0].cycle == 0.25


def test_a_bad_file_is_named_with_its_fields_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(
        '[[device]]\nnam = "x"\n[[device]]\nname = "y"\nprotcol = 1\nproperties = [{nme = 1}]\n[modl]\n'
    )
    (tmp_path / "c.toml").write_text("not toml")
    (tmp_path / "d.toml").write_text(GOOD)
    local = load_directory(tmp_path)
    assert [file.name for file, _ in local.devices] == ["a.toml"]
    told = [f"{problem.file.name} {problem.path} {problem.message}" for problem in local.problems]
    assert 'b.toml modl is not a known key; did you mean "model"?' in told
    assert 'b.toml device[0].nam is not a known key; did you mean "name"?' in told
    assert "b.toml device[0].name is missing" in told
    assert 'b.toml device[1].protcol is not a known key; did you mean "protocol"?' in told
    assert 'b.toml device[1].properties[0].nme is not a known key; did you mean "name"?' in told
    assert any(line.startswith("c.toml  is not TOML") for line in told)
    assert 'd.toml device "default/meter-1" stands in a.toml already' in told


def test_no_directory_means_no_devices(tmp_path: Path) -> None:
    assert load_directory(tmp_path / "nothing").devices == ()


def test_a_folder_knows_what_changed_and_reads_it(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    assert not folder.changed()
    (tmp_path / "meter.toml").write_text(GOOD)
    assert folder.changed()
    models, devices, errors = folder.read()
    assert (len(models), len(devices), errors) == (1, 1, [])
    assert not folder.changed()
    (tmp_path / "meter.toml").write_text("[[device]]\nnmae = 1\n")
    assert folder.changed()
    _, devices, errors = folder.read()
    assert devices == []
    assert any("meter.toml: device[0].nmae" in error for error in errors)
