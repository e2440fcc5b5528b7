"""How fast an engine is: latency and throughput, the stages of ``infer``, single layers, MLPerf's scenarios.

Other rooms use ``profile`` and ``profile_engine`` (each in its own process), ``latency.measure``, ``profile_stages``,
``layers.profile.profile_layers`` and ``mlperf.run.run_scenarios``.
"""
