"""Requests in, answers out: engines behind HTTP, the Open Inference Protocol (REST and gRPC) and a page.

Other rooms use ``Settings`` (settings) and ``serve`` (server).
"""
