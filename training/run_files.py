"""Names of the files of a run that more than one module reads or writes."""

CHECKPOINT = "checkpoint.safetensors"
AT_CHANCE = "checkpoint-at-chance.safetensors"
"""The checkpoint of a run that learned nothing."""
METRICS = "metrics.jsonl"
STATE_FILE = "state.safetensors"
"""From which it is resumed."""
