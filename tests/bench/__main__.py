"""`make bench [ONLY=name]`: every benchmark in a process of its own; exit code 1 when one could not be measured."""

import subprocess
import sys

BENCHES = {
    "twin-latency": "twin_latency",
    "twin-throughput": "twin_throughput",
    "twin-cpu": "twin_throughput",
    "edge-footprint": "edge_footprint",
    "flash-wear": "flash_wear",
    "edge-start": "edge_start",
    "gateway-fleet": "gateway_fleet",
    "rtu-cycle": "rtu_cycle",
    "embedded-api": "embedded_api",
    "pod-start": "pod_start",
    "pod-cold-boot": "pod_cold_boot",
    "edge-footprint-pods": "edge_footprint_pods",
    "streams": "streams",
}


def main(wanted: str) -> int:
    if wanted != "all" and wanted not in BENCHES:
        print(f"no benchmark {wanted!r}; there are: {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    modules = list(dict.fromkeys(BENCHES.values())) if wanted == "all" else [BENCHES[wanted]]
    failed = [
        module for module in modules if subprocess.run([sys.executable, "-m", f"tests.bench.{module}"]).returncode
    ]
    if failed:
        print(f"could not be measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
