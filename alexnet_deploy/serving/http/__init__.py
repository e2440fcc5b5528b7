"""HTTP: the Open Inference Protocol in JSON and binary, ``POST /classify``, the page, metrics (``app``)."""
