"""One run on one card: engines beside torch, ``infer`` on a folder, training beside a bare loop."""
