"""``infer --ray`` on this machine, as if it were several: speed, and what the death of one of them costs."""
