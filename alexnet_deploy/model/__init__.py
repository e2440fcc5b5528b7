"""AlexNet in PyTorch: architectures, checkpoints, published weights, and the export to ONNX with its proof of parity.

Other rooms use ``export`` (export), ``load_weights`` (checkpoint), ``get_architecture`` (architecture), and
``TorchRunner`` (torch_runner).
"""
