"""An engine in MLPerf's scenarios, measured by MLPerf's own LoadGen in a separate process.

Other rooms use ``run.run_scenarios`` with ``settings.MlperfSettings``, and ``results.require_valid``.
"""
