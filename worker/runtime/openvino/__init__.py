"""The runtime of OpenVINO, for CPUs."""

import sys

# OpenVINO tells its makers over the network that it was imported, if this package is there. Nothing leaves a
# hospital unasked. Without the package OpenVINO works as before.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
