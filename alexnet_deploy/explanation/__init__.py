"""Pictures of a network: where an engine looks, its filters and its activations.

``explain.explain_photos`` asks the engine that is deployed (occlusion), ``origin`` finds whether an engine was made
from a checkpoint, so that Grad-CAM may stand beside it, ``output`` writes pictures and a page; ``filters`` and
``activations`` draw what is inside a model.
"""
