"""The machine under the engines: its processor, its GPU, and whether anything disturbed a measurement.

Other rooms use ``cores`` and ``describe_machine`` (cpu), ``open_gpu`` (gpu), and ``MachineWatch`` (watch).
"""
