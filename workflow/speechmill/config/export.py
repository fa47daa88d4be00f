"""Key `runs.*.export`: the selected model in formats that run without torch."""

from typing import Literal

ExportPrecision = Literal["fp32", "int8"]
"""The precision of the weights of an exported model."""
