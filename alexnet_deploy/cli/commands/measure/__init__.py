"""Commands that measure: latency, layers, MLPerf, a whole store."""
